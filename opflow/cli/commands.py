"""The command line: ``main``, ``predict``, ``estimate``, ``spectrum``, ``plot``; calls ``train``.

Wrong input ends with exit code 2 and one line on stderr, a run that diverges with code 1.  A run
that a signal stops ends with 128 + the number of the signal, its results written; the last line
says how to go on.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import signal
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import opflow as of
from opflow.cli import options, run_report, spectrum, spectrum_report
from opflow.cli.clock import taken
from opflow.cli.devices import check_device
from opflow.cli.estimate import estimate, numbers
from opflow.cli.estimate import report as estimated
from opflow.cli.folder import ResultFolder, write_text
from opflow.cli.kernel import Ask
from opflow.cli.predict import predictions
from opflow.cli.ranks import World
from opflow.cli.training import train
from opflow.data.load import load, reading
from opflow.dynamics.storage.signals import Signals
from opflow.machine.communicator import RankError
from opflow.machine.files import write_npz
from opflow.machine.workspace import parse_memory


def main(argv: Sequence[str] | None = None, args: Namespace | None = None) -> int:
    """Run a command, from its words or from its parsed options, and return the exit code."""
    try:
        world = World()
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no MPI that it can load
        print("opflow: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    Signals.last = ""
    with world.quiet(), Signals(at_once=True):
        try:
            args = args or options.parse(argv)
        except SystemExit as stop:  # argparse has said what is wrong
            return int(stop.code or 0)
        try:
            if vars(args).get("memory") is not None:
                parse_memory(args.memory)
            shown = sys.stderr if args.json else sys.stdout
            with contextlib.redirect_stdout(shown), _warnings(args.quiet):
                code = _run(args, world)
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
            name = Signals.last or "SIGINT"
            return _fail(f"stopped by {name}", 128 + signal.Signals[name], world)


def _run(args: Namespace, world: World) -> int:
    if args.command == "train":
        return train(args, world)
    if world.comm is not None:
        raise ValueError("only opflow train runs on several ranks: start this one without mpiexec")
    COMMANDS[args.command](args)
    return 0


def _fail(error: object, code: int, world: World) -> int:
    text = " ".join("; ".join([str(error), *getattr(error, "__notes__", ())]).split())
    # Arguments of Python are options of the command line.
    text = re.sub(r"\bresume='([^']*)'", r"--resume-from \1", text)
    text = re.sub(r"\b(memory|eliminate)=(\w+)", r"--\1 \2", text)
    text = re.sub(r"\bmemory must", "--memory must", text)
    return world.fail(f"opflow: error: {text}", code)


@contextlib.contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    """Show a warning as one line, without its place in the code."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        warnings.showwarning = lambda text, *where: print(f"opflow: {text}", file=sys.stderr)
        yield


def _estimate(args: Namespace) -> None:
    samples = args.samples
    features = args.features
    outputs = args.outputs or 1
    X = None
    target = ""
    if args.data is not None:
        if samples or features:
            raise ValueError("give either DATA or --samples and --features")
        data = load(args.data, args.targets, args.dtype, reading(vars(args)))
        X = data.inputs
        samples, features = X.shape
        outputs = args.outputs or data.targets.shape[1]
        target = f"; target: {data.about}"
    elif samples is None or features is None:
        raise ValueError("DATA, or --samples and --features, is needed")
    widths = [features, *args.widths]
    found = estimate(samples, widths, outputs, args.dtype, X=X, **options.chosen(args))
    shapes = {"samples": samples, "features": features, "outputs": outputs}
    args.found = shapes | numbers(found)
    if not args.json:
        print(
            f"N = {samples:,}, d = {features:,}, widths {args.widths}, k = {outputs}, "
            f"{args.dtype}{target}\n{estimated(found)}"
        )


def _spectrum(args: Namespace) -> None:
    check_device(args.device)
    what = spectrum.subject(args.run, args.data, args.targets, args.device)
    if args.out is None and not args.run.is_dir():
        raise ValueError("--out DIR is needed where no run folder is given")
    out = args.out or args.run / "spectrum"
    asked = {name: value for name, value in vars(args).items() if name in Ask._fields}
    ask = Ask(**asked, progress=not args.quiet)
    with ResultFolder(out, args.overwrite) as folder:
        started = time.perf_counter()
        summary, arrays = spectrum.analyse(what, ask)
        summary |= taken(started)
        table = spectrum_report.table(summary)
        write_npz(out / "spectrum.npz", arrays)
        draw = partial(spectrum_report.pictures, arrays, summary["outputs"])
        report = run_report.results(folder, "spectrum", summary, table, draw)
    args.found = summary
    if not (args.quiet or args.json):
        print(report)


def _predict(args: Namespace) -> None:
    if args.out is not None and args.out.exists() and not args.overwrite:
        raise ValueError(f"--out {args.out} is there already; --overwrite replaces it")
    file = args.run
    if file.is_dir():
        file /= "trajectory.npz"
    run = of.Trajectory.load(file)
    columns, about = predictions(run, args.data, args.targets, args.proba)
    args.found = {name: column.tolist() for name, column in columns.items()}
    text = io.StringIO()
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    csv.writer(text, lineterminator="\n").writerows(rows)
    if args.out is not None:
        write_text(args.out, text.getvalue())
    elif not args.json:
        print(text.getvalue(), end="")
    if not args.quiet:
        print(f"opflow: {about}", file=sys.stderr)


def _plot(args: Namespace) -> None:
    inside = args.run / "spectrum"
    found = run_report.saved(args.run) | spectrum_report.saved(args.run)
    pictures = {str(args.run / name): draw for name, draw in found.items()}
    found = spectrum_report.saved(inside)
    pictures |= {str(inside / name): draw for name, draw in found.items()}
    if not pictures:
        raise ValueError(f"{args.run} holds neither trajectory.npz nor spectrum.npz")
    told = run_report.said(*run_report.write(Path(), pictures))
    if not args.quiet:
        print(told)


#: what runs in one process alone
COMMANDS = {"predict": _predict, "estimate": _estimate, "spectrum": _spectrum, "plot": _plot}

if __name__ == "__main__":
    sys.exit(main())
