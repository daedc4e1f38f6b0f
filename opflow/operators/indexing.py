"""Rows and columns that a caller names: slices, integers and booleans, checked and made plain."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from opflow.machine.arrays import Array, Index, as_array, mixed, module_name, to_device_of
from opflow.machine.workspace import dense_allowed, operator_module

if TYPE_CHECKING:
    from opflow.operators.operator import Operator


def checked_index(index: Index, size: int, name: str) -> Index:
    """A slice with step, or an integer array, inside ``range(size)``."""
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        # A backward slice that reaches row 0 stops at -1, which would mean the last row.
        return slice(start, stop if stop >= 0 else None, step if step != 1 else None)
    index = as_array(index, name)
    if index.ndim != 1:
        raise ValueError(f"{name} must be a slice or one-dimensional, not of shape {index.shape}")
    if index.dtype == np.bool_:
        if index.shape != (size,):
            raise ValueError(f"{name} has {index.shape[0]} booleans for {size} {name}")
        index = index.nonzero()[0]
    if index.size == 0:
        return slice(0, 0)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, not {index.dtype}")
    if int(index.min()) < -size or int(index.max()) >= size:
        raise IndexError(f"{name} runs from {index.min()} to {index.max()}, outside 0..{size - 1}")
    return index % size


def checked_block(op: Operator, rows: Index, cols: Index) -> tuple[list[Index], str | None]:
    """The checked rows and columns of a block, and the array module of its entries, if on a device.

    An operator without data makes its entries where the indices are.
    """
    indices = [checked_index(rows, op.shape[0], "rows"), checked_index(cols, op.shape[1], "cols")]
    arrays = [index for index in indices if not isinstance(index, slice)]
    where = operator_module(op)
    if any(module_name(array) != "numpy" for array in arrays):
        if where == "numpy":
            raise TypeError(mixed(op, *arrays))
        where = "cupy"
    if where in (None, "numpy"):
        return indices, None
    xp = sys.modules[where]
    return [i if isinstance(i, slice) else xp.asarray(i) for i in indices], where


def entries(op: Operator, key: Index) -> Array:
    """``op[key]``, as indexing the dense matrix gives it, from one block."""
    where = operator_module(op)
    keys = key if isinstance(key, tuple) else (key,)
    if len(keys) in (1, 2) and all(isinstance(k, slice) for k in keys):
        rows, cols = [*keys, slice(None)][:2]
        size = (len(range(op.shape[0])[rows]), len(range(op.shape[1])[cols]))
        dense_allowed(size, op.dtype, None, where)
        return op.block(rows, cols)
    # NumPy tells the row and the column of every entry that is asked for
    grid = (np.arange(op.shape[0])[:, None], np.arange(op.shape[1]))
    at = [np.broadcast_to(axis, op.shape)[key] for axis in grid]
    (rows, i), (cols, j) = (np.unique(part, return_inverse=True) for part in at)
    dense_allowed((rows.size, cols.size), op.dtype, None, where)
    block = op.block(rows, cols)
    shape = at[0].shape
    return block[to_device_of(i.reshape(shape), block), to_device_of(j.reshape(shape), block)]
