"""The command line: runs, and bad input told in one line."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.cli import observers, options, run_report
from opflow.cli.commands import main
from opflow.cli.estimate import estimate
from opflow.cli.folder import FILES
from opflow.cli.words import WORDS, explained
from opflow.data.load import load
from opflow.interface import progress


def scaled(y):
    """Targets of a regression as a run takes them."""
    y = y.reshape(len(y), -1)
    return of.Standardiser.fit(y).transform(y)


TRAIN = ["--widths", "8,8", "--steps", "3", "--quiet"]


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def data(folder, name="data.npz", n=20, d=3, **replace):
    rng = np.random.default_rng(0)
    arrays = {"X": rng.standard_normal((n, d)), "y": rng.integers(0, 3, n)} | replace
    np.savez(folder / name, **{k: v for k, v in arrays.items() if v is not None})
    return folder / name


def test_digits_run_leaves_everything_in_its_folder(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "train", "digits", "--widths", "16,16", "--steps", 2, "--out",
                       tmp_path / "run")  # fmt: skip
    assert code == 0
    made = {p.name for p in (tmp_path / "run").iterdir()}
    answers = {"predicted.png", "residuals.png", "confusion.png"}
    assert made - answers == set(FILES) - answers - {"held_out.png"}
    assert "accuracy" in out and "auto: 1/λ_max" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 1797 and summary["steps"] == 2
    trajectory = of.Trajectory.load(tmp_path / "run" / "trajectory.npz")
    assert trajectory.losses[-1] < trajectory.losses[0]
    assert summary["loss"] == [trajectory.losses[0], trajectory.losses[-1]]
    for picture in (tmp_path / "run").glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"


def test_labels_become_centred_one_hot_and_accuracy_is_counted(tmp_path, capsys):
    code, *_ = run(capsys, "train", data(tmp_path), *TRAIN, "--out", tmp_path / "run")
    assert code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["outputs"] == 3
    assert 0 <= summary["accuracy"][0] <= 1


@pytest.mark.parametrize("kind", ["npy", "csv", "sparse", "csv alone"])
def test_every_file_kind_trains(tmp_path, capsys, kind):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    np.save(tmp_path / "y.npy", y)
    targets = ["--targets", tmp_path / "y.npy"]
    if kind == "npy":
        np.save(path := tmp_path / "X.npy", X)
    elif kind == "csv":
        np.savetxt(path := tmp_path / "X.csv", X, delimiter=",", header="a,b,c", comments="")
    elif kind == "sparse":
        sp.save_npz(path := tmp_path / "X.npz", sp.csr_array(X))
    else:
        np.savetxt(path := tmp_path / "Xy.csv", np.column_stack([X, y]), delimiter=",")
        targets = []
    code, _, err = run(capsys, "train", path, *targets, *TRAIN, "--no-standardise",
                       "--out", tmp_path / "run")  # fmt: skip
    assert (code, err) == (0, "")
    expected = of.train(of.ReLUNetwork.random([3, 8, 8], seed=0), X, scaled(y), steps=3)
    got = of.Trajectory.load(tmp_path / "run" / "trajectory.npz")
    np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-9)


@pytest.mark.parametrize(
    ("replace", "argument"),
    [
        ({"X": np.full((20, 3), np.nan)}, "X in"),
        ({"X": np.full((20, 3), np.inf)}, "X in"),
        ({"X": np.ones((20, 3), complex)}, "complex"),
        ({"X": np.ones((20, 3), np.float16)}, "float16"),
        ({"X": np.ones((20, 3)).astype(object)}, "data.npz"),
        ({"X": np.ones((0, 3))}, "X in"),
        ({"X": np.ones(20)}, "X in"),
        ({"X": None}, "no X"),
        ({"y": np.arange(19)}, "y in"),
        ({"y": np.full(20, np.nan)}, "y[0]: the target is missing"),
        ({"y": None}, "--targets"),
    ],
)
def test_bad_data_is_one_line_and_code_2(tmp_path, capsys, replace, argument):
    path = data(tmp_path, **replace)
    code, out, err = run(capsys, "train", path, *TRAIN, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("opflow: error: ") and err.count("\n") == 1 and argument in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change",
    [
        ["--widths", "0,8"],
        ["--widths", "a"],
        ["--steps", "-1"],
        ["--step", "-0.5"],
        ["--step", "fast"],
        ["--scaling", "he"],
        ["--dtype", "float16"],
        ["--seed", "x"],
    ],
)
def test_bad_options_are_one_line_and_code_2(tmp_path, capsys, change):
    argv = ["train", data(tmp_path), *TRAIN, "--out", tmp_path / "run", *change]
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert err.count("\n") == 1 and change[0] in err


def test_missing_and_corrupt_files_are_named(tmp_path, capsys):
    code, _, err = run(capsys, "train", tmp_path / "no.npz", *TRAIN, "--out", tmp_path / "r")
    assert code == 2 and "no.npz does not exist" in err
    path = data(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    code, _, err = run(capsys, "train", path, *TRAIN, "--out", tmp_path / "r")
    assert code == 2 and "data.npz cannot be read" in err
    (tmp_path / "t.csv").write_text("1,2\n3\n")
    code, _, err = run(capsys, "train", tmp_path / "t.csv", *TRAIN, "--out", tmp_path / "r")
    assert code == 2 and "t.csv" in err


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "train", data(tmp_path), *TRAIN, "--out", tmp_path / "file" / "run")
    assert code == 2 and "--out" in err


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    argv = ["train", data(tmp_path), *TRAIN, "--out", tmp_path / "run"]
    assert run(capsys, *argv)[0] == 0
    before = (tmp_path / "run" / "trajectory.npz").read_bytes()
    code, _, err = run(capsys, *argv, "--steps", 5)
    assert code == 2 and "--overwrite" in err
    assert (tmp_path / "run" / "trajectory.npz").read_bytes() == before
    assert run(capsys, *argv, "--overwrite")[0] == 0


def test_a_run_with_nothing_to_draw_succeeds_with_all_its_pictures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    path = data(tmp_path, X=X * 0, y=y)
    argv = ["train", path, *TRAIN, "--out", tmp_path / "run"]
    for more in ([], ["--resume"]):
        assert run(capsys, *argv, *more) == (0, "", "")
        assert (tmp_path / "run" / "eigenvalues.png").exists()
    code, out, err = run(capsys, "plot", tmp_path / "run")
    assert (code, err) == (0, "") and "no " not in out


def test_pictures_do_not_decide_the_exit_code(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    from opflow import plot

    def fails(*args, **kwargs):
        raise RuntimeError("no\nink")

    *_, path = regression(tmp_path)
    monkeypatch.setattr(plot, "eigenvalues", fails)
    argv = ["train", path, *TRAIN[:-1], "--out", tmp_path / "run"]
    code, out, _ = run(capsys, *argv)
    assert code == 0
    drawn = "loss.png, layer_shares.png, predicted.png, residuals.png"
    assert f"pictures: {drawn}; no eigenvalues.png: no ink; everything" in out
    assert not list((tmp_path / "run").glob(".*"))
    code, out, _ = run(capsys, "plot", tmp_path / "run")
    assert code == 0 and "eigenvalues.png: no ink" in out
    code, out, _ = run(capsys, "spectrum", tmp_path / "run")
    assert code == 0 and "heat_map.png; no eigenvalues.png: no ink; everything" in out
    # a disk that is full when pictures are written
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    code, out, _ = run(capsys, *argv, "--overwrite")
    assert code == 0 and "pictures: none; no loss.png: no ink" in out
    assert (tmp_path / "run" / "trajectory.npz").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_pictures_are_drawn_whatever_backend_is_asked_for(tmp_path, backend):
    pytest.importorskip("matplotlib")
    *_, path = regression(tmp_path)
    argv = ["train", path, *TRAIN, "--out", tmp_path / "run"]
    subprocess.run([sys.executable, "-m", "opflow.cli.commands", *map(str, argv)], check=True,
                   env={**os.environ, "MPLBACKEND": backend})  # fmt: skip
    assert (tmp_path / "run" / "loss.png").exists()


def test_an_analysis_that_fails_does_not_lose_the_run(tmp_path, capsys, monkeypatch):
    def fails(*args, **kwargs):
        raise np.linalg.LinAlgError("no convergence")

    *_, path = regression(tmp_path)
    monkeypatch.setattr(of.spectral, "eigsh", fails)
    code, out, _ = run(capsys, "train", path, *TRAIN[:-1], "--out", tmp_path / "run")
    assert code == 0 and "not analysed: its eigenvalues were not found: no convergence" in out


def test_divergence_is_one_line_and_code_1(tmp_path, capsys):
    argv = ["train", data(tmp_path), *TRAIN, "--out", tmp_path / "run", "--step", "100",
            "--steps", "50"]  # fmt: skip
    code, _, err = run(capsys, *argv)
    assert code == 1
    assert err.count("\n") == 1 and "diverged at step" in err and "2/λ_max" in err


def test_estimate_for_a_billion_samples_allocates_nothing(capsys):
    tracemalloc.start()
    code, out, _ = run(capsys, "estimate", "--samples", "1e9", "--features", 784, "--widths",
                       "512,512", "--steps", 20, "--dtype", "float32")  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert code == 0 and "N = 1,000,000,000" in out and "EiB" in out
    assert peak < 2**20


def test_estimate_needs_a_size(capsys):
    code, _, err = run(capsys, "estimate", "--widths", "8")
    assert code == 2 and "--samples" in err


def regression(folder, n=24, d=3, dtype=np.float64, name="data.npz"):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((n, d)).astype(dtype), rng.standard_normal((n, 2)).astype(dtype)
    np.savez(folder / name, X=X, y=y)
    return X, y, folder / name


def trained(folder):
    return of.Trajectory.load(folder / "trajectory.npz")


def assert_equal(run, other):
    np.testing.assert_array_equal(run.losses, other.losses)
    np.testing.assert_array_equal(run.times, other.times)
    for W, V in zip(run.network.weights, other.network.weights, strict=True):
        np.testing.assert_array_equal(W, V)


@pytest.mark.parametrize(
    ("options", "method", "how"),
    [
        ([], of.GradientDescent(), {"steps": 3}),
        (["--step", "0.01", "--momentum", "0.5"], of.GradientDescent(0.01, 0.5), {"steps": 3}),
        (["--step", "0.01", "--batch", "5", "--seed", "0"],
         of.GradientDescent(0.01, batch=5, rng=0), {"steps": 3}),
        (["--weight-decay", "0.1"], of.GradientDescent(weight_decay=0.1), {"steps": 3}),
        (["--eliminate", "yes"], of.GradientDescent(), {"steps": 3, "eliminate": True}),
        (["--every", "2"], of.GradientDescent(), {"steps": 3, "every": 2}),
        (["--memory", "2MB"], of.GradientDescent(), {"steps": 3, "memory": "2MB"}),
        (["--until", "0.05", "--step", "0.02"], of.GradientDescent(0.02), {"until": 0.05}),
        (["--method", "flow", "--tol", "0.01"], of.GradientFlow(tol=0.01), {"steps": 3}),
        (["--method", "exponential"], of.ExponentialFlow(), {"steps": 3}),
        (["--method", "gauss-newton", "--tol", "0.1"], of.GaussNewton(tol=0.1), {"steps": 3}),
        (["--method", "linearised", "--until", "0.1"], of.LinearisedFlow(),
         {"steps": 3, "until": 0.1}),
    ],
)  # fmt: skip
def test_options_are_those_of_train(tmp_path, capsys, options, method, how):
    X, y, path = regression(tmp_path)
    code, _, err = run(capsys, "train", path, *TRAIN, *options, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    net = of.ReLUNetwork.random([3, 8, 8], outputs=2, seed=0)
    got = trained(tmp_path / "run")
    assert_equal(got, of.train(net, X, scaled(y), method=method, **how))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["route"] == ("eliminated" if "--eliminate" in options else "weights")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == list(got.observations["loss"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--memory", "lots"], "--memory"),
        (["--memory", "1kB"], "--memory"),
        (["--method", "newton"], "--method"),
        (["--method", "flow", "--momentum", "0.9"], "--momentum"),
        (["--method", "flow", "--weight-decay", "0.1"], "--weight-decay"),
        (["--weight-decay", "-0.1"], "weight_decay"),
        (["--eliminate", "yes", "--weight-decay", "0.1"], "--weight-decay"),
        (["--tol", "0.1"], "--tol"),
        (["--method", "flow", "--tol", "0"], "--tol"),
        (["--momentum", "2"], "momentum"),
        (["--momentum", "much"], "--momentum"),
        (["--batch", "0"], "--batch"),
        (["--batch", "1000"], "batch"),
        (["--until", "-1"], "--until"),
        (["--every", "0"], "--every"),
        (["--eliminate", "maybe"], "--eliminate"),
        (["--eliminate", "yes", "--batch", "2"], "eliminate"),
        (["--checkpoint-every", "often"], "--checkpoint-every"),
        (["--checkpoint-every", "0"], "--checkpoint-every"),
        (["--checkpoint-every", "0s"], "--checkpoint-every"),
        (["--resume", "--overwrite"], "--overwrite"),
        (["--resume-from", "nowhere.npz"], "nowhere.npz"),
        (["--test-targets", "y.npy"], "--test-data"),
        (["--test-data", "no.npz"], "no.npz does not exist"),
    ],
)
def test_bad_new_options_are_one_line_and_leave_nothing(tmp_path, capsys, options, word):
    *_, path = regression(tmp_path)
    code, out, err = run(capsys, "train", path, *TRAIN, *options, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("opflow: error: ") and err.count("\n") == 1 and word in err
    assert not (tmp_path / "run").exists()


def test_a_run_needs_an_end(tmp_path, capsys):
    *_, path = regression(tmp_path)
    code, _, err = run(capsys, "train", path, "--widths", "8", "--out", tmp_path / "run")
    assert code == 2 and "--steps or --until" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--checkpoint-every", "1"],
        ["--step", "0.01", "--momentum", "0.9", "--batch", "7"],
        ["--eliminate", "yes", "--checkpoint-every", "0.001s"],
        ["--method", "exponential"],
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, capsys, options):
    *_, path = regression(tmp_path)
    argv = ["train", path, *TRAIN, *options]
    assert run(capsys, *argv, "--steps", 3, "--out", tmp_path / "run")[0] == 0
    code, _, err = run(capsys, *argv, "--steps", 8, "--out", tmp_path / "run", "--resume")
    assert (code, err) == (0, "")
    assert run(capsys, *argv, "--steps", 8, "--out", tmp_path / "whole", "--resume")[0] == 0
    assert_equal(trained(tmp_path / "run"), trained(tmp_path / "whole"))
    log, whole = ((tmp_path / name / "log.jsonl").read_text() for name in ("run", "whole"))
    assert log == whole and len(log.splitlines()) == 9


def test_a_damaged_checkpoint_is_named_and_the_state_before_it_goes_on(tmp_path, capsys):
    *_, path = regression(tmp_path)
    argv = ["train", path, *TRAIN, "--out", tmp_path / "run", "--checkpoint-every", 1]
    assert run(capsys, *argv)[0] == 0
    before = (tmp_path / "run" / "summary.txt").read_text()
    file = tmp_path / "run" / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:-100])
    code, _, err = run(capsys, *argv, "--steps", 5, "--resume")
    assert code == 2 and err.count("\n") == 1
    assert f"{file} cannot be resumed from" in err and f"--resume-from {file}.1" in err
    assert (tmp_path / "run" / "summary.txt").read_text() == before
    assert run(capsys, *argv, "--steps", 5, "--resume-from", f"{file}.1")[0] == 0
    assert run(capsys, *argv[:-4], "--steps", 5, "--out", tmp_path / "whole")[0] == 0
    assert_equal(trained(tmp_path / "run"), trained(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["--widths", "8,4"], "--widths is [8, 4] but the run in"),
        (["--seed", "1"], "--seed"),
        (["--step", "0.1"], "--step"),
        (["--dtype", "float32"], "--dtype"),
        (["--method", "flow"], "--method"),
        (["--eliminate", "yes"], "--eliminate"),
        (["--test-data", "data.npz"], "--test-data"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, capsys, change, word, monkeypatch):
    monkeypatch.chdir(tmp_path)
    regression(tmp_path)
    argv = ["train", "data.npz", *TRAIN, "--out", "run"]
    assert run(capsys, *argv)[0] == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    code, _, err = run(capsys, *argv, "--resume", *change)
    assert code == 2 and err.count("\n") == 1 and word in err
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == files


def test_a_checkpoint_in_the_place_of_a_trajectory_is_one_line(tmp_path, capsys):
    *_, path = regression(tmp_path)
    assert run(capsys, "train", path, *TRAIN, "--out", tmp_path / "run")[0] == 0
    file = tmp_path / "run" / "checkpoint.npz"
    code, out, err = run(capsys, "spectrum", file, path, "--out", tmp_path / "look")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"{file} is a checkpoint, not a trajectory" in err


def test_other_data_are_not_resumed(tmp_path, capsys):
    X, y, path = regression(tmp_path)
    argv = ["train", path, *TRAIN, "--out", tmp_path / "run"]
    assert run(capsys, *argv)[0] == 0
    np.savez(path, X=X, y=-y)
    code, _, err = run(capsys, *argv, "--resume")
    assert code == 2 and err.count("\n") == 1 and "its data set has another y" in err


SLOW = """
import sys, time
import opflow as of
from opflow.cli import options
from opflow.interface import progress
from opflow.cli import observers
from opflow.cli.commands import main

