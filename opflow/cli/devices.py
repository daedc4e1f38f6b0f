"""What the command line moves to a device, because ``--device gpu`` asks for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from opflow.data.load import DataSet
from opflow.machine.arrays import Data, cupy_module, is_sparse, to_device
from opflow.machine.ranks import Sharded, space_of
from opflow.machine.streams import Streamed, prefetched
from opflow.machine.workspace import row_slices
from opflow.operators.describe import human


def check_device(device: str, comm: Any = None) -> None:
    """Raise ``ImportError``, with the remedy, if there is no such device.

    The ranks of a host take its devices in turn, each from here on.
    """
    if device != "gpu":
        return
    cuda = cupy_module().cuda
    if comm is not None:
        cuda.Device(Sharded(comm, 1).rank_here % cuda.runtime.getDeviceCount()).use()


def placed(data: DataSet, device: str, comm: Any = None) -> DataSet:
    """Data where they are to be computed with.

    X is copied to the device if it takes at most half of what is free there and is
    :class:`~opflow.Streamed` if it takes more (``MemoryError`` if it is sparse); targets and labels
    are copied.  Ranks that compute on one device share what is free, and the X of all is streamed
    if that of one is.
    """
    if device == "cpu":
        return data
    y = to_device(data.targets, device)
    labels = data.labels
    if labels is not None:
        labels = to_device(labels, device)
    return data._replace(inputs=placed_inputs(data.inputs, comm), targets=y, labels=labels)


def placed_inputs(X: Data, comm: Any = None) -> Data:
    """X on the device, or streamed to it."""
    space = space_of(comm, X.shape[0])
    allowed = space.budget(None, "cupy")
    if is_sparse(X):
        need = float(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
        if need > allowed:
            raise MemoryError(
                f"X is sparse, which is not streamed, and takes {human(need, 'B', 1024)} of the "
                f"{human(allowed, 'B', 1024)} that inputs may take of the device's memory"
            )
        return to_device(X, "gpu")
    rows = Streamed(X)
    if space.either(math.prod(X.shape) * X.dtype.itemsize > allowed)[0]:
        return rows
    if type(X) is np.ndarray:
        return to_device(X, "gpu")
    out = cupy_module().empty(rows.shape, dtype=rows.dtype)
    for s in prefetched(row_slices(rows.shape[0], rows.shape[1] * rows.dtype.itemsize), rows):
        out[s] = rows[s]
    return out
