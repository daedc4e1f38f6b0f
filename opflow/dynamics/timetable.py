"""When a run records, and when it ends."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

from opflow.machine.arrays import check_integer


class Timetable(NamedTuple):
    """When a run records, and when it ends."""

    #: steps and time at which it ends, infinite where not given
    limit: float
    end: float
    #: the only times to record, besides the start and the end
    stops: list[float] | None
    #: steps from one record to the next, where there are no stops
    every: int

    @classmethod
    def of(
        cls,
        steps: int | None,
        until: float | None,
        times: Sequence[float] | None,
        every: int,
    ) -> Timetable:
        """The timetable of these arguments of :func:`opflow.train`, checked."""
        if steps is None and until is None and times is None:
            raise ValueError("steps or until (or times) is needed to know when to stop")
        limit = end = math.inf
        if steps is not None:
            if not isinstance(steps, numbers.Integral) or isinstance(steps, bool):
                raise TypeError(f"steps must be an integer, not {steps!r}")
            if steps < 0:
                raise ValueError(f"steps must not be negative, not {steps}")
            limit = int(steps)
        if until is not None:
            if not 0 <= until < math.inf:
                raise ValueError(f"until must be a finite time, not {until!r}")
            end = until
        stops = None
        if times is not None:
            if until is not None:
                raise ValueError("until and times exclude each other: the last of times is the end")
            stops = [float(t) for t in times]
            increasing = all(a < b for a, b in itertools.pairwise([*stops, math.inf]))
            if not stops or stops[0] < 0 or not increasing:
                raise ValueError(f"times must be increasing and not negative, not {times!r}")
            end = stops[-1]
        return cls(limit, end, stops, check_integer(every, "every", 1))

    @property
    def steps(self) -> int | None:
        """Steps at which the run ends, if they are known."""
        return None if math.isinf(self.limit) else int(self.limit)

    def records(self, step: int, time: float) -> bool:
        """Whether a moment is recorded for its own sake, and not because the run ends there."""
        if self.stops is not None:
            return step == 0 or time in self.stops
        return step % self.every == 0

    def finished(self, step: int, time: float) -> bool:
        """Whether the run ends here."""
        return step >= self.limit or time >= (1 - 1e-12) * self.end

    def target(self, time: float) -> float:
        """The time that the next step must not pass."""
        if self.stops is None:
            return self.end
        return next(t for t in self.stops if t - time > 1e-12 * t)
