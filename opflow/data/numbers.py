"""Arrays of a file as finite numbers of a dtype, read from the disk only if they fit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import REAL_DTYPES, Array, Data, Index, is_rows, values_of
from opflow.machine.workspace import free_memory
from opflow.operators.describe import human


def on_disk(X: Data) -> bool:
    """Whether X is read from a file when it is used."""
    return isinstance(X, np.memmap) or is_rows(X)


def in_memory(X: Data, name: str) -> Data:
    """X, read from the disk if it fits."""
    if not on_disk(X):
        return X
    need = float(math.prod(X.shape) * X.dtype.itemsize)
    if need > 0.5 * free_memory():
        options = "--missing and --test-fraction are for data in memory"
        raise MemoryError(f"{name} takes {human(need, 'B', 1024)} and stays on disk: {options}")
    return np.array(X[...])


def real(array: Data, name: str, dtype: DTypeLike) -> Data:
    """An array of `dtype`, finite; what has the dtype already stays on disk, unchecked."""
    dtype = np.dtype(dtype)
    kind = array.dtype.newbyteorder("=")
    if kind.kind not in "iub" and kind not in REAL_DTYPES:
        raise TypeError(f"{name} is {kind}: real float32, float64 or integer is needed")
    if on_disk(array):
        if kind == dtype:
            return array  # train reads it for what is not finite
        need = math.prod(array.shape) * dtype.itemsize
        if need > 0.5 * free_memory():
            advice = f"save it as {dtype} of this machine's byte order"
            if kind == array.dtype and kind.kind == "f":
                advice = f"give --dtype {kind}, or save it as {dtype}"
            raise MemoryError(
                f"{name} is {array.dtype} on disk; as {dtype} it would take "
                f"{human(need, 'B', 1024)} of memory: {advice}"
            )
        array = np.array(array[...])
    array = array.astype(dtype, copy=False)
    if not np.isfinite(values_of(array)).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array


class RowRange:
    """Some neighbouring rows of rows on disk."""

    def __init__(self, X: Data, rows: slice) -> None:
        self._X = X
        self._start = rows.start
        self.shape = (rows.stop - rows.start, X.shape[1])
        self.dtype = X.dtype

    def __getitem__(self, index: Index) -> Array:
        if not isinstance(index, slice):
            return self._X[np.asarray(index) + self._start]
        start, stop, step = index.indices(self.shape[0])
        return self._X[self._start + start : self._start + stop : step]
