"""Run by four ranks: what observers and reports say of sharded samples, against one process.

The ranks stand together, then in groups of three and one, then two and two.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from mpi4py import MPI

import opflow as of
from opflow.cli import observers as of_command_line
from opflow.cli import run_report
from opflow.data.load import DataSet
from opflow.machine.ranks import LOCAL, Sharded

#: rows of each rank: ragged, and none on some
SHARDS = {1: (13,), 2: (9, 4), 3: (0, 6, 7), 4: (5, 0, 7, 1)}
GROUPS = ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1))
#: outputs that the groups are tried with
OUTPUTS = ((2,), (1, 2), (1, 2))
comm = MPI.COMM_NULL


def mine(*arrays):
    counts = SHARDS[comm.size]
    start = sum(counts[: comm.rank])
    rows = slice(start, start + counts[comm.rank])
    return [a[rows] for a in arrays]


def problem(k):
    rng = np.random.default_rng(k)
    X, new = rng.standard_normal((2, 13, 4))
    labels, other = rng.integers(0, 2, (2, 13))
    y, z = np.tanh(X @ rng.standard_normal((4, k))), rng.standard_normal((13, k))
    net = of.ReLUNetwork.random([4, 9, 8], outputs=k, bias=True, seed=k)
    return net, X, y, labels, DataSet(new, z, other if k > 1 else None)


def observers(y, labels, test):
    top = of.observe.TopEigenpairs(3, tol=0)
    everything = [
        of.observe.Loss(), of.observe.GateFlips(), of.observe.Balancedness(),
        of.observe.GramClosure(1, "output"), of.observe.GramClosure(2),
        top, top.angles, top.modes, of.observe.Sharpness(tol=1e-6),
        of.observe.Spectrum(points=30), of.observe.KernelDistance(5), of.observe.Alignment(),
    ]  # fmt: skip
    seen = {observer.name: observer for observer in everything}
    seen["centred"] = of.observe.Alignment(centred=True, residual=True)
    data = DataSet(None, y, labels if y.shape[1] > 1 else None)
    return seen | of_command_line.observers(data, test, 2)


def same(here, alone, name, rtol=1e-10):
    """Equal to one process's, and the same bits on all ranks."""
    here, alone = np.asarray(here, dtype=np.float64), np.asarray(alone, dtype=np.float64)
    assert len(set(comm.allgather(here.tobytes()))) == 1, f"{name} differs between ranks"
    np.testing.assert_allclose(here, alone, rtol=rtol, atol=rtol * abs(alone).max(), err_msg=name)


def observed(k):
    """Every observer at every moment, what it remembers, and the run as it is saved."""
    net, X, y, labels, test = problem(k)
    rows, targets, classes = mine(X, y, labels)
    options = dict(steps=6, every=2, method=of.GradientDescent(step=0.3), loss="mean")
    here, alone = observers(targets, classes, test), observers(y, labels, test)
    run = of.train(net, rows, targets, observe=here, comm=comm, **options)
    one = of.train(net, X, y, observe=alone, **options)
    assert one.observations["gate_flips"].sum(axis=0).min() > 0
    assert one.observations["kernel_distance"][-1] > 1e-3
    for name, value in one.observations.items():
        found = run.observations[name]
        if name == "modes":  # of eigenvectors of either sign
            found, value = abs(found), abs(value)
        if name == "eigenvector_angles":  # at the start the angles are rounding
            found, value = found[1:], value[1:]
        same(found, value, f"{name}, k = {k}")
    space = Sharded(comm, len(rows))
    for name, observer in here.items():
        if hasattr(observer, "state"):
            remembered(space, name, observer, alone[name].state())
    whole = run.gathered(space)
    assert (whole is None) == (comm.rank > 0)
    if whole is not None:
        with tempfile.TemporaryDirectory() as folder:
            whole.save(Path(folder) / "run.npz")
            kept = of.Trajectory.load(Path(folder) / "run.npz")
        np.testing.assert_allclose(kept.residual, one.residual, rtol=1e-10, atol=1e-12)
        assert one.gathered(LOCAL).residual is one.residual


