"""The time limit of an analysis, shared among its parts; the seconds and memory it took."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from opflow.cli.folder import Numbers
from opflow.interface.keywords import product_bar
from opflow.interface.progress import OutOfTime
from opflow.operators.describe import duration


class Clock:
    """Shares the seconds of an analysis among its parts, and stops what takes longer."""

    def __init__(self, seconds: float, progress: bool) -> None:
        self._end = time.monotonic() + seconds
        self._progress = progress
        self.pace = 0.0  #: seconds per product with a vector; 0: they take none to speak of

    def part(self, name: str, left: int) -> None:
        """Begin a part, after which there are `left` − 1 more."""
        self.name = name
        self.skipped: dict[str, str] = {}  #: what the part leaves out, and why
        now = time.monotonic()
        self.until = now + max(self._end - now, 0.0) / left

    def left(self) -> float:
        """Seconds left of the part."""
        return max(self.until - time.monotonic(), 0.0)

    def fits(self, most: int, products: int, share: float = 1.0) -> int:
        """How many things of so many products each fit into a share of the time, at most `most`."""
        if not self.pace:
            return most
        return int(min(most, share * self.left() / (products * self.pace)))

    def run(
        self,
        name: str,
        products: int,
        work: Callable[[], Any],
        hint: str = "more ",
        asked: bool = False,
    ) -> Any:
        """The result of `work`; None if time is short, with the reason in `skipped`.

        Work that the user asked for by name has no limit and takes no time from the rest.
        """
        started = time.monotonic()
        left = math.inf if asked else self.left()
        need = products * self.pace
        if need <= left:
            try:
                label = f"{self.name}: {name.replace('_', ' ')}"
                with product_bar(label, seconds=left, disable=not self._progress):
                    return work()
            except OutOfTime:
                need = left
            finally:
                if asked:
                    spent = time.monotonic() - started
                    self.until += spent
                    self._end += spent
        takes = f"it takes about {duration(need)} or more"
        self.skipped[name] = f"{takes}, and {duration(left)} are left: {hint}--seconds"
        return None


def taken(started: float) -> Numbers:
    """Seconds since then, and bytes held at the peak; 0 where the system does not say."""
    peak = 0
    with contextlib.suppress(ImportError):  # Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": time.perf_counter() - started, "peak_memory": peak}


def used(s: Numbers) -> str:
    """The seconds and the memory of a summary, in words."""
    seconds = f"{s['seconds']:.1f} s"
    if not s["peak_memory"]:
        return seconds
    return f"{seconds}, {s['peak_memory'] / 2**20:,.0f} MiB at the peak"
