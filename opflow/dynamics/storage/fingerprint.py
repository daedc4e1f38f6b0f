"""What a run is of, in 64 characters: data that differ have another fingerprint.

Whole arrays are hashed; of training inputs too large for that, rows spread evenly over them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.machine.arrays import as_array, is_sparse
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded
from opflow.machine.streams import host_rows
from opflow.machine.workspace import op_namespace
from opflow.relu.inputs import input_rows

#: bytes of X that tell one data set from another
SAMPLE = 2**24
#: runs of neighbouring rows that a sample is read in: a disk is slow to seek
PIECES = 64


def fingerprint(*values: Any, budget: float = math.inf, space: RowDistribution = LOCAL) -> str:
    """SHA-256 of arrays and of what stands for one.

    Parameters
    ----------
    *values : array, sparse matrix, linear operator, sequence of numbers, or None
        An array is anything with ``shape``, ``dtype`` and row slicing, on disk or a device too.
    budget : float
        Bytes to read of each, roughly; shape and dtype always count.
    space : Space, optional
        Where every rank has some rows of the arrays: the fingerprint is that of all rows.

    Notes
    -----
    Above the budget an array is read in at most 64 runs of neighbouring rows at even distances,
    the first and the last row among them: two arrays that differ in other rows alone have one
    fingerprint.  Rows of a sparse matrix are those of its CSR form.  A
    linear operator X is multiplied once with a fixed vector v, and counts by its shape, dtype
    and four digits of ‖Xv‖ and of the norm of Xv weighted along the rows, which are the same on
    machines that round differently.

    Examples
    --------
    >>> import numpy as np
    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros(3)) != fingerprint(np.zeros((3, 1)))
    True
    """
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value, budget, space)
    return str(space.agreed(digest.hexdigest()))


def kernel_mark(function: Callable[[Any, Any], Any], X: Any) -> str:
    """What tells one kernel function from another: its norms on some rows of X, four digits."""
    first, last = (input_rows(X, s) for s in (slice(0, 16), slice(-min(16, X.shape[0]), None)))
    blocks = function(first, first), function(first, last)
    return " ".join(f"{float(np.linalg.norm(_host(block))):.3e}" for block in blocks)


def _feed(digest: Any, value: Any, budget: float, space: RowDistribution) -> None:
    if value is None or isinstance(value, list | tuple):
        value, space = np.asarray([] if value is None else value), LOCAL
    shape = tuple(value.shape)
    if isinstance(space, Sharded):
        shape = (space.size, *shape[1:])
    digest.update(f"{np.dtype(value.dtype).newbyteorder('=').str} {shape}".encode())
    value = host_rows(value)
    if hasattr(value, "matvec"):
        vector = np.random.default_rng(0).standard_normal(shape[1]).astype(value.dtype)
        vector = op_namespace(value).asarray(vector) if hasattr(value, "operands") else vector
        product = np.asarray(_host(value.matvec(vector)), dtype=np.float64)
        weighted = np.linspace(1, 2, shape[0])[space.span(shape[0])] * product
        digest.update(f"{space.norm(product):.3e} {space.norm(weighted):.3e}".encode())
        return
    if not shape:
        digest.update(_bytes(value))
        return
    if is_sparse(value):
        value = value.tocsr()
    here, row = space.span(shape[0]), math.prod(shape[1:]) * np.dtype(value.dtype).itemsize
    if is_sparse(value):
        row = int(space.total(value.nnz)) * (row // shape[1] + 8) // shape[0]
    wanted = shape[0] if shape[0] * row <= budget else int(budget // row)
    for start, stop in _pieces(shape[0], wanted, row):
        low, high = (min(max(i - here.start, 0), value.shape[0]) for i in (start, stop))
        for part in _parts(value[low:high]):
            digest.update(space.joined(_bytes(part)))


def _parts(rows: Any) -> tuple[Any, ...]:
    """Arrays with an entry for every row, or entry, of some rows."""
    if not is_sparse(rows):
        return (rows,)
    # the width of an index is a choice
    lengths, indices = rows.indptr[1:] - rows.indptr[:-1], rows.indices
    return lengths.astype(np.int64), indices.astype(np.int64), rows.data


def _pieces(rows: int, wanted: int, row: int) -> list[tuple[int, int]]:
    """Slices of about `wanted` of the rows, none longer than a sample."""
    if wanted >= rows:
        length = max(1, 2**20 // max(row, 1))
        return [(i, min(i + length, rows)) for i in range(0, rows, length)]
    count = min(max(wanted, 2), PIECES, rows)
    length = max(1, wanted // count)
    starts = np.linspace(0, rows - length, count).astype(int).tolist()
    return [(i, i + length) for i in starts]


def _bytes(block: Any) -> bytes:
    return np.ascontiguousarray(as_array(_host(block), "a block")).tobytes()


def _host(block: Any) -> Any:
    return block.get() if hasattr(block, "get") else block  # a device array
