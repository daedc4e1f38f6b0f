"""Run by every rank: samples sharded over ranks whose arrays are on devices, against the host.

On the stand-in, sums go each way that there is: through the host, by an MPI that is given device
memory, and by NCCL.  On devices, as ``PYLOPS_MPI_CUDA_AWARE`` says, and by NCCL where each rank
has a device of its own.
"""
# ruff: noqa: E402  (which CuPy there is has to be settled before anything asks for it)

import collections
import contextlib
import os
import sys
import warnings
from pathlib import Path

STAND_IN = os.environ["OPFLOW_DEVICE"] == "stand-in"
if STAND_IN:
    from tests.device import standin

    standin.install()

import cupy
import numpy as np
from mpi4py import MPI
from pylops_mpi.utils import deps

import opflow as of
import opflow.distributed as distributed
from opflow.cli import commands, run_report
from opflow.cli.devices import check_device, placed_inputs
from opflow.machine.arrays import to_host
from opflow.machine.workspace import free_memory
from opflow.relu.storage import STORAGES
from tests.device.counting import transfers

comm, S = MPI.COMM_WORLD, of.spectral
#: rows of each rank: ragged, and none on some
SHARDS = {1: (14,), 2: (9, 5), 3: (0, 8, 6)}
METHODS = {
    "descent": (of.GradientDescent(), {"steps": 20}),
    "batch": (of.GradientDescent(0.01, batch=3, rng=0), {"steps": 20, "every": 5}),
    # steps adapt to differences, which magnify rounding: given moments, and not too many
    "flow": (of.GradientFlow(), {"times": [0.05, 0.1, 0.2]}),
    "exponential": (of.ExponentialFlow(), {"until": 1.0}),
    "linearised": (of.LinearisedFlow(), {"times": [0.1, 0.5, 1.0]}),
}
start = sum(SHARDS[comm.size][: comm.rank])
ROWS = slice(start, start + SHARDS[comm.size][comm.rank])
put = cupy.asarray


def problem():
    rng = np.random.default_rng(2)
    net = of.ReLUNetwork.random([5, 9, 8], outputs=2, bias=True, seed=1)
    return net, rng.standard_normal((14, 5)), rng.standard_normal((14, 2))


#: what a sum may do, the way that was asked for
WAYS = {"host": ("to host", "to device"), "mpi": ("mpi",), "nccl": ("nccl",)}


def close(device, whole, what, tol=1e-10):
    error, size = abs(to_host(device) - whole).max(initial=0), abs(whole).max(initial=0)
    assert error <= tol * size, f"{what}: {error} of {size}"


def ways():
    """How sums may go, and the communicator or space for it."""
    if STAND_IN:
        for deps.cuda_aware_mpi_enabled in (False, True):
            yield "mpi" if deps.cuda_aware_mpi_enabled else "host", comm
    else:
        yield "mpi" if deps.cuda_aware_mpi_enabled else "host", comm
    if (deps.nccl_enabled and comm.size <= cupy.cuda.runtime.getDeviceCount()) or STAND_IN:
        from pylops_mpi.utils._nccl import initialize_nccl_comm

        yield (
            "nccl",
            distributed.Sharded(comm, SHARDS[comm.size][comm.rank], initialize_nccl_comm()),
        )


class Counted:
    """Transfers other than those of sums, by kind; sums must go the way that was asked for."""

    def __init__(self, way):
        self.way = way

    @contextlib.contextmanager
    def __call__(self):
        counted = collections.Counter()
        with transfers() as made:
            yield counted
        for t in made:
            if not t.site.endswith("_on_device"):
                counted[t.kind] += 1
            elif t.kind not in WAYS[self.way]:
                raise AssertionError(f"a sum went the wrong way: {t}")


