"""Whether a command was started by mpiexec, found without importing MPI."""

from __future__ import annotations

import os

#: what the launchers of MPICH and its kin, of Open MPI and of MVAPICH say of the number of ranks
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> bool:
    """Whether ``mpiexec`` started several processes."""
    return any(int(os.environ.get(name, "1")) > 1 for name in SIZES)
