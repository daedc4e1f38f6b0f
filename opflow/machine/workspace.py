"""Memory: budgets such as ``'1GB'`` parsed, and sizes of blocks of rows and tiles that keep to it.

A product visits its samples in blocks whose temporary arrays stay below `WORKSPACE` bytes, so its
memory does not grow with the number of samples.  Blocks need not divide the number of rows.
"""

from __future__ import annotations

import itertools
import math
import numbers
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Index, module_name, namespace
from opflow.machine.streams import prefetched

#: temporary memory of a product for one block of rows, in bytes
WORKSPACE = 8 << 20
#: on a device, whose kernels need larger blocks: one part in so many of the free memory ...
DEVICE_SHARE = 32
#: ... and at most so many bytes
DEVICE_WORKSPACE = 256 << 20
#: default extra temporary memory, in bytes, for products run on several threads
THREAD_MEMORY = 256 << 20
#: smallest workspace per thread, in bytes; with less, the product runs on one thread
LEAST = 2 << 20
#: tiles along a side of a matrix, for threads to share
TILES = 4
#: rows of a tile below which matrix products of it are slow
LEAST_SIDE = 256
_limit: ContextVar[tuple[float, float]] = ContextVar("workspace", default=(math.inf, THREAD_MEMORY))


def workspace_bytes(where: str | None = "numpy") -> float:
    """The workspace in force: :func:`most_workspace`, or what :func:`workspace_limit` allows.

    On a device a limit is the workspace: it does not change with the free memory, so that sums in a
    run are over the same blocks.
    """
    limit = _limit.get()[0]
    if where == "cupy" and limit < math.inf:
        return limit
    return min(limit, most_workspace(where))


def most_workspace(where: str | None) -> float:
    """`WORKSPACE`; on a device the power of two within a share of the free memory, if larger."""
    if where != "cupy":
        return WORKSPACE
    share = max(free_memory(where) / DEVICE_SHARE, 1.0)
    return max(WORKSPACE, min(DEVICE_WORKSPACE, 2.0 ** math.floor(math.log2(share))))


def thread_bytes() -> float:
    """The extra temporary memory, in bytes, for products run on several threads."""
    return _limit.get()[1]


