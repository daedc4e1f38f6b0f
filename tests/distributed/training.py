"""Run by every rank: training on sharded samples, stopped and resumed, against one process."""

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pylops
import scipy.sparse as sp
from mpi4py import MPI

import opflow as of
import opflow.distributed as distributed
from tests.distributed.groups import groups

#: rows of each rank: ragged, and none on some
SHARDS = {1: (14,), 2: (9, 5), 3: (0, 8, 6), 4: (6, 0, 7, 1)}
METHODS = {
    "descent": (of.GradientDescent(), {"steps": 20}, 7),
    "momentum": (of.GradientDescent(0.02, momentum=0.5), {"steps": 20, "loss": "mean"}, 7),
    "decay": (of.GradientDescent(momentum=0.5, weight_decay=0.3), {"steps": 20}, 7),
    "batch": (of.GradientDescent(0.01, batch=3, rng=0), {"steps": 20, "every": 5}, 10),
    "batch, auto": (of.GradientDescent(batch=3, rng=0), {"steps": 20, "every": 5}, 10),
    "ball, auto": (of.GradientDescent(momentum=0.5), {"steps": 20}, 7),
    # steps adapt to differences, which magnify rounding: given moments, and not too many
    "flow": (of.GradientFlow(), {"times": [0.05, 0.1, 0.2]}, 4),
    "flow, decay": (of.GradientFlow(weight_decay=0.3), {"times": [0.05, 0.1, 0.2]}, 4),
    "exponential": (of.ExponentialFlow(), {"until": 1.0}, 2),
    "Gauss-Newton": (of.GaussNewton(), {"steps": 6}, 3),
    "linearised": (of.LinearisedFlow(), {"times": [0.1, 0.5, 1.0]}, 2),
}


def problem(k=2):
    rng = np.random.default_rng(k)
    net = of.ReLUNetwork.random([5, 9, 8], outputs=k, bias=True, seed=1, slope=[0.3, 0.0],
                                readout_rate="auto")  # fmt: skip
    return net, rng.standard_normal((14, 5)), rng.standard_normal((14, k))


def steep(comm):
    """Targets that make the kernel grow: all ranks take the same steps back."""
    warnings.filterwarnings("ignore", ".*train badly")
    net, X, y = problem()
    whole = of.train(net, X, 1e3 * y, steps=12, eliminate=False)
    assert "halved" in whole.note
    run = train(comm, net, X, 1e3 * y, None, {"steps": 12})
    assert run.note == whole.note and run.products == whole.products
    np.testing.assert_allclose(run.losses, whole.losses, rtol=1e-6)


def classes(comm, net, X):
    """Labels of this rank's rows, one of them wrong on one rank."""
    labels = np.arange(14) % 2
    method, flow = of.GradientDescent(), of.GradientFlow()
    for chosen, how in ((method, {"steps": 20}), (flow, {"times": [0.1, 0.2]})):
        how |= {"objective": "cross-entropy", "loss": "mean"}
        whole = of.train(net, X, labels, method=chosen, eliminate=False, **how)
        compare(comm, train(comm, net, X, labels, chosen, how), whole, "cross-entropy")
    try:
        train(comm, net, X, np.where(np.arange(14), labels, 2), method, how)
    except (ValueError, RuntimeError) as error:
        assert "labels 0..1" in str(error)
    else:
        raise AssertionError("a wrong label on one rank was let pass")


def rows(comm):
    counts = SHARDS[comm.size]
    start = sum(counts[: comm.rank])
    return slice(start, start + counts[comm.rank])


def measured(k=2):
    """G and d, which all ranks hold."""
    rng = np.random.default_rng(7)
    return rng.standard_normal((9, 14 * k)) / 5, rng.standard_normal(9)


def compare(comm, run, whole, what, here=None):
    scale = whole.losses[0]
    assert run.times.shape == whole.times.shape, what
    np.testing.assert_allclose(run.times, whole.times, rtol=1e-10, err_msg=what)
    np.testing.assert_allclose(run.losses, whole.losses, rtol=0, atol=1e-10 * scale, err_msg=what)
    for mine, theirs in zip(run.network.weights, whole.network.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-10, err_msg=what)
        assert len(set(comm.allgather(mine.tobytes()))) == 1, f"{what}: weights drift apart"
    here = rows(comm) if here is None else here
    np.testing.assert_allclose(run.residual, whole.residual[here], rtol=0, atol=1e-10)
    np.testing.assert_allclose(run.predict(np.eye(5)), whole.predict(np.eye(5)), atol=1e-9)
    assert run.products == whole.products, what


