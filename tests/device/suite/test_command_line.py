"""``--device gpu`` moves what it has to, and files and pictures are as on the host."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.cli.commands import main
from opflow.cli.devices import placed, placed_inputs
from opflow.data.load import DataSet
from opflow.machine.arrays import module_name
from tests.device.counting import STAND_IN, transfers
from tests.device.suite.sides import agree, problem

TRAIN = ["--widths", "8,8", "--steps", "3", "--quiet"]


@pytest.fixture(params=["labels", "real", "sparse"])
def files(request, tmp_path):
    """A training set and a held-out one."""
    rng = np.random.default_rng(0)
    paths = []
    for name, n in (("train", 30), ("test", 12)):
        X = rng.standard_normal((n, 3))
        y = rng.standard_normal(n) if request.param == "real" else rng.integers(0, 3, n)
        path = tmp_path / f"{name}.npz"
        paths += ["--test-data", path] if paths else [path]
        if request.param == "sparse":
            sp.save_npz(path, sp.csr_matrix(X * (X > 0)))
            np.save(tmp_path / f"{name}-y.npy", y)
            paths += ["--targets" if name == "train" else "--test-targets",
                      tmp_path / f"{name}-y.npy"]  # fmt: skip
        else:
            np.savez(path, X=X, y=y)
    return [str(p) for p in paths]


def outcome(folder):
    summary = json.loads((folder / "summary.json").read_text())
    for what in ("seconds", "peak_memory"):
        summary.pop(what)
    return summary, of.Trajectory.load(folder / "trajectory.npz")


def same(got, want) -> None:
    """Numbers in nested lists and dictionaries, to rounding."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, list):
        for pair in zip(got, want, strict=True):
            same(*pair)
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-9)
    else:
        assert got == want


@pytest.fixture
def no_pictures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr("opflow.cli.run_report.attempt", lambda folder, make: "no pictures")


def test_train_draws_on_the_host(files, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["train", *files, *TRAIN, "--device", "gpu", "--out", str(tmp_path / "run")]) == 0
    drawn = {p.stem for p in (tmp_path / "run").glob("*.png")}
    assert {"loss", "eigenvalues", "layer_shares", "held_out"} <= drawn


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("options", [[], ["--method", "flow"], ["--batch", "7"], ["--eliminate",
                         "yes"]], ids=" ".join)  # fmt: skip
def test_train_gives_on_the_device_what_it_gives_on_the_host(files, options, tmp_path) -> None:
    for device in ("cpu", "gpu"):
        out = tmp_path / device
        assert main(["train", *files, *TRAIN, *options, "--device", device, "--out", str(out)]) == 0
    (got, run), (want, host) = outcome(tmp_path / "gpu"), outcome(tmp_path / "cpu")
    same(got, want)
    assert isinstance(run.residual, np.ndarray)
    np.testing.assert_allclose(run.losses, host.losses, rtol=1e-9)
    names = [{p.name for p in (tmp_path / d).iterdir()} for d in ("cpu", "gpu")]
    assert names[0] == names[1]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_on_the_other_side(files, tmp_path) -> None:
    out = str(tmp_path / "run")
    there = ["train", *files, "--widths", "8,8", "--quiet", "--out", out, "--steps"]
    assert main([*there, "2", "--device", "gpu"]) == 0
    assert main([*there, "4", "--resume"]) == 0
    whole = str(tmp_path / "whole")
    assert main([*there[:-2], whole, "--steps", "4"]) == 0
    same(outcome(tmp_path / "run")[0], outcome(tmp_path / "whole")[0])


def test_spectrum_gives_on_the_device_what_it_gives_on_the_host(files, tmp_path) -> None:
    run = tmp_path / "run"
    assert main(["train", *files, *TRAIN, "--out", str(run)]) == 0
    found = []
    for device in ("cpu", "gpu"):
        out = tmp_path / device
        assert main(["spectrum", str(run), "--top", "4", "--probes", "3", "--steps", "10",
                     "--quiet", "--device", device, "--out", str(out)]) == 0  # fmt: skip
        found.append({**np.load(out / "spectrum.npz")})
    assert found[0].keys() == found[1].keys()
    for name in ("start_eigenvalues", "end_eigenvalues", "start_projections", "end_alignment",
                 "principal_angles", "end_layer_shares"):  # fmt: skip
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-5, atol=1e-8)


@pytest.fixture
def free(monkeypatch):
    """Set what is free on the device."""
    if not STAND_IN:
        pytest.skip("a device has the memory it has")
    from tests.device import standin

    return lambda size: monkeypatch.setattr(standin.Device, "mem_info", (size, 1 << 30))


def on_disk(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("source", [lambda X, folder: X, on_disk])
def test_inputs_that_take_half_of_the_device_are_streamed(source, free, tmp_path) -> None:
    _, X, y = problem(depth=2)
    data = DataSet(source(X, tmp_path), y)
    free(2 * X.nbytes)
    with transfers() as made:
        there = placed(data, "gpu")
    assert module_name(there.inputs) == "cupy" and not isinstance(there.inputs, of.Streamed)
    agree(there.inputs, X)
    assert sum(t.entries for t in made) == X.size + y.size
    free(2 * X.nbytes - 1)
    with transfers() as made:
        there = placed(data, "gpu")
    assert isinstance(there.inputs, of.Streamed)
    assert sum(t.entries for t in made) == y.size
    assert placed(data, "cpu") is data


def test_a_sparse_matrix_is_not_streamed(free) -> None:
    X = sp.csr_matrix(np.eye(100))
    free(3000)
    with pytest.raises(MemoryError, match=r"X is sparse, which is not streamed, and takes 1.57 KiB "
                       "of the 1.46 KiB"):  # fmt: skip
        placed_inputs(X)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_on_streamed_inputs(files, free, tmp_path) -> None:
    if "--targets" in files:
        pytest.skip("sparse")
    out = [tmp_path / "cpu", tmp_path / "gpu"]
    assert main(["train", *files, *TRAIN, "--memory", "1GB", "--out", str(out[0])]) == 0
    free(100)
    there = ["--memory", "1GB", "--device", "gpu", "--out", str(out[1])]
    assert main(["train", *files, *TRAIN, *there]) == 0
    same(outcome(out[1])[0], outcome(out[0])[0])