def slow(*args):
    seen = everything(*args)
    return seen | {"pause": lambda moment: time.sleep(0.01) or 0.0}

everything, observers.observers = observers.observers, slow
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.thorough)]
)
def test_a_stopped_run_leaves_its_results_and_goes_on(tmp_path, capsys, monkeypatch, name, code):
    *_, path = regression(tmp_path)
    argv = ["train", path, "--widths", "8,8", "--quiet", "--out", tmp_path / "run", "--steps"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, [*argv, 10**6])], stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.count("\n") == 1 and f"stopped by {name} at step" in err and "--resume" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped"] == name and summary["steps"] == len(trained(log.parent).times) - 1
    assert f"(stopped by {name})" in (tmp_path / "run" / "summary.txt").read_text()
    everything = observers.observers
    monkeypatch.setattr(
        observers, "observers", lambda *a: everything(*a) | {"pause": lambda m: 0.0}
    )
    steps = summary["steps"] + 3
    assert run(capsys, *argv, steps, "--resume")[0] == 0
    argv[argv.index("--out") + 1] = tmp_path / "whole"
    assert run(capsys, *argv, steps)[0] == 0
    assert_equal(trained(tmp_path / "run"), trained(tmp_path / "whole"))


def test_a_signal_before_the_first_step_leaves_nothing(tmp_path, capsys, monkeypatch):
    *_, path = regression(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        run_report, "analyse", lambda *a, **k: signal.raise_signal(signal.SIGTERM) or time.sleep(1)
    )
    code, out, err = run(capsys, "train", path, *TRAIN, "--out", tmp_path / "run")
    assert (code, out, err) == (143, "", "opflow: error: stopped by SIGTERM\n")
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_diverged_run_keeps_its_log_and_does_not_block_the_next(tmp_path, capsys):
    argv = ["train", data(tmp_path), *TRAIN, "--out", tmp_path / "run"]
    assert run(capsys, *argv, "--step", "100", "--steps", "50")[0] == 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.json", "log.jsonl"}
    assert run(capsys, *argv)[0] == 0


