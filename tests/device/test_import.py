"""A CuPy that is installed but does not work does not stand in the way of the CPU unexplained."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import opflow as of
from opflow.cli.commands import main

ROOT = Path(__file__).parents[2]
#: as the wheel of CuPy 14 behaves where there is no CUDA: the package can be imported, this not
BROKEN = {
    "cupy/__init__.py": "class ndarray: pass",
    "cupyx/__init__.py": "",
    "cupyx/scipy/__init__.py": "",
    "cupyx/scipy/fft/__init__.py": "",
    "cupyx/scipy/linalg/__init__.py": "raise ImportError('No such file: libcublasLt.so.12')",
}
PRODUCT = "import opflow as of; print((of.Identity(2) @ [1.0, 2.0]).tolist())"


def python(code: str, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("CUPY_PYLOPS", "OPFLOW_DEVICE")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    for name, text in BROKEN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


#: every way in
IMPORTS = (
    "import opflow; opflow.train",
    "from opflow import *",
    "from opflow.dynamics import train",
    "import opflow.plot; opflow.plot.COLOURS; opflow.spectral",
)


@pytest.mark.parametrize(
    "way", [IMPORTS[0], *(pytest.param(way, marks=pytest.mark.thorough) for way in IMPORTS[1:])]
)
def test_a_cupy_without_cuda_is_explained_with_its_remedy(broken: Path, way: str) -> None:
    done = python(way, broken)
    assert done.returncode != 0
    last = done.stderr[done.stderr.rindex("ImportError:") :]
    assert "CuPy does not work on this machine: No such file: libcublasLt.so.12" in last
    assert "CUPY_PYLOPS=0" in last
    assert "cupy-cuda12x[ctk]" in last


def test_the_remedy_works(broken: Path) -> None:
    done = python(PRODUCT, broken, CUPY_PYLOPS="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.0, 2.0]"


def test_other_import_errors_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pylops.py").write_text("raise ImportError('something else')")
    done = python("import opflow; opflow.train", tmp_path)
    assert done.stderr.strip().endswith("ImportError: something else")


def test_on_one_host_nothing_of_mpi_or_cupy_is_imported() -> None:
    done = python(
        "import sys, numpy as np, opflow as of\n"
        "net = of.ReLUNetwork.random([3, 4], seed=0)\n"
        "of.train(net, np.eye(3), np.ones(3), steps=2)\n"
        "of.spectral.eigsh(of.collective_kernel(net.fields(np.eye(3))), 1)\n"
        "print({'cupy', 'cupyx', 'mpi4py', 'pylops_mpi'} & set(sys.modules))",
        ROOT, CUPY_PYLOPS="0",
    )  # fmt: skip
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.skipif("cupy" in sys.modules, reason="CuPy is there")
def test_moving_to_a_gpu_without_cupy_says_what_to_install() -> None:
    net = of.ReLUNetwork.random([2, 3], seed=0)
    with pytest.raises(ImportError, match=r"needs CuPy: pip install '.\[gpu\]'"):
        net.to("gpu")
    assert isinstance(net.to("cpu").readout, np.ndarray)
    with pytest.raises(ImportError, match=r"needs CuPy: pip install '.\[gpu\]'"):
        of.Streamed(np.eye(2))


@pytest.mark.skipif("cupy" in sys.modules, reason="CuPy is there")
def test_the_command_line_without_cupy_says_what_to_install_in_one_line(tmp_path, capsys) -> None:
    for command in (["train", "digits", "--widths", "4", "--steps", "1"], ["spectrum", "nowhere"]):
        out = tmp_path / "out"
        assert main([*command, "--device", "gpu", "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert told == "opflow: error: device 'gpu' needs CuPy: pip install '.[gpu]'\n"
        assert not out.exists()
