"""Run by every rank: training on sharded samples, stopped and resumed, against one process."""

import shutil
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from mpi4py import MPI

import opflow as of
from tests.distributed.groups import groups

#: rows of each rank: ragged, and none on some
SHARDS = {1: (14,), 2: (9, 5), 3: (0, 8, 6), 4: (6, 0, 7, 1)}
METHODS = {
    "descent": (of.GradientDescent(), {"steps": 20}, 7),
    "momentum": (of.GradientDescent(0.02, momentum=0.5), {"steps": 20, "loss": "mean"}, 7),
    "batch": (of.GradientDescent(0.01, batch=3, rng=0), {"steps": 20, "every": 5}, 10),
    # steps adapt to differences, which magnify rounding: given moments, and not too many
    "flow": (of.GradientFlow(), {"times": [0.05, 0.1, 0.2]}, 4),
    "exponential": (of.ExponentialFlow(), {"until": 1.0}, 2),
    "linearised": (of.LinearisedFlow(), {"times": [0.1, 0.5, 1.0]}, 2),
}


def problem(k=2):
    rng = np.random.default_rng(k)
    net = of.ReLUNetwork.random([5, 9, 8], outputs=k, bias=True, seed=1)
    return net, rng.standard_normal((14, 5)), rng.standard_normal((14, k))


def rows(comm):
    counts = SHARDS[comm.size]
    start = sum(counts[: comm.rank])
    return slice(start, start + counts[comm.rank])


def compare(comm, run, whole, what):
    scale = whole.losses[0]
    assert run.times.shape == whole.times.shape, what
    np.testing.assert_allclose(run.times, whole.times, rtol=1e-10, err_msg=what)
    np.testing.assert_allclose(run.losses, whole.losses, rtol=0, atol=1e-10 * scale, err_msg=what)
    for mine, theirs in zip(run.network.weights, whole.network.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-10, err_msg=what)
        assert len(set(comm.allgather(mine.tobytes()))) == 1, f"{what}: weights drift apart"
    np.testing.assert_allclose(run.residual, whole.residual[rows(comm)], rtol=0, atol=1e-10)
    np.testing.assert_allclose(run.predict(np.eye(5)), whole.predict(np.eye(5)), atol=1e-9)
    assert run.products == whole.products, what


def train(comm, net, X, y, method, how, **more):
    s = rows(comm)
    return of.train(net, X[s], y[s], method=method, comm=comm, **how, **more)


def trajectories(comm):
    net, X, y = problem()
    for name, (method, how, _) in METHODS.items():
        whole = of.train(net, X, y, method=method, eliminate=False, **how)
        compare(comm, train(comm, net, X, y, method, how), whole, name)
    sparse = sp.csr_array(X * (X > 0))
    whole = of.train(net, sparse, y, steps=5, eliminate=False)
    compare(comm, train(comm, net, sparse, y, None, {"steps": 5}), whole, "sparse")


def begin(comm, folder):
    """Stop every method early, with a checkpoint."""
    net, X, y = problem()
    for name, (method, how, early) in METHODS.items():
        checkpoint = of.Checkpoint(folder / f"{name}.npz", steps=2)
        train(comm, net, X, y, method, how | {"steps": early}, checkpoint=checkpoint)


def resume(comm, folder):
    """Go on with what other ranks, or one process, began."""
    net, X, y = problem()
    for name, (method, how, _) in METHODS.items():
        whole = of.train(net, X, y, method=method, eliminate=False, **how)
        run = train(comm, net, X, y, method, how, checkpoint=folder / f"{name}.npz", resume=True)
        compare(comm, run, whole, name)


#: ranks that begin a run, and ranks that go on with it
CHANGES = ((3, 2), (1, 4), (4, 1))

folder = Path(sys.argv[1])
for comm in groups():
    trajectories(comm)
for first, then in CHANGES:
    place = folder / f"from-{first}"
    if MPI.COMM_WORLD.rank == 0:
        place.mkdir()
    for comm in groups([first]):
        begin(comm, place)
    if (first, then) == CHANGES[0] and MPI.COMM_WORLD.rank == 0:
        shutil.copytree(place, folder / "begun")
    for comm in groups([then]):
        resume(comm, place)
if MPI.COMM_WORLD.rank == 0:
    print("done")
