"""Lanczos and Krylov spaces on device operators."""

import collections
import warnings

import numpy as np
import pytest

import opflow as of
from opflow.arrays import module_name, to_host
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem, put


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


S, Y = of.spectral, np.random.default_rng(1).standard_normal((40, 2))
FUNCTIONS = {
    "eigsh": lambda K, at: S.eigsh(K, 3).eigenvalues,
    "svds": lambda K, at: S.svds(K.factor, 3).singular_values,
    "eigh": lambda K, at: S.eigh(K).eigenvalues,
    "block_lanczos": lambda K, at: S.block_lanczos(K, 3, at(Y))[0],
    "quadrature": lambda K, at: S.quadrature(K, probes=3, steps=8).nodes,
    "density": lambda K, at: S.density(K)(np.linspace(0.1, 1, 5)),
    "kernel_polynomial": lambda K, at: S.kernel_polynomial(K)(np.linspace(0.1, 1, 5)),
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
    "inv": lambda K, at: S.inv(K, at(Y), 0.1),
    "solve": lambda K, at: S.solve(K, at(Y[:, 0]), 0.1),
    "nystrom": lambda K, at: S.nystrom(K, 0.1, 4).matmat(at(Y)),
    "jacobi": lambda K, at: S.jacobi(K, 0.1).matmat(at(Y)),
    "kernel_regression": lambda K, at: S.kernel_regression(K, at(Y), 0.1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name) -> None:
    device, host = FUNCTIONS[name](gapped("device"), put), FUNCTIONS[name](gapped("host"), np.array)
    for got, want in zip(numbers(device), numbers(host), strict=True):
        np.testing.assert_allclose(to_host(got), to_host(want), rtol=1e-6, atol=1e-9)


def numbers(result) -> list:
    """Arrays and numbers in a result."""
    if isinstance(result, tuple | list):
        return [x for part in result for x in numbers(part)]
    if hasattr(result, "__dict__") and not isinstance(result, float):
        return [x for x in vars(result).values() if hasattr(x, "shape") and hasattr(x, "dtype")]
    return [] if isinstance(result, str) else [result]
