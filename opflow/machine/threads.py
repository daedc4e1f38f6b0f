"""Ranges of rows over threads, each with a BLAS of one thread.

A threaded BLAS leaves the passes between its products to one core, and its idle threads spin on the
others meanwhile.  Here a thread takes a range of rows through all of a product: matrix products,
element-wise passes and gate products share one set of threads, made for the call and gone after it.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

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
        """That of Python 3.12, without the lock that all instances of a class had before.

        A child of a fork waits for ever if another thread of its parent had it, and threads that
        compute properties of different instances wait for each other.
        """

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value


R = TypeVar("R")
T = TypeVar("T")
#: flops below which a range is not worth a thread, which takes some 0.3 ms to be made
SHARE = 6e7
_asked: ContextVar[int | None] = ContextVar("threads", default=None)


def count() -> int:
    """Threads of a product: asked for, or of ``OPFLOW_NUM_THREADS``, or those of NumPy's BLAS."""
    if (asked := _asked.get()) is not None:
        return asked
    if (value := os.environ.get("OPFLOW_NUM_THREADS", "")).isdigit() and int(value) > 0:
        return int(value)
    if (found := _blas.threads()) is not None:
        return found
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """So many threads for the products of this Python thread."""
    token = _asked.set(threads)
    try:
        yield
    finally:
        _asked.reset(token)


