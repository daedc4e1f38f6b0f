"""Rows distributed over MPI ranks (``Sharded``) or all in this process, and sums over all of them.

Arrays are the local rows; the distribution completes sums over rows, by an allreduce if needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from operator import iadd
from typing import Any, TypeVar

import numpy as np

from opflow.machine import arrays
from opflow.machine.arrays import Array, Data, namespace
from opflow.machine.communicator import Comm, RankError
from opflow.machine.threads import SKINNY, over_rows
from opflow.machine.workspace import parse_memory, row_slices

T = TypeVar("T")


class RowDistribution:
    """Vectors whose rows are all here; every sum over them is complete."""

    sharded = False
    #: whether this is the process that prints and writes
    leads = True

    # Which rows are here
    def here(self, n: int) -> int:
        """How many of `n` rows are held here."""
        span = self.span(n)
        return span.stop - span.start

    def span(self, n: int) -> slice:
        """Which of `n` rows are held here."""
        return slice(0, n)

    def all_rows(self, here: int) -> int:
        """How many rows there are on all ranks, of which `here` are held here."""
        return here

    def part(self, rows: slice, n: int) -> slice:
        """Which of the rows held here are among some of all `n` rows."""
        span = self.span(n)
        low, high = np.clip([rows.start, rows.stop], span.start, span.stop) - span.start
        return slice(int(low), int(high))

    # Linear algebra, in which every rank computes with its own rows
    def total(self, x: Data) -> Data:
        """A sum over the rows held here (a number or an array), completed."""
        return x

    def largest(self, x: Data) -> Data:
        """A maximum over the rows held here, completed."""
        return x

    @np.errstate(under="ignore")  # squares of negligible entries may underflow
    def gram(self, A: Array, B: Array) -> Array:
        """``Aᵀ B``."""
        pairs = A.size / max(len(A), 1) * B.size
        sums = pairs / max(len(A), 1) * A.itemsize
        parts = over_rows(len(A), lambda s: A[s].T @ B[s], SKINNY * 2.0 * pairs, A, B, sums=sums)
        return self.total(reduce(iadd, parts))

    @np.errstate(under="ignore")
    def norm(self, A: Array, axis: int | None = None) -> Any:
        """Norms along the axis of the rows, or of all of A."""
        return namespace(A).linalg.norm(A, axis=axis)

    def qr(self, A: Array) -> tuple[Array, Array]:
        """Q with orthonormal columns and R, ``A = Q R``."""
        return namespace(A).linalg.qr(A)

    def generator(self, rng: int | np.random.Generator | None) -> np.random.Generator:
        """A generator that is the same on every rank, also without a seed."""
        return np.random.default_rng(rng)

    def normal(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        """Independent standard normal numbers, the rows held here of (n, columns)."""
        return self._drawn(rng.standard_normal, n, columns)

    def signs(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        """Independent signs, the rows held here of (n, columns)."""
        bits = self._drawn(lambda shape: rng.integers(0, 2, shape, dtype=np.int8), n, columns)
        return 2.0 * bits - 1.0

    def _drawn(self, draw: Callable[..., Any], n: int, columns: int) -> np.ndarray:
        return draw((n, columns))

    # What the processes tell each other
    def budget(self, memory: float | str | None, where: str = "numpy") -> float:
        """Bytes from :func:`parse_memory`; if None, ranks on one host divide the free memory."""
        return parse_memory(memory, where)

    def together(self, work: Callable[[], T]) -> T:
        """The result of `work`; an error on any rank is raised on all."""
        return work()

    def agreed(self, x: T) -> T:
        """`x` of the first rank."""
        return x

    def all_of(self, x: T) -> list[T]:
        """`x` of every rank."""
        return [x]

    def either(self, *flags: bool) -> tuple[bool, ...]:
        """Whether a flag is set on any rank, for each."""
        return flags

    def gather(self, x: Array) -> Array | None:
        """All rows of `x`, in order, on the host of the first rank; None on the others."""
        return x

    def joined(self, block: bytes) -> bytes:
        """The bytes of all ranks, in order, on the first rank."""
        return block


LOCAL = RowDistribution()


def space_of(comm: Comm, here: int) -> RowDistribution:
    """The distribution of vectors with `here` rows on this rank, or all where `comm` is None."""
    if comm is None or isinstance(comm, RowDistribution):
        return comm or LOCAL
    return Sharded(comm, here)


def together(comm: Comm, work: Callable[[], T]) -> T:
    """The result of `work`; an error on any rank is raised on all, so that none waits for ever."""
    if comm is None or isinstance(comm, RowDistribution):
        return work()
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    errors = comm.allgather(error and f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(errors):
        if text is not None:
            raise RankError(f"rank {rank} failed: {text}")
    return result


def same(comm: Comm, find: Callable[[], str], name: str) -> None:
    """Raise ``ValueError`` unless the result of `find` is the same on all ranks."""
    if comm is None or isinstance(comm, RowDistribution):
        return
    value = find()
    for rank, other in enumerate(comm.allgather(value)):
        if other != value:
            raise ValueError(
                f"{name} must be the same on all ranks, but rank {comm.rank} has another than "
                f"rank {rank}"
            )


class Sharded(RowDistribution):
    """Vectors of which every rank holds neighbouring rows, in the order of the ranks.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    here : int
        Rows of this rank; zero is allowed, if some rank has more.
    nccl : cupy.cuda.nccl.NcclCommunicator, optional
        For sums of device arrays, as ``pylops_mpi.utils._nccl.initialize_nccl_comm()``.  By default
        MPI sums them, from device to device if ``PYLOPS_MPI_CUDA_AWARE=1``, or through the host.

    Attributes
    ----------
    counts : tuple of int
        Rows of every rank.
    size, start : int
        Rows of all ranks, and of those before this one.
    neighbours, rank_here : int
        Ranks on this host, this one among them, and how many of them come before this one.
    reductions, bytes : int
        Sums completed so far, and bytes of this rank that they took.

    See Also
    --------
    opflow.distributed.rows : Even slices of rows.
    opflow.distributed.ShardedRows : An operator of such rows.

    Notes
    -----
    Every method is collective: all ranks must call it, in one order.  Sums come out bitwise
    equal on all ranks, so that decisions based on them agree.

    ``net.fields(X, comm=Sharded(comm, len(X), nccl))`` and ``of.train(…, comm=…)`` take a
    `Sharded` too, and then do not check that ranks hold the same network and see the same errors.

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> from opflow.distributed import Sharded
    >>> space = Sharded(MPI.COMM_WORLD, 3)
    >>> float(space.total(np.ones(3).sum()))
    3.0
    """

    sharded = True

    def __init__(self, comm: Comm, here: int, nccl: Any = None) -> None:
        self.comm = comm
        self.nccl = nccl
        self.rank = comm.rank
        self.leads = comm.rank == 0
        self.counts = tuple(comm.allgather(int(here)))
        self.size = sum(self.counts)
        self.start = sum(self.counts[: comm.rank])
        self.reductions = 0
        self.bytes = 0
        self._mpi = importlib.import_module("mpi4py.MPI")
        host = comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.neighbours = host.size
        self.rank_here = host.rank
        host.Free()
        if self.size == 0:
            raise ValueError("there are no samples: no rank holds a row")

    def __reduce__(self) -> Any:
        raise TypeError("a sharded operator cannot be pickled: it is spread over the ranks")

    def span(self, n: int) -> slice:
        copies, rest = divmod(n, self.size)  # the outputs of a sample stand together
        if rest:
            raise ValueError(f"{n} rows are not a multiple of the {self.size} that are sharded")
        return slice(copies * self.start, copies * (self.start + self.counts[self.rank]))

    def all_rows(self, here: int) -> int:
        return self.size

    def total(self, x: Data) -> Data:
        return self._reduced(x, self._mpi.SUM)

    def largest(self, x: Data) -> Data:
        # A number that all want on the host; a rank without rows may have it nowhere else.
        return self._reduced(arrays.to_host(x), self._mpi.MAX)

    def norm(self, A: Array, axis: int | None = None) -> Any:
        return self.total(super().norm(A, axis) ** 2) ** 0.5

    def qr(self, A: Array) -> tuple[Array, Array]:
        # Every rank factors its rows, then all the small triangles stacked (TSQR).
        Q, R = super().qr(A)
        triangles = self.comm.allgather(arrays.to_host(R))
        start = sum(len(triangle) for triangle in triangles[: self.rank])
        rotation, R = np.linalg.qr(np.concatenate(triangles))
        mine = rotation[start : start + len(triangles[self.rank])]
        return Q @ arrays.to_device_of(mine, Q), arrays.to_device_of(R, Q)

    def generator(self, rng: int | np.random.Generator | None) -> np.random.Generator:
        if rng is None:
            rng = self.comm.bcast(np.random.SeedSequence().entropy)
        return super().generator(rng)

    def _drawn(self, draw: Callable[..., Any], n: int, columns: int) -> np.ndarray:
        """The local rows of numbers that all ranks draw from one stream, block by block."""
        out = np.empty((self.here(n), columns))
        start = self.span(n).start
        for s in row_slices(n, columns * out.itemsize):
            block = draw((s.stop - s.start, columns))
            part = self.part(s, n)
            out[part] = block[start + part.start - s.start :][: part.stop - part.start]
        return out

    def budget(self, memory: float | str | None, where: str = "numpy") -> float:
        own = super().budget(memory, where)
        if memory is None:
            own /= self._sharers() if where == "cupy" else self.neighbours
        return -float(self.largest(-own))

    def _sharers(self) -> int:
        """Ranks that compute on this rank's device, this one among them."""
        device = arrays.cupy_module().cuda.Device().pci_bus_id
        places = self.comm.allgather((self._mpi.Get_processor_name(), device))
        return places.count(places[self.rank])

    def together(self, work: Callable[[], T]) -> T:
        return together(self.comm, work)

    def agreed(self, x: T) -> T:
        return self.comm.bcast(x)

    def all_of(self, x: T) -> list[T]:
        return list(self.comm.allgather(x))

    def either(self, *flags: bool) -> tuple[bool, ...]:
        return tuple(bool(flag) for flag in self.largest(np.array(flags, dtype=np.int32)))

    def gather(self, x: Array) -> Array | None:
        parts = self.comm.gather(arrays.to_host(x))
        return np.concatenate(parts) if self.leads else None

    def joined(self, block: bytes) -> bytes:
        return b"".join(self.comm.gather(block) or ())

    def _reduced(self, x: Data, operation: Any) -> Any:
        self.reductions += 1
        if arrays.module_name(x) == "cupy":
            self.bytes += x.nbytes
            return self._on_device(x, operation)
        buffer = np.array(x, order="C")
        self.bytes += buffer.nbytes
        self.comm.Allreduce(self._mpi.IN_PLACE, buffer, operation)
        return buffer[()]

    def _on_device(self, x: Array, operation: Any) -> Array:
        """NCCL if there is a communicator, else MPI: CUDA-aware, or through the host."""
        flat = namespace(x).ascontiguousarray(x).reshape(-1)
        if self.nccl is None:
            mpi = importlib.import_module("pylops_mpi.utils._mpi")
            return mpi.mpi_allreduce(self.comm, flat, engine="cupy", op=operation).reshape(x.shape)
        nccl = importlib.import_module("pylops_mpi.utils._nccl")
        return nccl.nccl_allreduce(self.nccl, flat, op=operation).reshape(x.shape)
