"""``opflow train``: a run in its folder, from the data to the table and the pictures."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import opflow as of
from opflow.cli import observers, options, run_report
from opflow.cli.devices import check_device, placed
from opflow.cli.estimate import estimate
from opflow.cli.folder import RunFolder, write_text
from opflow.cli.ranks import World
from opflow.cli.words import HINT
from opflow.data.load import DataSet, load, reading
from opflow.dynamics.storage.signals import Signals
from opflow.interface.words import counted
from opflow.machine.ranks import space_of


def train(args: argparse.Namespace, world: World) -> int:
    """Run the command and return its exit code; the summary is left in ``args.found``."""
    _check(args)
    check_device(args.device, world.comm)
    data, test, samples = _data(args, world)
    resume = args.resume or args.resume_from is not None
    folder = world.lead(lambda: RunFolder(args.out, args.overwrite, resume))
    if not args.quiet:
        about = f"target: {data.about}, {counted(data.inputs.shape[1], 'feature')}"
        about += f", {counted(samples, 'sample')}"
        if test is not None:
            about += f", {counted(test.inputs.shape[0], 'sample')} held out"
        print("; ".join([about, *data.notes]), flush=True)
    if world.comm is not None and world.leads:
        print(
            f"opflow: {world.comm.size} ranks; if one dies all end: go on with: "
            f"{_go_on(args, world)}",
            file=sys.stderr,
        )
    try:
        run, summary, known = _run(args, data, test, folder, world)
        report = world.lead(lambda: _finish(args, folder, run, summary, known))
    except BaseException as error:
        hopeless = isinstance(error, of.DivergenceError)
        if world.leads and folder.failed(hopeless) and not folder.resumed:
            error.add_note(f"what it reached is kept: {_go_on(args, world)}")
        raise
    args.found = summary
    if not (args.quiet or args.json) and world.leads:
        print(report)
    if not summary["stopped"]:
        return 0
    if world.leads:
        print(
            f"opflow: stopped by {summary['stopped']} at step {summary['steps']:,}; go on with: "
            f"{_go_on(args, world)}",
            file=sys.stderr,
        )
    return 128 + signal.Signals[summary["stopped"]]


def _check(args: argparse.Namespace) -> None:
    """Raise ``ValueError`` for options that do not go together."""
    if args.steps is None and args.until is None:
        raise ValueError("--steps or --until is needed to know when to stop")
    if args.overwrite and (args.resume or args.resume_from is not None):
        raise ValueError("--resume and --overwrite exclude each other")
    if args.data == args.test_data == "-":
        raise ValueError("- is standard input, which is read once: give DATA or --test-data a file")
    if args.test_data is None and args.test_targets is not None:
        raise ValueError("--test-targets needs --test-data")
    if args.test_data is not None and args.test_fraction is not None:
        raise ValueError("--test-data and --test-fraction exclude each other")
    options.chosen(args)


def _data(args: argparse.Namespace, world: World) -> tuple[DataSet, DataSet | None, int]:
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
    args: argparse.Namespace, data: DataSet, test: DataSet | None, folder: RunFolder, world: World
) -> tuple[of.Trajectory | None, dict[str, Any], list[Any]]:
    """The run (on the rank that leads), its summary, and what its pictures need besides."""
    config = {name: value for name, value in vars(args).items() if name not in ("command", "argv")}
    config |= {"held_out": test is not None, "about": data.about, "version": of.__version__}
    config |= {name: str(value) for name, value in config.items() if isinstance(value, Path)}
    world.lead(lambda: folder.configure(config, options.FIXED))
    widths = [data.inputs.shape[1], *args.widths]
    outputs = data.targets.shape[1]
    network = of.ReLUNetwork.random(
        widths, outputs=outputs, scaling=args.scaling, seed=args.seed, dtype=args.dtype
    )
    network, data = placed(network, data, args.device, world.comm)
    if test is not None:
        test = placed(network, test, args.device, world.comm)[1]
    chosen = options.chosen(args)
    expected = estimate(data.inputs.shape[0], widths, outputs, args.dtype, X=data.inputs, **chosen)

    def analysed(network: of.ReLUNetwork, when: str) -> dict[str, Any]:
        if args.no_analysis:
            return {"skipped": "--no-analysis was given"}
        label = f"eigenvalues of K {when} the run" * (not args.quiet)
        how = {"seconds": expected.seconds, "memory": args.memory, "comm": world.comm}
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
    seconds = time.perf_counter() - started
    whole = run.gathered(space)
    summary = world.lead(
        lambda: whole and run_report.summary(whole, before, after, stopped, seconds)
    )
    shown = data._replace(targets=space.gather(data.targets))
    return whole, summary, [before, after, shown, test]


def _finish(
    args: argparse.Namespace,
    folder: RunFolder,
    run: of.Trajectory | None,
    summary: dict[str, Any],
    known: Sequence[Any],
) -> str:
    """Write the results, and say what they are."""
    assert run is not None  # of the rank that leads
    table = run_report.table(summary)
    write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_text(folder.path / "summary.txt", table + "\n")
    run.save(folder.path / "trajectory.npz")
    pictures = run_report.attempt(folder.path, lambda: run_report.pictures(run, *known))
    folder.done()
    return f"{table}\n\n{pictures}; everything is in {args.out}\n{HINT}"


def _go_on(args: argparse.Namespace, world: World) -> str:
    """The command that goes on with the run."""
    command = [word for word in args.argv if word not in ("--overwrite", "--resume")]
    command = [word for word in command if not word.startswith("--resume-from=")]
    if "--resume-from" in command:
        at = command.index("--resume-from")
        del command[at : at + 2]
    ranks = []
    if world.comm is not None:
        ranks = ["mpiexec", "-n", str(world.comm.size)]
    return shlex.join([*ranks, "opflow", *command, "--resume"])
