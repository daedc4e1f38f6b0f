"""What the documentation says is run: every row of the table, every doctest it leads to."""

import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from opflow.cli.commands import main

DOCS = Path(__file__).parents[1] / "docs"
TABLE = [
    (equation.strip(), code)
    for equation, cell in re.findall(
        r"^\| (.*) \| (.*`) \|$", (DOCS / "theory.md").read_text(), re.MULTILINE
    )
    for code in re.findall(r"`([^`]+)`", cell)
]


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
    values |= {"trained": trained, "l": 2, "p": 1, "mu": 0, "nu": 3, "v": rng.standard_normal(4)}
    return values | {"r": fields.outputs - values["y"]}


def test_the_table_is_found_whole():
    text = (DOCS / "theory.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 45 and len(TABLE) >= len(rows)


@pytest.mark.parametrize(("equation", "code"), TABLE)
def test_every_row_of_the_table_runs(equation, code):
    assert eval(code, context()) is not None


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
        "extending.md",
        pytest.param("hierarchy.md", marks=pytest.mark.thorough),
        "scale.md",
        pytest.param("spectral.md", marks=pytest.mark.thorough),
        "training.md",
        "your-data.md",
    ],
)
def test_every_number_on_the_page_comes_out(page):
    pytest.importorskip("sklearn", reason="the page uses scikit-learn's digits")
    result = doctest.testfile(
        str(DOCS / page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.attempted > 15 and result.failed == 0


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


@pytest.mark.parametrize("page", ["../README.md", "pytorch.md"])
def test_the_python_of_a_page_runs(page, capsys):
    if page == "pytorch.md":
        pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(block, names)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("example", "options", "figures"),
    [
        ("compose_operators", [], 0),
        ("edge_of_stability", [], 0),
        ("hierarchy_truncation", ["--steps", "2"], 4),
        ("infinite_width", ["--quick"], 1),
        ("image_regression", ["--steps", "5", "--pixels", "500"], 3),
        ("kernel_of_a_resnet", ["--quick"], 1),
        ("spectral_analysis", ["--quick"], 6),
        ("torch_checkpoint", ["--quick"], 5),
        ("uncertainty", ["--held-out", "300"], 1),
        ("your_data", ["--steps", "20", "--seeds", "1"], 0),
    ],
)
def test_the_examples_run(example, options, figures, tmp_path):
    pytest.importorskip("sklearn", reason="the examples use scikit-learn's digits")
    pytest.importorskip("matplotlib", reason="the examples draw figures")
    if example in ("kernel_of_a_resnet", "torch_checkpoint"):
        pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    root = DOCS.parent
    options = [*options, "--out", str(tmp_path)] if options else []
    subprocess.run(
        [sys.executable, root / "examples" / f"{example}.py", *options],
        check=True,
        env=os.environ | {"PYTHONPATH": str(root), "MPLBACKEND": "Agg"},
        stdout=subprocess.DEVNULL,
    )
    assert len(list(tmp_path.glob("*.png"))) == figures
