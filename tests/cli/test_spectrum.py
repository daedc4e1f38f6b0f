"""``opflow spectrum`` and ``opflow plot``: numbers against dense references, bad input."""

import json
import re
import shutil
import signal
import sys
import time
import tracemalloc

import numpy as np
import pytest

import opflow as of
from opflow.cli import kernel, spectrum, spectrum_report
from opflow.cli.clock import Clock
from opflow.cli.commands import main
from opflow.cli.folder import SPECTRUM
from opflow.data.load import DataSet
from opflow.plot import block_means

TRAIN = ["--widths", "8,8", "--steps", "5", "--quiet"]


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def regression(folder, n=40, d=3):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((n, d)), rng.standard_normal((n, 2))
    np.savez(folder / "data.npz", X=X, y=y)
    return X, y


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run folder of two outputs, next to its data."""
    folder = tmp_path_factory.mktemp("original")
    regression(folder)
    assert main(["train", str(folder / "data.npz"), *TRAIN, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def trained(original, tmp_path):
    """A copy of it, its data and its networks."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] = str(tmp_path / "data.npz")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with np.load(tmp_path / "data.npz") as file:
        X, y = file["X"], of.Standardiser.fit(file["y"]).transform(file["y"])
    networks = {
        "start": of.ReLUNetwork.random([3, 8, 8], outputs=2, seed=0),
        "end": of.Trajectory.load(tmp_path / "run" / "trajectory.npz").network,
    }
    return tmp_path / "run", X, y, networks


def results(folder):
    summary = json.loads((folder / "spectrum.json").read_text())
    with np.load(folder / "spectrum.npz") as file:
        return summary, {name: file[name] for name in file.files}


def test_the_numbers_are_those_of_the_dense_kernels(trained, capsys):
    folder, X, y, networks = trained
    code, out, err = run(capsys, "spectrum", folder, "--top", 6)
    assert (code, err) == (0, "")
    summary, arrays = results(folder / "spectrum")
    assert out.startswith((folder / "spectrum" / "spectrum.txt").read_text().rstrip())
    dense = {}
    for when, net in networks.items():
        fields = net.fields(X)
        K = dense[when] = of.collective_kernel(fields).todense()
        values, vectors = np.linalg.eigh(K)
        values, vectors = values[::-1], vectors[:, ::-1]
        found, r = summary["moments"][when], (fields.outputs - y).ravel()
        np.testing.assert_allclose(arrays[f"{when}_eigenvalues"], values[:6], rtol=1e-10)
        overlap = abs((arrays[f"{when}_eigenvectors"] * vectors[:, :6]).sum(axis=0))
        np.testing.assert_allclose(overlap, 1, rtol=1e-8)
        assert arrays[f"{when}_residual_norms"].max() < 1e-10 * values[0]
        size = np.linalg.norm(K)
        expected = {
            "norm": values[0],
            "trace": K.trace(),
            "frobenius_norm": size,
            "participation_ratio": (K.trace() / size) ** 2,
            "effective_rank": np.exp(-sum(p * np.log(p) for p in values / K.trace() if p > 1e-14)),
        }
        for name, value in expected.items():
            assert np.isclose(found[name]["value"], value, rtol=1e-6), name
        kernels = [K, *(layer.todense() for layer in of.layer_kernels(fields))]
        alignments = [y.ravel() @ A @ y.ravel() / np.linalg.norm(A) / (y**2).sum() for A in kernels]
        np.testing.assert_allclose(arrays[f"{when}_alignment"], alignments, rtol=1e-9)
        np.testing.assert_allclose(
            arrays[f"{when}_layer_shares"], [A.trace() / K.trace() for A in kernels[1:]]
        )
        forms = [np.diag(vectors[:, :6].T @ A @ vectors[:, :6]) / values[:6] for A in kernels[1:]]
        np.testing.assert_allclose(arrays[f"{when}_mode_shares"], forms, rtol=1e-7)
        inside = ((vectors[:, :6].T @ r) ** 2).sum() / (r @ r)
        assert np.isclose(found["residual_in_top"], inside)
        assert np.isclose(found["null"]["value"], (values < 1e-14 * values[0]).sum())
        grid, cdf = arrays[f"{when}_grid"], arrays[f"{when}_cdf"]
        between = np.min(abs(np.log(grid[:, None] / values[values > 0])), axis=1) > 1e-6
        share = (values <= grid[:, None]).mean(axis=1)
        np.testing.assert_allclose(cdf[between], share[between], atol=1e-9)
    modes, r = arrays["start_eigenvectors"], networks["start"](X) - y
    np.testing.assert_allclose(arrays["start_projections"], modes.T @ r.ravel())
    after = (networks["end"](X) - y).ravel()
    np.testing.assert_allclose(arrays["end_projections"], modes.T @ after)
    decay = np.exp(-summary["time"] * arrays["start_eigenvalues"])
    np.testing.assert_allclose(arrays["predicted_projections"], decay * arrays["start_projections"])
    distance = np.linalg.norm(dense["end"] - dense["start"]) / np.linalg.norm(dense["start"])
    assert np.isclose(summary["drift"]["kernel_distance"]["value"], distance, rtol=1e-6)
    cosines = np.linalg.svd(modes.T @ arrays["end_eigenvectors"], compute_uv=False)
    angle = np.degrees(np.arccos(np.clip(cosines.min(), 0, 1)))
    assert np.isclose(summary["drift"]["largest_angle"], angle, rtol=1e-5)


