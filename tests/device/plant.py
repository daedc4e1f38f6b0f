"""Plant a ``np.asarray`` in every function that handles device data, and see the suite go red.

``python -m tests.device.plant [--all] [MODULE ...]`` from the root of the repository: runs the
suite once to see which functions of which modules are given, compute or return device arrays, and
in which test; then, in a scratch copy, turns one of these into a NumPy array, in one function of
each module (all with ``--all``) at a time, and runs the test again.  Ends with an error if a plant
was not caught, and if a module has none, unless :data:`WITHOUT` says why.
"""

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: tests that between them take every path; to look at every call of Python is slow
FEW = (
    "(not test_operator or multiplies_blocks or sub_blocks or diagonal) and not goes_on_on and "
    "(not trajectories or 8388608-3-2-True or 8388608-1-1-False-0 or 3-2-True) and "
    "not command_line and not test_flights"
)
PACKAGES = ("operators", "evaluation", "relu", "dynamics", "spectral", "distributed", "machine")
#: modules that no device array passes through, and why
WITHOUT = {
    "opflow/dynamics/storage/log.py": "what is logged has been brought to the host by the loop",
    "opflow/dynamics/storage/signals.py": "signals",
    "opflow/operators/describe.py": "shapes and costs as text",
    "opflow/machine/gate_tables.py": "compiled for the host; a device unpacks its gates",
    "opflow/spectral/density/density.py": "works on nodes and weights, which are on the host",
    "opflow/spectral/traces/trace_functions.py": "nodes and weights are on the host",
}
#: what is an array in a function (an item is one of a container given to it, an attribute one of
#: `self`): the best to plant on first
KINDS = ("argument", "item", "attribute", "local", "result")
#: how often a function is looked at while no argument of its is an array
LOOKS = 300


class Tracer:
    """A pytest plugin that writes down which functions handle device arrays, and in which test."""

    def __init__(self) -> None:
        #: by file and line of the function, and by kind: what the array is called, and the test
        self.found: dict[tuple[str, int], dict[str, tuple[str, str]]] = {}
        self.looks: dict = {}
        self.test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.test, before = item.nodeid, ({k: {**v} for k, v in self.found.items()}, {**self.looks})
        sys.setprofile(self.called)
        try:
            return (yield)
        except BaseException:  # a test that fails without a plant proves nothing
            self.found, self.looks = before
            raise
        finally:
            sys.setprofile(None)

    def called(self, frame, event, result) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        left = self.looks.get(code)
        if left is None:
            path = Path(code.co_filename)
            ours = any(path.is_relative_to(ROOT / "opflow" / part) for part in PACKAGES)
            left = self.looks[code] = LOOKS if ours and not code.co_name.startswith("<") else 0
        if not left:
            return
        self.looks[code] -= 1
        here, count = frame.f_locals, code.co_argcount + code.co_kwonlyargcount
        given = {name: here[name] for name in code.co_varnames[:count] if name in here}
        if event == "call":
            self._note(code, "argument", given)
            self._note(code, "item", {k: v for x in given.items() for k, v in items(*x)})
            attributes = getattr(given.get("self"), "__dict__", {})
            self._note(code, "attribute", {f"self.{k}": v for k, v in attributes.items()})
        else:
            self._note(code, "local", {k: v for k, v in here.items() if k not in given})
            self._note(code, "result", {"return": result})

    def _note(self, code, kind: str, values: dict) -> None:
        import cupy
        from cupyx.scipy import sparse

        place = str(Path(code.co_filename).relative_to(ROOT)), code.co_firstlineno
        for name, value in values.items():
            if isinstance(value, cupy.ndarray | sparse.spmatrix):
                self.found.setdefault(place, {}).setdefault(kind, (name, self.test))
                self.looks[code] *= kind != "argument"
                return


def items(name: str, value) -> list:
    """What is in a list, tuple or dictionary, by the expression for it."""
    pairs = enumerate(value) if isinstance(value, list | tuple) else (
        value.items() if isinstance(value, dict) else ())  # fmt: skip
    return [(f"{name}[{key!r}]", x) for key, x in pairs]


def trace(output: str) -> int:
    tracer = Tracer()
    result = pytest.main([str(ROOT / "tests/device/suite"), "-q", "-p", "no:cacheprovider", "-k",
                          FEW], plugins=[tracer])  # fmt: skip
    Path(output).write_text(json.dumps([[*k, v] for k, v in sorted(tracer.found.items())]))
    return int(result)


