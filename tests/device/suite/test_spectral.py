"""Lanczos and Krylov spaces on device operators."""

import collections

import numpy as np
import pytest

import opflow as of
from opflow.arrays import module_name
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
def test_a_lanczos_step_moves_no_array_and_three_numbers_at_most() -> None:
    device, _, v = kernels()
    v = put(v)

    def spent(steps):
        with transfers() as made:
            of.spectral.lanczos(device, steps, v)
        return collections.Counter(t.kind for t in made)

    more = spent(12) - spent(2)
    assert set(more) <= {"scalar", "to host"}
    assert more.total() <= 10 * 3
    assert spent(12)["to device"] == 0


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
