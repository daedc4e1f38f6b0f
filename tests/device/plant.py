"""Plant a ``np.asarray`` in every function that is given device data, and see the suite go red.

``python -m tests.device.plant [--all] [MODULE ...]`` from the root of the repository: runs the
suite once to see which functions of which modules are given device arrays, and in which test;
then, in a scratch copy, turns that argument into a NumPy array, one function of each module (all
with ``--all``) at a time, and runs the test again.  Ends with an error if any plant was not
caught.
"""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: tests that between them take every path; to look at every call of Python is slow
FEW = (
    "(not test_operator or multiplies_blocks or sub_blocks or diagonal) and not goes_on_on and "
    "(not trajectories or 8388608-3-2-True or 8388608-1-1-False-0 or 3-2-True) and "
    "not command_line and not test_flights"
)
PACKAGES = ("operators", "relu", "dynamics", "spectral", "distributed", "streams.py")


class Tracer:
    """A pytest plugin that writes down who was given device arrays, and by which test."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], tuple[str, str]] = {}
        self.done: set = set()
        self.test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.test, before = item.nodeid, (dict(self.found), set(self.done))
        sys.setprofile(self.called)
        try:
            return (yield)
        except BaseException:  # a test that fails without a plant proves nothing
            self.found, self.done = before
            raise
        finally:
            sys.setprofile(None)

    def called(self, frame, event, _) -> None:
        code = frame.f_code
        if event != "call" or code in self.done or code.co_name.startswith("<"):
            return
        path = Path(code.co_filename)
        if not any(path.is_relative_to(ROOT / "opflow" / part) for part in PACKAGES):
            self.done.add(code)
            return
        import cupy

        for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            if isinstance(frame.f_locals.get(name), cupy.ndarray):
                place = str(path.relative_to(ROOT)), code.co_firstlineno
                self.found[place] = name, self.test
                self.done.add(code)
                return


def trace(output: str) -> int:
    tracer = Tracer()
    result = pytest.main([str(ROOT / "tests/device/suite"), "-q", "-p", "no:cacheprovider", "-k",
                          FEW], plugins=[tracer])  # fmt: skip
    Path(output).write_text(json.dumps([[*k, *v] for k, v in tracer.found.items()]))
    return int(result)


def planted(text: str, line: int, name: str) -> str | None:
    """The source with the argument made a NumPy array where the function begins."""
    for node in ast.walk(ast.parse(text)):
        first = [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))] if (
            isinstance(node, ast.FunctionDef)) else []  # fmt: skip
        if first and min(first) == line:
            body = [s for s in node.body if not (
                isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]  # fmt: skip
            lines = text.splitlines()
            at = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))])
            plant = f"{' ' * body[0].col_offset}{name} = __import__('numpy').asarray({name})"
            return "\n".join([*lines[: at - 1], plant, *lines[at - 1 :]]) + "\n"
    return None


def main() -> None:
    if sys.argv[1:2] == ["--trace"]:
        sys.exit(trace(sys.argv[2]))
    every, wanted = "--all" in sys.argv, [a for a in sys.argv[1:] if a != "--all"]
    chosen = {"OPFLOW_DEVICE": "stand-in", "OPFLOW_EXAMPLES": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        record, copy = Path(scratch) / "found.json", Path(scratch) / "opflow-copy"
        environment = os.environ | chosen | {"PYTHONPATH": str(ROOT)}
        traced = [sys.executable, "-m", "tests.device.plant", "--trace", str(record)]
        subprocess.run(traced, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        places = sorted(json.loads(record.read_text()))
        places = [p for p in places if planted((ROOT / p[0]).read_text(), p[1], p[2])]
        if not every:
            places = [p for i, p in enumerate(places) if i == 0 or p[0] != places[i - 1][0]]
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        environment |= {"PYTHONPATH": str(copy)}
        missed = []
        for module, line, name, test in places:
            path = copy / module
            text = path.read_text()
            mutant = planted(text, line, name)
            if mutant is None or (wanted and not any(w in module for w in wanted)):
                continue
            with contextlib.ExitStack() as restore:
                restore.callback(path.write_text, text)
                path.write_text(mutant)
                command = [sys.executable, "-m", "pytest", test, "-x", "-q", "-p",
                           "no:cacheprovider"]  # fmt: skip
                run = subprocess.run(command, cwd=copy, env=environment, capture_output=True)
            caught = run.returncode == 1
            word = "caught" if caught else "MISSED"
            print(f"{word}  {module}:{line} {name}  by {test}", flush=True)
            missed += [] if caught else [module]
        quiet = sorted({str(p.relative_to(ROOT)) for part in PACKAGES
                        for p in (ROOT / "opflow" / part).rglob("*.py")}
                       - {p[0] for p in json.loads(record.read_text())})  # fmt: skip
        print(f"{len(places)} planted, {len(missed)} missed; given no device array: "
              f"{', '.join(quiet)}")  # fmt: skip
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