def train(comm, net, X, y, method, how, **more):
    s = rows(getattr(comm, "comm", comm))
    return of.train(net, X[s], y[s], method=method, comm=comm, **how, **more)


def trajectories(comm):
    net, X, y = problem()
    for name, (method, how, _) in METHODS.items():
        whole = of.train(net, X, y, method=method, eliminate=False, **how)
        compare(comm, train(comm, net, X, y, method, how), whole, name)
    classes(comm, net, X)
    steep(comm)
    sparse = sp.csr_array(X * (X > 0))
    whole = of.train(net, sparse, y, steps=5, eliminate=False)
    compare(comm, train(comm, net, sparse, y, None, {"steps": 5}), whole, "sparse")


def measurements(comm):
    """Every rank holds G and d, its samples, and rows of the residual."""
    net, X, _ = problem()
    G, d = measured()
    mine = distributed.rows(9, comm)
    for name, (method, how, _) in METHODS.items():
        if "batch" not in name:
            watch = lambda: [of.observe.TopEigenpairs(2), of.observe.ResidualNorm()]  # noqa: E731
            whole = of.train(net, X, d, measurement=G, method=method, eliminate=False,
                             observe=watch(), **how)  # fmt: skip
            run = of.train(net, X[rows(comm)], d, measurement=G, method=method, comm=comm,
                           observe=watch(), **how)  # fmt: skip
            compare(comm, run, whole, f"{name}, measured", mine)
            for key, values in whole.observations.items():
                np.testing.assert_allclose(run.observations[key], values, rtol=1e-7, err_msg=key)
    whole = of.train(net, X, d, measurement=G, steps=5, eliminate=False)
    for form in (sp.csr_array, of.as_operator, pylops.MatrixMult):
        run = of.train(net, X[rows(comm)], d, measurement=form(G), steps=5, comm=comm)
        compare(comm, run, whole, f"{form}", mine)
    space = distributed.Sharded(comm, len(X[rows(comm)]))
    few, many = (reductions(space, net, X, d, steps, measurement=G) for steps in (5, 25))
    assert many - few == 20  # F = G f; all other sums are over the rows of d
    gates = [of.observe.GateFlips()]
    refused(comm, "GateFlips is not for measurement= with comm=", True, lambda: of.train(
        net, X[rows(comm)], d, measurement=G, steps=5, comm=comm, observe=gates))  # fmt: skip
    alone = {"measurement": G} if comm.rank else {}
    data = X[rows(comm)], d if comm.rank else np.zeros((len(X[rows(comm)]), 2))
    refused(comm, "steps, until, times", True, lambda: of.train(
        net, *data, steps=5, comm=comm, **alone))  # fmt: skip
    other = G + (comm.rank == comm.size - 1)
    for wrong, what in ((other, "measurement and y must be the same"), (G[:, 1:], r"(M, 28)")):
        refused(comm, what, True, lambda: of.train(
            net, X[rows(comm)], d, measurement=wrong, steps=5, comm=comm))  # noqa: B023  # fmt: skip


def reductions(space, net, X, y, steps, **more):
    before = space.reductions
    s = rows(space.comm)
    of.train(net, X[s], y, method=of.GradientDescent(0.01), steps=steps, comm=space, **more)
    return space.reductions - before


def fewer_samples_than_ranks(comm):
    net, X, y = (part if i == 0 else part[:2] for i, part in enumerate(problem()))
    s = distributed.rows(2, comm)
    for name, (method, how, _) in METHODS.items():
        if "batch" not in name:  # of three samples
            whole = of.train(net, X, y, method=method, eliminate=False, **how)
            run = of.train(net, X[s], y[s], method=method, comm=comm, **how)
            np.testing.assert_allclose(run.losses, whole.losses, atol=1e-10 * whole.losses[0])
    K, whole = (of.collective_kernel(f) for f in (net.fields(X[s], comm=comm), net.fields(X)))
    found, wanted = (of.spectral.eigsh(op, 2).eigenvalues for op in (K, whole))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def begin(comm, folder):
    """Stop every method early, with a checkpoint."""
    net, X, y = problem()
    for name, (method, how, early) in METHODS.items():
        checkpoint = of.Checkpoint(folder / f"{name}.npz", steps=2)
        train(comm, net, X, y, method, how | {"steps": early}, checkpoint=checkpoint)
    G, d = measured()
    checkpoint = of.Checkpoint(folder / "measured.npz", steps=2)
    of.train(net, X[rows(comm)], d, measurement=G, steps=7, checkpoint=checkpoint, comm=comm)


