"""Progress on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from tqdm import tqdm

#: seconds between two lines, where a bar could not be redrawn
EVERY = 10.0


class OutOfTime(Exception):
    """The time limit of a bar is over."""


class Bar(tqdm):
    """The bar of tqdm, or a line every ten seconds; raises `OutOfTime` after its time limit."""

    def __init__(self, *, seconds: float = math.inf, **options: Any) -> None:
        now = time.monotonic()
        self._end = now + seconds
        self._next = now + EVERY  # of a line
        # a notebook redraws, though its stderr is no terminal
        self._lines = not (sys.stderr.isatty() or "ipykernel" in sys.modules)
        super().__init__(**{"leave": not self._lines, **options})

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if time.monotonic() > self._end:
            raise OutOfTime
        return shown

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:
        if not self._lines:
            return super().display(msg, pos)
        if msg is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False
