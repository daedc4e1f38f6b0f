"""Imports of PyLops-MPI and mpi4py, with the remedy where they are missing."""

from __future__ import annotations

from opflow.interface.extras import install

try:
    import pylops_mpi
    from mpi4py import MPI
except ImportError as error:
    raise ImportError(f"opflow.distributed needs MPI: {install('mpi')}") from error

__all__ = ["MPI", "pylops_mpi"]
