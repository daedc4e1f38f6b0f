"""Lanczos and Krylov spaces on device operators."""

import collections
import warnings
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow import plot
from opflow.machine.arrays import module_name, to_host
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem, put

S = of.spectral


def kernels(**case):
    net, X, y = problem(samples=40, **case)
    host = of.collective_kernel(net.fields(X))
    return of.collective_kernel(net.to("gpu").fields(put(X))), host, y.reshape(-1)


@pytest.mark.parametrize("case", [{}, {"outputs": 3}, {"dtype": np.float32, "bias": True}])
def test_lanczos(case) -> None:
    device, host, v = kernels(**case)
    for start in (None, v):
        alpha, beta, basis = of.spectral.lanczos(device, 8, None if start is None else put(start))
        want = of.spectral.lanczos(host, 8, start)
        assert isinstance(alpha, np.ndarray)
        tolerance = 1e4 * float(np.finfo(host.dtype).eps)
        np.testing.assert_allclose(alpha, want[0], rtol=tolerance, atol=tolerance * want[0].max())
        np.testing.assert_allclose(beta, want[1], rtol=tolerance, atol=tolerance * want[0].max())
        agree(basis, want[2], factor=1e5)


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
def test_a_lanczos_step_brings_its_three_numbers_together_and_moves_nothing_else() -> None:
    device, _, v = kernels()
    v = put(v)

    def spent(steps):
        with transfers() as made:
            of.spectral.lanczos(device, steps, v)
        assert all(t.entries <= 3 for t in made)
        return collections.Counter(t.kind for t in made)

    assert spent(12) - spent(2) == {"to host": 10}
    assert spent(12)["to device"] == 0


@pytest.mark.filterwarnings("ignore::opflow.spectral.ConvergenceWarning")
@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
def test_a_step_of_block_lanczos_moves_projected_matrices_and_two_numbers() -> None:
    op = of.Matrix(put(slow()))

    def spent(steps):
        with transfers() as made:
            S.eigsh(op, 3, steps=steps, block=4)
        basis = [t for t in made if t.site.startswith("opflow/spectral/krylov/block.py")]
        assert all(t.entries <= 4 * 4 * steps for t in basis if t.kind != "to device")
        return collections.Counter(t.kind for t in made)

    assert spent(9) - spent(5) == {"to host": 4 * 4, "to device": 4 * 2, "scalar": 4 * 2}


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
@pytest.mark.parametrize("preconditioner", [None, "nystrom"])
def test_an_iteration_of_a_solver_brings_its_numbers_together(preconditioner) -> None:
    device, _, v = kernels()
    b = np.stack([v, v**2], axis=1)
    inverse = preconditioner and of.spectral.nystrom(device, 1e-9, 5)

    def spent(maxiter):
        with transfers() as made, warnings.catch_warnings():
            warnings.simplefilter("ignore", of.spectral.ConvergenceWarning)
            of.spectral.solve(device, put(b), 1e-9, preconditioner=inverse, maxiter=maxiter)
        return collections.Counter((t.kind, t.entries) for t in made)

    # of either column: three products of its direction, and three of its residual
    assert spent(8) - spent(3) == {("to host", 12): 5}


def test_largest_eigenvalue() -> None:
    device, host, _ = kernels()
    found, want = of.spectral.largest_eigenvalue(device), of.spectral.largest_eigenvalue(host)
    assert found.products == want.products
    assert found.value == pytest.approx(want.value, rel=1e-10)


@pytest.mark.parametrize("size", [4, 128])
@pytest.mark.parametrize("function", ["expm", "phi1"])
def test_exponentials(function, size) -> None:
    device, host, r = kernels(outputs=2)
    function, t = getattr(of.spectral, function), [0.0, 0.1, 0.5]
    got = function(device, put(r), t, size=size)
    assert module_name(got) == "cupy"
    agree(got, function(host, r, t, size=size), factor=1e6)


