"""The options of the command line, checked as they are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import opflow as of
from opflow.data import located
from opflow.operators.rows import parse_memory

METHODS = {
    "gd": "GradientDescent",
    "flow": "GradientFlow",
    "exponential": "ExponentialFlow",
    "linearised": "LinearisedFlow",
}
#: options of the methods, by the one that has them; the others have a tolerance
DESCENT = ("step", "momentum", "batch")
#: what a run that goes on must have in common with its beginning
FIXED = {
    name: "--" + name
    for name in ("widths", "scaling", "seed", "dtype", "method", *DESCENT, "tol", "eliminate",
                 "target", "task", "missing", "encode", "standardise")
}  # fmt: skip
FIXED |= {"test_fraction": "--test-fraction", "held_out": "--test-data"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:  # one line, no usage before it
        self.exit(2, f"opflow: error: {message} (see {self.prog} --help)\n")


def _widths(text: str) -> list[int]:
    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 256,256,256") from None
    if min(widths) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: every width must be at least 1")
    return widths


def _at_least(least: int) -> Any:
    def count(text: str) -> int:
        value = _number(text)
        if not (value >= least and value == int(value)):
            raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least {least}")
        return int(value)

    return count


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _positive(text: str) -> float:
    if not (value := _number(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive")
    return value


def _step(text: str) -> float | str:
    if text != "auto" and not _number(text) > 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive, or auto")
    return text if text == "auto" else _number(text)


def _memory(text: str) -> str:
    try:
        parse_memory(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 4GB or 512MiB") from None
    return text


def _interval(text: str) -> dict[str, Any]:
    value = _number(text.removesuffix("s"))
    if text.endswith("s") and value > 0:
        return {"steps": None, "seconds": value}
    if not (value >= 1 and value == int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} must be steps, as 100, or seconds, as 600s")
    return {"steps": int(value), "seconds": None}


def _share(text: str) -> float:
    if not 0 < (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be between 0 and 1, as 0.2")
    return value


def data_options(command: argparse.ArgumentParser) -> None:
    """How data are read; the names are those of :class:`opflow.data.Reading`."""
    add = command.add_argument_group("how DATA are read").add_argument
    add("--target", metavar="NAME|INDEX", help="of a table: the column to predict, by its name or "
        "its place, 0 the first, -1 the last (the last)")  # fmt: skip
    add("--task", choices=("auto", "regression", "classification"), default="auto", help="auto "
        "(default): words, booleans, and whole numbers of which at most 20 are different and one "
        "occurs twice, are classes; all else is a regression")  # fmt: skip
    add("--missing", choices=("mean", "drop"), help="missing values: fill features with the means "
        "of their columns, or leave rows out (refuse)")  # fmt: skip
    add("--encode", choices=("onehot",), help="words in features: a column of 0 and 1 for each "
        "different word (refuse)")  # fmt: skip
    add("--standardise", action=argparse.BooleanOptionalAction, default=None, help="features to "
        "mean 0 and standard deviation 1 (yes for tables, no for arrays)")  # fmt: skip
    add("--test-fraction", type=_share, metavar="SHARE", help="of the samples, as 0.2, to hold "
        "out, drawn by --seed (none)")  # fmt: skip


def parser(functions: Mapping[str, Any]) -> argparse.ArgumentParser:
    """The parser of the command line; `command` among its results is one of the functions."""
    top = _Parser(prog="opflow", description="Residual dynamics of ReLU networks.")
    top.add_argument("--version", action="version", version=f"opflow {of.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    data = ("digits, or a file: a table (.csv, .tsv, .txt, .gz of these, .parquet, - for standard "
            "input), .npz or .h5 with X and y, .npy, SciPy sparse .npz")  # fmt: skip

    def device(command: argparse.ArgumentParser) -> None:
        command.add_argument("--device", choices=("cpu", "gpu"), default="cpu",
                             help="gpu: compute there, by CuPy (cpu)")  # fmt: skip

    def common(command: argparse.ArgumentParser) -> None:
        command.add_argument("--targets", metavar="FILE", help=".npy or table with y")
        data_options(command)
        command.add_argument("--widths", type=_widths, required=True, help="hidden: 256,256,256")
        command.add_argument("--dtype", choices=("float32", "float64"), default="float64")
        command.add_argument("--memory", type=_memory, metavar="SIZE",
                             help="to hold beyond X and y, as 4GB (half the free)")  # fmt: skip
        command.add_argument("--eliminate", choices=("auto", "yes", "no"), default="auto",
                             help="the first layer through the Gram of its inputs")  # fmt: skip
        command.add_argument("--method", choices=tuple(METHODS), default="gd",
                             help="gradient descent (default), or a flow")  # fmt: skip
        command.add_argument("--step", type=_step, help="gd: step size, or auto (default)")
        command.add_argument("--momentum", type=float, help="gd: of the heavy ball")
        command.add_argument("--batch", type=_at_least(1), help="gd: rows drawn for each step")
        command.add_argument("--tol", type=_positive, help="flows: tolerance")

    train = commands.add_parser("train", help="train a network on data", description=(
        "Train by gradient descent or flow.  Classes become one-hot vectors minus their mean, and "
        "the table shows the accuracy; targets of a regression are shifted and scaled for the run, "
        "and the table is in their own units.  The first line says what was done."))  # fmt: skip
    train.add_argument("data", metavar="DATA", help=data)
    common(train)
    device(train)
    train.add_argument("--steps", type=_at_least(0), help="steps to take")
    train.add_argument("--until", type=_positive, help="time to reach")
    train.add_argument("--scaling", choices=("ntk", "standard", "mean-field"), default="ntk")
    train.add_argument("--seed", type=_at_least(0), default=0, help="of the weights, the batches")
    train.add_argument("--test-data", metavar="FILE", help="held-out data, of any kind of DATA")
    train.add_argument("--test-targets", metavar="FILE", help=".npy or table with their y")
    train.add_argument("--every", type=_at_least(1), default=1, help="steps between records")
    train.add_argument("--out", type=located, required=True, metavar="DIR", help="run folder")
    train.add_argument("--checkpoint-every", type=_interval, metavar="STEPS|SECONDSs",
                       default="600s", help="as 100 or 600s (default)")  # fmt: skip
    train.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    train.add_argument("--resume-from", type=located, metavar="FILE",
                       help="go on from another of its states")  # fmt: skip
    train.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    train.add_argument("--explain", action="store_true", help="print the routes and their costs")
    train.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    train.set_defaults(command=functions["train"])

    guess = commands.add_parser(
        "estimate", help="memory and work of every route, before anything is allocated"
    )
    guess.add_argument("data", metavar="DATA", nargs="?", help=data)
    common(guess)
    guess.add_argument("--samples", type=_at_least(1), help="N, such as 1e9, instead of DATA")
    guess.add_argument("--features", type=_at_least(1), help="d, instead of DATA")
    guess.add_argument("--outputs", type=_at_least(1), help="k (default 1, or as DATA has)")
    guess.add_argument("--steps", type=_at_least(0))
    guess.set_defaults(command=functions["estimate"], seed=0)

    look = commands.add_parser("spectrum", help="the spectrum of the kernel of a run", description=(
        "Eigenvalues, density, norms and alignment of the kernel at the start and the end of a "
        "run, with error bars; a table, an .npz and pictures."))  # fmt: skip
    look.add_argument("run", type=located, metavar="RUN|NETWORK",
                      help="folder of a run, or its trajectory .npz and DATA")  # fmt: skip
    look.add_argument("data", metavar="DATA", nargs="?", help=data + " (that of the run)")
    look.add_argument("--targets", metavar="FILE", help=".npy or .csv with y")
    look.add_argument("--out", type=located, metavar="DIR", help="for results (RUN/spectrum)")
    look.add_argument("--top", type=_at_least(1), default=20, help="eigenpairs (20)")
    look.add_argument("--density", action=argparse.BooleanOptionalAction, default=True,
                      help="of the spectrum (yes)")  # fmt: skip
    look.add_argument("--steps", type=_at_least(4), default=100, help="of its quadrature (100)")
    look.add_argument("--probes", type=_at_least(2), default=10, help="its random vectors (10)")
    look.add_argument("--heat-map", action=argparse.BooleanOptionalAction, default=True,
                      help="of the kernel at the end (yes)")  # fmt: skip
    look.add_argument("--memory", type=_memory, metavar="SIZE",
                      help="to hold beyond X and y, as 4GB (half the free)")  # fmt: skip
    look.add_argument("--seed", type=_at_least(0), default=0, help="of the random vectors")
    look.add_argument("--overwrite", action="store_true", help="replace an earlier analysis")
    look.add_argument("--quiet", action="store_true", help="no table")
    device(look)
    look.set_defaults(command=functions["spectrum"])

    answer = commands.add_parser("predict", help="predictions of a run for new data", description=(
        "Write a CSV of one prediction a row of DATA: labels, or values in the units of the "
        "target.  DATA are read as the run read its own; where they have the target, the accuracy "
        "or the RMSE and R² are told."))  # fmt: skip
    answer.add_argument("run", type=located, metavar="RUN", help="run folder, or trajectory.npz")
    answer.add_argument("data", metavar="DATA", help=data)
    answer.add_argument("--targets", metavar="FILE", help=".npy or table with y, to compare with")
    answer.add_argument(
        "--out", type=located, metavar="FILE", help="CSV to write (standard output)"
    )
    answer.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    answer.add_argument(
        "--proba", action="store_true", help="of classes: an estimated probability of each"
    )
    answer.set_defaults(command=functions["predict"])

    draw = commands.add_parser("plot", help="draw the pictures of a run, or of its spectrum, anew")
    draw.add_argument("run", type=located, metavar="RUN", help="folder of a run or a spectrum")
    draw.set_defaults(command=functions["plot"])
    return top


def method(args: argparse.Namespace) -> Any:
    """The method that the options describe."""
    descent = args.method == "gd"
    for name in (*DESCENT, "tol"):
        if getattr(args, name) is not None and descent != (name in DESCENT):
            raise ValueError(f"--{name} is not for --method {args.method}")
    if args.batch is not None and args.eliminate == "yes":
        raise ValueError("--batch and --eliminate yes exclude each other")
    kind = getattr(of, METHODS[args.method])
    if descent:
        return kind(args.step or "auto", args.momentum or 0.0, args.batch, args.seed)
    return kind() if args.tol is None else kind(tol=args.tol)


def eliminate(args: argparse.Namespace) -> bool | None:
    """What `--eliminate` is in Python."""
    return {"auto": None, "yes": True, "no": False}[args.eliminate]
