"""Fingerprints of 64 characters that tell data sets and kernels apart.

Arrays up to 64 MiB are hashed whole; of larger ones, rows at even distances.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from opflow.machine.arrays import Array, Data, as_array, is_sparse, multiplies, to_host
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.streams import host_rows
from opflow.machine.workspace import op_namespace
from opflow.operators import Operator
from opflow.relu.inputs import input_rows

#: bytes of the largest array that is hashed whole
WHOLE = 2**26
#: bytes that are hashed of a larger one
SAMPLE = 2**24
#: runs of neighbouring rows that the sample consists of: a disk is slow to seek
PIECES = 64


def fingerprint(*values: Data, space: RowDistribution = LOCAL) -> str:
    """SHA-256 of arrays, sparse matrices, linear operators, sequences of numbers and None.

    An array is anything with ``shape``, ``dtype`` and row slicing, on disk or a device too.  Where
    every rank of `space` has some of the rows, the fingerprint is that of all rows.

    Of an array over 64 MiB, 16 MiB are read in at most 64 runs of neighbouring rows, the first and
    the last row among them: two arrays that differ in other rows alone have one fingerprint.  Rows
    of a sparse matrix are those of its CSR form.  A linear operator X is multiplied once with a
    fixed vector v, and counts by its shape, dtype and four digits of ‖Xv‖ and of the norm of Xv
    weighted along the rows, which are the same on machines that round differently.

    Examples
    --------
    >>> import numpy as np
    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros(3)) != fingerprint(np.zeros((3, 1)))
    True
    """
    digest = hashlib.sha256()
    for value in values:
        where = space
        if value is None or isinstance(value, list | tuple):
            value = np.asarray(value or [])
            where = LOCAL
        for part in _parts(value, where):
            digest.update(part)
    return space.agreed(digest.hexdigest())


def kernel_mark(function: Callable[[Array, Array], Array], X: Data) -> str:
    """Four digits of the norms of a kernel function on some rows of X."""
    first = input_rows(X, slice(0, 16))
    last = input_rows(X, slice(-min(16, X.shape[0]), None))
    blocks = function(first, first), function(first, last)
    return " ".join(f"{float(np.linalg.norm(to_host(block))):.3e}" for block in blocks)


def _parts(value: Data, space: RowDistribution) -> Iterator[bytes]:
    """The bytes of a value that count, on the first rank."""
    shape = tuple(value.shape)
    if space.sharded:
        shape = (space.all_rows(shape[0]), *shape[1:])
    yield f"{np.dtype(value.dtype).newbyteorder('=').str} {shape}".encode()
    value = host_rows(value)
    if multiplies(value):
        yield _norms(value, shape, space).encode()
    elif not shape:
        yield _bytes(value)
    else:
        if is_sparse(value):
            value = value.tocsr()
        for rows in _hashed_rows(value, shape, space):
            for array in _arrays(value[space.part(rows, shape[0])]):
                yield space.joined(_bytes(array))


def _norms(op: Any, shape: tuple[int, ...], space: RowDistribution) -> str:
    vector = np.random.default_rng(0).standard_normal(shape[1]).astype(op.dtype)
    if isinstance(op, Operator):  # which may be on a device
        vector = op_namespace(op).asarray(vector)
    product = np.asarray(to_host(op.matvec(vector)), dtype=np.float64)
    weighted = np.linspace(1, 2, shape[0])[space.span(shape[0])] * product
    return f"{space.norm(product):.3e} {space.norm(weighted):.3e}"


def _hashed_rows(value: Data, shape: tuple[int, ...], space: RowDistribution) -> list[slice]:
    """Slices of all rows, or of about 16 MiB of them, none longer than a sample."""
    rows = shape[0]
    width = math.prod(shape[1:]) * np.dtype(value.dtype).itemsize
    if is_sparse(value):
        width = int(space.total(value.nnz)) * (width // shape[1] + 8) // rows
    if rows * width <= WHOLE:
        length = max(1, 2**20 // max(width, 1))
        return [slice(i, min(i + length, rows)) for i in range(0, rows, length)]
    wanted = SAMPLE // width
    count = min(max(wanted, 2), PIECES, rows)
    length = max(1, wanted // count)
    return [slice(i, i + length) for i in np.linspace(0, rows - length, count).astype(int).tolist()]


def _arrays(rows: Data) -> tuple[Array, ...]:
    """Arrays that tell some rows."""
    if not is_sparse(rows):
        return (rows,)
    # Lengths of rows, and indices of one width: SciPy chooses between two.
    lengths = rows.indptr[1:] - rows.indptr[:-1]
    return lengths.astype(np.int64), rows.indices.astype(np.int64), rows.data


def _bytes(block: Array) -> bytes:
    return np.ascontiguousarray(to_host(as_array(block, "a block"))).tobytes()
