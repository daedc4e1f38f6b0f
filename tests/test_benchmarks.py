"""The benchmark suite: contenders that agree, rounds in turn, results that add up, the page."""

import copy
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from benchmarks.suite import measures, modules, report, report_gpu, run, store
from benchmarks.suite.contenders import CONTENDERS, contender
from benchmarks.suite.pool import Cell, Options, Skipped
from benchmarks.suite.problems import MARGIN, QUICK, Problem, Shape, clear_of_kinks, write

ROOT = Path(__file__).parents[1]
SHAPE = Shape(23, 7, (9, 8))
NEEDS = {"torch": "torch", "JAX": "jax", "neural-tangents": "neural_tangents"}
NEEDS |= {"curvlinops": "curvlinops", "NNGeometry": "nngeometry"}


def needed(name):
    """Skip where the library of a contender is not installed."""
    for prefix, module in NEEDS.items():
        if name.startswith(prefix):
            pytest.importorskip(module, reason=f"{name} needs {module}")


def problem(tmp_path, dtype="float64", columns=1, step=False):
    write(tmp_path, SHAPE, dtype, columns, step)
    found = Problem(tmp_path, threads=1)
    net = of.ReLUNetwork(found.weights, found.readout)
    return found, net, of.collective_kernel(net.fields(found.X))


# -- contenders -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # those of torch, in its own tracing
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(
    "name", [*CONTENDERS["products"], "opflow, dense", "opflow, gram", "opflow, tiled"]
)
def test_every_contender_multiplies_by_the_kernel(name, columns, tmp_path):
    needed(name)
    found, _, K = problem(tmp_path, columns=columns)
    product = contender("products", name)(found)()()
    np.testing.assert_allclose(product, K.todense() @ found.r, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CONTENDERS["dense"])
def test_every_contender_forms_the_kernel(name, tmp_path):
    needed(name)
    found, _, K = problem(tmp_path)
    np.testing.assert_allclose(contender("dense", name)(found)()(), K.todense(), rtol=1e-11)


@pytest.mark.parametrize("name", [n for n in CONTENDERS["steps"] if n != "torch.compile"])
def test_every_contender_takes_the_same_steps(name, tmp_path):
    needed(name)
    found, net, _ = problem(tmp_path, step=True)
    outputs, seconds = contender("steps", name)(found)()(3)
    descent = of.train(
        net, found.X, found.y, steps=3, method=of.GradientDescent(step=found.step), eliminate=False
    )
    np.testing.assert_allclose(outputs, descent.residual[:, 0] + found.y, rtol=1e-11)
    assert len(seconds) == 3 and min(seconds) > 0


#: a module of each task that all its contenders know
MODULES = {"module products": "small ResNet", "module GGN": "CNN", "module kernels": "CNN"}
MODULES |= {"module spectra": "LeNet"}


@pytest.mark.filterwarnings("ignore")  # those of torch, in its own tracing
@pytest.mark.parametrize(
    ("task", "name"),
    [(task, name) for task in MODULES for name in CONTENDERS[task] if name != "opflow"],
)
def test_contenders_agree_on_modules(task, name, tmp_path):
    pytest.importorskip("torch", reason="modules need torch")
    pytest.importorskip("sklearn", reason="the inputs are digits of scikit-learn")
    needed(name)
    modules.write(tmp_path, modules.shape(5, MODULES[task], block=2), "float64")
    found = modules.ModuleProblem(tmp_path, threads=1)
    ours, theirs = (contender(task, n)(found)()() for n in ("opflow", name))
    assert run.relative_error(theirs, ours) < 1e-10


def test_the_bare_gemms_are_two_a_layer_and_column(tmp_path, monkeypatch):
    found, _, _ = problem(tmp_path, columns=2)
    call = contender("products", "bare GEMMs")(found)()
    call()
    shapes, matmul = [], np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b, out: shapes.append((a.shape, b.shape)) or matmul(a, b, out=out)
    )
    assert call() is None
    top = [((8, 23), (23, 9)), ((23, 9), (9, 8))]
    assert shapes == 2 * [*top, ((9, 23), (23, 7)), ((23, 7), (7, 9))]


