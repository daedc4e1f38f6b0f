import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

import opflow as of
from opflow.data.task import Task
from opflow.dynamics.storage.checkpoint import Saver
from tests import examples
from tests.relu.reference import chain_rule_jacobian, problems


def problem(n=20, outputs=1, seed=0, **kw):
    rng = np.random.default_rng(seed)
    net = of.ReLUNetwork.random([4, 16, 12], outputs=outputs, seed=seed, **kw)
    return net, rng.standard_normal((n, 4)), rng.standard_normal((n, outputs))


@pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")  # drawn columns
@settings(max_examples=examples(40))
@given(problems())
def test_one_step_follows_the_chain_rule_gradient(drawn):
    net, X = drawn
    y = np.ones((len(X), net.outputs))
    # one step is one step, also of a network so steep that it raises the loss a thousandfold
    descent = of.GradientDescent(step=1e-3)
    run = of.train(net, X, y, method=descent, steps=1, diverge=np.inf)
    J = chain_rule_jacobian(net, X, rates=False)
    slope = J.T @ (net(X) - y).ravel()
    start = 0
    moved = zip(
        net.parameter_list(), run.network.parameter_list(), net.parameter_rates(), strict=True
    )
    for before, after, rate in moved:
        expected = before.ravel() - 1e-3 * rate * slope[start : start + before.size]
        np.testing.assert_allclose(after.ravel(), expected, rtol=1e-12, atol=1e-12)
        start += before.size


def test_residual_velocity_is_minus_K_r():
    net, X, y = problem(outputs=2)
    K, r = of.collective_kernel(net.fields(X)), (net(X) - y).ravel()
    h = 1e-7
    run = of.train(net, X, y, method=of.GradientDescent(step=h), steps=1)
    velocity = (run.residual.ravel() - r) / h
    np.testing.assert_allclose(velocity, -(K @ r), rtol=1e-4, atol=1e-4 * np.abs(K @ r).max())


def test_residual_is_that_of_the_final_network():
    net, X, y = problem(outputs=3)
    run = of.train(net, X, y, steps=30)
    np.testing.assert_allclose(run.residual, run.network(X) - y, atol=1e-13)
    assert run.losses[-1] == pytest.approx(0.5 * (run.residual**2).sum(), rel=1e-13)
    assert len(run.times) == len(run.losses) == 31


def test_auto_step_is_below_the_stability_limit_and_descends():
    net, X, y = problem()
    run = of.train(net, X, y, steps=40)
    top = np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]
    assert 0.4 / top < run.step <= 1.0 / top * 1.02
    assert (np.diff(run.losses) < 0).all()
    assert "auto" in run.note and "λ_max" in run.note
    assert run.products > 40


def test_mean_loss_is_the_sum_over_n_with_n_times_the_step():
    net, X, y = problem()
    a = of.train(net, X, y, steps=10)
    b = of.train(net, X, y, steps=10, loss="mean")
    assert b.step == pytest.approx(a.step * len(X))
    np.testing.assert_allclose(b.losses * len(X), a.losses, rtol=1e-10)


def test_until_ends_at_the_time():
    net, X, y = problem()
    run = of.train(net, X, y, method=of.GradientDescent(step=0.01), until=0.1)
    assert run.times[-1] == pytest.approx(0.1)
    assert len(run.times) == 11


def test_float32_stays_float32():
    net, X, y = problem(dtype=np.float32)
    run = of.train(net, X.astype(np.float32), y.astype(np.float32), steps=3)
    assert run.residual.dtype == np.float32
    assert all(W.dtype == np.float32 for W in run.network.weights)


def test_balancedness_drift_shrinks_with_the_step():
    net, X, y = problem()
    drift = []
    for step in (4e-3, 2e-3):
        run = of.train(net, X, y, method=of.GradientDescent(step=step), until=0.2,
                       observe=[of.observe.Balancedness()])  # fmt: skip
        drift.append(run.observations["balancedness_drift"][-1])
    assert 0 < drift[1] < drift[0] < 0.01
    assert drift[1] / drift[0] == pytest.approx(0.5, abs=0.1)


def test_gate_flips_are_counted():
    net, X, y = problem()
    networks = []

    def remember(moment):
        networks.append(moment.network)
        return 0

    observers = {"flips": of.observe.GateFlips(), "networks": remember}
    run = of.train(net, X, y, steps=12, observe=observers)
    gates = [n.fields(X).gates for n in networks]
    for i in range(1, 13):
        expected = [(a != b).sum() for a, b in zip(gates[i], gates[i - 1], strict=True)]
        assert run.observations["flips"][i].tolist() == expected
    assert run.observations["flips"].sum() > 0


def test_divergence_names_step_loss_size_and_limit():
    net, X, y = problem()
    limit = 2 / np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]
    with pytest.raises(ArithmeticError, match=r"step \d+: loss .* step size .*2/λ_max") as info:
        of.train(net, X, y, method=of.GradientDescent(step=20 * limit), steps=1000)
    assert np.isfinite(info.value.trajectory.losses).all()