def own(function: ast.FunctionDef) -> Iterator[ast.stmt]:
    """The statements of a function, without those of functions in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def planted(text: str, line: int, kind: str, name: str) -> str | None:
    """The source with an array of the function at a line made a NumPy array, where that can be."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        first = [node.lineno, *(d.lineno for d in node.decorator_list)] if (
            isinstance(node, ast.FunctionDef)) else []  # fmt: skip
        if first and min(first) == line and plant(node, kind, name):
            return ast.unparse(ast.fix_missing_locations(tree))
    return None


def plant(function: ast.FunctionDef, kind: str, name: str) -> bool:
    """Whether it could be done."""
    asarray = f"__import__('numpy').asarray({name})"
    if kind in ("argument", "item", "attribute"):
        cast = f"{name} = {asarray}" if kind == "argument" else asarray
        at = int(ast.get_docstring(function) is not None)
        function.body[at:at] = ast.parse(cast).body
        return True
    if kind == "local":
        given = [s for s in own(function) if isinstance(s, ast.Assign) and name in bound(s)]
        for parent in ast.walk(function) if len(given) == 1 else ():
            for block in ("body", "orelse", "finalbody"):
                if given[0] in (statements := getattr(parent, block, None) or []):
                    at = statements.index(given[0]) + 1
                    statements[at:at] = ast.parse(f"{name} = {asarray}").body
                    return True
        return False
    returns = [s for s in own(function) if isinstance(s, ast.Return) and s.value is not None]
    for statement in returns:
        call = ast.parse("__import__('numpy').asarray(0)", mode="eval").body
        call.args = [statement.value]
        statement.value = call
    return bool(returns)


def bound(statement: ast.Assign) -> set[str]:
    """The names that an assignment binds."""
    targets = (node for target in statement.targets for node in ast.walk(target))
    return {t.id for t in targets if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)}


def plants(record: Path, every: bool) -> Iterator[tuple[str, int, str, str, str, str]]:
    """Module, line, kind, name, test and the planted source: one a module, or one a function."""
    taken: set[str] = set()
    candidates = [
        (KINDS.index(kind), module, line, *what)
        for module, line, kinds in json.loads(record.read_text())
        for kind, what in kinds.items()
    ]
    seen: set[tuple[str, int]] = set()
    for rank, module, line, name, test in sorted(candidates):
        if (module in taken and not every) or (module, line) in seen:
            continue
        mutant = planted((ROOT / module).read_text(), line, KINDS[rank], name)
        if mutant is not None:
            taken.add(module)
            seen.add((module, line))
            yield module, line, KINDS[rank], name, test, mutant


def modules() -> set[str]:
    """Those that have a function."""
    package = ROOT / "opflow"
    files = (p for p in package.rglob("*.py") if p.relative_to(package).parts[0] in PACKAGES)
    return {str(p.relative_to(ROOT)) for p in files if "def " in p.read_text()}


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
        places = list(plants(record, every))
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        environment |= {"PYTHONPATH": str(copy)}
        missed = []
        for module, line, kind, name, test, mutant in places:
            if wanted and not any(w in module for w in wanted):
                continue
            path = copy / module
            with contextlib.ExitStack() as restore:
                restore.callback(path.write_text, path.read_text())
                path.write_text(mutant)
                command = [sys.executable, "-m", "pytest", test, "-x", "-q", "-p",
                           "no:cacheprovider"]  # fmt: skip
                run = subprocess.run(command, cwd=copy, env=environment, capture_output=True)
            caught = run.returncode == 1
            word = "caught" if caught else "MISSED"
            print(f"{word}  {module}:{line} {kind} {name}  by {test}", flush=True)
            missed += [] if caught else [module]
    bare = modules() - {place[0] for place in places}
    for module in sorted(bare):
        print(f"{'none  ' if module in WITHOUT else 'NONE  '}  {module}: "
              f"{WITHOUT.get(module, 'no device array seen')}")  # fmt: skip
    stale = sorted(set(WITHOUT) - bare)
    print(f"{len(places)} planted, {len(missed)} missed; {len(bare)} modules have no device array"
          + "".join(f"; {module} has" for module in stale))  # fmt: skip
    sys.exit(bool(missed or stale or bare - set(WITHOUT)))


if __name__ == "__main__":
    main()