def test_the_folder_holds_table_arrays_and_pictures(trained, capsys):
    pytest.importorskip("matplotlib")
    folder, X, _, networks = trained
    code, out, _ = run(capsys, "spectrum", folder, "--out", folder.parent / "out")
    assert code == 0 and {p.name for p in (folder.parent / "out").iterdir()} == set(SPECTRUM)
    for picture in (folder.parent / "out").glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    for word in ("λ_max(K)", "2/step", "effective rank", "zero eigenvalues", "share of tr K"):
        assert word in out
    arrays = results(folder.parent / "out")[1]
    K = of.collective_kernel(networks["end"].fields(X))
    want = block_means(K, arrays["heat_map_order"], outputs=2)
    np.testing.assert_array_equal(arrays["heat_map"], want)


@pytest.mark.usefixtures("quick")
def test_classes_are_drawn_side_by_side(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([3, 5, 8], 10))
    np.savez(tmp_path / "data.npz", X=rng.standard_normal((30, 3)), y=labels)
    assert run(capsys, "train", tmp_path / "data.npz", *TRAIN, "--out", tmp_path / "run")[0] == 0
    assert run(capsys, "spectrum", tmp_path / "run", "--no-density")[0] == 0
    _, arrays = results(tmp_path / "run" / "spectrum")
    np.testing.assert_array_equal(arrays["heat_map_labels"], np.sort(labels))
    np.testing.assert_array_equal(labels[arrays["heat_map_order"]], np.sort(labels))


def test_a_trajectory_file_is_one_moment(trained, capsys, tmp_path):
    folder, *_ = trained
    code, out, err = run(capsys, "spectrum", folder / "trajectory.npz", tmp_path / "data.npz",
                         "--out", tmp_path / "out", "--no-density", "--no-heat-map")  # fmt: skip
    assert (code, err) == (0, "") and "K(0)" not in out
    summary, arrays = results(tmp_path / "out")
    assert list(summary["moments"]) == ["network"] and "drift" not in summary
    assert not {"network_grid", "heat_map"} & set(arrays)
    assert not (tmp_path / "out" / "density.png").exists()
    run(capsys, "spectrum", folder)
    whole = results(folder / "spectrum")[1]
    np.testing.assert_allclose(arrays["network_eigenvalues"], whole["end_eigenvalues"], rtol=1e-8)


@pytest.mark.usefixtures("quick")
def test_a_linearised_run_has_the_kernel_of_its_start(tmp_path, capsys):
    regression(tmp_path)
    assert run(capsys, "train", tmp_path / "data.npz", *TRAIN, "--method", "linearised",
               "--out", tmp_path / "run")[0] == 0  # fmt: skip
    assert run(capsys, "spectrum", tmp_path / "run", "--no-density")[0] == 0
    assert list(results(tmp_path / "run" / "spectrum")[0]["moments"]) == ["start"]
    code, _, err = run(capsys, "spectrum", tmp_path / "run" / "trajectory.npz",
                       tmp_path / "data.npz", "--out", tmp_path / "out")  # fmt: skip
    assert code == 2 and "model" in err and err.count("\n") == 1