def test_no_gate_hangs_on_rounding():
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([20, 300, 300], scaling="standard", seed=0, dtype=np.float32)
    X = rng.standard_normal((400, 20), dtype=np.float32)
    clear = clear_of_kinks(net.weights, X, rng)
    a = clear.astype(np.float64)
    near = np.zeros(len(X), dtype=bool)
    before = X.astype(np.float64)
    for W in net.weights:
        h, old = (x @ W.T.astype(np.float64) for x in (a, before))
        assert np.abs(h).min() > 0.9 * MARGIN * np.sqrt(np.mean(h**2))
        near |= np.abs(old).min(axis=1) < 0.9 * MARGIN * np.sqrt(np.mean(old**2))
        a, before = np.maximum(h, 0), np.maximum(old, 0)
    changed = (clear != X).any(axis=1)
    assert near.any() and changed[near].all() and changed.mean() < 0.1


# -- cells ------------------------------------------------------------------------------------

CELL = Cell("steps", "W1", SHAPE, "float64", 1, 1)


class Fake:
    """A worker that gives `result`, then the times of its rounds, and logs what it is asked."""

    def __init__(self, name, folder, result, times, log):
        self.name, self.result, self.times, self.log = name, result, iter(times), log
        self.file = folder / f"{name}.npy"

    def tell(self, what):
        self.log.append((self.name, what.split()[0]))

    def hear(self):
        if isinstance(self.result, str):
            raise Skipped(self.result)
        return {"resident": 100}

    def ask(self, what):
        self.tell(what)
        if what == "prepare":
            np.save(self.file, self.result)
            return {"result": str(self.file), "set_up": 2.0, "first_set_up": 3.0, "first": 4.0}
        return {"seconds": next(self.times)} if what == "round" else {"peak": 300}


class FakePool:
    def __init__(self, options, folder, results, times=(3.0, 1.0, 2.0)):
        self.options, self.log, self.ended = options, [], []
        self.workers = {
            name: Fake(name, folder, result, times, self.log) for name, result in results.items()
        }

    def worker(self, cell, name):
        return self.workers[name]

    def end(self, name):
        self.ended.append(name)

    def rest(self):
        self.log.append("rest")


def options(rounds=3, patience=1e9, deadline=float("inf")):
    return Options(rounds, patience, deadline, None, None, quick=False)


def test_results_are_compared_before_anything_is_timed(tmp_path):
    right = np.array([1.0, 2.0])
    results = {"opflow": right, "torch": right * (1 + 1e-11), "torch.compile": right + 1e-9}
    pool = FakePool(options(), tmp_path, results | {"JAX": "no module named jax"})
    found = run.measure(CELL, tmp_path, pool)
    assert found["skipped"].keys() == {"torch.compile", "JAX"} == set(pool.ended)
    assert "differs from opflow's by" in found["skipped"]["torch.compile"]
    assert found["skipped"]["JAX"] == "no module named jax"
    assert found["median"] == {"opflow": 2.0, "torch": 2.0}
    assert found["times"]["torch"] == [3.0, 1.0, 2.0]
    assert found["set_up"]["torch"] == 2.0 and found["peak"]["torch"] == 300
    asked = [what for what in pool.log if what[1] in ("prepare", "round")]
    assert [what for _, what in asked] == ["prepare"] * 3 + ["round"] * 6
    assert [name for name, what in asked if what == "round"] == [
        "opflow", "torch", "torch", "opflow", "opflow", "torch",
    ]  # fmt: skip


