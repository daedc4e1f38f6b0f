"""Runs on device arrays follow those on the host, and a step moves one number."""

import collections
import functools
import itertools

import cupy
import numpy as np
import pytest

import opflow as of
from opflow.dynamics.methods.step_size import AutoStep
from opflow.machine.arrays import module_name, to_host
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem, put
from tests.operators.battery import small_blocks


def rbf(A, B):
    """A kernel function that asks its arguments which module they are of."""
    xp = np if isinstance(A, np.ndarray) else cupy
    squares = (A**2).sum(1)[:, None] + (B**2).sum(1) - 2 * A @ B.T
    return xp.exp(-squares)


RUNS = {
    "descent": {"method": of.GradientDescent()},
    "batches, auto": {"method": of.GradientDescent(batch=4, rng=0)},
    "momentum, auto": {"method": of.GradientDescent(momentum=0.9)},
    "momentum": {"method": of.GradientDescent(0.01, momentum=0.9)},
    "batches": {"method": of.GradientDescent(0.01, batch=4, rng=0)},
    "flow": {"method": of.GradientFlow(tol=1e-2)},
    "exponential": {"method": of.ExponentialFlow()},
    "linearised": {"method": of.LinearisedFlow()},
    "weight decay": {"method": of.GradientDescent(momentum=0.5, weight_decay=0.2)},
    "flow, weight decay": {"method": of.GradientFlow(tol=1e-2, weight_decay=0.2)},
    "truncated": {"method": of.TruncatedFlow(1)},
    "Gauss-Newton": {"method": of.GaussNewton()},
    "Gauss-Newton, eliminated": {"method": of.GaussNewton(), "eliminate": True},
    "eliminated": {"method": of.GradientDescent(0.01), "eliminate": True},
    "kernel": {"method": of.GradientDescent(0.01), "gram": rbf},
    "exponential, eliminated": {"method": of.ExponentialFlow(), "eliminate": True},
    "mean loss": {"method": of.GradientDescent(), "loss": "mean"},
    "schedule": {"method": of.GradientDescent(lambda step: 0.01 / (1 + step))},
    "linearised, small": {"method": of.LinearisedFlow(size=2)},
    "exponential, small": {"method": of.ExponentialFlow(size=2)},
    "linearised, eliminated": {"method": of.LinearisedFlow(), "eliminate": True},
    "classes": {"method": of.GradientDescent(), "objective": "cross-entropy"},
    "classes, flow": {"method": of.GradientFlow(tol=1e-2), "objective": "cross-entropy"},
    "huber": {"method": of.TruncatedFlow(1), "objective": "huber"},
}
#: scalars a step may bring to the host; what a Lanczos or Krylov step brings is counted below
ONE_NUMBER = ["descent", "momentum", "truncated", "eliminated", "kernel", "mean loss"]
ONE_NUMBER += ["classes", "huber"]


def targets(run, y):
    """Labels of two classes, where the run is one of classes."""
    return (y[:, 0] > 0).astype(float) if run.startswith("classes") else y


def train(where, run, net, X, y, **options):
    y = targets(run, y)
    if where == "device":
        net, X, y = net.to("gpu"), put(X), put(y)
    return of.train(net, X, y, **RUNS[run], **options)


