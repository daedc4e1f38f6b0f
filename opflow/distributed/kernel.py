"""Sharded operators as PyLops-MPI knows them."""

from __future__ import annotations

from typing import Any

from opflow.distributed.extra import pylops_mpi
from opflow.machine.arrays import Array
from opflow.machine.ranks import Sharded
from opflow.operators.operator import Operator
from opflow.operators.rules import converted


class ShardedOperator(pylops_mpi.MPILinearOperator):
    r"""An opflow operator between sharded vectors, for PyLops-MPI's solvers and its algebra.

    Parameters
    ----------
    operator : Operator
        A kernel or a Jacobian of fields with a communicator, or an expression of such.

    Attributes
    ----------
    operator : Operator
        The same for the functions of :mod:`opflow.spectral`, whose vectors are arrays: the rows
        of this rank.  They take either.

    Raises
    ------
    TypeError
        If neither its rows nor its columns are sharded.

    See Also
    --------
    opflow.distributed.rows : The rows of this rank.
    opflow.distributed.ShardedRows : The rows of an operator.
    opflow.train : Trains on the samples of all ranks.

    Notes
    -----
    A sharded vector is a ``pylops_mpi.DistributedArray`` with `Partition.SCATTER` and the rows of
    every rank as :meth:`distribute` makes it; one that all ranks hold (parameters, in the domain
    of a Jacobian) has `Partition.BROADCAST`.  A product with K is a local one, one allreduce of
    P numbers, whatever N, and a local one.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.distributed
    >>> from mpi4py import MPI
    >>> X = np.eye(4)[opflow.distributed.rows(4, MPI.COMM_WORLD)]
    >>> fields = of.ReLUNetwork.random([4, 8], seed=0).fields(X, comm=MPI.COMM_WORLD)
    >>> K = opflow.distributed.ShardedOperator(of.collective_kernel(fields))
    >>> (K @ K.distribute(np.ones(len(X)))).local_array.shape
    (4,)
    """

    def __init__(self, operator: Operator) -> None:
        space = operator.space if isinstance(operator.space, Sharded) else operator.domain
        if not isinstance(space, Sharded):
            raise TypeError(f"{operator!r} is not sharded: build it on fields with comm=")
        self.operator = operator
        self._comm = space.comm
        self._nccl = space.nccl
        super().__init__(shape=operator.shape, dtype=operator.dtype, base_comm=space.comm)

    def distribute(self, x: Array, *, adjoint: bool = False) -> Any:
        """The rows of this rank as a ``DistributedArray`` that the operator multiplies.

        Parameters
        ----------
        x : array (n,)
            The rows of this rank, or all of them where the domain is not sharded.
        adjoint : bool, default False
            For a product with the adjoint.
        """
        size = self.shape[1]
        space = self.operator.domain
        if adjoint:
            size = self.shape[0]
            space = self.operator.space
        local = dict(base_comm=self._comm, base_comm_nccl=self._nccl, local_array=x)
        if not isinstance(space, Sharded):
            return pylops_mpi.DistributedArray(
                size, partition=pylops_mpi.Partition.UNSAFE_BROADCAST, **local
            )
        shapes = [(size // space.size * count,) for count in space.counts]
        return pylops_mpi.DistributedArray(size, local_shapes=shapes, **local)

    def _matvec(self, x: Any) -> Any:
        return self.distribute(self.operator.matvec(x.local_array), adjoint=True)

    def _rmatvec(self, x: Any) -> Any:
        return self.distribute(self.operator.rmatvec(x.local_array))


@converted.register
def _ours(x: ShardedOperator, symbol: str | None) -> Operator:
    return x.operator