def test_contenders_for_whom_no_memory_is_left_are_not_timed(tmp_path, monkeypatch):
    left = iter([0.9, 0.5, 0.1, 0.3])
    monkeypatch.setattr(run, "memory_left", lambda: next(left))
    pool = FakePool(options(), tmp_path, dict.fromkeys(CONTENDERS["steps"], np.ones(2)))
    found = run.measure(CELL, tmp_path, pool)
    reason = "10% of the memory were left beside the other contenders"
    assert found["skipped"] == {"torch.compile": reason}
    assert found["median"].keys() == {"opflow", "torch", "JAX"}


def test_a_result_of_another_shape_differs():
    assert run.relative_error(np.ones((3, 1)), np.ones(3)) == float("inf")


def test_opflow_must_be_there(tmp_path):
    pool = FakePool(options(), tmp_path, {name: "broken" for name in CONTENDERS["steps"]})
    with pytest.raises(SystemExit, match="opflow cannot be timed: broken"):
        run.measure(CELL, tmp_path, pool)


@pytest.mark.parametrize(
    "chosen, rounds",
    [({}, 5), ({"patience": 0.0}, 1), ({"deadline": 0.0}, 1)],
    ids=["all", "out of patience", "out of time"],
)
def test_rounds_end_with_patience_or_time(chosen, rounds, tmp_path):
    results = dict.fromkeys(CONTENDERS["steps"], np.ones(2))
    pool = FakePool(options(5, **chosen), tmp_path, results, times=[1.0] * 5)
    found = run.measure(CELL, tmp_path, pool)
    assert {len(times) for times in found["times"].values()} == {rounds}


def test_ways_that_are_not_hopeless_are_measured():
    predicted = {
        "factored": {"1": 1.0, "20": 20.0},
        "dense": {"1": 50.0, "20": 51.0},
        "gram": {"1": 5.0, "20": 90.0},
        "tiled": {"1": 3.9, "20": 99.0},
    }
    assert run.worth_measuring(predicted) == ["dense", "tiled"]


def test_jacobians_that_do_not_fit_are_not_tried():
    huge = Cell("dense", "D", Shape(10**6, 10**4, (10**4,)), "float32", 1, 1)
    assert "Jacobians take 400000 GB" in run.left_out(huge, "torch.func")
    assert run.left_out(huge, "opflow") is None is run.left_out(CELL, "torch.func")


# -- the command, in processes of their own ---------------------------------------------------