def test_nothing_is_overwritten_unasked_and_what_is_replaced_goes(trained, capsys):
    folder, *_ = trained
    assert run(capsys, "spectrum", folder, "--quiet")[:2] == (0, "")
    before = (folder / "spectrum" / "spectrum.npz").read_bytes()
    code, _, err = run(capsys, "spectrum", folder, "--top", 3)
    assert code == 2 and "--overwrite" in err and err.count("\n") == 1
    assert (folder / "spectrum" / "spectrum.npz").read_bytes() == before
    code, *_ = run(capsys, "spectrum", folder, "--top", 3, "--no-density", "--overwrite")
    assert code == 0 and not (folder / "spectrum" / "density.png").exists()
    assert len(results(folder / "spectrum")[1]["end_eigenvalues"]) == 3


@pytest.fixture
def quick(monkeypatch):
    """No pictures, where it is not them that matter."""
    monkeypatch.setattr(spectrum_report, "pictures", lambda *args: {})


@pytest.mark.parametrize("failure", ["error", "signal"])
@pytest.mark.usefixtures("quick")
def test_an_analysis_that_fails_leaves_everything_as_it_was(trained, capsys, monkeypatch, failure):
    folder, *_ = trained

    def fails(*args, **kwargs):
        if failure == "error":
            raise MemoryError("no room")
        signal.raise_signal(signal.SIGTERM)

    run(capsys, "spectrum", folder, "--quiet", "--no-density", "--out", folder.parent / "old")
    old = {p.name: p.read_bytes() for p in (folder.parent / "old").iterdir()}
    monkeypatch.setattr(spectrum, "_heat_map", fails)
    for out, options in (("new", []), ("old", ["--overwrite"])):
        code, shown, err = run(capsys, "spectrum", folder, "--out", folder.parent / out, *options)
        assert (code, shown) == ((2 if failure == "error" else 143), "") and err.count("\n") == 1
    assert not (folder.parent / "new").exists()
    assert {p.name: p.read_bytes() for p in (folder.parent / "old").iterdir()} == old


def test_what_does_not_fit_or_takes_long_is_left_out_and_said(trained, capsys, monkeypatch):
    folder, *_ = trained
    monkeypatch.setattr(kernel, "DENSE", 0)  # as if it were large
    code, out, err = run(capsys, "spectrum", folder, "--memory", "1.5MB", "--probes", 20)
    assert (code, err) == (0, "")
    assert re.search(r"density, end +not computed: it would hold .* of --memory: fewer", out)
    summary, arrays = results(folder / "spectrum")
    assert "end_grid" not in arrays and "density" in summary["moments"]["end"]["skipped"]
    assert "end_eigenvalues" in arrays
    monkeypatch.setattr(spectrum, "ALLOWED", 0.0)
    monkeypatch.setattr(kernel, "LONG", 0.0)
    code, out, err = run(capsys, "spectrum", folder, "--overwrite")
    assert code == 0 and re.search(r"start: tr K = .*\nstart: λ_max", err) and "end: tr K" in err
    assert re.search(r"heat map, end +not computed: it takes about", out)
    assert not (folder / "spectrum" / "heat_map.png").exists()


