"""The ranks that a command line was started on, and how they fail together."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from opflow.cli.launched import launched
from opflow.machine.ranks import together

#: seconds in which a rank that failed waits for the others to fail as well
PATIENCE = 5.0


class World:
    """The ranks of a command; the first one leads: it alone prints and writes.

    The first rank prints an error that all ranks have.  An error on some ranks alone would leave
    the others waiting for ever: those ranks print it, and it ends all.
    """

    def __init__(self) -> None:
        self.comm: Any = None  # of one process, which imports no MPI
        self._stderr = sys.stderr
        if launched():
            from opflow.distributed.extra import MPI

            self.comm = MPI.COMM_WORLD
            self._alarm = self.comm.Dup()
        self.leads = self.comm is None or self.comm.rank == 0

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Let the first rank alone write to stdout and stderr; end all if one goes astray."""
        with contextlib.ExitStack() as stack:
            if not self.leads:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            try:
                yield
            except Exception:
                if self.comm is None:
                    raise
                self._abort(traceback.format_exc(), 1)

    def lead(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the first rank, which alone does it; an error is one on all."""
        if self.comm is None:
            return work()
        done = together(self.comm, work if self.leads else lambda: None)
        return self.comm.bcast(done)

    def fail(self, text: str, code: int) -> int:
        """Tell an error, and end all ranks unless all have one; the exit code."""
        if self.comm is None or self._all_here():
            if self.leads:
                print(text, file=self._stderr)
            return code
        self._abort(f"{text} (on rank {self.comm.rank} of {self.comm.size})", code)
        return code

    def _all_here(self) -> bool:
        barrier = self._alarm.Ibarrier()
        end = time.monotonic() + PATIENCE
        while not barrier.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def _abort(self, text: str, code: int) -> None:
        print(text, file=self._stderr, flush=True)
        self.comm.Abort(code)
