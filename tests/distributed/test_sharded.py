import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from tests.distributed import launch
from tests.distributed.launch import needs_mpi

pytestmark = needs_mpi


@pytest.mark.thorough
def test_products_and_eigenpairs_are_those_of_one_process():
    assert "done" in launch.run("products.py", 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the runs of one to four ranks leave, each the same as that of one process."""
    folder = tmp_path_factory.mktemp("trained")
    assert "done" in launch.run("training.py", 4, folder, timeout=300)
    return folder


def test_a_run_is_that_of_one_process_and_goes_on_with_any_number_of_ranks(trained):
    names = {path.name for path in (trained / "begun").iterdir()}
    assert {"descent.npz", "descent.npz.1"} <= names, "two states are kept, a file each"
    assert not [name for name in names if "shards" in name or name.endswith(".tmp")]


def test_one_process_goes_on_with_a_run_of_three(trained, tmp_path):
    shutil.copytree(trained / "begun", tmp_path / "run")
    rng = np.random.default_rng(2)
    net = of.ReLUNetwork.random([5, 9, 8], outputs=2, bias=True, seed=1, slope=[0.3, 0.0],
                                readout_rate="auto")  # fmt: skip
    X, y = rng.standard_normal((14, 5)), rng.standard_normal((14, 2))
    path = tmp_path / "run/descent.npz"
    run = of.train(net, X, y, steps=20, eliminate=False, resume=True, checkpoint=path)
    assert len(run.losses) == 21


@pytest.mark.thorough
def test_the_page_runs_on_three_ranks(tmp_path):
    page = (launch.HERE.parents[1] / "docs/distributed.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "page.py").write_text("\n".join(blocks))
    assert launch.run(tmp_path / "page.py", 3).count("(67, 1)") >= 1


TRAIN = ("train", "digits", "--widths", "16,16", "--every", "50")


def waiting(folder):
    """A long run on three ranks, once it has saved a state on the way; its processes."""
    run = launch.start(3, sys.executable, "-m", "opflow.cli.commands", *TRAIN, "--steps", "100000",
                       "--checkpoint-every", "50", "--out", folder)  # fmt: skip
    end = time.monotonic() + launch.patience(60)
    while not (folder / "checkpoint.npz.1").exists():
        assert run.poll() is None and time.monotonic() < end, run.communicate()
        time.sleep(0.05)
    return run, [process for process in children(run.pid) if str(folder) in words(process)]


def words(process):
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def children(process):
    """Processes that it and they have started."""
    own = [int(p) for file in Path(f"/proc/{process}/task").glob("*/children")
           for p in file.read_text().split()]  # fmt: skip
    return [*own, *(p for child in own for p in children(child))]


def reached(folder, ranks):
    """Go on for 50 steps from the newest state, which must be whole."""
    with np.load(folder / "checkpoint.npz") as file:
        metadata = str(file["metadata"])
    step = int(metadata.split('"step": ')[1].split("}")[0].split(",")[0])
    done = launch.opflow(ranks, *TRAIN, "--steps", step + 50, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    run = of.Trajectory.load(folder / "trajectory.npz")
    assert run.residual.shape == (1797, 10)
    return run


@pytest.mark.thorough
def test_a_killed_rank_ends_the_run_which_goes_on_from_its_checkpoint(tmp_path):
    run, ranks = waiting(tmp_path / "run")
    os.kill(ranks[1], signal.SIGKILL)
    _, told = run.communicate(timeout=launch.patience(60))
    assert run.returncode != 0
    assert "3 ranks; if one dies all end: go on with: mpiexec -n 3 opflow train digits" in told
    assert len(reached(tmp_path / "run", 2).losses) > 2


@pytest.mark.thorough
def test_a_signal_to_one_rank_stops_all_at_one_step(tmp_path):
    run, ranks = waiting(tmp_path / "run")
    os.kill(ranks[2], signal.SIGTERM)
    out, told = run.communicate(timeout=launch.patience(60))
    assert "stopped by SIGTERM at step" in told and "--resume" in told, told
    assert run.returncode != 0
    assert out.count("everything is in") == 1, "one rank prints"
    reached(tmp_path / "run", 3)


@pytest.mark.thorough
def test_ranks_print_and_read_as_one_process(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    args = ("train", tmp_path / "X.npy", "--targets", tmp_path / "y.npy", "--widths", "8,8",
            "--steps", "10", "--test-data", tmp_path / "X.npy", "--test-targets",
            tmp_path / "y.npy")  # fmt: skip
    many = launch.opflow(4, *args, "--out", tmp_path / "many")
    one = launch.opflow(None, *args, "--eliminate", "no", "--out", tmp_path / "one")
    assert many.returncode == one.returncode == 0, many.stderr
    assert many.stdout.count("balancedness drift") == 1
    a, b = (of.Trajectory.load(tmp_path / name / "trajectory.npz") for name in ("many", "one"))
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-10)
    np.testing.assert_allclose(a.residual, b.residual, atol=1e-10)
    assert a.observations.keys() == b.observations.keys()
    for name in a.observations:
        np.testing.assert_allclose(a.observations[name], b.observations[name], atol=1e-9)
    files = {path.name for path in (tmp_path / "many").iterdir()}
    assert files == {p.name for p in (tmp_path / "one").iterdir()}


@pytest.mark.thorough
def test_wrong_input_is_told_once_and_a_lone_failure_ends_all(tmp_path):
    wrong = launch.opflow(3, "train", "digits", "--widths", "8", "--out", tmp_path / "a")
    assert wrong.returncode == 2
    assert wrong.stderr.count("--steps or --until is needed") == 1
    X = np.zeros((6, 2))
    X[5, 1] = np.nan  # in the rows of the last rank
    np.savez(tmp_path / "bad.npz", X=X, y=np.zeros(6))
    lone = launch.opflow(3, "train", tmp_path / "bad.npz", "--widths", "8", "--steps", "3",
                         "--out", tmp_path / "b")  # fmt: skip
    assert lone.returncode != 0
    assert "contains NaN or infinity" in lone.stderr
    assert not (tmp_path / "b").exists()
    other = launch.opflow(2, "plot", tmp_path)
    assert other.returncode == 2 and "only opflow train runs on several ranks" in other.stderr