def test_interrupt_returns_what_was_reached():
    net, X, y = problem()

    def stop(moment):
        if moment.step == 5:
            raise KeyboardInterrupt
        return moment.loss

    run = of.train(net, X, y, steps=50, observe=[stop])
    assert run.interrupted and len(run.losses) == 5 == len(run.observations["stop"])
    full = of.train(net, X, y, steps=4)
    for a, b in zip(run.network.weights, full.network.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(run.residual, full.residual)


def test_a_dead_network_stays_where_it_is():
    net = of.ReLUNetwork([-np.ones((3, 2))], np.ones(3))
    run = of.train(net, np.ones((4, 2)), np.ones(4), steps=2)
    assert run.losses.tolist() == [2.0, 2.0, 2.0]


def test_trajectory_file_round_trip(tmp_path):
    net, X, y = problem(outputs=2, bias=True)
    run = of.train(net, X, y, steps=5, observe=[of.observe.Loss(), of.observe.GateFlips()])
    run.save(tmp_path / "run.npz")
    again = of.Trajectory.load(tmp_path / "run.npz")
    for name in ("times", "losses", "residual"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))
    assert again.step == run.step and again.note == run.note and again.products == run.products
    assert again.network.rates == run.network.rates
    np.testing.assert_array_equal(again.network(X), run.network(X))
    assert list(again.observations) == list(run.observations)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_corrupt_and_foreign_files_are_named(tmp_path):
    net, X, y = problem()
    path = tmp_path / "run.npz"
    of.train(net, X, y, steps=1).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"run\.npz"):
        of.Trajectory.load(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match=r"run\.npz"):
        of.Trajectory.load(path)
    with pytest.raises(FileNotFoundError):
        of.Trajectory.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.ones(19)}, ValueError, r"y has shape \(19, 1\)"),
        ({"y": np.ones((20, 2))}, ValueError, "y has shape"),
        ({"y": np.ones(20, complex)}, TypeError, "y must be"),
        ({"y": ["one"] * 20}, TypeError, "y must be .*text"),
        ({"y": np.full(20, np.nan)}, ValueError, "y contains NaN"),
        ({"X": np.full((20, 4), np.inf)}, ValueError, "X contains NaN or infinity"),
        ({"X": np.ones((20, 5))}, ValueError, "X has shape"),
        ({"steps": None}, ValueError, "steps or until"),
        ({"steps": -1}, ValueError, "steps"),
        ({"steps": 1.5}, TypeError, "steps"),
        ({"until": float("nan")}, ValueError, "until"),
        ({"method": "adam"}, TypeError, "method"),
        ({"loss": "l1"}, ValueError, "loss"),
        ({"observe": [3]}, TypeError, "callable"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, error, message):
    net, X, _ = problem()
    arguments = {"X": X, "y": np.ones(20), "steps": 3} | change
    with pytest.raises(error, match=message):
        of.train(net, **arguments)


@pytest.mark.parametrize("step", ["fast", 0, -1.0, float("nan"), float("inf")])
def test_bad_steps_are_refused(step):
    with pytest.raises(ValueError, match="step"):
        of.GradientDescent(step=step)