def test_a_failed_run_gives_back_what_it_was_to_replace(tmp_path, capsys):
    argv = ["train", data(tmp_path), *TRAIN, "--out", tmp_path / "run"]
    assert run(capsys, *argv)[0] == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for failing, code in ((["--memory", "1kB"], 2), (["--step", "100", "--steps", "50"], 1)):
        assert run(capsys, *argv, "--overwrite", *failing)[0] == code
        assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == files
    assert run(capsys, *argv, "--overwrite", "--steps", "4")[0] == 0
    assert len(trained(tmp_path / "run").times) == 5
    assert not (tmp_path / "run" / ".replaced").exists()


def test_held_out_data_are_in_the_table_the_trajectory_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    train, test = data(tmp_path), data(tmp_path, "test.npz", n=9, y=np.arange(9) % 3)
    code, out, _ = run(capsys, "train", train, *TRAIN[:-1], "--test-data", test,
                       "--out", tmp_path / "run")  # fmt: skip
    assert code == 0 and "held-out loss" in out and "held-out accuracy" in out
    got = trained(tmp_path / "run")
    with np.load(train) as arrays:
        mean = np.eye(3)[arrays["y"]].mean(axis=0)
    with np.load(test) as arrays:
        f = got.network(arrays["X"])
        loss = 0.5 * ((f - np.eye(3)[arrays["y"]] + mean) ** 2).sum() / 9
        right = (f.argmax(axis=1) == arrays["y"]).mean()
    assert np.isclose(got.observations["held_out_loss"][-1], loss)
    assert got.observations["held_out_accuracy"][-1] == right
    assert (tmp_path / "run" / "held_out.png").exists()


