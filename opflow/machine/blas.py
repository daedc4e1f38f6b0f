"""The number of threads of the BLAS libraries in this process, held at one while rows are split.

Most libraries keep one number for the process; those built on OpenMP keep one per Python thread.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from threadpoolctl import ThreadpoolController


class Blas:
    """The BLAS libraries of this process, as threadpoolctl knows them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0  # blocks of `single` that are open, in all threads
        self._known: list[tuple[Any, Callable[[int], Any]]] | None = None
        self._before: list[int] = []  # numbers of threads before the first user
        self._own: list[bool] = []  # which keep a number per thread; empty until that was seen

    def threads(self) -> int | None:
        """The number of threads outside of `single`; None if no library can be set."""
        with self._lock:
            return max(self._before if self._users else self._numbers(), default=None)

    @contextmanager
    def single(self) -> Iterator[bool]:
        """One thread per product until the last open block ends; yields whether that is so."""
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
        """One thread also in a new Python thread, for libraries that keep a number for each."""
        if any(self._own) or not self._own:
            self._hold()

    def restart(self) -> None:
        """Restore the libraries in the child of a fork: the users are threads of the parent."""
        self._lock = threading.Lock()  # another thread may have held it
        if self._users:
            self._users = 1
            self._restore(self._before)
            self._users = 0

    def _libraries(self) -> list[tuple[Any, Callable[[int], Any]]]:
        """Each library and the function that sets the number of its threads."""
        if self._known is None:  # not on import: it looks at every library of the process
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
        """The numbers this thread had, `here`, and after the last user those of the process."""
        for i, (library, set_threads) in enumerate(self._libraries()):
            if self._own and self._own[i]:
                set_threads(here[i])
            elif self._users <= 1 and library.get_num_threads() == 1:  # else others have set it
                set_threads(self._before[i])

    def _apart(self) -> list[bool]:
        """Which libraries have one thread here and more in another Python thread."""
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.extend(self._numbers()))
        other.start()
        other.join()
        return [number != 1 for number in seen]


def _setter(library: Any) -> Callable[[int], Any]:
    """The function that sets the number of threads of a BLAS library, from any Python thread.

    For OpenBLAS it is the library's own: that of threadpoolctl (since 3.7) has no effect in any
    thread but the first that called it.
    """
    if library.internal_api == "openblas" and library.threading_layer != "openmp":
        loaded = ctypes.CDLL(library.filepath)
        for prefix, suffix in itertools.product(("", "scipy_"), ("", "64_", "_64")):
            with suppress(AttributeError):
                return loaded[f"{prefix}openblas_set_num_threads{suffix}"]
    return library.set_num_threads