CASES = [
    {"depth": depth, "outputs": outputs, "bias": bias, "sparse": sparse}
    for depth, outputs, bias, sparse in itertools.product((1, 3), (1, 2), (False, True), (0, 1))
]
#: all in many row blocks, the plainest and the fullest in one as well
IN_BLOCKS = [
    pytest.param(size, case, id="-".join(map(str, (size, *case.values()))))
    for size, cases in ((200, CASES), (8 << 20, (CASES[0], CASES[-2], CASES[-1])))
    for case in cases
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("workspace, case", IN_BLOCKS)
def test_trajectories_are_those_of_the_host(run, case, workspace) -> None:
    if case["sparse"] and run == "kernel":
        pytest.skip("a kernel function needs rows")
    data = problem(**case)
    new = problem(seed=5)[1]
    with small_blocks(workspace):
        host, device = (train(where, run, *data, steps=4) for where in ("host", "device"))
        predictions = host.predict(new), device.predict(put(new))
    assert host.route == device.route
    np.testing.assert_allclose(device.times, host.times, rtol=1e-10)
    np.testing.assert_allclose(device.losses, host.losses, rtol=1e-10)
    agree(device.residual, host.residual, factor=1e5)
    agree(predictions[1], predictions[0], factor=1e5)
    for got, want in zip(device.network.weights, host.network.weights, strict=True):
        agree(got, want, factor=1e5)


def test_float32_runs_with_sums_in_float64() -> None:
    data = problem(dtype=np.float32)
    method = of.GradientDescent(0.01, accumulate="float64")
    net, X, y = data
    host = of.train(net, X, y, method=method, steps=4)
    device = of.train(net.to("gpu"), put(X), put(y), method=method, steps=4)
    agree(device.residual, host.residual)


def spent(run, steps, **options) -> collections.Counter:
    """Transfers of a run, by kind."""
    net, X, y = problem(depth=2, outputs=2, bias=True)
    there = net.to("gpu"), put(X), put(targets(run, y))
    with small_blocks(200), transfers() as made:
        of.train(*there, **RUNS[run], steps=steps, **options)
    return collections.Counter(t.kind for t in made)


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
@pytest.mark.parametrize("run", ONE_NUMBER)
def test_a_step_brings_one_number_to_the_host_and_moves_nothing_else(run, monkeypatch) -> None:
    follow = AutoStep.follow

    def once(self, state):  # what it brings is that of a Lanczos step
        return follow(self, state) if np.isnan(self.size) else 0

    monkeypatch.setattr(AutoStep, "follow", once)
    few, many = spent(run, 5, every=100), spent(run, 25, every=100)
    assert many - few == collections.Counter(scalar=20)


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
def test_a_step_on_a_batch_sends_the_numbers_of_its_rows() -> None:
    assert spent("batches", 25, every=100) - spent("batches", 5, every=100) == {"to device": 20}


@pytest.mark.skipif(not STAND_IN, reason="a device does not count its transfers")
@pytest.mark.parametrize("run", ["flow", "exponential"])
def test_a_step_of_a_flow_brings_loss_and_error_together(run) -> None:
    net, X, y = problem(depth=2, outputs=2, bias=True)
    there = net.to("gpu"), put(X), put(y)

    def spent(steps):
        with small_blocks(200), transfers() as made:
            of.train(*there, **RUNS[run], steps=steps, every=100)
        spectral = [t for t in made if t.site.startswith("opflow/spectral/")]
        ends = [t for t in made if t.site.endswith((" trial", "measured")) and t.kind == "to host"]
        others = [t for t in made if t not in spectral and t not in ends]
        # the start of the next Lanczos run, of 30 products
        others = [t for t in others if not t.site.endswith(" measure")]
        return ends, collections.Counter(t.site for t in others)

    few, many = spent(2), spent(8)
    assert 8 <= len(many[0]) <= 16  # some steps are tried twice
    assert all(t.entries == 2 for t in many[0])
    assert many[1] == few[1]


@pytest.mark.parametrize("run", [r for r in RUNS if r != "kernel"])
@pytest.mark.parametrize("onto", ["device", "host"])
def test_a_run_is_saved_and_goes_on_on_either_side(run, onto, tmp_path) -> None:
    data = problem(depth=2, bias=True)
    path = tmp_path / "run.npz"
    watch = lambda: [of.observe.GateFlips(), of.observe.Balancedness(),  # noqa: E731
                     of.observe.GramClosure(2)]  # fmt: skip
    whole = train("device", run, *data, steps=6, observe=watch())
    train("device", run, *data, steps=3, observe=watch(), checkpoint=path)
    end = train(onto, run, *data, steps=6, observe=watch(), checkpoint=path, resume=True)
    np.testing.assert_allclose(end.losses, whole.losses, rtol=1e-10)
    for name, values in whole.observations.items():
        assert isinstance(values, np.ndarray)
        np.testing.assert_allclose(end.observations[name], values, rtol=1e-6, atol=1e-9)


def test_a_trajectory_is_saved_from_the_device_and_read_on_the_host(tmp_path) -> None:
    run = train("device", "descent", *problem(bias=True), steps=2)
    run.save(tmp_path / "run.npz")
    back = of.Trajectory.load(tmp_path / "run.npz")
    assert isinstance(back.residual, np.ndarray)
    assert (back.network.weights[0] == to_host(run.network.weights[0])).all()
    assert (back.residual == to_host(run.residual)).all()


def test_observers_give_what_they_give_on_the_host() -> None:
    net, X, y = problem(depth=2, outputs=2, bias=True)
    labels = np.arange(len(y)) % 2

    def watched(put):
        return [of.observe.Loss(), of.observe.ResidualNorm(), of.observe.GateFlips(),
                of.observe.Balancedness(), of.observe.GramClosure(1, "output"),
                of.observe.HeldOutLoss(put(X), put(y)), of.observe.Accuracy(put(X), put(labels)),
                of.observe.TruncationError(), of.observe.HessianEigenvalues()]  # fmt: skip

    options = {"method": of.TruncatedFlow(1), "steps": 3}
    host = of.train(net, X, y, observe=watched(lambda x: x), **options)
    device = of.train(net.to("gpu"), put(X), put(y), observe=watched(put), **options)
    for name, values in host.observations.items():
        np.testing.assert_allclose(device.observations[name], values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("onto", ["device", "host"])
def test_networks_are_kept_on_the_host_and_go_on_on_either_side(onto, tmp_path) -> None:
    net, X, y = problem(depth=2, outputs=2, bias=True)

    def watched(where):
        start = net.to("gpu") if where == "device" else net
        ansatz = functools.partial(of.features.feature_ansatz, layer=2, start=start)
        return [of.observe.Snapshots([0, 1, 3]), of.observe.Function(ansatz, "ansatz")]

    how = {
        "stop": lambda moment: (moment.residual**2).sum() < level,
        "checkpoint": tmp_path / "run",
    }
    level = 0.0
    host = train("host", "descent", net, X, y, steps=9, observe=watched("host"))
    level = 2 * host.losses[3:5].mean()
    how = {"checkpoint": tmp_path / "run", "stop": lambda m: (m.residual**2).sum() < level}
    train("device", "descent", net, X, y, steps=2, observe=watched("device"), **how)
    run = train(onto, "descent", net, X, y, steps=9, observe=watched(onto), resume=True, **how)
    assert run.stopped == "<lambda>" and run.steps[-1] == 4
    seen = run.observations
    np.testing.assert_allclose(
        seen["ansatz"], host.observations["ansatz"][:5], rtol=1e-6, atol=1e-9
    )
    assert list(seen["snapshots"]) == [0, 1, 3]
    for step, kept in seen["snapshots"].items():
        for p, q in zip(kept.weights, host.observations["snapshots"][step].weights, strict=True):
            assert isinstance(p, np.ndarray)
            np.testing.assert_allclose(p, q, rtol=1e-6, atol=1e-9)


def of_the_kernel() -> list:
    """The observers of the moving kernel."""
    top = of.observe.TopEigenpairs(2)
    return [top, top.angles, top.modes, of.observe.Spectrum(points=9), of.observe.Sharpness(),
            of.observe.Alignment(centred=True), of.observe.KernelDistance(4)]  # fmt: skip


@pytest.mark.parametrize("run", ["descent", "eliminated", "truncated"])
@pytest.mark.parametrize("onto", ["device", "host"])
def test_observers_of_the_kernel_go_on_on_either_side(run, onto, tmp_path) -> None:
    data, path = problem(depth=2, bias=True), tmp_path / "run.npz"
    host = train("host", run, *data, steps=4, observe=of_the_kernel())
    train("device", run, *data, steps=2, observe=of_the_kernel(), checkpoint=path)
    end = train(onto, run, *data, steps=4, observe=of_the_kernel(), checkpoint=path, resume=True)
    for name, values in host.observations.items():
        got = end.observations[name]
        if name == "modes":  # of eigenvectors, which have no sign
            got, values = abs(got), abs(values)
        np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [of.GradientDescent(0.01), of.ExponentialFlow()])
def test_a_kernel_that_is_known_as_a_matrix(method) -> None:
    G, y = np.cov(np.random.default_rng(0).standard_normal((11, 30))), problem()[2]
    net = of.ReLUNetwork.random([11, 7, 6], seed=0)
    for X in (None, np.eye(11)):
        host = of.train(net, X, y, gram=G, method=method, steps=4)
        device = of.train(net.to("gpu"), X if X is None else put(X), put(y), gram=put(G),
                          method=method, steps=4)  # fmt: skip
        agree(device.residual, host.residual, factor=1e5)
        if X is None:
            agree(device.network.weights[0], host.network.weights[0], factor=1e5)


def test_moments_at_given_times() -> None:
    options = {"method": of.ExponentialFlow(), "times": [0.1, 0.4]}
    net, X, y = problem()
    host = of.train(net, X, y, **options)
    device = of.train(net.to("gpu"), put(X), put(y), **options)
    np.testing.assert_allclose(device.losses, host.losses, rtol=1e-10)


def test_truncation_is_measured_across_a_resume(tmp_path) -> None:
    net, X, y = problem(depth=3)
    there = net.to("gpu"), put(X), put(y)

    def run(data, steps, **more):
        return of.train(*data, method=of.TruncatedFlow(1), steps=steps,
                        observe=[of.observe.TruncationError()], **more)  # fmt: skip

    run(there, 2, checkpoint=tmp_path / "run.npz")
    end, host = run(there, 4, checkpoint=tmp_path / "run.npz", resume=True), run((net, X, y), 4)
    for name, values in host.observations.items():
        np.testing.assert_allclose(end.observations[name], values, rtol=1e-6, atol=1e-9)


def test_an_observer_may_give_device_arrays() -> None:
    net, X, y = problem()
    run = of.train(net.to("gpu"), put(X), put(y), steps=2,
                   observe={"first": lambda m: m.residual[0].copy()})  # fmt: skip
    assert module_name(run.residual) == "cupy"
    assert isinstance(run.observations["first"], np.ndarray)
    assert run.observations["first"].shape == (3, 1)


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_is_reported() -> None:
    net, X, y = problem()
    with pytest.raises(of.DivergenceError, match="stability limit"):
        of.train(net.to("gpu"), put(X), put(y), method=of.GradientDescent(1e3), steps=50)
