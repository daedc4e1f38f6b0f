"""Complex operators of other libraries: entries are those that products have."""

import numpy as np
import pylops
import pytest
import scipy.sparse.linalg as spla

import opflow as of
from opflow.operators.stack import HStack


def normal(seed, *shape):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def of_pylops(M):
    return of.as_operator(pylops.MatrixMult(M, dtype=M.dtype))


def of_scipy(M):
    return of.as_operator(spla.aslinearoperator(M))


def face_split(A, B):
    return np.einsum("ni,nj->nij", A, B).reshape(len(A), -1)


def waves(p, q):
    return np.exp(1j * (p - q.T))


A, B, C = normal(0, 5, 4), normal(1, 4, 3), normal(2, 4, 3)
S, T, R = normal(3, 4, 4), normal(4, 4, 4), normal(5, 4, 4).real
s, t, r = of_pylops(S), of_scipy(T), of.Matrix(R)
a, b, c = of_pylops(A), of_pylops(B), of_scipy(C)
x = np.linspace(0, 3, 6)[:, None]
narrow = normal(6, 4, 4).astype(np.complex64)

CASES = {
    "PyLops": lambda: (a, A),
    "SciPy": lambda: (t, T),
    "adjoint": lambda: (a.H, A.conj().T),
    "transposed": lambda: (a.T, A.T),
    "transposed twice": lambda: (a.T.T, A),
    "transposed adjoint": lambda: (a.T.H, A.conj()),
    "conjugate": lambda: (a.conj(), A.conj()),
    "sum": lambda: (s + t, S + T),
    "sum with real": lambda: (r + s, R + S),
    "difference": lambda: (s - t, S - T),
    "multiple": lambda: (2 * s, 2 * S),
    "product": lambda: (a @ b, A @ B),
    "product with real": lambda: (a @ r, A @ R),
    "adjoint of a product": lambda: ((a @ b).H, (A @ B).conj().T),
    "power": lambda: (s**2, S @ S),
    "its square": lambda: (a.H @ a, A.conj().T @ A),
    "square of the adjoint": lambda: (a @ a.H, A @ A.conj().T),
    "cast": lambda: (of_pylops(narrow).astype(np.complex128), narrow.astype(np.complex128)),
    "real, cast": lambda: (r.astype(np.complex128), R.astype(complex)),
    "Hadamard": lambda: (of.Hadamard(s, t), S * T),
    "Hadamard with real": lambda: (of.Hadamard(r, s), R * S),
    "Hadamard with a Gram": lambda: (of.Hadamard(of.Gram(R), s), (R @ R.T) * S),
    "adjoint of a Hadamard": lambda: (of.Hadamard(s, t).H, (S * T).conj().T),
    "product with a Hadamard": lambda: (a @ of.Hadamard(s, r), A @ (S * R)),
    "side by side": lambda: (HStack([r, s]), np.hstack([R, S])),
    "samples": lambda: (of.SampleLift(s, 3), np.kron(np.eye(3), S)),
    "features": lambda: (of.FeatureLift(s, 3), np.kron(S, np.eye(3))),
    "Khatri-Rao": lambda: (of.KhatriRao(s, c), face_split(S, C)),
    "Khatri-Rao with real": lambda: (of.KhatriRao(r, s), face_split(R, S)),
    "adjoint of a Khatri-Rao": lambda: (of.KhatriRao(s, c).H, face_split(S, C).conj().T),
    "cross Gram": lambda: (of.CrossGram(r, s), R @ S.conj().T),
    "cross Gram of Khatri-Rao": lambda: (
        of.CrossGram(of.KhatriRao(s, b), of.KhatriRao(t, b)),
        face_split(S, B) @ face_split(T, B).conj().T,
    ),
    "pullback": lambda: (of.pullback(of.Identity(5), a), A.conj().T @ A),
    "pullback of two": lambda: (of.pullback(s, t, s), T.conj().T @ S @ S),
    "pushforward": lambda: (of.pushforward(of.Identity(4), a), A @ A.conj().T),
    "tiled": lambda: (of.materialise(s, how="tiled"), S),
    "function": lambda: (
        of.FunctionGram(lambda p, q: np.exp(1j * (p - q.T)), x),
        np.exp(1j * (x - x.T)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_entries_are_those_of_the_products(case):
    op, M = CASES[case]()
    m, n = M.shape
    y, z = normal(7, m, 2), normal(8, n, 2)

    def close(got, want):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)

    assert op.dtype.kind == "c"
    close(op @ z, M @ z)
    close(op.H @ y, M.conj().T @ y)
    close(y.T @ op, y.T @ M)
    close(op.todense(), M)
    close(op.rows(slice(0, 2)), M[:2])
    close(op.rows(np.array([1, 0])), M[[1, 0]])
    close(op.block([1, 0], slice(None, None, -1)), M[[1, 0], ::-1])
    for turned, dense in ((op.T, M.T), (op.H, M.conj().T), (op.conj(), M.conj())):
        assert isinstance(turned, of.Operator)
        close(turned.todense(), dense)
    close(of.materialise(op, how="tiled") @ z, M @ z)
    close(of.materialise(op, how="tiled").H @ y, M.conj().T @ y)
    if m == n:
        close(op.diagonal(), M.diagonal())
        close(op.trace(), M.trace())


def test_a_congruence_with_a_complex_operator_stays_psd():
    for op in (of.pullback(of.Gram(R), s), of.pushforward(of.Gram(R), s)):
        assert op.psd
        dense = op.todense()
        np.testing.assert_allclose(dense, dense.conj().T, atol=1e-12)
        assert np.linalg.eigvalsh(dense).min() >= -1e-12


@pytest.mark.parametrize("make, name", [
    (lambda: of.Gram(s), "factor"),
    (lambda: of.GramVelocity(r, s), "factor"),
    (lambda: of.GramSide(s, of.Matrix(np.eye(4), psd=True)), "A"),
])  # fmt: skip
def test_symmetric_forms_refuse_complex_factors(make, name):
    with pytest.raises(TypeError, match=f"{name}.* must be real, not complex128"):
        make()
