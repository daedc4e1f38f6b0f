"""Settings shared by every test."""

import os

os.environ.setdefault("OPFLOW_PROFILE", "default")  # what the cost model chooses is then fixed
if "PYTEST_XDIST_WORKER" in os.environ:  # idle threads of BLAS spin on the core of another worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPFLOW_NUM_THREADS", str(os.cpu_count()))

import functools
import importlib.util
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import InMemoryExampleDatabase

from tests import EXAMPLES

#: what cannot be imported without the package that it is for
NEEDS = {
    "opflow/distributed": "pylops_mpi",
    "opflow/sklearn.py": "sklearn",
    "opflow/torch": "torch",
    "tests/torch": "torch",
}
collect_ignore = [path for path, name in NEEDS.items() if not importlib.util.find_spec(name)]
# Other names of modules: collected, they would stand in the place of these.
collect_ignore += ["opflow/features.py", "opflow/hierarchy.py", "opflow/observe.py"]

for name, examples in (
    ("thorough", int(os.environ.get("OPFLOW_EXAMPLES", EXAMPLES))),
    ("short", 3),
):
    settings.register_profile(
        name,
        deadline=None,
        max_examples=examples,
        database=InMemoryExampleDatabase(),
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )

# A shell that starts the tests in the background ignores SIGINT, and so would their processes.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="run slow tests too, and others on more examples"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("thorough" if config.getoption("--thorough") else "short")


#: the algebra, the kernels and the door for data: what `pytest -m quick` runs
QUICK = ("opflow", "tests/operators/test_battery.py", "tests/relu", "tests/machine/test_arrays.py")
#: processes of their own, files, pages: last, so that what is cheap fails first
LAST = tuple(f"tests/{name}" for name in ("test_", "cli", "data", "plot", "distributed", "device"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        slow = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    for item in items:
        if item.nodeid.startswith(QUICK):
            item.add_marker("quick")
    items.sort(key=lambda item: item.nodeid.startswith(LAST))


@functools.cache
def missing_device() -> str | None:
    """Why there is no GPU to test on; None if there is one."""
    code = (
        "import cupy, sys; sys.exit(not cupy.cuda.is_available() and 'CuPy finds no CUDA device')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and (reason := missing_device()):
        pytest.skip(f"no GPU to test on: {reason}")
    if isinstance(item, pytest.DoctestItem) and "import torch" in item.dtest.docstring:
        pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
