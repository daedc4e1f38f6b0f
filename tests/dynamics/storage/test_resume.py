"""A run that was stopped and resumed is the run that was not."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import opflow as of

RUNS = {
    "descent": {},
    "momentum": {"method": of.GradientDescent(momentum=0.5)},
    "weight decay": {"method": of.GradientDescent(momentum=0.5, weight_decay=0.2)},
    "schedule": {"method": of.GradientDescent(step=lambda n: 1e-3 / (1 + n))},
    "eliminated": {"eliminate": True},
    "batches": {"method": of.GradientDescent(step=1e-3, batch=7, rng=3)},
    "every fourth": {"every": 4},
    "truncated": {"method": of.TruncatedFlow(order=1)},
    "mean loss": {"loss": "mean"},
    "exponential": {"method": of.ExponentialFlow()},
    "exact": {"method": of.ExactFlow()},
    "exponential, eliminated": {"method": of.ExponentialFlow(), "eliminate": True},
    "flow": {"method": of.GradientFlow()},
    "flow, weight decay": {"method": of.GradientFlow(weight_decay=0.2)},
    "Gauss-Newton": {"method": of.GaussNewton()},
    "Gauss-Newton, eliminated": {"method": of.GaussNewton(), "eliminate": True},
    "linearised": {"method": of.LinearisedFlow()},
    "linearised, at times": {"method": of.LinearisedFlow(), "times": [0.1, 0.2, 0.5, 1.0, 2.0]},
}


def problem():
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([5, 7, 6, 5], outputs=2, bias=True, seed=1)
    return net, rng.standard_normal((31, 5)), rng.standard_normal((31, 2))


def observers(options):
    found = [of.observe.GateFlips(), of.observe.Balancedness(), of.observe.GramClosure(2)]
    if isinstance(options.get("method"), of.TruncatedFlow):
        found.append(of.observe.TruncationError(kernel=False))
    return found


def same(a, b):
    for x, y in zip(a.network.weights + a.network.biases, b.network.weights + b.network.biases,
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(x, y)
    for name in ("residual", "times", "losses", "products", "note"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert list(a.observations) == list(b.observations)
    for name in a.observations:
        np.testing.assert_array_equal(a.observations[name], b.observations[name])


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stop", [0, 1, 9])
def test_resumed_is_uninterrupted_bit_for_bit(name, stop, tmp_path):
    net, X, y = problem()
    options, log = RUNS[name], tmp_path / "log.jsonl"
    full = of.train(net, X, y, steps=14, observe=observers(options), **options)
    checkpoint = of.Checkpoint(tmp_path / "run.npz", steps=3)
    for steps in (stop, 14):
        run = of.train(net, X, y, steps=steps, observe=observers(options), checkpoint=checkpoint,
                       resume=True, log=log, **options)  # fmt: skip
    same(run, full)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["loss"] for line in lines] == full.losses.tolist()
    # a finished run goes on from its end
    again = of.train(net, X, y, steps=14, observe=observers(options), checkpoint=checkpoint,
                     resume=True, **options)  # fmt: skip
    same(again, full)


def test_a_run_is_not_overwritten_nor_mixed_with_another(tmp_path):
    net, X, y = problem()
    path = tmp_path / "run.npz"
    of.train(net, X, y, steps=2, checkpoint=path)
    with pytest.raises(ValueError, match="holds a run already"):
        of.train(net, X, y, steps=2, checkpoint=path)
    other = net.replace([W + 1 for W in net.weights])
    for arguments, options, message in (
        ((other, X, y), {}, "another network"),
        ((net, X + 1, y), {}, "another X"),
        ((net, X, y + 1), {}, "another y"),
        ((net, X, y), {"method": of.GradientDescent(step=0.1)}, "its method is"),
        ((net, X, y), {"observe": [of.observe.Loss()]}, "observe must be as in the checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            of.train(*arguments, steps=4, checkpoint=path, resume=True, **options)


def test_a_run_goes_on_along_its_own_route(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((6, 6)), rng.standard_normal(6)  # all shapes agree
    net, path = of.ReLUNetwork.random([6, 6], seed=0), tmp_path / "run.npz"
    of.train(net, X, y, steps=2, checkpoint=path, eliminate=True)
    with pytest.raises(ValueError, match="which eliminate= excludes"):
        of.train(net, X, y, steps=4, checkpoint=path, resume=True, eliminate=False)
    assert of.train(net, X, y, steps=4, checkpoint=path, resume=True).route == "eliminated"


def test_a_damaged_state_names_the_good_one(tmp_path):
    net, X, y = problem()
    path = tmp_path / "run.npz"
    full = of.train(net, X, y, steps=8)
    of.train(net, X, y, steps=5, checkpoint=of.Checkpoint(path, steps=2))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"run\.npz.*run\.npz\.1 is good, of step 4") as info:
        of.train(net, X, y, steps=8, checkpoint=path, resume=True)
    good = str(info.value).rpartition("resume=")[2].strip("'")
    same(of.train(net, X, y, steps=8, checkpoint=path, resume=good), full)


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    net, X, y = problem()
    full = of.train(net, X, y, steps=8)
    path = tmp_path / "run.npz"
    of.train(net, X, y, steps=3, checkpoint=path)

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        run = of.train(net, X, y, steps=8, checkpoint=of.Checkpoint(path, steps=1), resume=True)
    same(run, full)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.npz", "run.npz.1"]
    same(of.train(net, X, y, steps=8, checkpoint=path, resume=True), full)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    net, X, y = problem()
    with pytest.raises(OSError, match="checkpoints cannot be written in"):
        of.train(net, X, y, steps=8, checkpoint=tmp_path / "none" / "run.npz")


LONG = """
import sys
import numpy as np, opflow as of
rng = np.random.default_rng(0)
net = of.ReLUNetwork.random([5, 64, 64], outputs=2, bias=True, seed=1)
X, y = rng.standard_normal((301, 5)), rng.standard_normal((301, 2))
steps, path, resume = int(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
def seen(moment):
    if moment.step == 3:
        print("running", flush=True)
    return moment.loss
run = of.train(net, X, y, steps=steps, checkpoint=of.Checkpoint(path, steps=1) if path else None,
               resume=resume, observe=[seen])
print(len(run.times) - 1, run.interrupted, run.losses[-1].hex())
"""


def long_run(*arguments):
    return subprocess.Popen([sys.executable, "-c", LONG, *map(str, arguments)],
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.thorough), signal.SIGINT]
)
def test_a_signal_saves_and_stops(number, tmp_path):
    path = tmp_path / "run.npz"
    process = long_run(10**6, path)
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    done, interrupted, _ = process.communicate(timeout=60)[0].split()
    assert process.returncode == 0 and interrupted == "True"
    done = int(done)
    resumed = long_run(done + 2, path, "resume").communicate(timeout=120)[0].split()
    straight = long_run(done + 2, "").communicate(timeout=120)[0].split()
    assert resumed == straight[-3:]


@pytest.mark.thorough
def test_kills_at_any_moment_lose_nothing(tmp_path):
    """The long test counts OPFLOW_KILLS kills; each is resumed from, and the end is the same."""
    path, rng = tmp_path / "run.npz", np.random.default_rng(0)
    steps, kills = 10**6, int(os.environ.get("OPFLOW_KILLS", "3"))
    for _ in range(kills):
        process = long_run(steps, path, "resume")
        time.sleep(0.1)
        while process.poll() is None and not path.exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    from opflow.dynamics.storage.state_file import read

    with open(path, "rb") as file:
        reached = read(file)[1]["meta"]["number"]
    assert reached > 0
    resumed = long_run(reached + 3, path, "resume").communicate(timeout=300)[0].split()
    straight = long_run(reached + 3, "").communicate(timeout=300)[0].split()
    assert resumed[-3:] == straight[-3:]


def test_another_kernel_function_is_refused(tmp_path):
    net, X, y = problem()
    held, step = tmp_path / "run.npz", of.GradientDescent(1e-3)
    of.train(net, X, y, steps=2, method=step, gram=lambda A, B: A @ B.T, checkpoint=held)
    for gram in (lambda A, B: (A @ B.T) ** 2, None):
        with pytest.raises(ValueError, match="its kernel is another"):
            of.train(net, X, y, steps=4, method=step, gram=gram, checkpoint=held, resume=True)


@pytest.mark.parametrize("form", ["list", "pandas"])
def test_another_kernel_matrix_is_refused_in_any_form(form, tmp_path):
    make = np.ndarray.tolist
    if form == "pandas":
        make = pytest.importorskip("pandas").DataFrame
    net, X, y = problem()
    G = X @ X.T
    held, step = tmp_path / "run.npz", of.GradientDescent(1e-3)
    of.train(net, X, y, steps=2, method=step, gram=make(G), checkpoint=held)
    with pytest.raises(ValueError, match="a checkpoint of another run"):
        of.train(net, X, y, steps=4, method=step, gram=make(2 * G), checkpoint=held, resume=True)
    run = of.train(net, X, y, steps=4, method=step, gram=make(G), checkpoint=held, resume=True)
    assert run.losses.tolist() == of.train(net, X, y, steps=4, method=step, gram=G).losses.tolist()


@pytest.mark.parametrize("eliminate", [True, False])
def test_a_run_goes_on_by_its_route_or_not_at_all(eliminate, tmp_path):
    rng = np.random.default_rng(0)  # of a shape at which C could be taken for W
    net, X = of.ReLUNetwork.random([5, 5], seed=0), rng.standard_normal((5, 5))
    y, step, held = rng.standard_normal(5), of.GradientDescent(1e-3), tmp_path / "run.npz"
    of.train(net, X, y, steps=2, method=step, eliminate=eliminate, checkpoint=held)
    with pytest.raises(ValueError, match="which eliminate= excludes"):
        of.train(net, X, y, steps=4, method=step, eliminate=not eliminate, checkpoint=held,
                 resume=True)  # fmt: skip


def test_observers_whose_names_begin_alike_are_restored(tmp_path):
    net, X, y = problem()
    for steps, resume in ((2, False), (4, True)):
        seen = {"flips": of.observe.GateFlips(), "flips_top": of.observe.GateFlips()}
        run = of.train(net, X, y, steps=steps, observe=seen, checkpoint=tmp_path / "run.npz",
                       resume=resume)  # fmt: skip
    np.testing.assert_array_equal(run.observations["flips"], run.observations["flips_top"])


def small(steps=3, **kw):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([3, 6], seed=0)
    return of.train(net, rng.standard_normal((12, 3)), rng.standard_normal(12), steps=steps, **kw)


def test_an_observer_that_returns_none_records_nothing(tmp_path):
    calls = []

    def show(moment):
        calls.append(moment.step)

    observe = {"show": show, "loss": lambda moment: moment.loss}
    log, path = tmp_path / "log.jsonl", tmp_path / "run.npz"
    saved = of.Checkpoint(path, steps=2)
    whole = small(6, observe=observe, checkpoint=of.Checkpoint(tmp_path / "w.npz", steps=2))
    small(3, observe=observe, checkpoint=saved, log=log)
    run = small(6, observe=observe, checkpoint=saved, resume=True, log=log)
    assert calls == [*range(7), *range(4), *range(3, 7)] or calls == [*range(7), *range(7)]
    assert list(run.observations) == list(whole.observations) == ["loss"]
    np.testing.assert_array_equal(run.losses, whole.losses)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 7 and all("show" not in line for line in lines)
    run.save(tmp_path / "trajectory.npz")
    assert list(of.Trajectory.load(tmp_path / "trajectory.npz").observations) == ["loss"]


@pytest.mark.parametrize("late", [True, False])
def test_an_observer_cannot_change_its_mind_about_none(late, tmp_path):
    def seen(moment):
        return None if (moment.step > 1) == late else 1.0

    words = "gave None at step 2" if late else r"gave shape \(\) at step 2 but None"
    with pytest.raises(ValueError, match=words):
        small(observe={"seen": seen})
    path = tmp_path / "run.npz"
    small(1, observe={"seen": seen}, checkpoint=path)
    with pytest.raises(ValueError, match=words):
        small(observe={"seen": seen}, checkpoint=path, resume=True)


def test_an_observation_that_no_file_holds_is_named(tmp_path):
    run = small(observe={"things": lambda moment: {"step": moment.step}})
    with pytest.raises(TypeError, match="the observations things cannot be saved"):
        run.save(tmp_path / "t.npz")


@pytest.mark.parametrize("resume", [None, False, np.False_])
def test_what_means_no_resume_begins_a_run(resume, tmp_path):
    assert len(small(resume=resume).times) == 4
    assert len(small(resume=resume, checkpoint=tmp_path / "run.npz").times) == 4
    with pytest.raises(ValueError, match="holds a run already"):
        small(resume=resume, checkpoint=tmp_path / "run.npz")


def test_a_boolean_of_numpy_resumes(tmp_path):
    small(2, checkpoint=tmp_path / "run.npz")
    assert len(small(4, checkpoint=tmp_path / "run.npz", resume=np.True_).times) == 5
    with pytest.raises(ValueError, match="resume=True needs checkpoint="):
        small(resume=np.True_)


@pytest.mark.parametrize(("resume", "error"), [
    ("", ValueError), (1, TypeError), (0, TypeError), (b"run.npz", TypeError), ([], TypeError),
])  # fmt: skip
def test_what_is_no_state_to_go_on_from_is_refused(resume, error, tmp_path):
    for checkpoint in (None, tmp_path / "run.npz"):
        with pytest.raises(error, match="resume must be True, False or the path of a state"):
            small(resume=resume, checkpoint=checkpoint)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_no_trajectory(tmp_path):
    run = small(checkpoint=tmp_path / "run.npz")
    with pytest.raises(ValueError, match="is a checkpoint, not a trajectory: train"):
        of.Trajectory.load(tmp_path / "run.npz")
    run.save(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="it is not a checkpoint"):
        small(resume=tmp_path / "t.npz")


@pytest.mark.parametrize("metadata", ["{}", "[1]", "3", "null", '"text"', '{"schema": 1}', "{"])
def test_what_is_no_trajectory_is_refused(metadata, tmp_path):
    np.savez(tmp_path / "t.npz", metadata=np.array(metadata), X=np.ones(3))
    with pytest.raises(ValueError, match=r"t\.npz is not a trajectory"):
        of.Trajectory.load(tmp_path / "t.npz")
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"a\.npy is not a trajectory"):
        of.Trajectory.load(tmp_path / "a.npy")


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small(2, checkpoint="~/run.npz", log="~/log.jsonl")
    run = small(3, checkpoint=of.Checkpoint("~/run.npz"), resume=True, log="~/log.jsonl")
    small(4, resume="~/run.npz")
    run.save("~/t.npz")
    assert len(of.Trajectory.load("~/t.npz").times) == 4
    assert {"run.npz", "log.jsonl", "t.npz"} <= {file.name for file in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()
