"""Measured outputs on the device: trajectories, the kernel, the resolution, features."""

import numpy as np
import pylops
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.machine.arrays import to_host
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem, put
from tests.operators.battery import small_blocks

METHODS = {
    "descent": of.GradientDescent(),
    "flow": of.GradientFlow(tol=1e-2),
    "exponential": of.ExponentialFlow(),
    "gauss-newton": of.GaussNewton(),
}
G = np.random.default_rng(3).standard_normal((6, 22)) / 22**0.5
FORMS = {
    "array": lambda at: at(G),
    "sparse": lambda at: at(sp.csr_matrix(G)),
    "pylops": lambda at: pylops.MatrixMult(at(G)),
}


@pytest.mark.parametrize("eliminate", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_trajectories_are_those_of_the_host(method, form, eliminate) -> None:
    net, X, _ = problem(outputs=2, bias=True)
    d = np.random.default_rng(4).standard_normal(6)
    how = {"method": METHODS[method], "steps": 4, "eliminate": eliminate}
    host = of.train(net, X, d, measurement=FORMS[form](lambda x: x),
                    **how)  # fmt: skip
    device = of.train(net.to("gpu"), put(X), put(d), measurement=FORMS[form](put), **how)
    np.testing.assert_allclose(device.losses, host.losses, rtol=1e-9)
    np.testing.assert_allclose(to_host(device.residual), host.residual, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_streamed_inputs_give_the_same_run(method) -> None:
    net, X, _ = problem(outputs=2, bias=True)
    d = np.random.default_rng(4).standard_normal(6)
    how = {"method": METHODS[method], "steps": 4}
    host = of.train(net, X, d, measurement=G, eliminate=False, **how)
    with small_blocks(400):
        run = of.train(net.to("gpu"), of.Streamed(X), put(d), measurement=put(G), **how)
    np.testing.assert_allclose(run.losses, host.losses, rtol=1e-9)
    np.testing.assert_allclose(to_host(run.residual), host.residual, atol=1e-9)
    for got, want in zip(run.network.weights, host.network.weights, strict=True):
        np.testing.assert_allclose(to_host(got), want, atol=1e-9)


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
def test_a_step_moves_streamed_inputs_once_for_each_pass() -> None:
    net, X, _ = problem(depth=2, outputs=2, bias=True)
    there = net.to("gpu"), of.Streamed(X), put(np.ones(6))
    on_device = put(G)

    def spent(steps):
        with small_blocks(400), transfers() as made:
            of.train(*there, method=of.GradientDescent(0.01), measurement=on_device, steps=steps,
                     every=100, eliminate=False)  # fmt: skip
        return sum(t.entries for t in made if t.kind == "to device")

    assert spent(13) - spent(3) == 10 * 2 * X.size


def test_kernels_resolution_and_features() -> None:
    net, X, _ = problem(outputs=2)
    host, device = net.fields(X), net.to("gpu").fields(put(X))
    agree(of.measured_kernel(device, put(G)).todense(), of.measured_kernel(host, G).todense())
    one = of.spectral.resolution(of.collective_kernel(device), put(G), 0.5)
    other = of.spectral.resolution(of.collective_kernel(host), G, 0.5)
    agree(one.diagonal, other.diagonal, 1e5)
    agree(one.variance, other.variance, 1e5)
    agree(one.columns([3]), other.columns([3]), 1e5)
    agree(of.fourier_features(put(X), count=3), of.fourier_features(X, count=3))
    with pytest.raises(TypeError, match="measurement: host and device operands do not mix"):
        of.measured_kernel(device, G)


def test_patches_of_images_here_or_there_train_alike() -> None:
    images = np.random.default_rng(0).standard_normal((4, 6, 5, 2))
    X = of.patches(images, 3, 2)
    agree(of.patches(put(images), 3, 2)[1:], X[1:])
    net = of.ReLUNetwork.random([18, 7], bias=True, seed=0)
    pool = np.full((1, 4), 0.25)
    host = of.train(net, X, images[:, 0, 0, 0], measurement=of.SampleLift(pool, 4), steps=4)
    how = {"measurement": of.SampleLift(put(pool), 4), "steps": 4}
    for there in (of.patches(put(images), 3, 2), of.Streamed(X)):
        device = of.train(net.to("gpu"), there, put(images[:, 0, 0, 0]), **how)
        np.testing.assert_allclose(device.losses, host.losses, rtol=1e-9)