def over_rows(
    n: int, work: Callable[[slice], R], flops: float, *data: Any, sums: float = 0.0
) -> list[R]:
    """``work`` of contiguous ranges that cover ``range(n)``, one a thread; results in their order.

    Parameters
    ----------
    n : int
    work : callable
        Called in several threads at a time, each with a share of the workspace.
    flops : float
        Of the whole; little of it is not spread.
    *data : arrays
        What rows are read of: only plain arrays in host memory may be read by several threads.
    sums : float
        Bytes that a range holds besides its row blocks, for sums over its rows.

    Notes
    -----
    Where it does not pay, or the workspace does not allow for so many sums, there is one range, in
    this thread, and BLAS keeps its own threads.  Ranges follow from the number of threads: sums of
    different numbers of threads differ by rounding.
    """
    threads = min(int(flops / SHARE), n)
    threads = min(threads, count()) if threads > 1 else threads  # BLAS is asked only then
    workspace = range_workspace(threads, sums) if threads > 1 else None
    plain = all(isinstance(a, np.ndarray) for a in data)
    if workspace is None or not plain or _blas.threads() is None:
        return [work(slice(0, n))]

    def share(i: int) -> R:
        if i:
            _blas.hold_here()
        with limited(1), workspace_limit(workspace):
            return work(slice(n * i // threads, n * (i + 1) // threads))

    with _blas.single() as held:
        if held:
            return _together(share, threads)
    return [work(slice(0, n))]


def over_items(
    items: Callable[[], Iterable[T]],
    work: Callable[[Iterator[T]], R],
    flops: float,
    *data: Any,
    sums: float = 0.0,
) -> list[R]:
    """``work`` of the items that a thread is dealt, one each in turn; else as :func:`over_rows`.

    `items` gives them anew to each thread, in one order.
    """
    hands = count()

    def share(mine: slice) -> R:
        return work(x for i, x in enumerate(items()) if mine.start <= i % hands < mine.stop)

    return over_rows(hands, share, flops, *data, sums=sums)


def bytes_over_rows(rows: float, sums: float) -> float:
    """The most that :func:`over_rows` takes: of `rows`, and for the sums of all threads but one."""
    threads, most = count(), workspace_bytes()
    return min(min(rows, threads * most) + (threads - 1) * sums, most + thread_bytes())


def _together(work: Callable[[int], R], threads: int) -> list[R]:
    """``work(0)`` here and the others in threads of their own; the first error is raised."""
    results: list[Any] = [None] * threads
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            place(i)
            results[i] = work(i)
        except BaseException as error:
            errors.append(error)

    others = [
        threading.Thread(target=contextvars.copy_context().run, args=(run, i), daemon=True)
        for i in range(1, threads)
    ]
    with ExitStack() as started:  # all are waited for, whatever happens here
        with _apart(threads) as place:
            for thread in others:
                thread.start()
                started.callback(thread.join)
        results[0] = work(0)
    if errors:
        raise errors[0]
    return results


@contextmanager
def _apart(threads: int) -> Iterator[Callable[[int], None]]:
    """Keep this thread on its core, and give what sends thread i, which calls it, to another.

    All may move again after that.  Left to the system a new thread is put beside its maker, and the
    two share a core for some milliseconds while another one idles.
    """
    cores, core = _cores(), _getcpu()()
    if core not in cores or threads > len(cores):
        yield lambda i: None
        return
    home = cores.index(core)

    def confine(some: list[int]) -> None:
        with suppress(OSError):
            os.sched_setaffinity(0, some)

    def place(i: int) -> None:
        confine([cores[(home + i) % len(cores)]])
        confine(cores)

    try:
        confine([cores[home]])
        yield place
    finally:
        confine(cores)


def _cores() -> list[int]:
    """The cores that this thread may use; none, if the system does not say."""
    try:
        return sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return []


@functools.cache
def _getcpu() -> Callable[[], int]:
    """What tells the core that the calling thread is on; -1 if the system does not say."""
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return lambda: -1


class _Blas:
    """The threads of the BLAS libraries of this process, as threadpoolctl knows them.

    Most keep one number for the process; those of OpenMP keep one for each thread of Python.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._known: list[tuple[Any, Callable[[int], Any]]] | None = None
        self._before: list[int] = []
        self._own: list[bool] = []  # whether it keeps a number a thread; empty until that was seen

    def threads(self) -> int | None:
        """How many it has when opflow does not hold it to one; None if it cannot be held."""
        with self._lock:
            return max(self._before if self._users else self._numbers(), default=None)

    @contextmanager
    def single(self) -> Iterator[bool]:
        """One thread a product, until the last of those who ask for it leaves.

        Yields whether it is so.
        """
        with self._lock:
            here = self._numbers()
            if not self._users:
                self._before = here
            self._users += 1  # before anything is set, so that a fork at any moment can restore it
            self._hold()
            held = max(self._numbers(), default=1) == 1
            if not self._own and max(here, default=1) > 1:
                self._own = self._apart()
        try:
            yield held
        finally:
            with self._lock:
                self._restore(here)
                self._users = max(self._users - 1, 0)

    def hold_here(self) -> None:
        """One thread also in a thread that is new, where a library keeps a number for each."""
        if any(self._own) or not self._own:
            self._hold()

    def restart(self) -> None:
        """What the child of a fork begins with: those who held BLAS are in the parent."""
        self._lock = threading.Lock()  # another thread may have had it
        if self._users:
            self._users = 1
            self._restore(self._before)
            self._users = 0

    def _libraries(self) -> list[tuple[Any, Callable[[int], Any]]]:
        """Each with what sets the number of its threads."""
        if self._known is None:  # not on import: it looks at every library of the process
            from threadpoolctl import ThreadpoolController

            found = ThreadpoolController().select(user_api="blas").lib_controllers
            self._known = [(library, _setter(library)) for library in found]
        return self._known

    def _numbers(self) -> list[int]:
        return [library.get_num_threads() or 1 for library, _ in self._libraries()]

    def _hold(self) -> None:
        for library, set_threads in self._libraries():
            if library.get_num_threads() != 1:
                set_threads(1)

    def _restore(self, here: list[int]) -> None:
        """What this thread had `here`, and for the last user what the process had."""
        for i, (library, set_threads) in enumerate(self._libraries()):
            if self._own and self._own[i]:
                set_threads(here[i])
            elif self._users <= 1 and library.get_num_threads() == 1:  # else others have set it
                set_threads(self._before[i])

    def _apart(self) -> list[bool]:
        """Which libraries are held in this thread and not in another."""
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.extend(self._numbers()))
        other.start()
        other.join()
        return [number != 1 for number in seen]


def _setter(library: Any) -> Callable[[int], Any]:
    """What sets the number of threads of a BLAS library, from any thread.

    The pool of OpenBLAS is the process's; that of threadpoolctl (from 3.7 on) does nothing in any
    thread but the first that has set a number.
    """
    if library.internal_api == "openblas" and library.threading_layer != "openmp":
        loaded = ctypes.CDLL(library.filepath)
        for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
            with suppress(AttributeError):
                return loaded[f"{prefix}openblas_set_num_threads{suffix}"]
    return library.set_num_threads


_blas = _Blas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas.restart)