@pytest.mark.parametrize(
    ("replace", "word"),
    [
        ({"y": np.full(20, 7)}, "class 7"),
        ({"X": np.ones((20, 4))}, "4 features"),
        ({"y": np.ones((20, 2))}, "one label"),
    ],
)
def test_held_out_data_must_be_like_the_training_set(tmp_path, capsys, replace, word):
    test = data(tmp_path, "test.npz", **replace)
    code, _, err = run(capsys, "train", data(tmp_path), *TRAIN, "--test-data", test,
                       "--out", tmp_path / "run")  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and word in err and "test.npz" in err


def test_npy_files_of_the_right_dtype_stay_on_disk(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 200), dtype=np.float32)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", rng.standard_normal(40_000, dtype=np.float32))
    argv = [tmp_path / "X.npy", "--targets", tmp_path / "y.npy", "--widths", "4",
            "--dtype", "float32", "--memory", "8MB"]  # fmt: skip
    size = X.nbytes
    del X
    assert isinstance(load(*map(str, argv[:3:2]), "float32").inputs, np.memmap)
    tracemalloc.start()
    code, _, err = run(capsys, "train", *argv, "--steps", 2, "--quiet", "--out", tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (code, err) == (0, "") and peak < size / 2
    assert type(load(*map(str, argv[:3:2]), "float64").inputs) is np.ndarray


def test_files_that_would_not_fit_as_another_dtype_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("opflow.data.numbers.free_memory", lambda: 1e3)
    np.save(tmp_path / "X.npy", np.ones((100, 3), np.float32))
    np.save(tmp_path / "y.npy", np.ones(100))
    code, _, err = run(capsys, "train", tmp_path / "X.npy", "--targets", tmp_path / "y.npy", *TRAIN,
                       "--out", tmp_path / "run")  # fmt: skip
    assert code == 2 and err.count("\n") == 1 and "--dtype float32" in err


def test_h5_files_stay_on_disk(tmp_path, capsys, monkeypatch):
    h5py = pytest.importorskip("h5py")
    X, y, path = regression(tmp_path)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"], file["y"] = X, y
    assert isinstance(load(str(tmp_path / "data.h5")).inputs, h5py.Dataset)
    for source in (path, tmp_path / "data.h5"):
        code, _, err = run(capsys, "train", source, *TRAIN, "--out", tmp_path / source.suffix)
        assert (code, err) == (0, "")
    assert_equal(trained(tmp_path / ".h5"), trained(tmp_path / ".npz"))
    (tmp_path / "bad.h5").write_bytes(b"no")
    code, _, err = run(capsys, "train", tmp_path / "bad.h5", *TRAIN, "--out", tmp_path / "r")
    assert code == 2 and err.count("\n") == 1 and "bad.h5 cannot be read" in err
    monkeypatch.setitem(sys.modules, "h5py", None)
    code, _, err = run(capsys, "train", tmp_path / "data.h5", *TRAIN, "--out", tmp_path / "r")
    assert code == 2 and "'.[hdf5]'" in err


def test_sparse_files_stay_sparse(tmp_path):
    sp.save_npz(tmp_path / "X.npz", sp.random_array((12, 50), density=0.1, rng=0))
    np.save(tmp_path / "y.npy", np.arange(12.0))
    X = load(str(tmp_path / "X.npz"), str(tmp_path / "y.npy"), "float32").inputs
    assert sp.issparse(X) and X.dtype == np.float32


@pytest.mark.parametrize("reason", ["time", "memory"])
def test_an_analysis_that_is_not_affordable_is_skipped_and_says_why(
    tmp_path, capsys, monkeypatch, reason
):
    options = ["--memory", "16MB"]
    if reason == "time":
        monkeypatch.setattr(run_report, "ALLOWED", 0.0)
        monkeypatch.setattr(run_report, "SHARE", 0.0)
        options = []
    *_, path = regression(tmp_path, n=20_000)
    code, out, _ = run(capsys, "train", path, *TRAIN[:-1], *options, "--out", tmp_path / "run")
    assert code == 0
    assert re.search(r"kernel before +not analysed: it would " +
                     {"time": "take about", "memory": "hold"}[reason], out)  # fmt: skip
    assert not (tmp_path / "run" / "eigenvalues.png").exists()


@pytest.mark.parametrize("kind", ["tall", "wide", "sparse"])
@pytest.mark.parametrize("memory", ["1GB", "3MB"])
def test_train_and_estimate_do_not_disagree(tmp_path, capsys, kind, memory):
    rng = np.random.default_rng(0)
    n, d = (200, 20) if kind == "tall" else (20, 2000)
    X = rng.standard_normal((n, d))
    if kind == "sparse":
        sp.save_npz(path := tmp_path / "X.npz", sp.csr_array(X * (rng.random(X.shape) < 0.01)))
    else:
        np.save(path := tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", rng.standard_normal(n))
    argv = [path, "--targets", tmp_path / "y.npy", "--widths", "16,8", "--steps", 30,
            "--memory", memory]  # fmt: skip
    _, estimated, _ = run(capsys, "estimate", *argv)
    _, explained, _ = run(capsys, "train", *argv, "--quiet", "--explain", "--out", tmp_path / "run")
    table = estimated.splitlines()[1:5]
    assert explained.splitlines() == table and "chosen" in table[1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert table[1].split()[0].rstrip(",") == summary["route"]


@pytest.mark.parametrize("outputs", [1, 3])
def test_estimated_products_are_those_of_the_kernel(outputs):
    X = np.random.default_rng(0).standard_normal((50, 5))
    net = of.ReLUNetwork.random([5, 9, 7], outputs=outputs, seed=0)
    for storage, (cost, _) in estimate(50, [5, 9, 7], outputs).products.items():
        route = "cached" if storage == "cached" else "transport"
        K = of.collective_kernel(net.fields(X, storage=storage), route=route)
        assert cost.flops == K.cost(1).flops


def test_estimate_says_when_nothing_fits(capsys):
    argv = ["estimate", "--samples", "1e6", "--features", 50, "--widths", "64"]
    _, out, _ = run(capsys, *argv, "--memory", "1MB")
    assert "chosen" not in out
    least = re.search(r"--memory (\d+) would do", out)[1]
    assert "chosen" in run(capsys, *argv, "--memory", least)[1]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("n", "widths", "outputs", "dtype"),
    [
        (3000, [20, 32], 1, "float64"),
        (20_000, [8, 16, 16], 1, "float32"),
        (500, [3000, 64], 2, "float64"),
        (2000, [30, 64, 64], 5, "float64"),
    ],
)
def test_the_analysis_keeps_its_budget(n, widths, outputs, dtype):
    X = np.random.default_rng(0).standard_normal((n, widths[0])).astype(dtype)
    net = of.ReLUNetwork.random(widths, outputs=outputs, seed=0, dtype=dtype)

    def peak(memory):
        tracemalloc.start()
        found = run_report.analyse(net, X, seconds=1e3, memory=str(memory))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return "skipped" in found, most

    memory = 1e6
    while (result := peak(memory))[0]:
        memory *= 1.1
    assert result[1] <= memory


# -- the parser ---------------------------------------------------------------------------

COMMANDS = ("train", "predict", "estimate", "spectrum", "plot", "explain")


def parsers():
    top = options.parser()
    commands = next(a.choices for a in top._actions if isinstance(a.choices, dict))
    assert set(commands) == set(COMMANDS)
    return commands


def arguments():
    return [
        (name, action)
        for name, command in parsers().items()
        for action in command._actions
        if "--help" not in action.option_strings
    ]


@pytest.mark.parametrize(("name", "action"), arguments(), ids=lambda x: getattr(x, "dest", x))
def test_every_option_has_a_sentence_and_says_what_holds_without_it(name, action):
    text = action.help % {"default": action.default}
    sentence, _, rest = text.rpartition("(")
    assert len(sentence.split()) >= 3, text
    assert rest.startswith(("default: ", "no default)", "required)")), text
    if rest == "required)":
        assert action.required and action.default is None
    elif action.default not in (None, False):
        assert rest.startswith(f"default: {action.default}")


def test_options_are_in_groups():
    for name in ("train", "estimate", "spectrum"):
        groups = [g.title for g in parsers()[name]._action_groups if g._group_actions]
        assert len(groups) == len(set(groups)) and {"data", "output", "resources"} <= set(groups)


def test_no_option_is_known_by_a_beginning_of_its_name(capsys):
    for name, command in parsers().items():
        known = command._option_string_actions
        for option in known:
            for end in range(4, len(option)):
                if option[:end] not in known:
                    code, out, err = run(capsys, name, option[:end] + "=1", "x")
                    assert (code, out) == (2, "") and f"no option {option[:end]}" in err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trian", "digits"], "did you mean train?"),
        (["train", "digits", "--stpes", "3"], "did you mean --steps?"),
        (["train", "digits", "--width=8"], "did you mean --widths?"),
        (["train", "digits", "--lr", "3"], "--step is its name here"),
        (["train", "digits", "--lr-decay", "3"], "--step is its name here"),
        (["train", "digits", "--learning-rate", "3"], "--step is its name here"),
        (["train", "digits", "--epochs", "3"], "--steps is its name here"),
        (["train", "digits", "--hidden", "3"], "--widths is its name here"),
        (["train", "digits", "--batch-size", "3"], "--batch is its name here"),
        (["train", "digits", "--method", "flw"], "did you mean flow?"),
        (["train", "digits", "--scaling", "meanfield"], "did you mean mean-field?"),
        (["spectrum", "run", "--epochs", "3"], "there is no option --epochs"),
        (["train", "digit", *TRAIN, "--out", "out"], "did you mean digits?"),
        (["train", "mydta.npz", *TRAIN, "--out", "out"], "did you mean mydata.npz?"),
        (["train", "mydata.npy", *TRAIN, "--out", "out"], "did you mean mydata.npz?"),
        (["spectrum", "runs1"], "did you mean runs?"),
        (["explain", "residul", "norm"], "did you mean residual norm?"),
    ],
)
def test_a_typing_error_is_told_what_was_meant(tmp_path, capsys, monkeypatch, argv, hint):
    monkeypatch.chdir(tmp_path)
    data(tmp_path, "mydata.npz")
    (tmp_path / "runs").mkdir()
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("opflow: error: ") and hint in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [[], ["--help"], ["--version"], ["train", "--help"], ["explain"], ["explain", "tr", "K"]],
    ids=" ".join,
)
def test_help_imports_no_engine(argv):
    code = (
        "import sys\nfrom opflow.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print({'numpy', 'scipy', 'pylops', 'tqdm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    *shown, last = done.stdout.splitlines()
    assert (done.stderr, last) == ("", "set()") and shown


def test_opflow_alone_shows_help_with_examples(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "") and "examples:\n  opflow train digits" in out
    for line in out[out.index("examples:") :].splitlines()[1:-1]:
        argv = shlex.split(line.split("  ")[1])[1:]
        options.parser().parse_args(argv)


# -- numbers for programs, quiet commands ---------------------------------------------------


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_all_of_standard_output(tmp_path, capsys):
    argv = ["train", data(tmp_path), *TRAIN[:-1], "--out", tmp_path / "run", "--explain", "--json"]
    code, out, err = run(capsys, *argv)
    assert code == 0 and "target: " in err and "chosen" in err
    assert strict(out) == json.loads((tmp_path / "run" / "summary.json").read_text())
    code, out, err = run(capsys, "spectrum", tmp_path / "run", "--json")
    assert (code, err) == (0, "") and strict(out)["moments"]["end"]["trace"]["value"] > 0
    code, out, err = run(capsys, "estimate", data(tmp_path), *TRAIN[:-1], "--json")
    found = strict(out)
    assert code == 0 and found["samples"] == 20 and found["routes"][0]["seconds"] > 0
    assert found["steps"] == 3 and found["routes"][0]["fits"] is True
    code, out, err = run(capsys, "predict", tmp_path / "run", data(tmp_path), "--json")
    assert code == 0 and [len(column) for column in strict(out).values()] == [20]
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "") and err.count("\n") == 1  # the folder is there


