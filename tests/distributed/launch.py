"""Programs of this folder, run on several ranks."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: beside the interpreter, where the wheel of MPICH puts it, or on the path
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="MPI is not installed: pip install '.[mpi]'",
)


def patience(seconds):
    """Seconds to wait for what takes far less on a free machine: longer under load."""
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return seconds * max(1.0, load)


def command(ranks, *args):
    return [str(MPIEXEC), "-n", str(ranks), *map(str, args)]


def environment(**more):
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    one = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OPFLOW_NUM_THREADS")}
    return (
        os.environ
        | one
        | {"PYTHONWARNINGS": "error", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        | more
    )


def start(ranks, *args):
    """A command on `ranks` ranks that is still running."""
    return subprocess.Popen(
        command(ranks, *args), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(program, ranks, *args, timeout=120):
    """The output of a program of this folder, which must succeed on all ranks."""
    done = subprocess.run(
        command(ranks, sys.executable, "-m", "mpi4py", HERE / program, *args), env=environment(),
        capture_output=True, text=True, timeout=patience(timeout),
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def opflow(ranks, *args, timeout=120):
    """The command line on several ranks, finished."""
    words = [sys.executable, "-m", "opflow.cli.commands", *args]
    return subprocess.run(
        command(ranks, *words) if ranks else list(map(str, words)), env=environment(),
        capture_output=True, text=True, timeout=patience(timeout),
    )  # fmt: skip
