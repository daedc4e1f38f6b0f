"""``opflow train``: makes a run in its folder, prints the table, saves the pictures."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial

import numpy as np

import opflow as of
from opflow.cli import observers, options, run_report
from opflow.cli.devices import check_device, placed
from opflow.cli.estimate import estimate
from opflow.cli.folder import Numbers, RunFolder
from opflow.cli.ranks import World
from opflow.data.load import DataSet, load, reading
from opflow.dynamics.storage.signals import Signals
from opflow.interface.words import counted
from opflow.machine.ranks import space_of


def train(args: Namespace, world: World) -> int:
    """Run the command and return its exit code; the summary is left in ``args.found``."""
    _check(args)
    check_device(args.device, world.comm)
    data, test, samples = _data(args, world)
    again = _go_on(args, world)
    resume = bool(args.resume or args.resume_from)
    folder = world.lead(lambda: RunFolder(args.out, args.overwrite, resume))
    if not args.quiet:
        about = f"target: {data.about}, {counted(data.inputs.shape[1], 'feature')}"
        about += f", {counted(samples, 'sample')}"
        if test is not None:
            about += f", {counted(test.inputs.shape[0], 'sample')} held out"
        print("; ".join([about, *data.notes]), flush=True)
    if world.comm is not None:
        told = f"opflow: {world.comm.size} ranks; if one dies all end: go on with: {again}"
        print(told, file=sys.stderr)
    try:
        summary, report = _run(args, data, test, folder, world)
    except BaseException as error:
        hopeless = isinstance(error, of.DivergenceError)
        if world.leads and folder.failed(hopeless) and not folder.resumed:
            error.add_note(f"what it reached is kept: {again}")
        raise
    args.found = summary
    if not (args.quiet or args.json):
        print(report)
    stopped = summary["stopped"]
    if not stopped:
        return 0
    told = f"opflow: stopped by {stopped} at step {summary['steps']:,}; go on with: {again}"
    print(told, file=sys.stderr)
    return 128 + signal.Signals[stopped]


def _check(args: Namespace) -> None:
    """Raise ``ValueError`` for options that do not go together."""
    if args.steps is None and args.until is None:
        raise ValueError("--steps or --until is needed to know when to stop")
    if args.overwrite and (args.resume or args.resume_from):
        raise ValueError("--resume and --overwrite exclude each other")
    if args.data == args.test_data == "-":
        raise ValueError("- is standard input, which is read once: give DATA or --test-data a file")
    if args.test_data is None and args.test_targets is not None:
        raise ValueError("--test-targets needs --test-data")
    if args.test_data is not None and args.test_fraction is not None:
        raise ValueError("--test-data and --test-fraction exclude each other")
    options.chosen(args)


def _data(args: Namespace, world: World) -> tuple[DataSet, DataSet | None, int]:
    """The training set, the test set, and the samples to train on of all ranks."""
    how = reading(vars(args))
    data = load(args.data, args.targets, args.dtype, how, comm=world.comm)
    test = data.held_out
    if args.test_data is not None:
        names = ("--test-data", "--test-targets")
        files = (args.test_data, args.test_targets)
        test = load(*files, args.dtype, how, like=data.task, options=names)
    space = space_of(world.comm, data.inputs.shape[0])
    samples = int(space.total(data.inputs.shape[0]))
    same = np.flatnonzero(space.largest((data.targets**2).sum(axis=0)) == 0)
    if same.size and data.task is not None:
        column = f"column {same[0]} of " * (data.targets.shape[1] > 1)
        value = data.task.targets.mean[same[0]]
        raise ValueError(f"{column}{data.task.name} in every sample is {value:g}: nothing to learn")
    if args.batch is not None and args.batch > samples:
        raise ValueError(f"--batch is {args.batch} but there are {samples} samples")
    return data, test, samples


def _run(
    args: Namespace, data: DataSet, test: DataSet | None, folder: RunFolder, world: World
) -> tuple[Numbers, str]:
    """Train and write the results; the summary, and what to say of it."""
    config = {name: value for name, value in vars(args).items() if name not in ("command", "argv")}
    config |= {"held_out": test is not None, "about": data.about, "version": of.__version__}
    world.lead(lambda: folder.configure(config))
    network = options.start(config, data.inputs.shape[1], data.targets.shape[1])
    network = network.to(args.device)
    data = placed(data, args.device, world.comm)
    if test is not None:
        test = placed(test, args.device, world.comm)
    chosen = options.chosen(args)
    shapes = (data.inputs.shape[0], network.widths, network.outputs, network.dtype)
    expected = estimate(*shapes, X=data.inputs, **chosen)
    seconds = expected.routes[0].seconds(expected.steps, expected.dtype)

    def analysed(network: of.ReLUNetwork, when: str) -> Numbers:
        if args.no_analysis:
            return {"skipped": "--no-analysis was given"}
        label = f"eigenvalues of K {when} the run" * (not args.quiet)
        how = {"seconds": seconds, "memory": args.memory, "comm": world.comm}
        return run_report.analyse(network, data.inputs, label=label, **how)

    started = time.perf_counter()
    before = analysed(network, "before")
    run = of.train(
        network,
        data.inputs,
        data.targets,
        **chosen,
        until=args.until,
        observe=observers.observers(data, test, len(args.widths)),
        every=args.every,
        checkpoint=of.Checkpoint(folder.checkpoint, **args.checkpoint_every),
        resume=args.resume_from or folder.resumed,
        log=folder.log,
        explain=args.explain,
        progress=not args.quiet,
        comm=world.comm,
    )
    run = replace(run, task=data.task)
    space = space_of(world.comm, run.residual.shape[0])
    stopped = ""
    if run.interrupted:  # the signal may have reached one rank alone
        stopped = max(space.all_of(Signals.last)) or "SIGINT"
    after = {"skipped": "the run was stopped"}
    if not stopped:
        after = analysed(run.network, "after")
    whole = run.gathered(space)
    shown = data._replace(targets=space.gather(data.targets))

    def finish() -> tuple[Numbers, str]:
        assert whole is not None  # on the rank that leads
        summary = run_report.summary(whole, before, after, stopped, started)
        whole.save(folder.path / "trajectory.npz")
        draw = partial(run_report.pictures, whole, summary, shown, test)
        table = run_report.table(summary)
        report = run_report.results(folder, "summary", summary, table, draw)
        folder.done()
        return summary, report

    return world.lead(finish)


def _go_on(args: Namespace, world: World) -> str:
    """The command that goes on with the run."""
    words = [word for word in args.argv if word not in ("--overwrite", "--resume")]
    words = [word for word in words if not word.startswith("--resume-from=")]
    if "--resume-from" in words:
        at = words.index("--resume-from")
        del words[at : at + 2]
    command = ["opflow", *words, "--resume"]
    if world.comm is not None:
        command = ["mpiexec", "-n", str(world.comm.size), *command]
    return shlex.join(command)
