"""Transfers that opflow made, on the stand-in; nothing is counted on a real device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

STAND_IN = os.environ.get("OPFLOW_DEVICE") == "stand-in"


@contextmanager
def transfers() -> Iterator[list]:
    """What opflow moved between host and device in the block, known when it ends."""
    made: list = []
    if not STAND_IN:
        yield made
        return
    from tests.device.standin import watch

    with watch() as log:
        yield made
    made += [t for t in log if t.ours]