def resume(comm, folder):
    """Go on with what other ranks, or one process, began."""
    net, X, y = problem()
    for name, (method, how, _) in METHODS.items():
        whole = of.train(net, X, y, method=method, eliminate=False, **how)
        run = train(comm, net, X, y, method, how, checkpoint=folder / f"{name}.npz", resume=True)
        compare(comm, run, whole, name)
    G, d = measured()
    whole = of.train(net, X, d, measurement=G, steps=20, eliminate=False)
    run = of.train(net, X[rows(comm)], d, measurement=G, steps=20, comm=comm, resume=True,
                   checkpoint=folder / "measured.npz")  # fmt: skip
    compare(comm, run, whole, "measured", distributed.rows(9, comm))


def failing(comm, folder):
    """What fails on one rank alone is an error on all, and not a wait for ever."""
    net, X, y = problem()
    last = comm.size - 1

    def observer(moment):
        if comm.rank == last and moment.step >= 2:
            raise ZeroDivisionError("no luck")
        return 1.0

    def other(moment):
        return np.ones(1 + (comm.rank == last and moment.step > 0))

    # of all ranks, after the one that fails
    after, state = of.observe.Alignment(), folder / f"failing-{comm.size}.npz"
    for watch, what, how in [
        ({"own": observer, "after": after}, "ZeroDivisionError: no luck", {"steps": 9}),
        ({"own": observer, "after": after}, "no luck", {"steps": 9, "checkpoint": state}),
        ({"own": observer}, "no luck", {"steps": 2}),
        ({"own": other}, "gave shape (2,) at step 1 but shape (1,)", {"steps": 9, "every": 1}),
    ]:
        refused(comm, what, comm.rank != last, lambda: train(
            comm, net, X, y, None, how, observe=watch))  # noqa: B023  # fmt: skip
    refused(comm, "steps, until, times", True, lambda: train(
        comm, net, X, y, None, {"steps": 3 + (comm.rank == last)}))  # fmt: skip
    log = {"log": folder / ("no/such/folder" if comm.rank == 0 else "log.jsonl")}
    refused(comm, "No such file", comm.rank != 0, lambda: train(
        comm, net, X, y, None, {"steps": 3} | log))  # fmt: skip


def refused(comm, message, told, work):
    """An error on all ranks of several; `told` of another by those that have none of their own."""
    if comm.size == 1:
        return
    try:
        work()
    except (distributed.RankError, ValueError) as error:
        assert told or not isinstance(error, distributed.RankError)
        assert message in str(error), error
    except (ZeroDivisionError, OSError):
        assert not told
    else:
        raise AssertionError(f"accepted: {message}")


def stopping(comm):
    """A condition that holds on one rank alone ends the run of all, one that fails there too."""
    net, X, y = problem()
    last = comm.size - 1
    method = of.GradientDescent(0.01)
    alone = {"stop": lambda moment: comm.rank == last and moment.step == 3}
    run = train(comm, net, X, y, method, {"steps": 9}, observe=[of.observe.Snapshots()], **alone)
    whole = of.train(net, X, y, method=method, steps=3)
    compare(comm, run, whole, "stop")
    assert run.stopped == "<lambda>" and list(run.observations["snapshots"]) == [0, 1, 2, 3]
    assert run.observations["snapshots"][3].digest() == run.network.digest()
    fails = {"stop": lambda moment: comm.rank == last and moment.step >= 2 and 1 / 0}
    refused(comm, "division by zero", comm.rank != last, lambda: train(
        comm, net, X, y, method, {"steps": 9}, **fails))  # fmt: skip


def messages(comm):
    """A step sums the gradient, the loss, and whether to stop: with observers as without."""
    net, X, y = problem()
    for watch in ((), (lambda moment: 1.0,)):
        space = distributed.Sharded(comm, len(y[rows(comm)]))

        def spent(steps, space=space, watch=watch):
            before = space.reductions
            train(space, net, X, y, of.GradientDescent(0.01), {"steps": steps}, observe=watch)
            return space.reductions - before

        assert spent(25) - spent(5) == 3 * 20


#: ranks that begin a run, and ranks that go on with it
CHANGES = ((3, 2), (1, 4), (4, 1))

folder = Path(sys.argv[1])
for comm in groups():
    trajectories(comm)
    measurements(comm)
    fewer_samples_than_ranks(comm)
    messages(comm)
    stopping(comm)
    failing(comm, folder)
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
