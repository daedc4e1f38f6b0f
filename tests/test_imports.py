"""Imports go one way: from higher floors to lower ones, without a circle, at the top of a file."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "opflow"
#: folders and loose modules, from the ground up: each imports only what stands before it
FLOORS = [
    "_version",
    "_native",  # the extension in C
    "interface",
    "machine",
    "operators",
    "distributed",  # what PyLops-MPI is given
    "evaluation",
    "relu",
    "spectral",  # neither of relu and spectral imports the other
    "data",
    "dynamics",
    "torch",  # of any module, for the most part without networks of opflow
    "plot",
    "sklearn",
    "features",  # these stand for packages of relu and dynamics
    "hierarchy",
    "observe",
    "",  # opflow itself: the public names
    "cli",
    "__main__",
]
#: folders that do not know each other, though one has to stand before the other above
STRANGERS = [{"relu", "spectral"}, {"distributed", "evaluation"}]
#: what a function may import when it is called: who needs it may lack it, or it is slow to import
LATE = {
    "cupy": "an extra",
    "cupyx": "an extra",
    "h5py": "an extra",
    "matplotlib": "an extra",
    "pandas": "an extra",
    "pyarrow": "an extra",
    "resource": "not on Windows",
    "sklearn": "an extra",
    "torch": "of users who have it",
    "opflow.plot": "needs matplotlib, an extra",
    "opflow.distributed.extra": "needs MPI, an extra",
    "opflow.cli": "all that computes: `opflow --version` and mistyped options need not wait for it",
}


def modules(root):
    """Files of a package by the names of their modules; an extension is known by its stub."""
    files = {}
    for path in [*root.rglob("*.py"), *root.rglob("*.pyi")]:
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        files[name.removesuffix(".__init__")] = path
    return files


def imports(path, known):
    """Modules that a file imports when it is run, and those that its functions import."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(n) for f in functions for n in ast.walk(f)}
    checked = {id(n) for test in ast.walk(tree) if _for_types(test) for n in ast.walk(test)}
    top, late = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            full = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found = {long if long in known else node.module for long in full.values()}
        else:
            continue
        if id(node) in inside:
            late |= found
        elif id(node) not in checked:
            top |= found
    return top, late


def _for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def reached(graph, start):
    """All modules that the imports of one lead to."""
    seen, waiting = set(), [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def floor(name):
    """The number of the floor that a module is on."""
    return FLOORS.index(name.partition(".")[2].partition(".")[0])


def climbs(name, found):
    """Which of the imports of a module lead up, or to a stranger."""
    inside = [other for other in found if other.partition(".")[0] == "opflow"]
    here = FLOORS[floor(name)]
    return sorted(
        other
        for other in inside
        if floor(other) > floor(name) or {here, FLOORS[floor(other)]} in STRANGERS
    )


def unexcused(found):
    """Which imports inside functions are for no reason that is known."""
    return sorted(
        name for name in found if not any(f"{name}.".startswith(f"{why}.") for why in LATE)
    )


FILES = modules(ROOT)


@cache
def found(name):
    return imports(FILES[name], FILES)


every_module = pytest.mark.parametrize("name", sorted(FILES))


@every_module
def test_a_module_does_not_lead_back_to_itself(name):
    graph = {other: set().union(*found(other)) for other in FILES}
    assert name not in reached(graph, name)


@every_module
def test_imports_lead_down(name):
    assert climbs(name, set().union(*found(name))) == []


@every_module
def test_functions_import_only_what_may_be_missing_or_slow(name):
    assert unexcused(found(name)[1]) == []


def test_few_modules_of_the_package_are_imported_late():
    assert sum(name.startswith("opflow") for name in LATE) <= 3


def test_faults_are_found(tmp_path):
    root = tmp_path / "opflow"
    files = {
        "machine/low.py": "from opflow.operators import high\n",
        "operators/high.py": "def f():\n    from opflow.machine.low import x\n",
        "relu/one.py": "import opflow.spectral.two\n",
        "spectral/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    import opflow.relu.one\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    known = modules(root)
    graph = {name: set().union(*imports(path, known)) for name, path in known.items()}
    assert "opflow.machine.low" in reached(graph, "opflow.machine.low")
    assert climbs("opflow.machine.low", graph["opflow.machine.low"]) == ["opflow.operators.high"]
    assert unexcused(imports(known["opflow.operators.high"], known)[1]) == ["opflow.machine.low"]
    assert climbs("opflow.relu.one", graph["opflow.relu.one"]) == ["opflow.spectral.two"]
    assert "opflow.relu.one" not in graph["opflow.spectral.two"]