def test_quiet_commands_say_nothing(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run(capsys, "train", data(tmp_path), *TRAIN, "--out", tmp_path / "run") == (0, "", "")
    assert run(capsys, "spectrum", tmp_path / "run", "--quiet") == (0, "", "")
    assert run(capsys, "plot", tmp_path / "run", "--quiet") == (0, "", "")


def test_the_analysis_is_left_out_on_request(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_report, "analyse", None)
    code, out, _ = run(capsys, "train", data(tmp_path), *TRAIN[:-1], "--no-analysis",
                       "--out", tmp_path / "run")  # fmt: skip
    assert code == 0 and "kernel before" in out and "--no-analysis was given" in out
    assert "λ_max(K)" not in out.replace("with λ_max(K)", "")


def test_an_analysis_ends_at_its_limit_of_time(monkeypatch):
    monkeypatch.setattr(run_report, "PRODUCTS", 0)  # as if it were predicted to take no time
    monkeypatch.setattr(run_report, "ALLOWED", 0.0)
    net = of.ReLUNetwork.random([3, 8], seed=0)
    X = np.random.default_rng(0).standard_normal((300, 3))
    assert run_report.analyse(net, X, seconds=0.0) == {"skipped": "its eigenvalues took over 0 s"}


def test_estimates_are_in_units_of_people(capsys):
    argv = ["estimate", "--samples", "1e9", "--features", 784, "--widths", "512,512"]
    code, out, _ = run(capsys, *argv, "--steps", 20)
    assert code == 0 and re.search(r"\d (days|years)", out) and "GiB" in out
    assert "e+" not in "".join(out.splitlines()[1:3])


# -- words ------------------------------------------------------------------------------------


def named(table):
    return {re.split(r"  +| not computed", line.strip())[0] for line in table.splitlines()}


def test_every_row_of_the_tables_is_explained(tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["train", data(tmp_path), "--widths", "8,8", "--steps", 3, "--test-data", data(tmp_path),
            "--out", folder]  # fmt: skip
    assert run(capsys, *argv)[0] == 0
    summary = json.loads((folder / "summary.json").read_text())
    full = {k: [1.0, 2.0] if v is None else v for k, v in summary.items()}
    names = set()
    for skipped in ([None, None], ["x", "x"]):
        full |= {"kernel_skipped": skipped, "stopped": "SIGINT", "balancedness_drift": 1.0}
        names |= named(run_report.table(full))
    assert {"RMSE", "accuracy", "kernel before", "held-out loss"} <= names
    for more in ([], ["--seconds", "1e-9"]):
        assert run(capsys, "spectrum", folder, "--overwrite", *more)[0] == 0
        table = (folder / "spectrum" / "spectrum.txt").read_text()
        names |= named(table) - {"start"}
    assert {"zero eigenvalues", "layer 2: share of tr K", "power law"} <= names
    for name in names:
        word, _, sentence = explained(name).partition(": ")
        assert sentence and (word in name or name in word.split(", ")), (name, word)


@pytest.mark.parametrize("word", list(WORDS))
def test_a_word_is_explained_by_a_sentence(word, capsys):
    assert WORDS[word][0].isupper() or WORDS[word][0] in "‖λ½yR"
    assert len(WORDS[word].split()) > 3 and WORDS[word].endswith(".")
    code, out, _ = run(capsys, "explain", *word.split())
    assert code == 0 and f"{word}: {WORDS[word]}" in out


def test_words_are_found_without_greek_letters_and_in_part(capsys):
    assert "largest eigenvalue" in run(capsys, "explain", "lambda_max")[1]
    assert run(capsys, "explain", "RANK")[1].startswith("effective rank: ")
    assert all(word in run(capsys, "explain")[1] for word in WORDS)


# -- progress, interrupts, readers that go away ------------------------------------------------


def test_a_redirected_bar_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.1)
    start = time.monotonic()
    with progress.Bar(desc="work", total=60) as bar:
        for _ in range(60):
            time.sleep(0.01)
            bar.update()
    err, took = capsys.readouterr().err, time.monotonic() - start
    assert "\r" not in err and 1 <= err.count("\n") <= took / 0.1 and "work" in err
    monkeypatch.setattr(progress, "EVERY", 10.0)
    for _ in progress.Bar(iterable=range(1000)):
        pass
    assert capsys.readouterr().err == ""


def test_a_bar_out_of_time_says_so_and_results_do_not_depend_on_bars(capsys):
    with pytest.raises(progress.OutOfTime), progress.Bar(seconds=0.0, disable=True) as bar:
        bar.update()
    op = of.Gram(np.random.default_rng(0).standard_normal((300, 40)))
    plain, shown = (of.spectral.eigsh(op, 2, progress=p).eigenvalues for p in (False, True))
    np.testing.assert_array_equal(plain, shown)


# Says x at the first import after main has taken the signals: what comes earlier is Python's own.
CHILD = """
import os, sys
from opflow.__main__ import main

class FirstImport:
    def find_spec(self, name, path=None, target=None):
        if name == "opflow.cli":
            os.write(1, b"x")

sys.meta_path.insert(0, FirstImport())
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("delay", [0.001, 0.03, 0.1, 0.3, 0.6])
def test_a_signal_during_the_imports_is_one_line(tmp_path, name, delay):
    argv = ["train", data(tmp_path), "--widths", "64,64", "--steps", 10**7, "--quiet",
            "--out", tmp_path / "run"]  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, argv)], stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert child.stdout.read(1) == "x"
    time.sleep(delay)
    child.send_signal(getattr(signal, name))
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (128 + getattr(signal, name), "")
    assert err.count("\n") == 1 and f"stopped by {name}" in err


@pytest.mark.parametrize("argv", [["explain"], ["--help"], ["estimate", "--samples", "9",
                                  "--features", "9", "--widths", "9"]], ids=" ".join)  # fmt: skip
def test_a_reader_that_goes_away_is_no_error(argv):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "opflow", *argv], stdout=write,
                          stderr=subprocess.PIPE, text=True)  # fmt: skip
    os.close(write)
    # argparse overlooks it where nothing is buffered
    codes = {128 + signal.SIGPIPE, *([0] if argv == ["--help"] else [])}
    assert done.stderr == "" and done.returncode in codes