def products(space, counted):
    net, X, _ = problem()
    dense = of.collective_kernel(net.fields(X))
    whole = dense.todense()
    r = np.random.default_rng(3).standard_normal((28, 3))
    flat, there = slice(2 * ROWS.start, 2 * ROWS.stop), net.to("gpu")
    for storage in STORAGES:
        fields = there.fields(put(X[ROWS]), storage=storage, comm=space)
        K, v, w = of.collective_kernel(fields), put(r[flat]), put(r[flat, 0])
        J, m = of.jacobian(fields), put(np.linspace(-1, 1, net.parameters))
        reductions = K.space.reductions
        with counted() as made:
            image, one, back, forth = K @ v, K @ w, J.T @ w, J @ m
            diagonal = K.diagonal()
        assert not made, f"a product moves {made}"
        assert K.space.reductions == reductions + 3, "one sum a product with Jᵀ"
        close(image, (whole @ r)[flat], f"K r, {storage}", 1e-12)
        close(one, (whole @ r[:, 0])[flat], f"K r of a vector, {storage}", 1e-12)
        Jw = of.jacobian(net.fields(X))
        close(back, Jw.T @ r[:, 0], "Jᵀ r", 1e-12)
        close(forth, (Jw @ to_host(m))[flat], "J m", 1e-12)
        close(diagonal, np.diag(whole)[flat], "diagonal")
    close(K.trace(), np.trace(whole), "trace")
    mpi = distributed.ShardedOperator(K)
    close((mpi @ mpi.distribute(w)).local_array, (whole @ r[:, 0])[flat], "by PyLops-MPI")
    return K, dense, r, flat


def spectral(K, whole, r, flat, counted):
    def steps(n):
        with counted() as made:
            alpha = S.lanczos(K, n, put(r[flat, 0]))[0]
        close(alpha, S.lanczos(whole, n, r[:, 0])[0], "alpha")
        return made

    if STAND_IN:
        assert steps(8) - steps(3) == {"to host": 5}, "a step brings its numbers together"
        assert not steps(8)["to device"]

    def iterations(n):
        with counted() as made, warnings.catch_warnings():
            warnings.simplefilter("ignore", S.ConvergenceWarning)
            S.solve(K, put(r[flat]), 1e-9, maxiter=n)
        return made

    if STAND_IN:
        assert iterations(8) - iterations(3) == {"to host": 5}, "an iteration brings its numbers"
    b = r[:, :2]
    close(S.solve(K, put(b[flat]), 1.0, tol=1e-12).x, S.solve(whole, b, 1.0, tol=1e-12).x[flat],
          "solve", 1e-9)  # fmt: skip
    net, X, _ = problem()
    sharded = of.collective_kernel(net.fields(X[ROWS], comm=comm))
    mine, other = S.alignment(K, put(r[flat, 0])), S.alignment(sharded, r[flat, 0])
    assert abs(mine - other) <= 1e-10 * abs(other), "alignment, by the same random vectors"
    pairs = S.eigsh(K, 4)
    close(pairs.eigenvalues, S.eigsh(whole, 4).eigenvalues, "eigenvalues")
    image = to_host(K @ pairs.eigenvectors) - to_host(pairs.eigenvectors) * pairs.eigenvalues
    assert abs(image).max(initial=0) < 1e-10 * pairs.eigenvalues[0]
    close(S.expm(K, put(r[flat, 0]), 0.01), S.expm(whole, r[:, 0], 0.01)[flat], "expm")
    close(S.quadrature(K, probes=3, steps=6, rng=0).nodes,
          S.quadrature(whole, probes=3, steps=6, rng=0).nodes, "quadrature", 1e-8)  # fmt: skip


