"""On the stand-in, no test may leave a race behind; row blocks are small, as on the host."""

import pytest

from opflow.machine import workspace
from tests.device.counting import STAND_IN


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(workspace, "DEVICE_WORKSPACE", 0)


if STAND_IN:
    from tests.device import flights

    @pytest.fixture(autouse=True)
    def no_hazards():
        yield
        seen = flights.HAZARDS[:]
        flights.HAZARDS.clear()
        assert not seen
        assert flights.under_way() == 0
