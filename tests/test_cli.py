"""The command line: runs, and bad input told in one line."""

import json
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.cli import main
from opflow.folder import FILES

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
    assert {p.name for p in (tmp_path / "run").iterdir()} == set(FILES) - {"held_out.png"}
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
    code, _, err = run(capsys, "train", path, *targets, *TRAIN, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    expected = of.train(of.ReLUNetwork.random([3, 8, 8], seed=0), X, y, steps=3)
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
        ({"y": np.full(20, np.nan)}, "y in"),
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
