"""Samples distributed over the ranks of an MPI communicator.

A product with K is a local product, one allreduce of a weight-shaped array, and a local product.

Every rank runs the same program on its own rows.  A communicator given to the fields, or to
:func:`opflow.train`, is all that differs from a program for one machine.
"""

from opflow.distributed.kernel import ShardedOperator
from opflow.machine.communicator import RankError
from opflow.machine.communicator import rows_of_rank as rows
from opflow.machine.ranks import Sharded
from opflow.operators.sharded import ShardedRows

__all__ = ["RankError", "Sharded", "ShardedOperator", "ShardedRows", "rows"]

__dir__ = __all__.copy  # for dir()