def remembered(space, name, observer, alone):
    """The memory is one process's, once rows by sample are put together."""
    memory = observer.state()
    assert memory.keys() == alone.keys()
    for key, value in memory.items():
        if key in getattr(observer, "by_sample", ()):
            value, wanted = comm.bcast(space.gather(value)), alone[key]
            if key in ("first", "last") and value.dtype.kind == "f":  # eigenvectors, either sign
                value, wanted = abs(value)[:, :3], abs(wanted)[:, :3]
            np.testing.assert_allclose(value, wanted, rtol=1e-9, atol=1e-9, err_msg=f"{name}.{key}")
        else:
            same(value, alone[key], f"{name}.{key}")


def resumed(k):
    """Observers go on from what another number of ranks saved of them."""
    net, X, y, labels, test = problem(k)
    rows, targets, classes = mine(X, y, labels)
    options = dict(every=2, method=of.GradientDescent(step=0.3))
    one = of.train(net, X, y, observe=observers(y, labels, test), steps=6, **options)
    with tempfile.TemporaryDirectory() as folder:
        folder = comm.bcast(folder)
        options["checkpoint"] = Path(folder) / "run.npz"
        here = observers(targets, classes, test)
        of.train(net, rows, targets, observe=here, steps=4, comm=comm, **options)
        comm.Barrier()
        if comm.rank == 0:
            whole = observers(y, labels, test)
            run = of.train(net, X, y, observe=whole, steps=6, resume=True, **options)
            for name, value in one.observations.items():
                found = run.observations[name]
                if name in ("modes", "eigenvector_angles"):  # either sign; rounding at the start
                    found, value = abs(found)[1:], abs(value)[1:]
                np.testing.assert_allclose(
                    found, value, rtol=1e-9, atol=1e-9 * abs(value).max(), err_msg=name
                )
        comm.Barrier()


def alone_after(k):
    """The model is known to each rank: one that predicts needs no other."""
    net, X, y, _, test = problem(k)
    options = dict(method=of.LinearisedFlow(), times=[0.3, 1.0])
    held_out = [of.observe.HeldOutLoss(test.inputs, test.targets)]
    run = of.train(net, *mine(X, y), observe=held_out, comm=comm, **options)
    one = of.train(net, X, y, observe=held_out, **options)
    same(run.observations["held_out_loss"], one.observations["held_out_loss"], "linearised")
    if comm.rank == comm.size - 1:
        np.testing.assert_allclose(
            run.predict(test.inputs), one.predict(test.inputs), rtol=1e-9, atol=1e-9
        )


def refused(k):
    net, X, y, *_ = problem(k)
    for observer in (of.observe.TruncationError(), of.observe.HessianEigenvalues()):
        try:
            of.train(net, *mine(X, y), steps=1, observe=[observer], comm=comm)
        except ValueError as error:
            assert "for one machine" in str(error)
        else:
            raise AssertionError(f"{observer.name} said something of sharded fields")


def analysed(k):
    """The kernel before and after, as `opflow train` tells of it."""
    net, X, *_ = problem(k)
    here = run_report.analyse(net, *mine(X), seconds=1.0, comm=comm)
    alone = run_report.analyse(net, X, seconds=1.0)
    same(here["trace"], alone["trace"], "trace")
    same(here["shares"], alone["shares"], "shares")
    same(here["eigenvalues"], alone["eigenvalues"], "eigenvalues", rtol=1e-5)
    # ranks that would decide differently skip together, or none does
    least, most = (lambda a, b: a if comm.rank == comm.size - 1 else b), 1e12
    found = run_report.analyse(net, *mine(X), seconds=1.0, memory=least(1.0, most), comm=comm)
    assert "over the 1 B of --memory" in found["skipped"]
    run_report.ALLOWED, usual = 0.0, run_report.ALLOWED
    found = run_report.analyse(net, *mine(X), seconds=least(0.0, most), comm=comm)
    assert ("skipped" in found) == (comm.size == 1)
    run_report.ALLOWED = usual


if __name__ == "__main__":
    for group, outputs in zip(GROUPS, OUTPUTS, strict=True):
        number = group[MPI.COMM_WORLD.rank]
        comm = MPI.COMM_WORLD.Split(number)
        for part in sys.argv[1:]:
            globals()[part](outputs[number])
        print(f"{comm.rank + 1} of {comm.size} agree", flush=True)
