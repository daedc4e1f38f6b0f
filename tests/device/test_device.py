"""The device tests, on the stand-in for CuPy and, where there is one, on a GPU.

Each runs in a process of its own, because PyLops decides at import whether there is a CuPy.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launch import needs_mpi, run

SUITE = Path(__file__).parent / "suite"


def suite(device: str, *options: str) -> None:
    root = SUITE.parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    # the settings that matter are swept on the host; here every path has to be taken
    examples = os.environ.get("OPFLOW_DEVICE_EXAMPLES", "3")
    chosen = {"OPFLOW_DEVICE": device, "OPFLOW_EXAMPLES": examples, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(SUITE), "-p", "no:cacheprovider", *options],
        cwd=root, env=os.environ | chosen, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_sample_runs_on_the_stand_in_for_cupy() -> None:
    suite("stand-in")


@pytest.mark.thorough
def test_everything_runs_on_the_stand_in_for_cupy() -> None:
    suite("stand-in", "--thorough")


@pytest.mark.gpu
def test_everything_runs_on_a_gpu() -> None:
    suite("cuda", "--thorough")


@pytest.mark.thorough
@needs_mpi
def test_ranks_on_the_stand_in_for_cupy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPFLOW_DEVICE", "stand-in")
    assert "done" in run(SUITE.parent / "ranks.py", 3, tmp_path)


@needs_mpi
@pytest.mark.gpu
def test_ranks_on_gpus(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPFLOW_DEVICE", "cuda")
    assert "done" in run(SUITE.parent / "ranks.py", 2, tmp_path, timeout=300)
