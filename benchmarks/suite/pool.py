"""The processes of contenders: what is said to them, and which serve the next cell again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite.problems import Shape

ROOT = Path(__file__).parents[2]
#: bytes with which a process that has dropped its problem is too large to serve again
TOO_LARGE = 2**30


class Options(NamedTuple):
    """What the command line chose."""

    rounds: int
    patience: float
    deadline: float
    contenders: list[str] | None
    neural_tangents: str | None
    quick: bool


class Cell(NamedTuple):
    """One row of the results."""

    task: str
    workload: str
    shape: Shape
    dtype: str
    threads: int
    columns: int

    @property
    def key(self) -> str:
        return f"{self.task}/{self.workload}/{self.dtype}/{self.threads}/{self.columns}"


class Skipped(Exception):
    """A contender that cannot be timed, and why."""


class Worker:
    """A contender's process, and the pipe to it."""

    def __init__(self, cell: Cell, name: str, options: Options) -> None:
        limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = os.environ | dict.fromkeys(limits, str(cell.threads))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        env |= {"TORCH_PYLOPS": "0", "JAX_PYLOPS": "0"}  # else every worker of ours imports both
        if not options.quick:
            env.pop("OPFLOW_PROFILE", None)  # the cost model is judged by its nominal rates
        if name == "opflow, BLAS":
            env["OPFLOW_GATES"] = "blas"
        python = sys.executable
        if name == "neural-tangents" and options.neural_tangents:
            python = options.neural_tangents
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.suite.worker", cell.task, name, str(cell.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=env,
        )  # fmt: skip

    def hear(self) -> dict[str, Any]:
        """The next answer."""
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.errors.seek(0)
            last = self.errors.read().strip().rpartition("\n")[2]
            raise Skipped(f"its process ended with status {self.process.wait()}: {last}")
        told = json.loads(line)
        if "skip" in told:
            raise Skipped(told["skip"])
        return told

    def tell(self, what: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # heard of with the next answer
            self.process.stdin.write(what + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]

    def ask(self, what: str) -> dict[str, Any]:
        self.tell(what)
        return self.hear()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        self.process.stdout.close()  # type: ignore[union-attr]
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


class Pool:
    """The workers of one task and number of threads: importing torch or JAX takes seconds."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._kept: dict[str, Worker] = {}
        self._serves: tuple[str, int] | None = None

    def worker(self, cell: Cell, name: str) -> Worker:
        """A process for this contender, kept from the cell before or started."""
        if self._serves != (cell.task, cell.threads):
            self.close()
            self._serves = cell.task, cell.threads
        if name not in self._kept:
            self._kept[name] = Worker(cell, name, self.options)
        return self._kept[name]

    def end(self, name: str) -> None:
        self._kept.pop(name).end()

    def rest(self) -> None:
        """Let go of the problem, and of workers that hold on to it."""
        for name, worker in list(self._kept.items()):
            try:
                large = worker.ask("drop")["resident"] > TOO_LARGE
            except Skipped:
                large = True
            if large:
                self.end(name)

    def close(self) -> None:
        for name in list(self._kept):
            self.end(name)
