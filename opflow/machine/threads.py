"""Ranges of rows over threads, each with a BLAS of one thread.

With a multi-threaded BLAS, the element-wise work between matrix products runs on one core while
BLAS's idle threads busy-wait on the others.  Here each thread takes a range of rows through a whole
product: matrix products, element-wise passes and gate products share the threads of one call.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from opflow.machine.arrays import Array
from opflow.machine.blas import Blas
from opflow.machine.workspace import (
    range_workspace,
    thread_bytes,
    workspace_bytes,
    workspace_limit,
)

if TYPE_CHECKING:
    from functools import cached_property
else:

    class cached_property(functools.cached_property):
        """That of Python 3.12: before, all instances of a class shared a lock.

        With it, the child of a fork would wait for ever if another thread of its parent held it,
        and threads that compute properties of different instances would wait for each other.
        """

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value


R = TypeVar("R")
T = TypeVar("T")
#: flops per thread below which a product stays on one: making a thread takes some 0.3 ms
SHARE = 6e7
#: flops that take as long as reading a byte from memory
PER_BYTE = 8.0
#: how many times as long a flop takes in a product with few vectors as in a large one
SKINNY = 3.0
#: entries of a matrix up to which OpenBLAS multiplies it by a vector in one thread
ALONE = 9216
_asked: ContextVar[int | None] = ContextVar("threads", default=None)
_blas = Blas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas.restart)


def count() -> int:
    """Threads of a product: as asked for, or ``OPFLOW_NUM_THREADS``, or those of NumPy's BLAS."""
    if (asked := _asked.get()) is not None:
        return asked
    if (value := os.environ.get("OPFLOW_NUM_THREADS", "")).isdigit() and int(value) > 0:
        return int(value)
    if (found := _blas.threads()) is not None:
        return found
    return len(_cores()) or os.cpu_count() or 1


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Use this number of threads for the products of this Python thread."""
    token = _asked.set(threads)
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def quiet(entries: float = math.inf) -> Iterator[None]:
    """Hold BLAS at one thread, for small work between products that :func:`over_rows` does.

    Idle threads of OpenBLAS busy-wait for 0.1 s, and would take half of the time of the next one.
    None are at work on a matrix of few `entries`.
    """
    if entries < ALONE:
        yield
        return
    with _blas.single():
        yield


def over_rows(
    n: int, work: Callable[[slice], R], flops: float, *data: object, sums: float = 0.0
) -> list[R]:
    """``work`` of contiguous ranges that cover ``range(n)``, one per thread; results in order.

    Several threads call `work` at a time, each with its part of the workspace.  There is one range,
    in this thread, and BLAS keeps its own threads, if the call has too few `flops` (fewer than
    `SHARE` per thread), if the `data` that rows are read of is not all plain arrays in host memory,
    or if the workspace does not hold the `sums`: bytes for sums over the rows of a range.  Sums of
    different numbers of threads differ by rounding.
    """
    whole = slice(0, n)
    if flops < 2 * SHARE or n < 2:  # small products pay for one frame, and do not ask BLAS
        return [work(whole)]
    threads = min(int(flops / SHARE), n, count())
    workspace = range_workspace(threads, sums) if threads > 1 else None
    plain = all(isinstance(a, np.ndarray) for a in data)
    if workspace is None or not plain or _blas.threads() is None:
        return [work(whole)]

    def one(i: int) -> R:
        if i:
            _blas.hold_here()
        with limited(1), workspace_limit(workspace):
            return work(slice(n * i // threads, n * (i + 1) // threads))

    with _blas.single() as held:
        if held:
            return _together(one, threads)
    return [work(whole)]


def large(A: Array) -> bool:
    """Whether A takes so long to read that several threads of this process should."""
    return isinstance(A, np.ndarray) and PER_BYTE * A.nbytes >= 2 * SHARE


def by_rows(A: Array, X: Array) -> Array:
    """``A X`` for a tall A and few vectors, each thread with some rows of A."""
    if not isinstance(A, np.ndarray):
        return A @ X
    out = np.empty((len(A), X.shape[1]), dtype=np.result_type(A, X))

    def multiply(s: slice) -> None:
        np.matmul(A[s], X, out=out[s])

    over_rows(len(A), multiply, SKINNY * 2.0 * A.size * X.shape[1] + PER_BYTE * A.nbytes, A, X)
    return out


def over_items(
    items: Callable[[], Iterable[T]],
    work: Callable[[Iterator[T]], R],
    flops: float,
    *data: object,
    sums: float = 0.0,
) -> list[R]:
    """``work`` of the items of each thread, dealt in turn; else as :func:`over_rows`.

    `items` is called by each thread, and lists them in the same order every time.
    """
    hands = count()

    def mine(threads: slice) -> R:
        return work(x for i, x in enumerate(items()) if threads.start <= i % hands < threads.stop)

    return over_rows(hands, mine, flops, *data, sums=sums)


def bytes_over_rows(rows: float, sums: float) -> float:
    """Most memory :func:`over_rows` takes: for `rows`, and for the sums of all threads but one."""
    threads = count()
    most = workspace_bytes()
    return min(min(rows, threads * most) + (threads - 1) * sums, most + thread_bytes())


def _together(work: Callable[[int], R], threads: int) -> list[R]:
    """``work(0)`` here and the others in threads of their own, which have ended on return."""
    # Left to the system a new thread starts on the core of its maker, and the two share it for some
    # milliseconds while another core idles.  So this thread stays on its core while it starts the
    # others, each of those first moves to a core of its own, and after that all may move again.
    cores = _cores()
    core = _getcpu()()
    pinned = core in cores and threads <= len(cores)
    home = cores.index(core) if pinned else 0

    results: list[Any] = [None] * threads
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            if pinned:
                _confine([cores[(home + i) % len(cores)]])
                _confine(cores)
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    started = []
    try:
        if pinned:
            _confine([core])
        try:
            for i in range(1, threads):
                context = contextvars.copy_context()
                thread = threading.Thread(target=context.run, args=(run, i), daemon=True)
                thread.start()
                started.append(thread)
        finally:
            if pinned:
                _confine(cores)
        results[0] = work(0)
    finally:
        for thread in started:
            thread.join()
    if errors:
        raise errors[0]
    return results


def _confine(cores: list[int]) -> None:
    with suppress(OSError):
        os.sched_setaffinity(0, cores)


def _cores() -> list[int]:
    """The cores that this thread may use; none if the system does not say."""
    try:
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return []


@functools.cache
def _getcpu() -> Callable[[], int]:
    """The C function that returns the core of the calling thread, or −1 if it is not known."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return lambda: -1
