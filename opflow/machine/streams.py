"""For devices: ``Streamed`` copies rows from host memory or disk block by block.

X need not fit on the device.  A block of rows is copied to page-locked host memory and from there
to the device, on a stream of its own, while the device computes with the block before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from opflow.machine.arrays import (
    Data,
    Index,
    as_samples,
    check_on_disk,
    cupy_module,
    is_sliced,
    is_sparse,
    mixed,
    module_name,
    multiplies,
)


class Streamed:
    r"""A matrix on the host whose rows come out as arrays on the device.

    Parameters
    ----------
    X : NumPy array, memory map, or object with `shape`, `dtype` and row slicing
        (N, d), float32 or float64; referenced, not copied.

    Attributes
    ----------
    shape, dtype
        Those of X.
    source
        X itself.

    Raises
    ------
    TypeError
        For sparse matrices, operators, arrays that are on the device already, and other dtypes.
    ValueError
        If X is not two-dimensional.
    ImportError
        If CuPy is not installed, or finds no CUDA device.

    See Also
    --------
    opflow.RowMatrix : Rows on disk as an operator.
    opflow.ReLUNetwork.to : Moves a network to the device.
    opflow.train : Trains on streamed rows.

    Notes
    -----
    Goes wherever rows on disk go: ``network.fields(Streamed(X))``, ``of.train(network,
    Streamed(X), y)``, ``of.RowMatrix(Streamed(X))``.  Nothing else moves X: without it, an X on
    the host and a network on the device are an error.

    A pass over X moves its N·d numbers once.  Of b rows in a block it holds 2·b·d numbers of
    page-locked host memory and, while one block is used, the next and perhaps the one before on
    the device.  Block i + 1 is written to page-locked memory while the device works on block
    i − 1, and moves while it works on block i.  Three events keep the order: the device waits for
    the copy of a block before it reads it, a copy for the work that used the memory of its target
    before, and the host for the copy from a page-locked buffer before it writes there again.

    Blocks are moved ahead within one pass of opflow's; rows asked for one by one, by ``X[i:j]`` or
    by increasing indices, are moved when asked for.  The rows belong to the stream that is current
    then.

    Examples
    --------
    On a machine with a CUDA device::

        network = of.ReLUNetwork.random([784, 512], seed=0, dtype="float32").to("gpu")
        X = np.load("X.npy", mmap_mode="r")
        run = of.train(network, of.Streamed(X), cupy.asarray(y), steps=100)
    """

    _where = "cupy"

    def __init__(self, X: Data) -> None:
        if is_sparse(X) or not is_sliced(X):
            raise TypeError(
                f"X must be a dense matrix that is read by rows, not {type(X).__name__}: what is "
                "sparse or an operator has to be on the device whole"
            )
        if module_name(X) != "numpy":
            raise TypeError("X is on the device already: there is nothing to stream")
        X = as_samples(X, "X")
        check_on_disk(X, "X")
        if len(X.shape) != 2:
            raise ValueError(f"X must be two-dimensional (samples, features), not {X.shape}")
        self._xp = cupy_module()
        self.source = X
        self.dtype = np.dtype(X.dtype).newbyteorder("=")
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self._stream: Any = None  # of copies to the device, from the first copy on
        self._buffers: list[Any] = [None, None]  # page-locked, used in turn
        self._sent: list[Any] = [None, None]  # events: the copy from a buffer has ended
        # Buffers are released after their copies: their memory could be reused too early.
        weakref.finalize(self, _sent, self._sent, self._buffers)
        self._turn = 0  # the buffer of the next copy
        self._announced: slice | None = None  # rows to copy after the next request
        # Rows that are being copied, their block, the event of its arrival.
        self._coming: tuple[slice, Any, Any] | None = None

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"<Streamed {rows}x{columns} {self.dtype} of {type(self.source).__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Streamed, (self.source,)

    def __getitem__(self, index: Index) -> Any:
        """Rows on the device: of a slice of step 1, or of increasing host indices."""
        span = _span(index, self.shape[0])
        if self._coming is not None and self._coming[0] == span:
            _, block, done = self._coming
            self._coming = None
        else:
            block, done = self._send(span or index)
        self._xp.cuda.get_current_stream().wait_event(done)
        if self._announced is not None and self._coming is None:
            self._coming = (self._announced, *self._send(self._announced))
            self._announced = None
        return block

    def announce(self, rows: slice) -> None:
        """Copy these rows in the background once the next request is answered."""
        self._announced = _span(rows, self.shape[0])

    def settle(self) -> None:
        """Forget announced rows; the memory of a copy under way is free only after it has ended."""
        if self._coming is not None:
            self._xp.cuda.get_current_stream().wait_event(self._coming[2])
        self._announced = self._coming = None

    def _send(self, index: Index) -> tuple[Any, Any]:
        """Start the copy of some rows: their block, and the event of its arrival."""
        xp = self._xp
        rows = self.source[index]
        if self._stream is None:
            self._stream = xp.cuda.Stream(non_blocking=True)
        # Made on the stream that will read it, so that its memory is that stream's to reuse.
        block = xp.empty(rows.shape, dtype=self.dtype)
        self._stream.wait_event(xp.cuda.get_current_stream().record(_event(xp)))
        if block.size:
            block.set(self._page_locked(rows), stream=self._stream)
        done = self._stream.record(_event(xp))
        self._sent[self._turn] = done
        self._turn = 1 - self._turn
        return block, done

    def _page_locked(self, rows: Any) -> Any:
        """The rows in a page-locked buffer, which the device reads while the host goes on."""
        from cupyx import empty_pinned

        i = self._turn
        if self._sent[i] is not None:
            self._sent[i].synchronize()
        if self._buffers[i] is None or self._buffers[i].size < rows.size:
            self._buffers[i] = empty_pinned((rows.size,), dtype=self.dtype)
        buffer = self._buffers[i][: rows.size].reshape(rows.shape)
        buffer[...] = rows
        return buffer


def _sent(events: list[Any], buffers: list[Any]) -> None:
    """Wait for the copies from the buffers."""
    for event in events:
        if event is not None:
            event.synchronize()


def _event(xp: Any) -> Any:
    return xp.cuda.Event(disable_timing=True)


def _span(index: Index, size: int) -> slice | None:
    """Consecutive rows, by the first and the last; None for other rows."""
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        if step == 1:
            return slice(start, max(start, stop))
    return None


def prefetched(slices: list[slice], *data: Data) -> Iterable[slice]:
    """Iterate over the slices; while one is in use, prefetch the next rows of streamed inputs.

    `data` are arrays, rows or operators that hold them; each is read once for every slice.
    """
    streams: dict[int, Streamed] = {}
    for x in data:
        rows = x.data if multiplies(x) else x
        if isinstance(rows, Streamed):
            streams[id(rows)] = rows
    if not streams:
        return slices
    return _announcing(slices, list(streams.values()))


def _announcing(slices: list[slice], streams: list[Streamed]) -> Iterable[slice]:
    try:
        for i, s in enumerate(slices):
            if i + 1 < len(slices):
                for stream in streams:
                    stream.announce(slices[i + 1])
            yield s
    finally:
        for stream in streams:
            stream.settle()


def host_rows(X: Data) -> Data:
    """The rows behind a stream, on the host; other inputs as they are."""
    return X.source if isinstance(X, Streamed) else X


def check_place(X: Data, other: Data) -> None:
    """Raise ``TypeError`` with the remedy if one of X and an array is on the host alone."""
    if module_name(X) != module_name(other):
        hint = ", or stream the rows with of.Streamed(X)" * (module_name(X) == "numpy")
        raise TypeError(mixed(X, other) + hint)
