"""The suite of device tests, on the stand-in for CuPy and, where there is one, on a GPU.

Each runs in a process of its own, because PyLops decides at import whether there is a CuPy.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "suite"
COUNT = """
import sys
try:
    import cupy
    sys.exit(0 if cupy.cuda.is_available() else "CuPy finds no CUDA device")
except ImportError as error:
    sys.exit(f"CuPy cannot be imported: {error}")
"""


def suite(device: str, *arguments: str) -> None:
    root = SUITE.parents[2]
    command = [sys.executable, "-m", "pytest", str(SUITE), "-p", "no:cacheprovider", *arguments]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OPFLOW_DEVICE": device, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_everything_runs_on_the_stand_in_for_cupy() -> None:
    suite("stand-in")


def missing_device() -> str | None:
    """Why there is no GPU to test on; None if there is one."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    found = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    return None if found.returncode == 0 else found.stderr.strip().splitlines()[-1]


@pytest.mark.gpu
def test_everything_runs_on_a_gpu() -> None:
    if reason := missing_device():
        pytest.skip(f"no GPU to test on: {reason}")
    suite("cuda")
