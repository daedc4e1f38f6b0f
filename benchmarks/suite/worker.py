"""One contender in a process of its own, told over a pipe what to do next.

``python -m benchmarks.suite.worker TASK CONTENDER THREADS`` answers each line on its standard input
with one JSON line: ``load FOLDER`` (a problem), ``ways`` (what opflow's cost model says of it),
``prepare`` (set-up and first call), ``round`` (seconds of a call), ``peak`` (bytes), ``drop`` (the
problem).  Set-up and compilation are paid once, rounds of several contenders can alternate, and
what was imported serves the next problem.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

#: idle threads of OpenBLAS busy-wait for 0.12 s, and take a core from what follows them
PAUSE = 0.2
#: seconds of calls that make a round, if one call takes less, and steps of a round
ROUND, STEPS = 0.05, (4, 40)
#: set-ups longer than this are done once: otherwise the second counts, without compilation
LONG = 10.0
COUNTS = [1, 20, 200]


def main() -> None:
    task, name, threads = sys.argv[1:]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print stays out of the pipe
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    work: Any = None
    for line in sys.stdin:
        what, *folder = line.rstrip("\n").split(" ", 1)
        try:
            if what == "load":
                work, told = load(task, name, folder[0], int(threads))
            elif what == "drop":
                work = None
                gc.collect()
                told = {"resident": status("VmRSS")}
            else:
                told = getattr(work, what)()
        except Exception as error:
            traceback.print_exc()
            first = str(error).strip().splitlines()
            told = {"skip": ": ".join([type(error).__name__, *first[:1]])}
        print(json.dumps(told), file=pipe, flush=True)


def load(task: str, name: str, folder: str, threads: int) -> tuple[Any, dict[str, Any]]:
    """Import what the contender needs and convert its data."""
    from benchmarks.suite.contenders import contender
    from benchmarks.suite.modules import ModuleProblem
    from benchmarks.suite.problems import Problem

    problem: Any = (ModuleProblem if task.startswith("module") else Problem)(folder, threads)
    work = Timed(contender(task, name)(problem), problem, task == "steps", Path(folder))
    return work, {"resident": status("VmRSS")}


class Timed:
    """What a worker answers."""

    def __init__(self, set_up: Any, problem: Any, steps: bool, folder: Path) -> None:
        self.set_up, self.problem, self.steps, self.folder = set_up, problem, steps, folder

    def ways(self) -> dict[str, Any]:
        """What opflow's cost model says of the problem."""
        from benchmarks.suite.ours import ways

        return ways(self.problem, COUNTS)

    def prepare(self) -> dict[str, Any]:
        """Set up, twice if it is short, call once, and leave the result in a file."""
        import numpy as np

        forget_peak()
        first_set_up, self.call = seconds(self.set_up)
        set_up = first_set_up
        if set_up < LONG:
            self.call = None
            set_up, self.call = seconds(self.set_up)
        first, result = seconds(lambda: self.call(1)) if self.steps else seconds(self.call)
        file = self.folder / f"result-{os.getpid()}.npy"
        np.save(file, result[0] if self.steps else result)
        del result
        took = first
        if took < LONG:
            took = self.call(2)[1][1] if self.steps else seconds(self.call)[0]
        self.repeats = max(1, math.ceil(ROUND / took))
        if self.steps:
            self.repeats = min(max(STEPS[0], self.repeats), STEPS[1])
        told = {"first_set_up": first_set_up, "set_up": set_up, "first": first}
        return {**told, "result": str(file), "peak": status("VmHWM")}

    def round(self) -> dict[str, Any]:
        """Seconds of one call, after a pause; of a step, the median of some, less the first."""
        import numpy as np

        time.sleep(PAUSE)
        if self.steps:
            return {"seconds": float(np.median(self.call(self.repeats)[1][1:]))}
        if self.repeats > 1:
            self.call()
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.call()
        return {"seconds": (time.perf_counter() - start) / self.repeats}

    def peak(self) -> dict[str, Any]:
        return {"peak": status("VmHWM")}


def seconds(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def forget_peak() -> None:
    """Count VmHWM from here, where Linux lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def status(name: str) -> int:
    """A number of bytes from ``/proc/self/status``; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
