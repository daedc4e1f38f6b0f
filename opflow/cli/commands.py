"""The command line: ``opflow train``, ``predict``, ``estimate``, ``spectrum`` and ``plot``.

Wrong input ends with exit code 2 and one line on stderr; a run that diverges with code 1; one
that is stopped by a signal with 128 + its number, its results written and a way to go on told.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import opflow as of
from opflow.cli import options, run_report, spectrum, spectrum_report
from opflow.cli.devices import check_device, placed
from opflow.cli.estimate import estimate, numbers
from opflow.cli.estimate import report as estimated
from opflow.cli.folder import SPECTRUM, ResultFolder, RunFolder
from opflow.cli.predict import predictions
from opflow.cli.ranks import World
from opflow.data.load import DataSet, counted, load, reading
from opflow.interface.words import HINT
from opflow.machine.files import write_npz
from opflow.machine.ranks import RankError, space_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        world = World()
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI that it can load
        print("opflow: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    with world.quiet(), _Signals() as signals:
        try:
            args = options.parse(sys.argv[1:] if argv is None else argv)
        except SystemExit as stop:  # argparse has said what is wrong
            return int(stop.code or 0)
        args.argv = list(sys.argv[1:] if argv is None else argv)
        try:
            with (
                contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout),
                _warnings(args.quiet),
            ):
                code = int(COMMANDS[args.command](args, signals, world))
            if args.json:
                print(json.dumps(args.found, indent=2))
            return code
        except BrokenPipeError:  # nobody reads: the front door ends it quietly
            raise
        except (ValueError, TypeError, OSError, ImportError, MemoryError, RankError) as error:
            return _fail(error, 2, world)
        except of.DivergenceError as error:
            return _fail(error, 1, world)
        except KeyboardInterrupt:
            return _fail(f"stopped by {signals.last().name}", 128 + signals.last(), world)


def _fail(error: object, code: int, world: World) -> int:
    text = " ".join("; ".join([str(error), *getattr(error, "__notes__", ())]).split())
    # What is an argument in Python is an option here.
    text = re.sub(r"\bresume='([^']*)'", r"--resume-from \1", text)
    text = re.sub(r"\b(memory|eliminate)=(\w+)", r"--\1 \2", text)
    return world.fail(f"opflow: error: {text}", code)


@contextlib.contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    """Warnings in a line, without the place in our code."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda told, *where: print(f"opflow: {told}", file=sys.stderr)
        yield


