"""Products of gates with matrices by look-up tables (four Russians), faster than BLAS.

For every four gates (or samples) a table holds the 16 possible sums of their rows over a strip of
columns; one look-up and addition replaces four multiplications and additions.  The loops are in an
optional extension, ``opflow._native``; without it, callers use BLAS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import reduce
from operator import iadd

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine import threads as pool
from opflow.machine.arrays import REAL_DTYPES, Array, Data, check_integer
from opflow.machine.native import native
from opflow.machine.workspace import row_slices, workspace_bytes

BLAS = "blas"
_asked: ContextVar[str | None] = ContextVar("gates", default=None)
_TIMES, _DOT, _BACK, _GRAM = range(4)
#: gates of a layer below which a matrix product is as fast
FEWEST = 32
#: width of a strip, in bytes
_STRIP = 128


def gate_engines() -> list[str]:
    """List the engines for gate products here, the default first and ``"blas"`` last.

    Returns
    -------
    list of str
        ``"blas"`` alone where the extension was not built.

    See Also
    --------
    opflow.gate_options : Chooses one.
    opflow.show_config : Prints the one in force.

    Examples
    --------
    >>> import opflow as of
    >>> of.gate_engines()[-1]
    'blas'
    """
    if native is None:
        return [BLAS]
    return [*native.engines(), BLAS]


def gate_engine() -> str:
    """The engine in force: that of :func:`gate_options`, of ``OPFLOW_GATES``, or the fastest."""
    if (name := _asked.get()) is not None:
        return name
    if name := os.environ.get("OPFLOW_GATES"):
        return _checked(name, "OPFLOW_GATES")
    return gate_engines()[0]


@contextmanager
def gate_options(engine: str | None = None, *, threads: int | None = None) -> Iterator[None]:
    """Choose the engine of gate products and the number of threads, in this Python thread alone.

    Parameters
    ----------
    engine : str, optional
        One of :func:`gate_engines`; operators choose their form when they are made.
    threads : int, optional
        Number of threads.  Gate products do not depend on it; products and steps that split their
        rows over threads do by rounding.

    Yields
    ------
    None
        A context manager, in whose block the choice holds.

    See Also
    --------
    opflow.gate_engines : The engines here.
    opflow.show_config : Prints engine and threads.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> with of.gate_options("blas", threads=1):
    ...     of.CoActivation(np.eye(2, dtype=bool)) @ np.ones(2)
    array([1., 1.])
    """
    with ExitStack() as options:
        if threads is not None:
            options.enter_context(pool.limited(check_integer(threads, "threads", 1)))
        if engine is not None:
            token = _asked.set(_checked(engine, "engine"))
            options.callback(_asked.reset, token)
        yield


def _checked(name: str, argument: str) -> str:
    engines = gate_engines()
    if name not in engines:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, engines))}, not {name!r}")
    return name


def tabulated(dtype: DTypeLike, *arrays: Data) -> bool:
    """Whether products in `dtype` of these arrays go through tables.

    They do if there is an engine, and all are plain arrays in host memory, in C order.
    """
    return (
        dtype in REAL_DTYPES
        and all(
            type(a) is np.ndarray and a.flags.c_contiguous and a.flags["ALIGNED"] for a in arrays
        )
        and gate_engine() != BLAS
    )


def times(bits: Array, n: int, M: Array) -> Array:
    """``Θ M``, (N, c): gates packed in `bits` (N, ⌈n/8⌉) times M (n, c).

    Costs 2·N·n·c flops at two to three times the rate of a matrix product; the workspace beyond
    the result does not grow with N.
    """
    N = len(bits)
    c = M.shape[1]
    M = _plain(M)
    out = np.empty((N, c), dtype=M.dtype)
    for s in row_slices(N, bits.shape[1] + 8):
        _product(_TIMES, bits[s], n, c, 1, M, None, out[s])
    return out


def row_dots(bits: Array, n: int, M: Array, X: Array) -> Array:
    """``out[b, μ] = X_μ · (Θ M_b)_μ``, (columns, N), for M (columns, n, c) and X (N, c).

    Costs as :func:`times` for each of the columns; ``Θ M`` is not formed.
    """
    N = len(bits)
    columns, _, c = M.shape
    M = _plain(M)
    out = np.empty((columns, N), dtype=M.dtype)
    for s in row_slices(N, _row_bytes(bits, c, columns, M.itemsize)):
        if s == slice(0, N):
            _product(_DOT, bits, n, c, columns, M, X, out)
        else:
            part = np.empty((columns, s.stop - s.start), dtype=M.dtype)
            _product(_DOT, bits[s], n, c, columns, M, X[s], part)
            out[:, s] = part
    return out


def weighted_sums(bits: Array, n: int, X: Array, r: Array | None = None) -> Array:
    """``Θᵀ diag(r_b) X``, (columns, n, c), for X (N, c) and r (columns, N) or None for ones.

    Costs as :func:`times` for each of the columns.
    """
    N, c = X.shape
    columns = 1 if r is None else len(r)

    def sums(s: slice) -> Array:
        out = np.empty((columns, n, c), dtype=X.dtype)
        weights = None if r is None else _plain(r[:, s])
        _product(_BACK, bits[s], n, c, columns, weights, X[s], out)
        return out

    return reduce(iadd, map(sums, row_slices(N, bits.shape[1] + 8)))


def gram_product(bits: Array, n: int, X: Array, r: Array, v: Array) -> Array:
    """``out[b, μ] = X_μ · (Θ diag(v)² Θᵀ diag(r_b) X)_μ``, (columns, N), for v (n,).

    Costs as :func:`weighted_sums` and :func:`row_dots`, in one call for both if the temporary
    arrays of both halves fit the caches.
    """
    N, c = X.shape
    columns = len(r)
    if N * (bits.shape[1] + 8 + _row_bytes(bits, c, columns, X.itemsize)) <= workspace_bytes() / 2:
        out = np.empty((columns, N), dtype=X.dtype)
        _product(_GRAM, bits, n, c, columns, _plain(r), X, out, _plain(v))
        return out
    sums = weighted_sums(bits, n, X, r)
    sums *= v[:, None]
    sums *= v[:, None]
    return row_dots(bits, n, sums, X)


def _row_bytes(bits: Array, c: int, columns: int, item: int) -> int:
    """Bytes that :func:`row_dots` holds per sample: its bits by words, and sums of all strips."""
    return bits.shape[1] + 8 + columns * (-(-c * item // _STRIP) + 1) * item


def _plain(array: Array) -> Array:
    return np.require(array, requirements=("C", "A"))


def _product(
    kind: int,
    bits: Array,
    n: int,
    c: int,
    columns: int,
    factor: Array | None,
    X: Array | None,
    out: Array,
    scale: Array | None = None,
) -> None:
    N = len(bits)
    flops = 2.0 * N * n * c * columns
    if kind == _GRAM:
        flops *= 2
    threads = 1
    if flops >= 2 * pool.SHARE:  # small products do not ask BLAS
        threads = min(int(flops / pool.SHARE), pool.count())
    native.product(
        kind, gate_engine(), out.itemsize, threads, N, n, c, columns, bits, factor, X, scale, out
    )