@contextmanager
def workspace_limit(limit: float, spread: float = 0.0) -> Iterator[None]:
    """Keep the workspace of every product below `limit` bytes, in this Python thread.

    A product run on several threads may take `spread` bytes more, for all of them together.

    >>> with workspace_limit(16):
    ...     row_slices(5, 8)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    token = _limit.set((limit, spread))
    try:
        yield
    finally:
        _limit.reset(token)


def range_workspace(threads: int, sums: float) -> float | None:
    """The workspace per thread, in bytes; None if too little is left for several threads.

    All but one thread hold `sums` bytes besides, for sums over their rows.
    """
    most = workspace_bytes()
    per_thread = (most + thread_bytes() - (threads - 1) * sums) / threads
    if per_thread < min(LEAST, most):
        return None
    return min(per_thread, most)


def row_slices(
    n: int | slice,
    bytes_per_row: float,
    workspace: float | None = None,
    where: str | None = "numpy",
) -> list[slice]:
    """Slices that cover ``range(n)``, of nearly equal length, each within the workspace.

    `n` may be a range itself, as a slice; `where` is the array module of the data.

    >>> row_slices(5, 8, workspace=16)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    rows = n if isinstance(n, slice) else slice(0, n)
    length = rows.stop - rows.start
    if workspace is None and where == "cupy" and length * bytes_per_row > WORKSPACE:
        workspace = workspace_bytes(where)  # asked only where it matters: the device answers slowly
    pieces = max(1, -(-length // block_rows(bytes_per_row, workspace)))
    edges = [rows.start - (-length * i // pieces) for i in range(pieces + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def block_rows(bytes_per_row: float, workspace: float | None = None) -> int:
    """The most rows of a block within the workspace; one at least."""
    return max(1, int((workspace or workspace_bytes()) // max(bytes_per_row, 1)))


def selector(op: Any, index: Index, size: int) -> Array:
    """Columns of the identity of order `size`, on the device of `op`'s data."""
    xp = op_namespace(op)
    wanted = xp.arange(size)[index]
    columns = xp.zeros((size, len(wanted)), dtype=op.dtype)
    columns[wanted, xp.arange(len(wanted))] = 1
    return columns


def op_namespace(op: Any) -> Any:
    """The array module of the data at the leaves of an operator; NumPy if it has none."""
    return sys.modules[operator_module(op) or "numpy"]


def operator_module(op: Any) -> str | None:
    """``"numpy"`` or ``"cupy"``, where the data of an operator is; None if it has none.

    Found once and kept: operators do not change.
    """
    if "_where" not in vars(op):
        data = op.data
        if data is not None:
            op._where = module_name(data)
        else:
            found = map(operator_module, op.operands)
            op._where = next((where for where in found if where is not None), None)
    return op._where


def block_module(op: Any) -> str | None:
    """:func:`operator_module`, by which blocks are sized; None if ranks hold parts of the operator.

    Those sum over ranks block by block, so blocks must not depend on the memory of each.
    """
    where = operator_module(op)
    if where == "cupy" and _spread(op):
        return None
    return where


def _spread(op: Any) -> bool:
    """Whether ranks hold parts of the operator."""
    return op.space.sharded or op.domain.sharded or any(map(_spread, op.operands))


def row_data(op: Any) -> Any:
    """The data that an operator reads its rows from; None if it does not store rows."""
    if op.row_access and op.rows_stored:
        return op.data
    return None


def blocked_matmat(op: Any, X: Array) -> Array:
    """``A X`` for an operator that gives its rows, block by block."""
    m, n = op.shape
    out = namespace(X).empty((m, X.shape[1]), dtype=X.dtype)
    for s in prefetched(row_slices(m, n * X.dtype.itemsize, where=module_name(X)), op):
        out[s] = op.rows(s) @ X
    return out


def blocked_rmatmat(op: Any, X: Array) -> Array:
    """``Aᵀ X`` for an operator that gives its rows, block by block."""
    m, n = op.shape
    out = namespace(X).zeros((n, X.shape[1]), dtype=X.dtype)
    for s in prefetched(row_slices(m, n * X.dtype.itemsize, where=module_name(X)), op):
        out += op.rows(s).T @ X[s]
    return out


def tile_side(bytes_per_entry: float, n: int, where: str | None = "numpy") -> int:
    """Rows of a square tile of a matrix with n columns, which fits the workspace."""
    most = max(1, int((workspace_bytes(where) / bytes_per_entry) ** 0.5))
    return min(most, max(-(-n // TILES), LEAST_SIDE))


def tiles(m: int, n: int, symmetric: bool, side: int) -> Iterator[tuple[slice, slice]]:
    """Row and column slices of square-ish tiles; only those on and above a symmetric diagonal.

    Tiles on the diagonal, which cost half as much, come last.
    """
    columns = row_slices(n, 1, side)
    if not symmetric:
        yield from itertools.product(row_slices(m, 1, side), columns)
        return
    yield from itertools.combinations(columns, 2)
    yield from zip(columns, columns, strict=True)


def parse_memory(memory: float | str | None, where: str | None = "numpy") -> float:
    """Bytes from a number, a text such as ``"4GB"`` or ``"512MiB"``, or half of what is free.

    >>> parse_memory("1.5GB"), parse_memory("2KiB")
    (1500000000.0, 2048.0)
    """
    if memory is None:
        return 0.5 * free_memory(where)
    if isinstance(memory, str):
        number = r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*"
        match = re.fullmatch(number + r"([kmgt]?)(i?)b?\s*", memory, re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory must be like 4e9, '4GB' or '512MiB', not {memory!r}")
        power = ["", "K", "M", "G", "T"].index(match[2].upper())
        base = 1024 if match[3] else 1000
        memory = float(match[1]) * float(base**power)
    if not isinstance(memory, numbers.Real) or isinstance(memory, bool):
        raise TypeError(f"memory must be like 4e9, '4GB' or '512MiB', not {memory!r}")
    if not memory > 0:
        raise ValueError(f"memory must be positive, not {memory!r}")
    return float(memory)


def free_memory(where: str | None = "numpy") -> float:
    """Free memory in bytes, of the host without swapping, or of the device.

    On the device that is what CUDA has and what CuPy's pool keeps for reuse, up to its limit.
    """
    if where == "cupy":
        xp = sys.modules[where]
        pool = xp.get_default_memory_pool()
        free = xp.cuda.Device().mem_info[0] + pool.free_bytes()
        limit = pool.get_limit()
        if limit:
            free = min(free, limit - pool.used_bytes())
        return float(free)
    try:
        with open("/proc/meminfo") as lines:
            table = dict(line.split(":") for line in lines)
        return float(table["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        if os.name == "nt":  # Windows has no sysconf
            return float(4 << 30)
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2


def dense_allowed(
    shape: tuple[int, int],
    dtype: DTypeLike,
    memory: float | str | None,
    where: str | None = "numpy",
) -> None:
    """Raise ``MemoryError`` if a dense array of that shape is over the budget."""
    dtype = np.dtype(dtype)
    need = float(shape[0]) * shape[1] * dtype.itemsize
    budget = parse_memory(memory, where)
    if need > budget:
        raise MemoryError(
            f"a dense {shape[0]} x {shape[1]} {dtype} matrix takes {need / 1e9:.3g} GB, "
            f"over the budget of {budget / 1e9:.3g} GB; keep the operator lazy or give memory="
        )