class _Signals:
    """Knows which signal came last, whoever handled it; lets SIGTERM stop as Ctrl-C does."""

    def __enter__(self) -> _Signals:
        self._restore: list[Any] = []
        self._came = b""
        try:
            self._pipe, write = os.pipe()
            os.set_blocking(self._pipe, False)
            os.set_blocking(write, False)
            before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            self._restore += [lambda: signal.set_wakeup_fd(before), lambda: os.close(write)]
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                self._restore.append(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        except ValueError:  # not in the main thread, where Python has no signals
            os.close(write)
        return self

    def __exit__(self, *exception: object) -> None:
        for restore in self._restore:
            restore()
        os.close(self._pipe)

    def last(self) -> signal.Signals:
        """SIGTERM if it came, and SIGINT otherwise."""
        with contextlib.suppress(BlockingIOError):
            self._came += os.read(self._pipe, 4096)
        return signal.SIGTERM if signal.SIGTERM in self._came else signal.SIGINT


def _estimate(args: argparse.Namespace, signals: _Signals, world: World) -> int:
    _alone(world)
    shape, X = (args.samples, args.features), None
    if args.data is not None:
        if any(shape):
            raise ValueError("give either DATA or --samples and --features")
        data = load(args.data, args.targets, args.dtype, reading(vars(args)))
        X, (samples, features) = data.inputs, data.inputs.shape
        outputs = args.outputs or data.targets.shape[1]
    elif None in shape:
        raise ValueError("DATA, or --samples and --features, is needed")
    else:
        (samples, features), outputs = shape, args.outputs or 1
    widths = [features, *args.widths]
    found = estimate(samples, widths, outputs, args.dtype, X=X, **options.chosen(args))
    shapes = {"samples": samples, "features": features, "outputs": outputs}
    args.found = shapes | numbers(found)
    if not args.json:
        target = "" if args.data is None else f"; target: {data.about}"
        print(
            f"N = {samples:,}, d = {features:,}, widths {args.widths}, k = {outputs}, "
            f"{args.dtype}{target}\n{estimated(found)}"
        )
    return 0


def _alone(world: World) -> None:
    if world.comm is not None:
        raise ValueError("only opflow train runs on several ranks: start this one without mpiexec")


def _train(args: argparse.Namespace, signals: _Signals, world: World) -> int:
    if args.steps is None and args.until is None:
        raise ValueError("--steps or --until is needed to know when to stop")
    resume = args.resume or args.resume_from is not None
    if resume and args.overwrite:
        raise ValueError("--resume and --overwrite exclude each other")
    if args.data == args.test_data == "-":
        raise ValueError("- is standard input, which is read once: give DATA or --test-data a file")
    options.chosen(args)  # wrong ones end here
    check_device(args.device, world.comm)
    data = load(args.data, args.targets, args.dtype, reading(vars(args)), comm=world.comm)
    test = data.held_out
    if args.test_data is not None:
        if test is not None:
            raise ValueError("--test-data and --test-fraction exclude each other")
        test = load(
            args.test_data,
            args.test_targets,
            args.dtype,
            reading(vars(args)),
            like=data.task,
            options=("--test-data", "--test-targets"),
        )
    elif args.test_targets is not None:
        raise ValueError("--test-targets needs --test-data")
    space = space_of(world.comm, data.inputs.shape[0])
    samples = space.total(data.inputs.shape[0])
    same = np.flatnonzero(space.largest((data.targets**2).sum(axis=0)) == 0)
    if same.size and data.task is not None:
        column = f"column {same[0]} of " * (data.targets.shape[1] > 1)
        value = data.task.targets.mean[same[0]]
        raise ValueError(f"{column}{data.task.name} in every sample is {value:g}: nothing to learn")
    if args.batch is not None and args.batch > samples:
        raise ValueError(f"--batch is {args.batch} but there are {samples} samples")
    folder = world.lead(lambda: RunFolder(args.out, args.overwrite, resume))
    if not args.quiet:
        held = f", {counted(test.inputs.shape[0], 'sample')} held out" if test is not None else ""
        told = [
            f"target: {data.about}, {counted(data.inputs.shape[1], 'feature')}, "
            f"{counted(int(samples), 'sample')}{held}",
            *data.notes,
        ]
        print("; ".join(told), flush=True)
    if world.comm is not None and world.leads:
        print(
            f"opflow: {world.comm.size} ranks; if one dies all end: go on with: "
            f"{_go_on(args, world)}",
            file=sys.stderr,
        )
    try:
        run, summary, known = _run(args, data, test, folder, signals, world)
        told = world.lead(lambda: _finish(args, folder, run, summary, known))
    except BaseException as error:
        hopeless = isinstance(error, of.DivergenceError)
        if world.leads and folder.failed(hopeless=hopeless) and not folder.resumed:
            error.add_note(f"what it reached is kept: {_go_on(args, world)}")
        raise
    args.found = summary
    if not (args.quiet or args.json) and world.leads:
        print(told)
    if not summary["stopped"]:
        return 0
    if world.leads:
        print(
            f"opflow: stopped by {summary['stopped']} at step {summary['steps']:,}; go on with: "
            f"{_go_on(args, world)}",
            file=sys.stderr,
        )
    return 128 + signal.Signals[summary["stopped"]]


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
    folder.write("summary.json", json.dumps(summary, indent=2) + "\n")
    folder.write("summary.txt", table + "\n")
    run.save(folder.path / "trajectory.npz")
    pictures = run_report.attempt(folder.path, lambda: run_report.pictures(run, *known))
    folder.done()
    return f"{table}\n\n{pictures}; everything is in {args.out}\n{HINT}"


def _run(
    args: argparse.Namespace,
    data: DataSet,
    test: DataSet | None,
    folder: RunFolder,
    signals: _Signals,
    world: World,
) -> tuple[of.Trajectory | None, dict[str, Any], list[Any]]:
    """The run (on the rank that leads), its summary, and what its pictures need besides."""
    config = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in vars(args).items()
        if k not in ("command", "argv")
    }
    config |= {"held_out": test is not None, "about": data.about, "version": of.__version__}
    world.lead(lambda: folder.configure(config, options.FIXED))
    widths, outputs = [data.inputs.shape[1], *args.widths], data.targets.shape[1]
    network = of.ReLUNetwork.random(
        widths, outputs=outputs, scaling=args.scaling, seed=args.seed, dtype=args.dtype
    )
    network, data = placed(network, data, args.device, world.comm)
    test = None if test is None else placed(network, test, args.device, world.comm)[1]
    chosen = options.chosen(args)
    expected = estimate(data.inputs.shape[0], widths, outputs, args.dtype, X=data.inputs, **chosen)

    def analysed(network: of.ReLUNetwork, when: str) -> dict[str, Any]:
        if args.no_analysis:
            return {"skipped": "--no-analysis was given"}
        told = "" if args.quiet else f"eigenvalues of K {when} the run"
        return run_report.analyse(
            network,
            data.inputs,
            seconds=expected.seconds,
            memory=args.memory,
            told=told,
            comm=world.comm,
        )

    started = time.perf_counter()
    before = analysed(network, "before")
    run = of.train(
        network,
        data.inputs,
        data.targets,
        **chosen,
        until=args.until,
        observe=run_report.observers(data, test, len(args.widths)),
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
    # the signal may have reached one rank alone
    stopped = max(space.all_of(signals.last().name)) if run.interrupted else ""
    after = {"skipped": "the run was stopped"} if stopped else analysed(run.network, "after")
    seconds = time.perf_counter() - started
    whole = run.gathered(space)
    summary = world.lead(
        lambda: whole and run_report.summary(whole, before, after, stopped, seconds)
    )
    shown = data._replace(targets=space.gather(data.targets))
    return whole, summary, [before, after, shown, test]


def _spectrum(args: argparse.Namespace, signals: _Signals, world: World) -> int:
    _alone(world)
    check_device(args.device)
    what = spectrum.subject(args.run, args.data, args.targets, args.device)
    if args.out is None and not args.run.is_dir():
        raise ValueError("--out DIR is needed where no run folder is given")
    out = args.out or args.run / "spectrum"
    asked = {name: value for name, value in vars(args).items() if name in spectrum.Ask._fields}
    ask = spectrum.Ask(**asked, progress=not args.quiet)
    with ResultFolder(out, SPECTRUM, args.overwrite) as folder:
        started = time.perf_counter()
        summary, arrays = spectrum.analyse(
            what, ask, lambda text: args.quiet or print(text, file=sys.stderr)
        )
        summary["seconds"] = time.perf_counter() - started
        summary["peak_memory"] = run_report.peak_memory()
        table = spectrum_report.table(summary)
        write_npz(folder.staging / "spectrum.npz", arrays)
        (folder.staging / "spectrum.json").write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
        (folder.staging / "spectrum.txt").write_text(table + "\n", "utf-8")
        draw = partial(spectrum_report.pictures, arrays, summary["outputs"])
        pictures = run_report.attempt(folder.staging, draw)
    args.found = summary
    if not (args.quiet or args.json):
        print(f"{table}\n\n{pictures}; everything is in {out}\n{HINT}")
    return 0


def _predict(args: argparse.Namespace, signals: _Signals, world: World) -> int:
    _alone(world)
    if args.out is not None and args.out.exists() and not args.overwrite:
        raise ValueError(f"--out {args.out} is there already; --overwrite replaces it")
    run = of.Trajectory.load(args.run / "trajectory.npz" if args.run.is_dir() else args.run)
    names, columns, told = predictions(run, args.data, args.targets, args.proba)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *zip(*columns, strict=True)])
    args.found = {name: c.tolist() for name, c in zip(names, columns, strict=True)}
    if args.out is None and not args.json:
        print(text.getvalue(), end="")
    elif args.out is not None:
        args.out.write_text(text.getvalue(), encoding="utf-8")
    if not args.quiet:
        print(f"opflow: {told}", file=sys.stderr)
    return 0