def gapped(where: str) -> of.Operator:
    """A PSD operator with a spectrum of its own choice, 40 x 40."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    F = Q * 0.7 ** np.arange(40)
    return of.Gram(put(F) if where == "device" else F)


Y = np.random.default_rng(1).standard_normal((40, 2))
FUNCTIONS = {
    "eigsh": lambda K, at: S.eigsh(K, 3).eigenvalues,
    "svds": lambda K, at: S.svds(K.factor, 3).singular_values,
    "eigh": lambda K, at: S.eigh(K).eigenvalues,
    "block_lanczos": lambda K, at: S.block_lanczos(K, 3, at(Y))[0],
    "quadrature": lambda K, at: S.quadrature(K, probes=3, steps=8).nodes,
    "density": lambda K, at: S.density(K)(np.linspace(0.1, 1, 5)),
    "logdet": lambda K, at: S.logdet(K, 0.1),
    "effective_dimension": lambda K, at: S.effective_dimension(K, 0.1),
    "effective_rank": lambda K, at: S.effective_rank(K),
    "trace": lambda K, at: S.trace(K),
    "diagonal": lambda K, at: S.diagonal(K),
    "frobenius_norm": lambda K, at: S.frobenius_norm(K),
    "norm": lambda K, at: S.norm(K),
    "condition_number": lambda K, at: S.condition_number(K, 0.1),
    "participation_ratio": lambda K, at: S.participation_ratio(K),
    "alignment": lambda K, at: S.alignment(K, at(Y[:, 0])),
    "kernel_alignment": lambda K, at: S.kernel_alignment(K, K + K.factor @ K.factor.T),
    "kernel_distance": lambda K, at: S.kernel_distance(K, K + K.factor @ K.factor.T),
    "principal_angles": lambda K, at: S.principal_angles(at(Y), at(Y[::-1].copy())),
    "sharpness": lambda K, at: S.sharpness(K, 0.5),
    "phi": lambda K, at: S.phi(K, at(Y), 0.5, 2),
    "funm": lambda K, at: S.funm(K, np.exp, at(Y)),
    "sqrtm": lambda K, at: S.sqrtm(K, at(Y)),
    "solve": lambda K, at: S.solve(K, at(Y[:, 0]), 0.1),
    "nystrom": lambda K, at: S.nystrom(K, 0.1, 4).matmat(at(Y)),
    "jacobi": lambda K, at: S.jacobi(K, 0.1).matmat(at(Y)),
    "kernel_regression": lambda K, at: S.kernel_regression(K, at(Y), 0.1),
    "kernel_regression, outputs": lambda K, at: S.kernel_regression(
        K, at(Y.reshape(20, 4)[:, :2]), 0.1
    ).predict(K),
    **{
        f"posterior, {how}": lambda K, at, how=how: given(K, at, how)
        for how in ("direct", "iterative")
    },
    "logdet, nonsingular": lambda K, at: S.logdet(K + of.Identity(40), 0.0),
    "condition_number, small": lambda K, at: S.condition_number(K),
}


def given(K, at, how):
    """All of a posterior but its operators."""
    cross, prior = K.block(np.arange(6), slice(None)), at(np.full(6, 50.0))
    found = S.posterior(K, at(Y), 0.5, cross, prior, how=how, tol=1e-12, rank=6)
    names = ("mean", "variance", "leverages", "leave_one_out", "log_marginal_likelihood")
    values = [getattr(found, name) for name in names]
    return [*values, found.noise_gradient, found.influence @ at(Y)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name) -> None:
    device, host = FUNCTIONS[name](gapped("device"), put), FUNCTIONS[name](gapped("host"), np.array)
    same(device, host)


#: an order at which LAPACK is not preferred, and which divides what has a row of it and no other
N = 1103
Z = np.random.default_rng(2).standard_normal((N, 2))
LOOSE = {"probes": 3, "steps": 12}
#: what is computed where the operator is large: estimates, and Krylov spaces
LARGE = {
    "trace, xtrace": lambda K, at: S.trace(K, how="xtrace"),
    "trace, xnystrace": lambda K, at: S.trace(K, how="xnystrace"),
    "diagonal, diag++": lambda K, at: S.diagonal(K, how="diag++"),
    "frobenius_norm": lambda K, at: S.frobenius_norm(K, products=30),
    "norm": lambda K, at: S.norm(K),
    "condition_number": lambda K, at: S.condition_number(K, 0.1),
    "participation_ratio": lambda K, at: S.participation_ratio(K, products=30),
    "alignment": lambda K, at: S.alignment(K, at(Z), centred=True, products=30),
    "kernel_alignment": lambda K, at: S.kernel_alignment(K, K @ K, products=30),
    "kernel_distance": lambda K, at: S.kernel_distance(K, K @ K, products=30),
    "principal_angles": lambda K, at: S.principal_angles(at(Z), at(Z[::-1].copy())),
    "sharpness": lambda K, at: S.sharpness(K, 0.5),
    "logdet": lambda K, at: S.logdet(K, 1.0, how="estimate", **LOOSE),
    "effective_dimension": lambda K, at: S.effective_dimension(K, 1.0, how="estimate", **LOOSE),
    "effective_rank": lambda K, at: S.effective_rank(K, how="estimate", **LOOSE),
    "quadrature": lambda K, at: S.quadrature(K, **LOOSE).trace(np.sqrt),
    "quadrature, three terms": lambda K, at: S.quadrature(
        K, **LOOSE, reorthogonalise=False).trace(np.tanh),
    "density": lambda K, at: S.density(K, how="estimate", **LOOSE)(np.linspace(0.1, 1, 5)),
    "density, cdf": lambda K, at: S.density(K, how="estimate", **LOOSE).cdf([0.1, 0.5]),
    "density, log": lambda K, at: S.density(K, log=True, how="estimate", **LOOSE)([0.1, 0.5]),
    "eigsh": lambda K, at: S.eigsh(K, 3).eigenvalues,
    "eigsh, both ends": lambda K, at: S.eigsh(K, 4, which="BE").eigenvalues,
    "eigsh, begun": lambda K, at: S.eigsh(K, 2, start=S.eigsh(K, 2).start).eigenvalues,
    "eigsh, smallest": lambda K, at: S.eigsh(at(slow()), 2, which="SA").eigenvalues,
    "eigsh, restarted": lambda K, at: S.eigsh(
        of.Matrix(at(slow())), 3, which="LA", block=1, tol=1e-9, memory="1MB").eigenvalues,
    "svds": lambda K, at: S.svds(K.factor, 3).singular_values,
    "svds, kernel": lambda K, at: abs(S.svds(K.factor, 3).kernel.eigenvectors),
    "projections": lambda K, at: S.projections(at(Z), at(Z[:, 0])),
    "decay": lambda K, at: S.decay([1.0, 2.0], at(Z), at(Z[:, 1]), [0.0, 0.5]),
    "layer_shares": lambda K, at: S.layer_shares([K, K @ K]),
    "spectrum_shares": lambda K, at: S.spectrum_shares([K, K @ K], at(Z)),
    "kernel_regression": lambda K, at: S.kernel_regression(K, at(Z), 0.1).predict(K),
    "solve, nystrom": lambda K, at: S.solve(K, at(Z), 0.1, preconditioner="nystrom", rank=8),
    "solve, jacobi": lambda K, at: S.solve(K, at(Z), 0.1, preconditioner="jacobi"),
    "density, exact": lambda K, at: S.density(2.0 * K + weighted(K, at))(np.linspace(0.1, 3, 5)),
    "frobenius_norm, weighted": lambda K, at: S.frobenius_norm(weighted(K, at)),
    "frobenius_norm, indefinite": lambda K, at: S.frobenius_norm(weighted(K, at, -0.5)),
    "frobenius_norm, sparse": lambda K, at: S.frobenius_norm(of.Matrix(put_sparse(at))),
}  # fmt: skip


@cache
def slow() -> np.ndarray:
    """A symmetric matrix that no tag says is symmetric, whose eigenvalues come slowly."""
    Q = np.linalg.qr(np.random.default_rng(4).standard_normal((N, N)))[0]
    return np.tril(A := (Q * np.linspace(-1, 1, N)) @ Q.T) + np.tril(A, -1).T


def weighted(K, at, low: float = 0.5):
    return of.Gram(K.factor, at(np.linspace(low, 1, 40)))


def put_sparse(at):
    A = sp.diags_array([np.arange(1.0, N), np.ones(N), np.arange(1.0, N)], offsets=[-1, 0, 1])
    return at(sp.csr_matrix(A)) if at is put else sp.csr_matrix(A)


def wide(where: str) -> of.Operator:
    """A PSD operator of order N and rank 40, its largest eigenvalue 1."""
    F = np.linalg.qr(np.random.default_rng(3).standard_normal((N, 40)))[0] * 0.8 ** np.arange(40)
    return of.Gram(put(F) if where == "device" else F)


@pytest.mark.filterwarnings("ignore::opflow.spectral.ConvergenceWarning")
@pytest.mark.parametrize("name", LARGE)
def test_functions_of_large_operators_bring_nothing_of_their_order_to_the_host(name) -> None:
    op, host = wide("device"), LARGE[name](wide("host"), np.array)
    with transfers() as made:
        device = LARGE[name](op, put)
    same(device, host)
    assert not [t for t in made if t.kind == "to host" and t.entries and t.entries % N == 0]


def same(device, host) -> None:
    for got, want in zip(numbers(device), numbers(host), strict=True):
        np.testing.assert_allclose(to_host(got), to_host(want), rtol=1e-6, atol=1e-9)


def numbers(result) -> list:
    """Arrays and numbers in a result."""
    if isinstance(result, S.Estimate):
        return [float(result), result.low, result.high]
    if isinstance(result, tuple | list):
        return [x for part in result for x in numbers(part)]
    if hasattr(result, "__dict__") and not isinstance(result, float):
        return [x for x in vars(result).values() if hasattr(x, "shape") and hasattr(x, "dtype")]
    return [] if isinstance(result, str) else [result]


def test_a_decay_is_drawn_on_the_host() -> None:
    pytest.importorskip("matplotlib")
    times = np.linspace(0.0, 3.0, 5)
    for dtype in (np.float32, np.float64):
        rates = np.array([2.0, 1.0], dtype=dtype)
        sizes = np.exp(-np.outer(times, rates)).astype(dtype)
        host = plot.decay(times, sizes, rates)
        device = plot.decay(put(times), put(sizes), put(rates))
        for line, want in zip(device.lines, host.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), want.get_xydata())
