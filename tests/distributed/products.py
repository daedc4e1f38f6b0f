"""Run by every rank: products, sums and eigenpairs of sharded samples, against one process."""

import functools

import numpy as np
import pylops_mpi
from mpi4py import MPI

import opflow as of
import opflow.distributed as distributed
from opflow.relu.storage import STORAGES
from tests.distributed.groups import groups

#: rows of each rank: even, ragged, and none on some
SHARDS = {1: [(14,)], 2: [(7, 7), (0, 14), (13, 1)], 3: [(5, 5, 4), (0, 9, 5)],
          4: [(4, 3, 4, 3), (1, 0, 0, 13)]}  # fmt: skip


def close(mine, whole, tol, what):
    size = abs(np.asarray(whole)).max(initial=0.0)
    error = abs(np.asarray(mine) - whole).max(initial=0.0)
    assert error <= tol * size, f"{what}: {error} of {size}"


def products(comm, counts, k, dtype, bias):
    rng = np.random.default_rng(len(counts) + k)
    others = {"slope": [0.3, -1.0], "readout_rate": 0.5} if bias else {}
    net = of.ReLUNetwork.random([5, 9, 8], outputs=k, bias=bias, seed=1, dtype=dtype, **others)
    X = rng.standard_normal((14, 5)).astype(dtype)
    X[3] = X[2]
    start = sum(counts[: comm.rank])
    rows = slice(start, start + counts[comm.rank])
    flat = slice(k * rows.start, k * rows.stop)
    tol = 1e-12 if dtype == "float64" else 1e-5
    whole = of.collective_kernel(net.fields(X))
    r = rng.standard_normal((14 * k, 3)).astype(dtype)
    parameters = rng.standard_normal(net.parameters).astype(dtype)
    for storage in STORAGES:
        fields = net.fields(X[rows], storage=storage, comm=comm)
        K = of.collective_kernel(fields)
        assert K.shape == whole.shape and K.psd
        space = K.space
        before = space.reductions, space.bytes
        image = K @ r[flat]
        assert image.dtype == dtype
        assert space.reductions == before[0] + 1, "one allreduce a product"
        assert space.bytes - before[1] == 3 * net.parameters * image.itemsize
        close(image, (whole @ r)[flat], tol, f"K r, {storage}")
        close(K @ r[flat, 0], (whole @ r[:, 0])[flat], tol, f"K r of a vector, {storage}")
        close(K.diagonal(), whole.diagonal()[flat], tol, "diagonal")
        close(K.trace(), whole.trace(), tol, "trace")
        shifted = 2.0 * K + of.Identity(14 * k, dtype=dtype)
        close(shifted @ r[flat], (2 * (whole @ r) + r)[flat], tol, "2 K + I")
        J, Jw = of.jacobian(fields), of.jacobian(net.fields(X))
        close(J.T @ r[flat], Jw.T @ r, tol, "Jᵀ r")
        close(J @ parameters, (Jw @ parameters)[flat], tol, "J m")
        G = of.Gram(J.T)
        assert not G.space.sharded
        close(G @ parameters, Jw.T @ (Jw @ parameters), tol, "JᵀJ m")
        for mine, full in zip(of.layer_kernels(fields), of.layer_kernels(net.fields(X)),
                              strict=True):  # fmt: skip
            close(mine @ r[flat], (full @ r)[flat], tol, mine.symbol)
        velocity = functools.partial(of.kernel_velocity, fields, r[flat, 0].reshape(-1, k))
        for work in (functools.partial(K.block, [0], [0]), K.todense, velocity):
            try:
                work()
            except ValueError as error:
                assert "sharded" in str(error)
            else:
                raise AssertionError("entries of a sharded kernel")
        mpi = distributed.ShardedOperator(of.collective_kernel(fields))
        assert isinstance(mpi, pylops_mpi.MPILinearOperator)
        x = mpi.distribute(r[flat, 0])
        close((mpi @ x).local_array, (whole @ r[:, 0])[flat], tol, "K r by PyLops-MPI")
        close((mpi.H @ x).local_array, (whole @ r[:, 0])[flat], tol, "Kᵀ r by PyLops-MPI")
    if dtype == "float64":
        pairs, alone = of.spectral.eigsh(mpi, 5), of.spectral.eigsh(whole, 5, method="lanczos")
        close(pairs.eigenvalues, alone.eigenvalues, 1e-10, "eigenvalues")
        image = whole @ np.concatenate(comm.allgather(pairs.eigenvectors))
        gaps = image[flat] - pairs.eigenvectors * pairs.eigenvalues
        assert abs(gaps).max(initial=0) < 1e-10 * pairs.eigenvalues[0]
        alpha, _, basis = of.spectral.lanczos(mpi, 4)
        close(alpha, of.spectral.lanczos(whole, 4)[0], 1e-10, "alpha")
        assert basis.shape == (len(r[flat]), 4)


def solved_by_pylops(comm, counts):
    """PyLops-MPI's own solver on a sharded kernel."""
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([5, 40], seed=1)
    X, b = rng.standard_normal((14, 5)), rng.standard_normal(14)
    start = sum(counts[: comm.rank])
    rows = slice(start, start + counts[comm.rank])
    K = of.collective_kernel(net.fields(X[rows], comm=comm)) + 0.1 * of.Identity(14)
    op = distributed.ShardedOperator(K)
    rhs, zero = op.distribute(b[rows]), op.distribute(0 * b[rows])
    # it stops by the square of the residual, and the smallest eigenvalue is 0.1
    x, *_ = pylops_mpi.cg(op, rhs, x0=zero, niter=200, tol=1e-24)
    whole = of.collective_kernel(net.fields(X)).todense() + 0.1 * np.eye(14)
    close(x.local_array, np.linalg.solve(whole, b)[rows], 1e-10, "pylops_mpi.cg")


def refused(comm):
    """What cannot be: nobody has samples, other networks, a rank that fails alone."""
    net, one = (of.ReLUNetwork.random([5, 9], seed=seed) for seed in (comm.rank, 0))
    X = np.zeros((3, 5))
    cases = [
        (lambda: one.fields(X[:0], comm=comm), "no rank holds a row"),
        (lambda: of.train(one, X[:, : 5 - (comm.rank == 1)],
                          np.zeros(3), steps=1, comm=comm), "expects 5 input features"),
        (lambda: distributed.ShardedOperator(of.Gram(X)), "not sharded"),
        (lambda: distributed.ShardedRows(X, distributed.Sharded(comm, 2)), "holds 2 of"),
        (lambda: of.train(net, X, np.zeros(3), steps=1, comm=comm, eliminate=True), "one machine"),
        (lambda: of.train(net, X, np.zeros(3), steps=1, comm=comm,
                          method=of.TruncatedFlow(1)), "one machine"),
    ]  # fmt: skip
    if comm.size > 1:
        cases.append((lambda: of.train(net, X, np.zeros(3), steps=1, comm=comm),
                      "network must be the same on all ranks"))  # fmt: skip
        cases.append((lambda: net.fields(X, comm=comm), "network must be the same on all ranks"))
    else:
        del cases[1]
    for work, message in cases:
        try:
            work()
        except (ValueError, TypeError, distributed.RankError) as error:
            assert message in str(error), error
        else:
            raise AssertionError(f"accepted: {message}")


for comm in groups():
    for shards in SHARDS[comm.size]:
        for k in (1, 2):
            products(comm, shards, k, "float64", bias=k == 2)
        products(comm, shards, 1, "float32", bias=False)
        solved_by_pylops(comm, shards)
    refused(comm)
if MPI.COMM_WORLD.rank == 0:
    print("done")
