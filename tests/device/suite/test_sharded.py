"""Sharded operators of device arrays, on a communicator of one rank; :mod:`..ranks` has more."""

import numpy as np
import pytest

import opflow as of
from opflow.machine.workspace import block_module
from tests.device.counting import transfers
from tests.device.suite.sides import agree, problem, put

pytest.importorskip("mpi4py", reason="MPI is not installed: pip install '.[mpi]'")
# CuPy warns where it finds no NCCL
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_sharded_kernel_multiplies_device_arrays() -> None:
    from mpi4py import MPI

    import opflow.distributed as distributed

    net, X, y = problem(outputs=2, bias=True)
    whole, there = of.collective_kernel(net.fields(X)), net.to("gpu")
    K = of.collective_kernel(there.fields(put(X), comm=MPI.COMM_WORLD))
    r, m = put(y.reshape(-1)), put(np.linspace(-1, 1, net.parameters))
    with transfers() as made:
        found = K @ r, K.factor @ m, K.factor.T @ r, K.diagonal()
    assert all(t.site.endswith("_on_device") for t in made)
    F = whole.factor
    wanted = whole @ y.reshape(-1), F @ np.linspace(-1, 1, net.parameters), F.T @ y.reshape(-1)
    for got, want in zip(found, (*wanted, whole.diagonal()), strict=True):
        agree(got, want)
    assert block_module(K) is None and block_module(K.factor.T @ K.factor) is None
    assert block_module(of.collective_kernel(there.fields(put(X)))) == "cupy"
    op = distributed.ShardedOperator(K)
    agree((op.H @ op.distribute(r)).local_array, wanted[0])
    space = distributed.Sharded(MPI.COMM_WORLD, len(X))
    agree(distributed.ShardedRows(put(X), space) @ m[:5], X @ np.linspace(-1, 1, len(m))[:5])
    assert isinstance(space.largest(m), np.ndarray), "a maximum is wanted on the host"
    Q, R = space.qr(put(X))
    agree(Q @ R, X)