@pytest.mark.usefixtures("quick")
def test_what_did_not_converge_is_noted(trained, capsys, monkeypatch):
    folder, *_ = trained
    eigsh = of.spectral.eigsh

    def short(op, k, **options):
        return eigsh(op, k, method="lanczos", steps=1, block=2, **options)

    monkeypatch.setattr(of.spectral, "eigsh", short)
    code, out, _ = run(capsys, "spectrum", folder, "--top", 2, "--no-density")
    assert code == 0 and "NOT CONVERGED" in out and re.search(r"note +.* did not converge", out)
    assert results(folder / "spectrum")[0]["moments"]["end"]["converged"] is False


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["."], "config.json"),
        (["run/trajectory.npz", "data.npz"], "--out"),
        (["run/trajectory.npz"], "give DATA"),
        (["data.npz", "data.npz", "--out", "o"], "not a trajectory"),
        (["run", "other.npz"], "4 features"),
        (["run", "no.npz"], "no.npz does not exist"),
        (["run", "--top", "0"], "--top"),
        (["run", "--steps", "x"], "--steps"),
        (["run", "--probes", "1"], "--probes"),
        (["run", "--memory", "lots"], "--memory"),
        (["run", "--out", "data.npz/o"], "--out"),
    ],
)
def test_bad_input_is_one_line_and_code_2(trained, capsys, monkeypatch, tmp_path, argv, word):
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", X=np.ones((5, 4)), y=np.ones((5, 2)))
    there = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, "spectrum", *argv)
    assert (code, out) == (2, "")
    assert err.startswith("opflow: error: ") and err.count("\n") == 1 and word in err
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.usefixtures("quick")
def test_data_that_moved_are_asked_for(trained, capsys, tmp_path):
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    code, _, err = run(capsys, "spectrum", tmp_path / "run")
    assert code == 2 and "give DATA" in err and err.count("\n") == 1
    code, *_ = run(capsys, "spectrum", tmp_path / "run", tmp_path / "moved.npz", "--no-density")
    assert code == 0


@pytest.mark.parametrize("zero", ["X", "y"])
def test_a_dead_kernel_and_zero_targets_have_a_spectrum(tmp_path, capsys, zero):
    pytest.importorskip("matplotlib")
    X, y = regression(tmp_path)
    arrays = {"X": X, "y": y}
    np.savez(tmp_path / "zero.npz", **(arrays | {zero: np.zeros_like(arrays[zero])}))
    moment = "end" if zero == "X" else "network"
    argv = [tmp_path / "run"]
    if zero == "X":
        options = ["--widths", "8,8", "--steps", 2, "--quiet", "--out", tmp_path / "run"]
        assert run(capsys, "train", tmp_path / "zero.npz", *options)[0] == 0
    else:  # a run of Python: the command line refuses targets that are all the same
        argv = [tmp_path / "run.npz", tmp_path / "zero.npz", "--out", tmp_path / "run" / "spectrum"]
        net = of.ReLUNetwork.random([3, 8, 8], outputs=2, seed=0)
        of.train(net, X, np.zeros_like(y), steps=2).save(argv[0])
    code, out, err = run(capsys, "spectrum", *argv)
    assert (code, err) == (0, "")
    assert re.search(rf"alignment, {moment} +not computed: ", out) and "None" not in out
    summary, _ = results(tmp_path / "run" / "spectrum")
    end = summary["moments"][moment]
    assert end["alignment"][0] is None or end["alignment"][0]["value"] is None
    if zero == "X":
        assert end["norm"]["value"] == end["trace"]["value"] == 0.0
        assert end["null"]["value"] == y.size
        assert re.search(r"effective rank, end +not computed: ", out)
    else:
        assert end["norm"]["value"] > 0 and end["effective_rank"]["value"] >= 1
    names = {p.name for p in (tmp_path / "run" / "spectrum").iterdir()}
    assert names == set(SPECTRUM) if zero == "X" else names <= set(SPECTRUM)


def test_plot_draws_the_pictures_anew(trained, capsys):
    pytest.importorskip("matplotlib")
    folder, *_ = trained
    run(capsys, "spectrum", folder, "--quiet")
    answers = {"predicted.png", "residuals.png"}  # of the targets, which a run does not keep
    before = {p: p.read_bytes() for p in sorted(folder.rglob("*.png")) if p.name not in answers}
    for picture in before:
        picture.unlink()
    code, out, err = run(capsys, "plot", folder)
    assert (code, err) == (0, "") and "heat_map.png" in out and "loss.png" in out
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize("damage", ["nothing", "trajectory.npz", "summary.json", "spectrum.npz"])
def test_plot_says_what_is_missing_or_damaged(trained, capsys, damage, tmp_path):
    folder, *_ = trained
    if damage == "nothing":
        folder = tmp_path / "empty"
    elif damage == "spectrum.npz":
        (folder / "spectrum").mkdir()
        (folder / "spectrum" / damage).write_bytes(b"no")
    else:
        (folder / damage).write_bytes(b"no")
    code, out, err = run(capsys, "plot", folder)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert ("holds neither" if damage == "nothing" else str(folder)) in err