MEMORY = """
import numpy as np, opflow as of
rng = np.random.default_rng(0)
X, y = rng.standard_normal((100_000, 64)), rng.standard_normal(100_000)
net = of.ReLUNetwork.random([64, 256, 256], seed=0)
run = of.train(net, X, y, steps=20)
assert run.losses[-1] < run.losses[0]
# of this program alone: getrusage counts what the process was before it
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.thorough
def test_twenty_steps_at_100_000_samples_stay_within_1_5_gib():
    """The whole process, libraries included; an N x N array alone would take 80 GB."""
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 1.5 * 2**30


def test_a_product_at_size_needs_little_beyond_the_fields():
    import tracemalloc

    for outputs, route in ((1, "cached"), (1, "transport"), (3, "cached")):
        net = of.ReLUNetwork.random([64, 128, 64], outputs=outputs, seed=0, dtype=np.float32)
        X = np.random.default_rng(0).standard_normal((50_000, 64), dtype=np.float32)
        K = of.collective_kernel(net.fields(X), route=route)
        r = np.ones(50_000 * outputs, dtype=np.float32)
        tracemalloc.start()
        K @ r
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 2**20


def test_what_observers_give_is_checked_as_it_comes():
    net, X, y = of.ReLUNetwork.random([3, 4], outputs=3, seed=0), np.eye(3), np.eye(3)

    def growing(moment):
        return np.zeros(moment.step)

    with pytest.raises(ValueError, match=r"'growing'.* shape \(1,\) at step 1 but shape \(0,\)"):
        of.train(net, X, y, steps=3, observe=[growing])
    with pytest.raises(ValueError, match="two called 'loss'"):
        of.train(net, X, y, steps=1, observe=[of.observe.Loss(), of.observe.Loss()])
    with pytest.raises(TypeError, match="must be strings, not 3"):
        of.train(net, X, y, steps=1, observe={3: of.observe.Loss()})
    with pytest.raises(ValueError, match=r"y has shape \(3, 1\) but outputs \(3, 3\)"):
        of.train(net, X, y, steps=1, observe=[of.observe.HeldOutLoss(X, np.ones(3))])
    with pytest.raises(ValueError, match="contains NaN"):
        of.observe.HeldOutLoss(X, [1.0, np.nan, 0.0])
    for labels in (np.zeros((3, 1), dtype=int), np.eye(3), np.full(3, 0.5)):
        with pytest.raises(ValueError, match="labels must be integers"):
            of.observe.Accuracy(X, labels)


# -- moments and their steps ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, steps",
    [({"steps": 50, "every": 50}, [0, 50]), ({"steps": 7, "every": 3}, [0, 3, 6, 7]),
     ({"steps": 1}, [0, 1]), ({"steps": 0}, [0])],
)  # fmt: skip
def test_moments_carry_their_steps(tmp_path, options, steps):
    net, X, y = problem()
    run = of.train(net, X, y, **options, observe={"step": lambda moment: moment.step})
    assert run.steps.tolist() == run.observations["step"].tolist() == steps
    unit = "step" if steps[-1] == 1 else "steps"
    assert repr(run).startswith(f"<Trajectory of {steps[-1]} {unit} to t = ")
    run.save(tmp_path / "run.npz")
    loaded = of.Trajectory.load(tmp_path / "run.npz")
    assert loaded.steps.tolist() == steps and repr(loaded) == repr(run)


@pytest.mark.parametrize(
    "method, length",
    [(of.GradientFlow(), {"times": [0.5, 1.0, 5.0]}), (of.LinearisedFlow(), {"until": 5.0})],
)
def test_moments_of_flows_carry_the_steps_taken(method, length):
    net, X, y = problem()
    run = of.train(net, X, y, method=method, observe={"step": lambda m: m.step}, **length)
    assert run.steps.tolist() == run.observations["step"].tolist()
    assert (np.diff(run.steps) > 0).all() and len(run.steps) == len(run.times)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_a_resumed_run_knows_the_steps_of_all_moments(tmp_path, monkeypatch, old, every):
    net, X, y = problem()
    path = tmp_path / "run.npz"
    if old:  # files of before have no steps
        save = Saver.save

        def without(self, number, arrays, *rest):
            return save(self, number, {k: v for k, v in arrays.items() if k != "steps"}, *rest)

        monkeypatch.setattr(Saver, "save", without)
    of.train(net, X, y, steps=7, every=every, checkpoint=path)
    run = of.train(net, X, y, steps=11, every=every, checkpoint=path, resume=True)
    assert run.steps.tolist() == of.train(net, X, y, steps=11, every=every).steps.tolist()


def test_a_trajectory_of_before_has_moments(tmp_path):
    net, X, y = problem()
    run = dataclasses.replace(of.train(net, X, y, steps=6, every=3), steps=None)
    run.save(tmp_path / "run.npz")
    loaded = of.Trajectory.load(tmp_path / "run.npz")
    assert loaded.steps is None
    assert repr(loaded).startswith("<Trajectory of 3 moments to t = ")


@pytest.mark.filterwarnings("ignore:.*train badly")
def test_a_start_beyond_the_range_of_numbers_is_said_to_be_so():
    net, X, y = problem()
    with pytest.raises(ArithmeticError, match="loss of the start is inf"):
        of.train(net, X, 1e200 * y, steps=3)


@pytest.mark.parametrize("labels", [False, True])
def test_a_run_with_a_task_answers_in_the_terms_of_the_data_also_from_its_file(tmp_path, labels):
    rng = np.random.default_rng(0)
    X = 50 + 20 * rng.standard_normal((30, 4))
    y = rng.choice(["ham", "spam"], 30) if labels else 1e3 * X[:, 0] + rng.standard_normal(30)
    inputs = of.Standardiser.fit(X)
    mean, scale = ([np.mean(y == "ham"), np.mean(y == "spam")], [1, 1]) if labels else (
        [y.mean()], [y.std()])  # fmt: skip
    classes = np.array(["ham", "spam"]) if labels else None
    task = Task(of.Standardiser(mean, scale), classes, inputs)
    net = of.ReLUNetwork.random([4, 64], outputs=2 if labels else 1, seed=0)
    run = of.train(net, inputs.transform(X), task.encode(y), steps=50)
    np.testing.assert_array_equal(
        run.predict(inputs.transform(X)), run.network(inputs.transform(X))
    )
    run = dataclasses.replace(run, task=task)
    outputs = run.network((X - inputs.mean) / inputs.scale)
    np.testing.assert_array_equal(run.predict(X, raw=True), outputs)
    if labels:
        wanted = classes[np.argmax(outputs + mean, axis=1)]
    else:
        wanted = outputs[:, 0] * y.std() + y.mean()
        assert np.abs(wanted - y).mean() < 0.3 * y.std()
    np.testing.assert_array_equal(run.predict(X), wanted)
    run.save(tmp_path / "run.npz")
    again = of.Trajectory.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again.predict(X), wanted)
    np.testing.assert_array_equal(again.predict(X, raw=True), outputs)