def runs(space, counted):
    net, X, y = problem()
    there = net.to("gpu"), put(X[ROWS]), put(y[ROWS])
    for name, (method, how) in METHODS.items():
        whole = of.train(net, X, y, method=method, eliminate=False, **how)
        run = of.train(*there, method=method, comm=space, **how)
        np.testing.assert_allclose(run.losses, whole.losses, rtol=0, atol=1e-10 * whole.losses[0],
                                   err_msg=name)  # fmt: skip
        close(run.residual, whole.residual[ROWS], name, 1e-9)
        for mine, other in zip(run.network.weights, whole.network.weights, strict=True):
            close(mine, other, name)
            assert len(set(comm.allgather(to_host(mine).tobytes()))) == 1, "weights drift apart"

    def steps(n):
        with counted() as made:
            method = of.GradientDescent(0.01)  # one that measures no λ_max on the way
            of.train(*there, method=method, steps=n, every=100, comm=space)
        return made

    if STAND_IN:
        assert steps(25) - steps(5) == {"scalar": 20}, "a step brings one number to the host"


def watched():
    top = of.observe.TopEigenpairs(2)
    return [top, top.angles, of.observe.KernelDistance(4), of.observe.GateFlips(),
            of.observe.Sharpness(), of.observe.ResidualNorm(), of.observe.GramClosure(1),
            of.observe.Spectrum(points=5), of.observe.Balancedness()]  # fmt: skip


def observers(space, folder):
    """What is observed of device arrays, stopped and gone on, is what one process observes."""
    net, X, y = problem()
    there = net.to("gpu"), put(X[ROWS]), put(y[ROWS])
    whole = of.train(net, X, y, steps=4, eliminate=False, observe=watched())
    for steps in (2, 4):
        run = of.train(*there, steps=steps, comm=space, observe=watched(),
                       checkpoint=folder / "observed.npz", resume=True)  # fmt: skip
    for name, values in whole.observations.items():
        np.testing.assert_allclose(run.observations[name], values, rtol=1e-5, atol=1e-6,
                                   err_msg=name)  # fmt: skip


def devices():
    """The ranks of a host take its devices in turn, and share the memory of one that they share."""
    count = cupy.cuda.runtime.getDeviceCount()
    check_device("gpu", comm)
    assert cupy.cuda.Device().id == comm.rank % count
    if STAND_IN:
        sharers = len(range(comm.rank % count, comm.size, count))
        most = -(-comm.size // count)
        space = distributed.Sharded(comm, 1)
        assert space._sharers() == sharers
        assert space.budget(None, "cupy") == 0.5 * free_memory("cupy") / most
        assert space.budget("1KiB", "cupy") == 1024
        X, free = np.ones((10 * (comm.rank == 0), 5)), standin.Device.mem_info
        for bytes_free, streamed in ((800 * most, False), (799 * most, True)):
            standin.Device.mem_info = (bytes_free, bytes_free)
            assert isinstance(placed_inputs(X, comm), of.Streamed) == streamed, "all or none"
        standin.Device.mem_info = free


def command_line(folder):
    """The same files from both sides; a run on devices goes on on the host."""
    data = folder / "data.npz"
    if comm.rank == 0:
        _, X, y = problem()
        np.savez(data, X=X, y=y)
    comm.barrier()
    losses = {}
    for out, words in {"cpu": ["--steps", "4"], "gpu": ["--steps", "4", "--device", "gpu"],
                       "both": ["--steps", "2", "--device", "gpu"]}.items():  # fmt: skip
        run = ["train", str(data), "--widths", "8", "--quiet", "--out", str(folder / out)]
        assert commands.main([*run, *words]) == 0
        if out == "both":
            assert commands.main([*run, "--steps", "4", "--resume"]) == 0
        comm.barrier()
        losses[out] = of.Trajectory.load(folder / out / "trajectory.npz").losses
    for out in ("gpu", "both"):
        np.testing.assert_allclose(losses[out], losses["cpu"], rtol=1e-9, err_msg=out)


devices()
for way, space in ways():
    count = Counted(way)
    found = products(space, count)
    spectral(*found, count)
    runs(space, count)
    if way == "host":
        observers(space, Path(sys.argv[1]))
run_report.attempt = lambda folder, make: "no pictures"  # they take most of the time
command_line(Path(sys.argv[1]))
if comm.rank == 0:
    print("done")