def _plot(args: argparse.Namespace, signals: _Signals, world: World) -> int:
    _alone(world)
    drawn: list[Path] = []
    failed: dict[str, str] = {}
    places = {args.run: run_report.saved(args.run) | spectrum_report.saved(args.run)}
    places[args.run / "spectrum"] = spectrum_report.saved(args.run / "spectrum")
    for place, pictures in places.items():
        made, missing = run_report.write(place, pictures)
        drawn += [place / name for name in made]
        failed |= {str(place / name): why for name, why in missing.items()}
    if not (drawn or failed):
        raise ValueError(f"{args.run} holds neither trajectory.npz nor spectrum.npz")
    if not args.quiet:
        print(run_report.told(drawn, failed))
    return 0


def _go_on(args: argparse.Namespace, world: World) -> str:
    left_out = re.compile("--overwrite|--resume|--resume-from=.*")
    argv = [a for a in args.argv if not left_out.fullmatch(a)]
    if "--resume-from" in argv:
        at = argv.index("--resume-from")
        del argv[at : at + 2]
    ranks = [] if world.comm is None else ["mpiexec", "-n", str(world.comm.size)]
    return shlex.join([*ranks, "opflow", *argv, "--resume"])


COMMANDS = {
    "train": _train,
    "predict": _predict,
    "estimate": _estimate,
    "spectrum": _spectrum,
    "plot": _plot,
}

if __name__ == "__main__":
    sys.exit(main())
