"""How the rows of vectors are held: all of them here, or a part by every rank of a communicator.

Code that sums over the rows of a vector (an inner product, a norm, a QR factorisation) asks the
space of its operator to complete the sum, and so is the same on one machine and on many: arrays
are the rows that are held here, and what comes out of a sum is known everywhere.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.machine.arrays import (
    check_integer,
    cupy_module,
    module_name,
    namespace,
    to_device_of,
    to_host,
)
from opflow.machine.workspace import parse_memory, row_slices


class RankError(RuntimeError):
    """Another rank has failed, and says why."""


class RowDistribution:
    """Vectors whose rows are all here; every sum over them is complete."""

    sharded = False
    #: whether this is the process that prints and writes
    leads = True

    def here(self, n: int) -> int:
        """How many of `n` rows are held here."""
        return n

    def span(self, n: int) -> slice:
        """Which of `n` rows are held here."""
        return slice(0, n)

    def total(self, x: Any) -> Any:
        """A sum over the rows held here (a number or an array), completed."""
        return x

    def largest(self, x: Any) -> Any:
        """A maximum over the rows held here, completed."""
        return x

    @np.errstate(under="ignore")  # squares of what is negligible count for nothing
    def gram(self, A: Any, B: Any) -> Any:
        """``Aᵀ B``."""
        return self.total(A.T @ B)

    @np.errstate(under="ignore")
    def norm(self, A: Any, axis: int | None = None) -> Any:
        """Norms along the axis of the rows, or of all of A."""
        return namespace(A).linalg.norm(A, axis=axis)

    def qr(self, A: Any) -> tuple[Any, Any]:
        """Q with orthonormal columns and R, ``A = Q R``."""
        return namespace(A).linalg.qr(A)

    def budget(self, memory: float | str | None, where: str = "numpy") -> float:
        """Bytes from :func:`parse_memory`; of ranks on one host each has its share of the free."""
        return parse_memory(memory, where)

    def together(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; an error on any rank is one on all."""
        return work()

    def agreed(self, x: Any) -> Any:
        """`x` of the first rank."""
        return x

    def all_of(self, x: Any) -> list[Any]:
        """`x` of every rank."""
        return [x]

    def first(self, x: Any) -> Any:
        """The `x` of the first rank whose is not None."""
        return next((other for other in self.all_of(x) if other is not None), None)

    def everywhere(self, x: Any) -> Any:
        """The arrays of all ranks, one after another, on every rank and on the host."""
        return x

    def joined(self, block: bytes) -> bytes:
        """The bytes of all ranks, in order; on the first rank only."""
        return block

    def either(self, *flags: bool) -> tuple[bool, ...]:
        """Whether a flag is set on any rank, for each."""
        return flags

    def generator(self, rng: int | np.random.Generator | None) -> np.random.Generator:
        """A generator that is the same everywhere, also without a seed."""
        return np.random.default_rng(rng)

    def normal(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        """Independent standard normal numbers, the rows held here of (n, columns)."""
        return rng.standard_normal((n, columns))

    def signs(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        """Independent signs, the rows held here of (n, columns)."""
        return 2.0 * rng.integers(0, 2, (n, columns), dtype=np.int8) - 1.0

    def gather(self, x: Any) -> Any:
        """All rows of `x`, in order, on the host."""
        return x


LOCAL = RowDistribution()


def space_of(comm: Any, here: int) -> RowDistribution:
    """The space of vectors with `here` rows on this rank; all of them, where `comm` is None."""
    if comm is None:
        return LOCAL
    return comm if isinstance(comm, RowDistribution) else Sharded(comm, here)


def rows_of_rank(n: int, comm: Any) -> slice:
    """The rows of this rank, of `n` that are spread evenly.

    Parameters
    ----------
    n : int
    comm : mpi4py.MPI.Comm

    Returns
    -------
    slice
        Neighbouring rows, in the order of the ranks; empty where there are more ranks than rows.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> [rows_of_rank(5, SimpleNamespace(rank=i, size=3)) for i in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    check_integer(n, "n", 0)
    edges = [-(-n * i // comm.size) for i in (comm.rank, comm.rank + 1)]
    return slice(*edges)


def together(comm: Any, work: Callable[[], Any]) -> Any:
    """What `work` gives; an error on any rank is one on all, so that none waits for another."""
    if comm is None or isinstance(comm, RowDistribution):
        return work()
    result, error = None, None
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


def same(comm: Any, find: Callable[[], str], name: str) -> None:
    """Raise ``ValueError`` unless what `find` gives is the same on all ranks."""
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
        Of the same ranks, for sums of device arrays; ``initialize_nccl_comm`` in
        ``pylops_mpi.utils._nccl`` makes one of all ranks.  By default they go through MPI: from
        device to device where ``PYLOPS_MPI_CUDA_AWARE=1`` says that it can, else through the host.

    Attributes
    ----------
    counts : tuple of int
        Rows of every rank.
    size, start : int
        Rows of all ranks, and of those before this one.
    neighbours : int
        Ranks on this host, this one among them.
    rank_here : int
        How many of those come before this one.
    reductions, bytes : int
        Sums completed so far, and the bytes of this rank that went into them.

    Notes
    -----
    Every method is collective: all ranks must call it, in one order.  Sums come out bitwise
    equal on all ranks, so that decisions based on them agree.

    In the place of a communicator, ``net.fields(X, comm=Sharded(comm, len(X), nccl))`` and
    ``of.train(…, comm=…)`` take a space as it is: whoever made it has to make sure that the
    ranks hold the same network and agree on what fails.
    """

    sharded = True

    def __init__(self, comm: Any, here: int, nccl: Any = None) -> None:
        self.comm, self.nccl = comm, nccl
        self.counts = tuple(comm.allgather(int(here)))
        self.size, self.start = sum(self.counts), sum(self.counts[: comm.rank])
        self.rank, self.ranks, self.leads = comm.rank, comm.size, comm.rank == 0
        self.reductions = self.bytes = 0
        MPI = importlib.import_module("mpi4py.MPI")
        beside_us = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.neighbours, self.rank_here = beside_us.size, beside_us.rank
        beside_us.Free()
        if self.size == 0:
            raise ValueError("there are no samples: no rank holds a row")

    def __reduce__(self) -> Any:
        raise TypeError("a sharded operator cannot be pickled: it is spread over the ranks")

    def here(self, n: int) -> int:
        span = self.span(n)
        return span.stop - span.start

    def span(self, n: int) -> slice:
        copies, rest = divmod(n, self.size)  # the outputs of a sample stand together
        if rest:
            raise ValueError(f"{n} rows are not a multiple of the {self.size} that are sharded")
        return slice(copies * self.start, copies * (self.start + self.counts[self.rank]))

    def total(self, x: Any) -> Any:
        return self._reduced(x, "SUM")

    def largest(self, x: Any) -> Any:
        # A number that all want on the host; a rank without rows may have it nowhere else.
        return self._reduced(to_host(x), "MAX")

    def norm(self, A: Any, axis: int | None = None) -> Any:
        return self.total(super().norm(A, axis) ** 2) ** 0.5

    def qr(self, A: Any) -> tuple[Any, Any]:
        # Every rank factors its rows, then all the small triangles stacked (TSQR).
        Q, R = super().qr(A)
        parts = self.comm.allgather(to_host(R))
        edges = list(itertools.accumulate(map(len, parts), initial=0))
        turn, R = np.linalg.qr(np.concatenate(parts))
        mine = turn[edges[self.rank] : edges[self.rank + 1]]
        return Q @ to_device_of(mine, Q), to_device_of(R, Q)

    def budget(self, memory: float | str | None, where: str = "numpy") -> float:
        own = super().budget(memory, where)
        if memory is None:
            own /= self._sharers() if where == "cupy" else self.neighbours
        return -float(self.largest(-own))

    def _sharers(self) -> int:
        """Ranks that compute on this rank's device, this one among them."""
        MPI = importlib.import_module("mpi4py.MPI")
        device = cupy_module().cuda.Device().pci_bus_id
        places = self.comm.allgather((MPI.Get_processor_name(), device))
        return places.count(places[self.rank])

    def together(self, work: Callable[[], Any]) -> Any:
        return together(self.comm, work)

    def agreed(self, x: Any) -> Any:
        return self.comm.bcast(x)

    def all_of(self, x: Any) -> list[Any]:
        return list(self.comm.allgather(x))

    def everywhere(self, x: Any) -> Any:
        return np.concatenate(self.comm.allgather(to_host(x)))

    def joined(self, block: bytes) -> bytes:
        return b"".join(self.comm.gather(block) or ())

    def either(self, *flags: bool) -> tuple[bool, ...]:
        return tuple(bool(flag) for flag in self.largest(np.array(flags, dtype=np.int32)))

    def generator(self, rng: int | np.random.Generator | None) -> np.random.Generator:
        if rng is None:
            rng = self.comm.bcast(np.random.SeedSequence().entropy)
        return super().generator(rng)

    def normal(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        return self._mine(n, columns, lambda rows: super(Sharded, self).normal(rng, rows, columns))

    def signs(self, rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
        return self._mine(n, columns, lambda rows: super(Sharded, self).signs(rng, rows, columns))

    def _mine(self, n: int, columns: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        """The rows held here of what is drawn for all ranks, from one stream, block by block."""
        span, out = self.span(n), np.empty((self.here(n), columns))
        for s in row_slices(n, columns * out.itemsize):
            block = draw(s.stop - s.start)
            low, high = max(s.start, span.start), min(s.stop, span.stop)
            if low < high:
                out[low - span.start : high - span.start] = block[low - s.start : high - s.start]
        return out

    def gather(self, x: Any) -> Any:
        parts = self.comm.gather(to_host(x))
        return None if parts is None else np.concatenate(parts)

    def _reduced(self, x: Any, operation: str) -> Any:
        MPI = importlib.import_module("mpi4py.MPI")
        op = getattr(MPI, operation)
        self.reductions += 1
        if module_name(x) == "cupy":
            self.bytes += x.nbytes
            return self._on_device(x, op)
        buffer = np.array(x, order="C")
        self.bytes += buffer.nbytes
        self.comm.Allreduce(MPI.IN_PLACE, buffer, op)
        return buffer[()]

    def _on_device(self, x: Any, op: Any) -> Any:
        """NCCL if there is a communicator, else MPI: CUDA-aware, or through the host."""
        flat = namespace(x).ascontiguousarray(x).reshape(-1)
        if self.nccl is not None:
            out = importlib.import_module("pylops_mpi.utils._nccl").nccl_allreduce(
                self.nccl, flat, op=op
            )
        else:
            out = importlib.import_module("pylops_mpi.utils._mpi").mpi_allreduce(
                self.comm, flat, engine="cupy", op=op
            )
        return out.reshape(x.shape)
