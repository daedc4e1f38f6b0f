"""``.ci/gpu`` runs from end to end on the stand-in, and the pages show what it writes."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu_library import LIBRARIES, Library
from benchmarks.suite import report, report_gpu
from benchmarks.suite.contenders import CONTENDERS
from tests.device import flights

ROOT = Path(__file__).parents[2]
NEEDS = {"torch": "torch", "JAX": "jax"}


def installed(contender):
    module = NEEDS.get(contender.replace(".", " ").split()[0])
    return module is None or importlib.util.find_spec(module) is not None


@pytest.mark.thorough
def test_the_rehearsal_fills_every_cell(tmp_path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    seen = tmp_path / "seen"
    with zipfile.ZipFile(wheels / "extra-1-py3-none-any.whl", "w") as wheel:  # Python runs it first
        wheel.writestr("sitecustomize.py", f"import pathlib; pathlib.Path({str(seen)!r}).touch()")
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        [".ci/gpu", "--rehearse", "--wheels", str(wheels), "--out", str(tmp_path / "out")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert seen.exists() and not (tmp_path / "out" / "site").exists()
    assert "== measurements" in (tmp_path / "out" / "log").read_text()
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["rehearsal"] and report_gpu.load(tmp_path / "out" / "gpu.json") is None
    assert found["libraries"]["opflow"]["name"] == "the stand-in for CuPy"
    wanted = gpu.cells(rehearse=True)
    assert {name for name, *_ in wanted} == {"W1", "W3", "W1×10", "W3×10"}
    assert found["cells"].keys() == {
        f"{task}/{name}/{dtype}" for task in gpu.CONTENDERS for name, _, dtype in wanted
    }
    for cell in found["cells"].values():
        names = {name for name in gpu.CONTENDERS[cell["task"]] if installed(name)}
        if cell["dtype"] == "float64" or "×" in cell["workload"]:
            names -= {"torch.compile"}
        assert cell["median"].keys() == cell["set_up"].keys() == cell["peak"].keys() == names
        assert not [name for name in cell["skipped"] if installed(name)]
        assert max(cell["error"].values()) < 1e-3
    streamed = found["streamed"]
    assert streamed["bytes"] > streamed["limit"] and streamed["error"] < 1e-5
    assert min(streamed[key] for key in ("on device", "streamed", "bus", "to page-locked")) > 0
    assert found["tests"]["device_suite"]["tests"] > 0
    assert found["tests"]["marked_gpu"].keys() == {"tests", "failures", "errors", "skipped",
                                                   "failed"}  # fmt: skip


def test_its_contenders_are_those_of_the_suite() -> None:
    for task, names in gpu.CONTENDERS.items():
        assert task == "eigenpairs" or set(names) <= CONTENDERS[task].keys()
        assert all(name.replace(".", " ").split()[0] in LIBRARIES for name in names)


def test_names_of_torch_that_only_a_gpu_reaches_exist() -> None:
    torch = pytest.importorskip("torch", reason="those names are torch's")
    names = ("Event", "mem_get_info", "reset_peak_memory_stats", "memory_allocated",
             "max_memory_reserved", "empty_cache")  # fmt: skip
    assert all(callable(getattr(torch.cuda, name)) for name in names)
    assert callable(torch.cuda.Event.elapsed_time)


class Hanging(Library):
    """A library that never answers, or ends."""

    def about(self):
        if os.environ["WHAT"] == "ends":
            os._exit(3)
        time.sleep(60)


def serve_hanging(pipe, name, rehearse) -> None:
    LIBRARIES["hanging"] = Hanging
    gpu.serve(pipe, "hanging", rehearse)


@pytest.mark.parametrize("what, reason", [("hangs", "it took more than"), ("ends", "its process")])
def test_a_library_that_hangs_or_ends_is_skipped(what, reason, monkeypatch) -> None:
    monkeypatch.setenv("WHAT", what)
    monkeypatch.setattr(gpu, "serve", serve_hanging)
    monkeypatch.setattr(gpu, "PATIENCE", 0.5 if what == "hangs" else 60)
    server = gpu.Server("hanging", True)
    assert reason in server.ask("about", seconds=0.5)["skip"]
    assert server.process is None


def test_a_library_that_is_not_there_is_skipped() -> None:
    server = gpu.Server("no such library", True)
    assert server.ask("about", seconds=60)["skip"] == "KeyError: 'no such library'"
    assert server.ask("about", seconds=60)["skip"] == "KeyError: 'no such library'"
    server.end()


def test_events_of_the_stand_in_give_the_time_between_them() -> None:
    start, end, untimed = flights.Event(), flights.Event(), flights.Event(disable_timing=True)
    start.record()
    time.sleep(0.01)
    end.record()
    untimed.record()
    assert 10 <= flights.get_elapsed_time(start, end) < 10_000
    for event in (untimed, flights.Event()):
        with pytest.raises(RuntimeError, match="InvalidResourceHandle"):
            flights.get_elapsed_time(start, event)


def test_results_are_compared_with_those_of_opflow(tmp_path) -> None:
    class Problem:
        folder, dtype = tmp_path, np.dtype("float64")

    with pytest.raises(RuntimeError, match="no result of opflow"):
        gpu.compared(np.ones(2), "products", "torch", Problem)
    assert gpu.compared(np.ones(2), "products", "opflow", Problem) == 0
    assert 0 < gpu.compared(np.ones(2) + 1e-12, "products", "torch", Problem) < 1e-11
    with pytest.raises(RuntimeError, match=r"differs from opflow's by 1\.0e-03"):
        gpu.compared(np.ones(2) * 1.001, "products", "torch", Problem)


def test_failures_are_read_from_the_reports_of_pytest(tmp_path) -> None:
    file = tmp_path / "device_suite.xml"
    file.write_text(
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">'
        '<testcase classname="a.b" name="c"/><testcase classname="a.b" name="d">'
        '<failure message="no kernel"/></testcase></testsuite></testsuites>'
    )
    assert gpu.reported([file, tmp_path / "marked_gpu.xml"]) == {
        "device_suite": {"tests": 3, "failures": 1, "errors": 0, "skipped": 1,
                         "failed": {"a.b::d": "no kernel"}},
        "marked_gpu": {"skip": "it did not end in time"},
    }  # fmt: skip


# -- the pages --------------------------------------------------------------------------------


def cell(workload, task="products", dtype="float32", **times):
    return {
        "task": task, "workload": workload, "dtype": dtype, "N": 2_000, "median": times,
        "peak": {name: 3 << 20 for name in times} | {"JAX": None},
        "skipped": {"torch.func": "its Jacobians take 64 GB"} if task == "dense" else {},
    }  # fmt: skip


RUN = {
    "date": "2030-01-02", "rehearsal": False,
    "libraries": {"opflow": {"version": "14.2.0", "name": "A GPU", "memory": 80 << 30,
                             "driver": 13000, "runtime": 13000},
                  "torch": {"version": "2.13"}, "JAX": {"skip": "no JAX"}},
    "cells": {"a": cell("W1×10", opflow=0.002, torch=0.001, JAX=0.004),
              "b": cell("W1", opflow=0.001, torch=0.003),
              "c": cell("W1", task="dense", opflow=0.5)},
    "streamed": {"bytes": 1 << 30, "limit": 1 << 29, "on device": 0.1, "bus": 0.2,
                 "to page-locked": 0.1, "streamed": 0.22, "error": 0.0, "peak": 1 << 28},
    "tests": {"device_suite": {"tests": 9, "failures": 1, "errors": 0, "skipped": 2,
                               "failed": {"a::b": "no"}},
              "marked_gpu": {"skip": "it did not end in time"}},
}  # fmt: skip


def test_the_benchmarks_show_a_run() -> None:
    text = "\n".join(report_gpu.section(RUN))
    assert "A GPU with 80 GiB, CUDA 13000, CuPy 14.2.0, torch 2.13" in text
    assert "| W1, N = 2,000 | 1 | 3 | 3 | 3 | – | – | 3 |\n| W1×10, N" in text
    assert "| 2 | 3 | 1 | 3 | 4 | – | **0.5** |" in text
    assert "| W1, N = 2,000 | 500 | 3 | – |" in text
    assert "- torch.func: its Jacobians take 64 GB" in text
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert text in report.page(results, RUN)
    assert "Not yet run on a GPU." in report.page(results)


def test_the_page_of_devices_shows_a_run() -> None:
    page = f"# Devices\n\n{report_gpu.START}\nold\n{report_gpu.END}\n\nMore.\n"
    text = report_gpu.shown(page, RUN)
    assert text.startswith("# Devices\n\n<!-- gpu -->\nRun 2030-01-02 on A GPU with 80 GiB")
    assert "- the device suite: 6 passed, 1 failed, 2 skipped.\n  - failed: `a::b`\n" in text
    assert "- tests marked `gpu`: it did not end in time." in text
    assert "1.10 times the slowest of the three and 0.55 times their sum" in text
    assert text.endswith("<!-- /gpu -->\n\nMore.\n") and "old" not in text
    assert report_gpu.shown(text, RUN) == text
    assert "\nNot yet run on a GPU.\n" in report_gpu.shown(text, None)
    broken = RUN | {"streamed": {"skip": "no memory"}, "libraries": {"opflow": {"skip": "no"}}}
    assert "- streaming: no memory." in report_gpu.block(broken)


def test_a_rehearsal_is_no_run(tmp_path) -> None:
    path = tmp_path / "gpu.json"
    assert report_gpu.load(path) is None
    path.write_text(json.dumps(RUN | {"rehearsal": True}))
    assert report_gpu.load(path) is None
    path.write_text(json.dumps(RUN))
    assert report_gpu.load(path) == RUN


def test_the_committed_page_shows_the_committed_run() -> None:
    page = (ROOT / "docs" / "devices.md").read_text()
    assert report_gpu.shown(page, report_gpu.load(ROOT / "benchmarks" / "gpu.json")) == page
