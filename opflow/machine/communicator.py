"""The even split of rows among MPI ranks, and the error of another rank."""

from __future__ import annotations

from typing import Any, TypeAlias

from opflow.machine import arrays

#: a communicator of mpi4py, or what acts as one
Comm: TypeAlias = Any


class RankError(RuntimeError):
    """Raised on a rank when another one has failed; the message says which, and why.

    See Also
    --------
    opflow.train : Trains on the samples of all ranks.

    Examples
    --------
    >>> from opflow.distributed import RankError
    >>> issubclass(RankError, RuntimeError)
    True
    """


def rows_of_rank(n: int, comm: Comm) -> slice:
    """The slice of `n` rows that this rank holds, distributed evenly in the order of the ranks.

    Parameters
    ----------
    n : int
        Rows of all ranks.
    comm : mpi4py.MPI.Comm

    Returns
    -------
    slice

    See Also
    --------
    opflow.distributed.Sharded : The distribution of given rows.
    opflow.train : Takes the rows of each rank.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from opflow.distributed import rows
    >>> [rows(5, SimpleNamespace(rank=i, size=3)) for i in range(3)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    arrays.check_integer(n, "n", 0)
    return slice(-(-n * comm.rank // comm.size), -(-n * (comm.rank + 1) // comm.size))
