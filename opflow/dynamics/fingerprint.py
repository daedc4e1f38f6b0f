"""What a run is of, in 64 characters: data that differ have another fingerprint.

Whole arrays are hashed; of training inputs too large for that, rows spread evenly over them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.arrays import is_sparse
from opflow.operators.rows import op_namespace
from opflow.relu.inputs import input_rows

#: bytes of X that tell one data set from another
SAMPLE = 2**24
#: runs of neighbouring rows that a sample is read in: a disk is slow to seek
PIECES = 64


def fingerprint(*values: Any, budget: float = math.inf) -> str:
    """SHA-256 of arrays and of what stands for one.

    Parameters
    ----------
    *values : array, sparse matrix, linear operator, sequence of numbers, or None
        An array is anything with ``shape``, ``dtype`` and row slicing, on disk or a device too.
    budget : float
        Bytes to read of each, roughly; shape and dtype always count.

    Notes
    -----
    Above the budget an array is read in at most 64 runs of neighbouring rows at even distances,
    the first and the last row among them: two arrays that differ in other rows alone have one
    fingerprint.  Of a sparse matrix the three arrays of its CSR or CSC form are read so.  A
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
        _feed(digest, value, budget)
    return digest.hexdigest()


def kernel_mark(function: Callable[[Any, Any], Any], X: Any) -> str:
    """What tells one kernel function from another: its norms on some rows of X, four digits."""
    first, last = (input_rows(X, s) for s in (slice(0, 16), slice(-min(16, X.shape[0]), None)))
    blocks = function(first, first), function(first, last)
    return " ".join(f"{float(np.linalg.norm(_host(block))):.3e}" for block in blocks)


def _feed(digest: Any, value: Any, budget: float) -> None:
    if value is None or isinstance(value, list | tuple):
        value = np.asarray([] if value is None else value)
    digest.update(f"{np.dtype(value.dtype).str} {tuple(value.shape)}".encode())
    if is_sparse(value):
        if value.format not in ("csr", "csc"):
            value = value.tocsr()
        digest.update(value.format.encode())
        for part in (value.indptr, value.indices, value.data):
            _feed(digest, part, budget / 3)
    elif hasattr(value, "matvec") and not hasattr(value, "__getitem__"):
        vector = np.random.default_rng(0).standard_normal(value.shape[1]).astype(value.dtype)
        vector = op_namespace(value).asarray(vector) if hasattr(value, "operands") else vector
        product = np.asarray(_host(value.matvec(vector)), dtype=np.float64)
        weighted = np.linspace(1, 2, len(product)) * product
        digest.update(f"{np.linalg.norm(product):.3e} {np.linalg.norm(weighted):.3e}".encode())
    elif len(value.shape) == 0:
        digest.update(_bytes(value))
    else:
        rows = value.shape[0]
        row = math.prod(value.shape[1:]) * np.dtype(value.dtype).itemsize
        for start, stop in _pieces(rows, rows if rows * row <= budget else int(budget // row), row):
            digest.update(_bytes(value[start:stop]))


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
    return np.ascontiguousarray(_host(block)).tobytes()


def _host(block: Any) -> Any:
    return block.get() if hasattr(block, "get") else block  # a device array
