"""What the documentation says is run: every row of the table, every doctest it leads to."""

import contextlib
import doctest
import inspect
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pylops
import pytest

import opflow as of
from opflow.cli.commands import main
from tests.public import public

DOCS = Path(__file__).parents[1] / "docs"


def rows(page):
    """The left cell and the code of every row of a page's tables whose right cell is code."""
    found = re.findall(r"^\| (.*) \| (.*`) \|$", (DOCS / page).read_text(), re.MULTILINE)
    return [(left.strip(), code) for left, cell in found for code in re.findall(r"`([^`]+)`", cell)]


TABLE = rows("theory.md")
COUNTERPARTS = rows("coming-from.md")


def context():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 4)), rng.standard_normal(8)
    net = of.ReLUNetwork.random([4, 4, 4, 4], seed=0)
    fields = net.fields(X)
    values = {
        "of": of,
        "np": np,
        "X": X,
        "y": y[:, None],
        "net": net,
        "fields": fields,
        "N": 8,
        "k": 1,
    }
    trained = of.ReLUNetwork(net.weights, net.readout, readout_rate=0.5).fields(X)
    values |= {
        "trained": trained,
        "l": 2,
        "order": 1,
        "mu": 0,
        "nu": 3,
        "v": rng.standard_normal(4),
    }
    return values | {"r": fields.outputs - values["y"]}


def wider_context():
    """What the page on other libraries names: the above, and a module of PyTorch where it is."""
    values = context() | {"pylops": pylops, "lam": 0.1, "t": 0.5}
    values["A"], values["B"] = values["X"], values["X"] ** 2
    values["X_new"] = -values["X"][:3]
    values["new_fields"] = values["net"].fields(values["X_new"])
    values["K"] = of.collective_kernel(values["fields"])
    values["J"] = of.jacobian(values["fields"])
    with contextlib.suppress(ImportError):
        import torch

        values["module"] = values["net"].to_torch().eval()
        values["inputs"], values["targets"] = torch.tensor(values["X"]), torch.tensor(values["y"])
    return values


@pytest.mark.parametrize("page", ["theory.md", "coming-from.md"])
def test_the_tables_are_found_whole(page):
    text = (DOCS / page).read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(lines) > 45 and len(rows(page)) >= len(lines)


@pytest.mark.parametrize(("equation", "code"), TABLE)
def test_every_row_of_the_table_runs(equation, code):
    assert eval(code, context()) is not None


@pytest.mark.parametrize(("theirs", "code"), COUNTERPARTS)
def test_every_counterpart_of_another_library_runs(theirs, code):
    if re.search(r"module|to_torch", code):
        pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    assert eval(code, wider_context()) is not None


@pytest.mark.parametrize(
    "name", sorted({n for _, c in TABLE for n in re.findall(r"of\.[\w.]+", c)})
)
def test_every_name_in_the_table_has_a_doctest_that_passes(name):
    found = eval(name, context())
    assert inspect.isfunction(found) or inspect.isclass(found), f"{name} is not public code"
    source = inspect.getmodule(found)
    tests = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(found, module=source)
        if test.examples
    ]
    assert tests, f"{name} has no doctest"
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize(
    "page",
    [
        "exact-flow.md",
        "extending.md",
        pytest.param("hierarchy.md", marks=pytest.mark.thorough),
        "kernels.md",
        "measurement.md",
        "operators.md",
        "quickstart.md",
        pytest.param("regression.md", marks=pytest.mark.thorough),
        "scale.md",
        pytest.param("spectral.md", marks=pytest.mark.thorough),
        "training.md",
        "velocities.md",
        "your-data.md",
    ],
)
def test_every_number_on_the_page_comes_out(page, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the page uses scikit-learn's digits")
    if page == "quickstart.md":
        pytest.importorskip("matplotlib", reason="the page draws a figure")
        monkeypatch.setenv("MPLBACKEND", "Agg")
        monkeypatch.chdir(tmp_path)  # where the figure goes
    result = doctest.testfile(
        str(DOCS / page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.attempted > 15 and result.failed == 0


def test_the_installation_page_has_the_versions_and_extras_of_the_project():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    page = (DOCS / "installation.md").read_text()
    stated = re.findall(r"^\| (\w+) \| ([\d.]+) or later \|$", page, re.MULTILINE)
    wanted = [*project["dependencies"], "python" + project["requires-python"]]
    assert sorted(f"{name.lower()}>={least}" for name, least in stated) == sorted(wanted)
    named = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))
    assert set(project["optional-dependencies"]) <= set(named)


def test_the_commands_of_the_training_page_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the page uses scikit-learn's digits")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) >= 5 and all(program == "opflow" for program, *_ in commands)
    for _, *options in commands:
        assert main(options) == 0
    assert of.Trajectory.load(tmp_path / "run" / "trajectory.npz").losses.shape == (41,)


def test_the_commands_for_ones_own_data_run(tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("sklearn.datasets", reason="the page uses its tables")
    pytest.importorskip("pandas", reason="scikit-learn makes tables of pandas")
    monkeypatch.chdir(tmp_path)
    table = datasets.load_wine(as_frame=True).frame
    table["target"] = "class_" + table["target"].astype(str)
    table.to_csv("wine.csv", index=False)
    table.drop(columns="target").head(20).to_csv("new.csv", index=False)
    page = (DOCS / "your-data.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    target = re.search(r"^target: .*$", page, re.MULTILINE)[0]
    assert target in capsys.readouterr().out
    predicted = Path("predictions.csv").read_text().split()
    assert predicted[0] == "target" and predicted[1:] == list(table["target"][:20])


@pytest.mark.parametrize("page", ["../README.md", "index.md", "pytorch.md"])
def test_the_python_of_a_page_runs_and_prints_what_the_page_shows(page, capsys):
    if page == "pytorch.md":
        pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    block = r"```python\n(.*?)```\n(?:```text\n(.*?)```)?"
    blocks = re.findall(block, (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    names = {}
    for code, shown in blocks:
        exec(code, names)
        printed = capsys.readouterr().out
        assert not shown or printed == shown


def test_every_public_name_has_a_page():
    page = (DOCS / "reference.md").read_text()
    listed = set()
    for module, block in re.findall(r"currentmodule:: (\S+)\n(.*?)```", page, re.DOTALL):
        listed |= {f"{module}.{name}" for name in re.findall(r"^   (\w+)$", block, re.MULTILINE)}
    found = public()
    present = {name.rpartition(".")[0] for name in found}  # without extras that are not installed
    assert found.keys() == {name for name in listed if name.rpartition(".")[0] in present}