def suite(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.suite", "--quick", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OPFLOW_PROFILE": "default"},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The results of a quick run without peers, whose libraries take seconds to import."""
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    suite("--results", path, "--contenders", "bare GEMMs")
    return path


@pytest.mark.thorough
def test_a_quick_run_measures_every_task(quick):
    results = json.loads(quick.read_text())
    cells = results["cells"]
    assert {key.split("/")[0] for key in cells} == set(QUICK)
    assert len(cells) == sum(len(shapes) for shapes in QUICK.values())
    for cell in cells.values():
        assert any(name.endswith("opflow") for name in cell["median"])
        assert not cell["skipped"]
        for name, times in cell["times"].items():
            assert min(times) > 0 and cell["median"][name] == statistics.median(times)
    products = measures.cells_of(cells, "products")
    assert all(set(cell["choice"]) == {"1", "20", "200"} for cell in products)
    assert all(measures.choice_against_best(cell, 20) for cell in products)
    assert all(measures.against_gemms(cell) > 0 for cell in products)
    assert "numpy" in results["versions"] and results["machine"]["cores"] >= 1
    assert report.page(results).count("\n## ") >= 6


@pytest.mark.thorough
def test_a_run_goes_on_where_it_was_cut_short(quick, tmp_path):
    results = json.loads(quick.read_text())
    key = next(key for key in results["cells"] if key.startswith("scaling"))
    kept = copy.deepcopy(results)
    del results["cells"][key]
    path = tmp_path / "cut.json"
    store.save(path, results)
    told = suite("--results", path, "--contenders", "none")
    assert key in told and "1 of 1" in told
    after = json.loads(path.read_text())
    del after["cells"][key], kept["cells"][key]
    assert after == kept


@pytest.mark.parametrize(
    ("contenders", "base"), [(["factored"], "factored"), (["factored", "opflow"], "opflow")]
)
def test_eigenpairs_are_compared_without_opflow(contenders, base):
    command = [sys.executable, "benchmarks/eigenpairs.py", "--samples", "300", "--features", "5"]
    command += ["--widths", "40", "--pairs", "3", "--rounds", "1", "--contenders", *contenders]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"× {base} " in done.stdout


@pytest.mark.thorough
def test_a_quick_run_of_the_modules(tmp_path):
    pytest.importorskip("torch", reason="modules need torch")
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.torch_kernels", "--quick", "--results", path,
               "--only", "products, ResNet-18", "--contenders", "torch jvp∘vjp"]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    results = store.load(path)
    (cell,) = results["modules"]["cells"].values()
    assert not cell["skipped"] and set(cell["median"]) == {"opflow", "torch jvp∘vjp"}
    cell["set_up"]["opflow"] = cell["median"]["opflow"] = 1.0
    cell["median"]["torch jvp∘vjp"] = 1.4
    text = report.page(results | {"machine": RESULTS["machine"], "cells": RESULTS["cells"]})
    assert "small ResNet, N = 12, k = 1, P = 1,373" in text and "takes 1.4 times as long" in text


# -- results ----------------------------------------------------------------------------------


def cell(task="products", workload="W1", N=2_000, columns=1, threads=1, dtype="float32", **times):
    """A cell as it is stored; `times` are medians, set-up is ten of them."""
    names = {name.replace("_", " "): seconds for name, seconds in times.items()}
    return {
        "task": task, "workload": workload, "dtype": dtype, "threads": threads, "columns": columns,
        "N": N, "d": 784, "widths": [512], "shape": f"N = {N}", "date": "2030-01-02",
        "median": names, "times": {name: [s, s] for name, s in names.items()},
        "set_up": {name: 10 * s for name, s in names.items()},
        "resident": dict.fromkeys(names, 2**20), "skipped": {"JAX linearize": "not installed"},
        "peak": {name: 2**20 * (1 + N / 1000) for name in names},
        "choice": {"1": "factored", "20": "factored", "200": "dense"},
    }  # fmt: skip


RESULTS = {
    "machine": {"processor": "A processor", "cores": 2, "memory": 24, "system": "Linux x86_64",
                "gate products": "avx2"},
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    "cells": {
        str(i): c
        for i, c in enumerate([
            cell(opflow=1.0, torch_linearize=4.0, curvlinops=9.0,
                 **{"opflow, dense": 0.5, "bare GEMMs": 2.0}),
            cell(workload="W3", opflow=1.0, torch_linearize=0.8,
                 **{"opflow, dense": 0.5, "bare GEMMs": 0.9}),
            cell(task="steps", opflow=2.0, torch=1.0),
            cell(task="dense", workload="D2000", opflow=1.0, **{"torch.func": 400.0}),
            *(cell(task="scaling", workload=f"N{N}", N=N, opflow=3e-6 * N) for N in
              (1_000, 10_000, 100_000)),
            cell(task="start", **{"import opflow": 1.0, "import pylops": 0.5}),
        ])
    },
}  # fmt: skip


def test_ratios_of_a_cell():
    first = RESULTS["cells"]["0"]
    assert measures.best_peer(first) == ("torch linearize", 4.0)
    assert measures.lead(first) == 4.0 and measures.against_gemms(first) == 2.0
    assert measures.total(first, "opflow", 20) == 30.0
    assert measures.chosen(first, 200) == "opflow, dense"
    assert measures.choice_against_best(first, 200) == 1.0
    assert measures.choice_against_best(first, 20) == 2.0  # dense: 5 + 10 in place of 30
    assert measures.lead_in_all(first, 200) == (40 + 800) / (5 + 100)
    assert measures.lead(cell(opflow=1.0)) is None
    assert measures.memory(first, "opflow") == 2 * 2**20


@pytest.mark.parametrize("power", [1.0, 1.3])
def test_the_exponent_is_fitted_from_where_overheads_end(power):
    N = [100, 1_000, 10_000, 30_000, 100_000]
    seconds = [5.0, 5.0, *(1e-6 * n**power for n in N[2:])]
    assert measures.exponent(N, seconds) == pytest.approx(power)
    assert measures.exponent(N[:3], seconds[:3]) is None


def test_losses_are_told_as_plainly_as_wins():
    text = report.page(RESULTS)
    assert "| W1 | 2,000 | 1,000 | 2 | torch linearize | 4,000 | 4 |" in text
    assert "| W3 | 900 | 1,000 | **0.9** | torch linearize | 800 | **0.8** |" in text
    assert "A processor, 2 cores, 24 GiB" in text and "2030-01-02" in text and "numpy 2.4.6" in text
    assert "Fitted exponents from N = 10,000 on: opflow 1.000" in text
    assert "JAX linearize: not installed" in text


def test_the_page_begins_with_what_opflow_loses():
    compared = list(measures.comparisons(RESULTS))
    lost = {row[:3] for row in compared if row[3] < 1}
    assert lost == {
        ("product with K, after set-up", "W3, float32, 1 thread", "torch linearize"),
        ("set-up and 1 product with K", "W3, float32, 1 thread", "torch linearize"),
        ("set-up and 20 products with K", "W3, float32, 1 thread", "torch linearize"),
        ("step of gradient descent", "W1, float32, 1 thread", "torch"),
    }
    assert ("dense K", "D2000, float32, 1 thread", "torch.func", 400.0) in compared
    text = report.page(RESULTS)
    assert f"in {len(lost)} of {len(compared)} comparisons" in text
    beaten, rest = text.split("## All comparisons")
    for what, where, peer in lost:
        assert f"| {what} | {where} | {peer} | **" in beaten
    assert "| dense K | 1 | 400 | 400 | 400 |" in rest


def test_the_committed_page_is_what_the_committed_results_say():
    results = store.load(ROOT / "benchmarks" / "results.json")
    gpu = report_gpu.load(ROOT / "benchmarks" / "gpu.json")
    assert (ROOT / "docs" / "benchmarks.md").read_text() == report.page(results, gpu)


def test_the_page_comes_with_its_figures(tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    report.publish(RESULTS, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert text == report.page(RESULTS)
    made = sorted(tmp_path.glob("figures/*.png"))
    assert [path.name for path in made] == [
        f"benchmarks_{name}.png" for name in ("ratio", "scaling", "share")
    ]
    assert all(f"figures/{path.name}" in text for path in made)


def test_cells_of_other_machines_and_versions_do_not_mix(tmp_path):
    about = {"machine": RESULTS["machine"], "versions": {"python": "3.11.7", "torch": "2.13"}}
    joined = store.joined(RESULTS, about)
    assert joined["cells"] == RESULTS["cells"]
    assert joined["versions"] == {"python": "3.11.7", "numpy": "2.4.6", "torch": "2.13"}
    with pytest.raises(SystemExit, match=r"results of python 3\.11\.7, not 3\.12"):
        store.joined(RESULTS, about | {"versions": {"python": "3.12"}})
    with pytest.raises(SystemExit, match="--results"):
        store.joined(RESULTS, about | {"machine": RESULTS["machine"] | {"cores": 3}})
    path = tmp_path / "new" / "results.json"
    assert store.load(path)["cells"] == {}
    store.save(path, RESULTS)
    assert store.load(path) == RESULTS and os.listdir(path.parent) == ["results.json"]


def test_nothing_tells_the_name_of_the_machine():
    text = json.dumps(store.here())
    assert os.uname().nodename not in text and os.path.expanduser("~") not in text
