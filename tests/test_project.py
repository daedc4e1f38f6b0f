"""The files around the package agree with each other."""

import re
import tomllib
from pathlib import Path

import opflow
from tests.operators.battery import CHECKS, FACTORIES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def test_there_is_one_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf8")
    (cited,) = re.findall(r"^version: (\S+)$", citation, re.MULTILINE)
    page = (ROOT / "docs/citing.md").read_text(encoding="utf8")
    (shown,) = re.findall(r"^ *version *= \{(.*)\}", page, re.MULTILINE)
    assert PROJECT["version"] == opflow.__version__ == cited == shown
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    assert opflow.__version__ in re.findall(r"^## (\S+)", changelog, re.MULTILINE)


def test_mutations_name_tests_that_exist():
    page = (ROOT / "tests/operators/MUTATIONS.md").read_text(encoding="utf8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 200
    sources = {path: path.read_text(encoding="utf8") for path in (ROOT / "tests").rglob("*.py")}
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(sources.values()), re.MULTILINE))
    for row in rows:
        caught = row.removesuffix(" |").split(" | ")[-1]
        for name in re.findall(r"`(test_\w+)", caught):
            beginning = f"{name}…" in caught
            assert any(n.startswith(name) for n in defined) if beginning else name in defined, row
        for file in re.findall(r"`(\w+/test_\w+\.py)`", caught):
            assert (ROOT / "tests" / file).exists(), row
        for factory, check in re.findall(r"`(\w+)`: ([a-z ]+)$", caught):
            assert factory in FACTORIES and check.replace(" ", "_") in CHECKS, row


def test_links_of_the_front_pages_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / link).exists(), f"{page}: {link}"
