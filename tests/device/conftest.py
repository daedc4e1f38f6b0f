"""The tests in `suite` run on a device, or on the stand-in for one, in a process of their own.

PyLops decides at import which array modules there are, so the choice is made before: by
``OPFLOW_DEVICE``, which :mod:`tests.device.test_device` sets.  Plain ``pytest`` runs them so.
"""

import os
import time

import pytest

#: tests that have not begun in so many seconds are skipped
UNTIL = time.monotonic() + float(os.environ.get("OPFLOW_SECONDS", "inf"))

#: on the stand-in, one test of so many is run unless all are asked for
SAMPLE = 12
#: a program that ranks run
collect_ignore = ["ranks.py"]
if os.environ.get("OPFLOW_DEVICE") == "stand-in":
    from tests.device import standin

    standin.install()
elif os.environ.get("OPFLOW_DEVICE") != "cuda":
    collect_ignore += ["suite"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() > UNTIL:
        pytest.skip("no time was left")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    where = os.environ.get("OPFLOW_DEVICE")
    if where == "stand-in" and not config.getoption("--thorough"):
        items[:] = items[::SAMPLE]
    elif where == "cuda":  # samples one after the other: a run cut short has tried everything
        items[:] = [item for first in range(SAMPLE) for item in items[first::SAMPLE]]
