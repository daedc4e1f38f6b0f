"""On the stand-in, no test may leave a race behind."""

import pytest

from tests.device.counting import STAND_IN

if STAND_IN:
    from tests.device import flights

    @pytest.fixture(autouse=True)
    def no_hazards():
        yield
        seen = flights.HAZARDS[:]
        flights.HAZARDS.clear()
        assert not seen
        assert flights.under_way() == 0
