"""A user's script is checked strictly, and runs."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "typing" / "user_script.py"


def _check(*command):
    found = subprocess.run([*command, str(SCRIPT)], capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_script_runs():
    _check(sys.executable)


@pytest.mark.thorough
def test_mypy_finds_nothing_in_strict_mode(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    # as of an installed package: what is wrong inside it is not the user's
    options = [
        "--strict",
        "--follow-imports=silent",
        "--config-file",
        os.devnull,
        "--cache-dir",
        str(tmp_path),
    ]
    _check(sys.executable, "-m", "mypy", *options)


@pytest.mark.thorough
def test_pyright_finds_nothing_in_strict_mode():
    pyright = shutil.which("pyright") or shutil.which("pyright", path=Path(sys.executable).parent)
    if pyright is None:
        pytest.skip("pyright is not installed")
    _check(pyright, "--pythonpath", sys.executable)
