"""Part of the stand-in: ``cupy.cuda.nccl``, with MPI where a device has NVLink.

PyLops-MPI gives it the addresses of device memory, which the stand-in has on the host.
"""

import ctypes
from collections.abc import Callable
from types import ModuleType

import numpy as np

#: as nccl.h numbers them
TYPES = {"INT8": 0, "UINT8": 1, "INT32": 2, "UINT32": 3, "INT64": 4, "UINT64": 5, "FLOAT32": 7,
         "FLOAT64": 8}  # fmt: skip
OPERATIONS = {"SUM": 0, "PROD": 1, "MAX": 2, "MIN": 3}


def module(note: Callable[[str, int], None]) -> ModuleType:
    """The module; `note` is told of what goes between ranks."""
    names = {number: name.lower() for name, number in TYPES.items()}
    operations = {number: name for name, number in OPERATIONS.items()}

    def at(address: int, count: int, datatype: int) -> np.ndarray:
        dtype = np.dtype(names[datatype])
        raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
        return np.frombuffer(raw, dtype)

    class NcclCommunicator:
        def __init__(self, ndev: int, commId: tuple, rank: int) -> None:
            from mpi4py import MPI

            self.MPI = MPI
            assert (ndev, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)

        def size(self) -> int:
            return self.MPI.COMM_WORLD.size

        def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream) -> None:
            note("nccl", count)
            send, recv = (at(address, count, datatype) for address in (sendbuf, recvbuf))
            self.MPI.COMM_WORLD.Allreduce(send, recv, getattr(self.MPI, operations[int(op)]))

    made = ModuleType("cupy.cuda.nccl", "A stand-in for cupy.cuda.nccl.")
    made.available = True
    made.get_unique_id = lambda: (0,) * 128
    made.NcclCommunicator = NcclCommunicator
    for name, number in (TYPES | OPERATIONS).items():
        setattr(made, f"NCCL_{name}", number)
    return made