def test_without_matplotlib_the_numbers_are_there(trained, capsys, monkeypatch):
    folder, *_ = trained
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, _ = run(capsys, "spectrum", folder)
    assert code == 0 and "no pictures: pictures need matplotlib" in out
    assert (folder / "spectrum" / "spectrum.npz").exists()
    code, _, err = run(capsys, "plot", folder)
    assert code == 2 and "'.[plot]'" in err


@pytest.mark.thorough
def test_the_memory_allowed_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([8, 16], seed=0)
    X, y = rng.standard_normal((1200, 8)), rng.standard_normal((1200, 1))
    what = spectrum.Subject({"start": net, "end": net.replace(
        [1.01 * W for W in net.weights])}, DataSet(X, y))  # fmt: skip
    ask = kernel.Ask(top=4, steps=20, probes=4, memory="15MB")
    tracemalloc.start()
    summary, _ = spectrum.analyse(what, ask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not summary["moments"]["end"]["skipped"] and peak <= 40e6


# -- within a time ---------------------------------------------------------------------------


def test_what_there_is_no_time_for_is_named_with_what_asks_for_it(trained, capsys, monkeypatch):
    folder, *_ = trained
    monkeypatch.setattr(kernel, "DENSE", 0)  # as if it were large
    code, out, _ = run(capsys, "spectrum", folder, "--seconds", "1e-9")
    assert code == 0 and "tr K" in out and "layer 2: share of tr K" in out
    for name in ("eigenpairs", "effective rank", "density"):
        for when in ("start", "end"):
            assert re.search(rf"{name}, {when} +not computed: it takes about .*--seconds", out)
    assert "--density" in out and "--heat-map" in out and "[" not in out
    argv = ["spectrum", folder, "--overwrite", "--seconds", "1e-9", "--density", "--heat-map"]
    assert run(capsys, *argv)[0] == 0
    summary, arrays = results(folder / "spectrum")
    assert {"start_density", "end_density", "heat_map"} <= set(arrays)
    assert summary["moments"]["end"]["probes"] == 10


def test_results_follow_from_the_number_of_probes_alone(trained, capsys, monkeypatch):
    folder, *_ = trained
    monkeypatch.setattr(kernel, "DENSE", 0)
    found = []
    for seconds in (1e3, 1e6):
        argv = ["spectrum", folder, "--overwrite", "--probes", 3, "--steps", 8]
        assert run(capsys, *argv, "--seconds", seconds)[0] == 0
        found.append(results(folder / "spectrum"))
    (summary, arrays), (other, same) = found
    assert summary["moments"] == other["moments"] and summary["drift"] == other["drift"]
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, same[name])


def test_a_clock_shares_its_seconds_and_stops_what_takes_longer():
    clock = Clock(9000.0, False)
    clock.part("start", 3)
    assert 2900 < clock.left() <= 3000
    clock.pace = 1.0
    assert clock.fits(10, 100) == 10 and clock.fits(100, 100) == 29 and clock.fits(10, 6000) == 0
    assert clock.run("norm", 10, lambda: 5) == 5 and not clock.skipped
    assert clock.run("rank", 6000, lambda: 5) is None
    why = clock.skipped["rank"]
    assert why.endswith("left: more --seconds") and "1.7 h" in why
    clock.until = 0.0
    op = of.Gram(np.random.default_rng(0).standard_normal((300, 40)))
    work = lambda: of.spectral.eigsh(op, 2, method="lanczos")  # noqa: E731
    assert clock.run("eigenpairs", 0, work) is None and "eigenpairs" in clock.skipped
    clock.until = end = time.monotonic() + 1
    assert clock.run("density", 6000, lambda: time.sleep(0.01) or 5, asked=True) == 5
    assert clock.until >= end + 0.01


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.0, 3277.0, "open (10 probes): more --steps"), (0.0, 17.0, "0 [0, 17], 10 probes")],
)
def test_an_interval_that_says_nothing_is_not_shown(low, high, shown):
    null = {"value": 0.0, "low": low, "high": high, "how": "Lanczos quadrature", "products": 9}
    assert spectrum_report._zeros(null, 17_970, 10) == shown
    exact = {"value": 3.0, "low": 3.0, "high": 3.0, "how": "exact", "products": 0}
    assert spectrum_report._zeros(exact, 17_970, 10) == "3"
