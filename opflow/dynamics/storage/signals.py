"""Ctrl-C and the scheduler's SIGTERM: a request to stop, or an interrupt that is known by name."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While open, the first SIGINT or SIGTERM only sets `stop` to its name, for the loop to see.

    A second one of the same kind does what it did before: an immediate ``KeyboardInterrupt``, or
    the end.  With `at_once` the first one is a ``KeyboardInterrupt`` too.  Does nothing outside
    the main thread, where Python has no signals, nor with a signal that is ignored.
    """

    last: ClassVar[str] = ""  #: the signal that came last to any of those open

    def __init__(self, at_once: bool = False) -> None:
        self.stop = ""
        self._at_once = at_once
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in WATCHED:
                before = signal.getsignal(number)
                # None is a handler that is not Python's, which could not be put back.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop = Signals.last = signal.Signals(number).name
        if self._at_once:
            raise KeyboardInterrupt
        signal.signal(number, self._before[number])
