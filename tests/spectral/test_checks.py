"""Black boxes of SciPy: what they need, and that every product with them is counted."""

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import opflow as of
from opflow.spectral.checks import symmetric_operator

S = of.spectral


def black_box(A, spent=None):
    """`A` behind its products alone, without an adjoint; widths of blocks go to `spent`."""

    def product(X):
        if spent is not None:
            spent.append(1 if X.ndim == 1 else X.shape[1])
        return A @ X

    return spla.LinearOperator(A.shape, matvec=product, matmat=product, dtype=A.dtype)


def spd(n, width=3):
    F = np.random.default_rng(0).standard_normal((n, width))
    return F @ F.T + np.eye(n)


COUNTED = {
    "norm": S.norm,
    "condition_number": S.condition_number,
    "frobenius_norm": S.frobenius_norm,
    "participation_ratio": S.participation_ratio,
    "trace": S.trace,
    "diagonal": S.diagonal,
    "sharpness": lambda op: S.sharpness(op, 0.1).largest,
    "alignment": lambda op: S.alignment(op, np.ones(op.shape[0])),
    "centred alignment": lambda op: S.alignment(op, np.arange(op.shape[0]), centred=True),
    "kernel_alignment": lambda op: S.kernel_alignment(op, op),
    "kernel_distance": lambda op: S.kernel_distance(op, op),
    "effective_rank": S.effective_rank,
    "effective_dimension": lambda op: S.effective_dimension(op, 1.0),
    "logdet": lambda op: S.logdet(op, 1.0),
    "density": S.density,
    "quadrature": S.quadrature,
    "lanczos": lambda op: S.largest_eigenvalue(op),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("n", [40, 700, 1100])
def test_what_is_reported_was_spent(n, name):
    if (n, name) == (1100, "condition_number"):
        pytest.skip("for operators known to be PSD")
    spent: list[int] = []
    found = COUNTED[name](black_box(spd(n), spent))
    tests = 2 * spent.count(2)  # of symmetry, not counted
    assert found.products == sum(spent) - tests > 0
    assert found.products <= 2 * n


@pytest.mark.parametrize("name", COUNTED)
def test_a_symmetric_operator_of_ours_is_formed_by_n_products(name):
    """Tiles of the symmetric half would take more products than rows."""
    if name in ("quadrature", "lanczos"):
        pytest.skip("these form nothing")
    widths: list[int] = []

    class Counting(of.Operator):
        def _matmat(self, X):
            widths.append(X.shape[1])
            return A @ X

        _rmatmat = _matmat

    A = spd(700)
    found = COUNTED[name](Counting(A.shape, A.dtype, psd=True))
    assert found.products == sum(widths) > 0


@pytest.mark.parametrize("name", [x for x in COUNTED if x not in ("quadrature", "lanczos")])
def test_entries_of_structure_are_no_products(name):
    op = of.Gram(np.random.default_rng(0).standard_normal((60, 80)))
    found = COUNTED[name](op)
    assert found.products == {"alignment": 1, "centred alignment": 2}.get(name, 0)


def test_an_adjoint_is_not_needed_where_symmetry_was_seen():
    A = spd(50)
    op = symmetric_operator(black_box(A))
    np.testing.assert_array_equal(op.rmatmat(A), op.matmat(A))
    np.testing.assert_allclose(S.eigsh(black_box(A), 2).eigenvalues, np.linalg.eigvalsh(A)[:-3:-1])
    assert np.isclose(S.trace(black_box(A)), np.trace(A))


def test_a_missing_adjoint_is_named():
    wide = black_box(np.ones((5, 3)))
    with pytest.raises(TypeError, match=r"of shape \(5, 3\) has no adjoint: give it rmatvec"):
        of.as_operator(wide).rmatmat(np.ones((5, 1)))
    with pytest.raises(TypeError, match="has no adjoint"):
        S.trace(of.Gram(wide))

    def broken(x):
        raise TypeError("mine")

    other = spla.LinearOperator((5, 3), matvec=broken, rmatvec=broken, dtype=float)
    with pytest.raises(TypeError, match="mine"):
        of.as_operator(other).rmatmat(np.ones((5, 1)))


def test_matrices_of_the_old_class_become_arrays():
    A = np.array([[2.0, 1.0], [1.0, 3.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        old = np.matrix(A)
    assert type(of.as_operator(old).data) is np.ndarray
    assert np.isclose(S.frobenius_norm(old), 15**0.5)
