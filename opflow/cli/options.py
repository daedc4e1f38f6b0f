"""The options of the command line, checked as they are read; nothing heavy is imported for it."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from typing import Any

import opflow as of
from opflow.cli.words import explained
from opflow.data.paths import located
from opflow.interface.words import near

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
    for name in (
        "widths",
        "scaling",
        "seed",
        "dtype",
        "method",
        *DESCENT,
        "tol",
        "eliminate",
        "target",
        "task",
        "missing",
        "encode",
        "standardise",
    )
}
FIXED |= {"test_fraction": "--test-fraction", "held_out": "--test-data"}
#: what other tools call our options
ELSEWHERE = {
    **dict.fromkeys(("--lr", "--learning-rate", "--step-size"), "--step"),
    **dict.fromkeys(("--epochs", "--iterations"), "--steps"),
    **dict.fromkeys(("--hidden", "--layers"), "--widths"),
    **{"--batch-size": "--batch", "--optimizer": "--method", "--output": "--out"},
}
REQUIRED = object()
#: an option and its --no-
PAIR = argparse.BooleanOptionalAction
ABOUT = """Train fully connected ReLU networks by exact gradient descent, and analyse their neural
tangent kernel."""
EXAMPLES = """examples:
  opflow train digits --widths 64,64 --steps 200 --out runs/digits   a table and pictures
  opflow train table.csv --widths 64,64 --steps 500 --out runs/mine  your own data
  opflow estimate --samples 1e6 --features 784 --widths 512,512      what a run would take
  opflow spectrum runs/digits                                        the kernel of a run
  opflow explain effective rank                                      a word of the tables
"""
DATA = """digits, or a file: a table (.csv, .tsv, .txt, .gz of these, .parquet, - for standard
input), .npz or .h5 with X and y, .npy with X, SciPy's sparse .npz"""
QUIET = "print errors alone: no progress, no table"
JSON = "print the numbers as JSON, and nothing else, on standard output"


class _Parser(argparse.ArgumentParser):
    """One line for every error, whole names of options, and a hint where a name is nearly one."""

    def __init__(self, **how: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **how)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would first miss the option that was meant.
        known = self._option_string_actions
        if self._subparsers is None:
            for word in itertools.takewhile(lambda word: word != "--", args or ()):
                name = word.partition("=")[0]
                if name.startswith("--") and name not in known:
                    meant = ELSEWHERE.get("--lr" if name.startswith("--lr") else name)
                    hint = f"; {meant} is its name here" if meant in known else near(name, known)
                    self.error(f"there is no option {name}{hint}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(action.choices)
            told = f"{value!r} is none of {', '.join(choices)}{near(value, choices)}"
            raise argparse.ArgumentError(action, told)

    def error(self, message: str) -> Any:  # one line, no usage before it
        self.exit(2, f"opflow: error: {message} (see {self.prog} --help)\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


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


def _between(low: float, high: float, words: str) -> Any:
    def real(text: str) -> float:
        value = _number(text)
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"{text!r} must be {words}")
        return value

    return real


_positive = _between(0, math.inf, "positive")
_share = _between(0, 1, "between 0 and 1, as 0.2")


def _step(text: str) -> float | str:
    return text if text == "auto" else float(_between(0, math.inf, "positive, or auto")(text))


def _memory(text: str) -> str:
    from opflow.machine.workspace import parse_memory

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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options and the name of their `command`; ``SystemExit`` where nothing is left to do."""
    top = parser()
    if not argv:
        top.print_help()
        top.exit()
    args = top.parse_args(argv)
    args.argv = list(argv)
    if args.command == "explain":
        try:
            print(explained(" ".join(args.word)))
        except ValueError as error:
            top.error(str(error))
        top.exit()
    return args


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = _Parser(prog="opflow", description=ABOUT, epilog=EXAMPLES)
    top.add_argument("--version", action="version", version=f"opflow {of.__version__}")
    top.set_defaults(json=False, quiet=False)
    commands = top.add_subparsers(required=True, metavar="command", dest="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    train = command("train", "train a network on a data set, with a table and pictures")
    data = data_options(train)
    _add(data, "--test-data FILE", str, None, "data to test on, of any kind of DATA")
    _add(data, "--test-targets FILE", str, None, "file with their y (default: in it)")
    network = _network(train)
    _add(network, "--scaling", ("ntk", "standard", "mean-field"), "ntk", "scaling with the widths")
    _add(network, "--seed N", _at_least(0), 0, "what the random weights and batches follow from")
    method = _method(train)
    _add(method, "--until TIME", _positive, None, "time = step × steps to stop at")
    _add(method, "--no-analysis", bool, False, "leave out the kernel's eigenvalues, start and end")
    output = _output(train, REQUIRED, "folder for the files of the run")
    _add(output, "--every N", _at_least(1), 1, "steps from one record to the next")
    _add(output, "--explain", bool, False, "print how the run is computed and what that costs")
    saves = "steps (100) or seconds (600s) between saves"
    _add(output, "--checkpoint-every N|Ns", _interval, "600s", saves)
    _add(output, "--resume", bool, False, "go on with the run in DIR, if there is one")
    _add(output, "--resume-from FILE", located, None, "go on from this saved state of the run")
    _resources(train, device=True)

    guess = command("estimate", "say what a run would take in memory and time, doing none of it")
    data = data_options(guess, "?", " (default: --samples and --features)")
    _add(data, "--samples N", _at_least(1), None, "number of rows, such as 1e9, without DATA")
    _add(data, "--features N", _at_least(1), None, "number of columns, without DATA")
    _add(data, "--outputs N", _at_least(1), None, "outputs of the network (default: DATA's, or 1)")
    _network(guess)
    _method(guess)
    _add(guess.add_argument_group("output"), "--json", bool, False, JSON)
    _resources(guess)
    guess.set_defaults(seed=0)

    look = command("spectrum", "analyse the kernel of a run, at its start and its end")
    _add(look, "run RUN", located, REQUIRED, "folder of a run, or its trajectory.npz and DATA")
    _data(look, "?", " (default: that of RUN)")
    method = look.add_argument_group("method")
    _add(method, "--top N", _at_least(1), 20, "number of the largest eigenpairs")
    ever = "however long it takes, or not (default: if it fits into --seconds)"
    _add(method, "--density", PAIR, None, f"compute the density, {ever}")
    _add(method, "--heat-map", PAIR, None, f"picture the kernel, {ever}")
    _add(method, "--steps N", _at_least(4), 100, "products per random vector of the density")
    _add(method, "--probes N", _at_least(2), 10, "random vectors of the density, at most")
    _add(method, "--seed N", _at_least(0), 0, "what the random vectors follow from")
    _output(look, None, "folder for the results (default: RUN/spectrum)")
    resources = _resources(look, device=True)
    _add(resources, "--seconds S", _positive, 60.0, "seconds that the analysis may take")

    answer = command("predict", "write the predictions of a run for new data, as a CSV")
    _add(answer, "run RUN", located, REQUIRED, "folder of a run, or its trajectory.npz")
    _data(answer)
    output = _output(answer, None, "CSV to write (default: standard output)", "FILE")
    _add(output, "--proba", bool, False, "of classes, write an estimated probability of each")

    draw = command("plot", "draw the pictures of a run, or of its spectrum, anew")
    _add(draw, "run RUN", located, REQUIRED, "folder of a run or of a spectrum")
    _add(draw, "--quiet", bool, False, QUIET)

    words = command("explain", "say what a word of the tables means, or list all words")
    words.add_argument("word", nargs="*", metavar="WORD", help="such as tr K (default: all words)")
    return top


def _add(group: Any, name: str, kind: Any, default: Any, text: str, **how: Any) -> None:
    """An option as ``--name METAVAR``; its sentence ends in what holds without it."""
    flag, _, metavar = name.partition(" ")
    if default is REQUIRED:
        how |= {"required": True} if flag.startswith("-") else {}
        default = None
        text += " (required)"
    if kind is bool:
        how |= {"action": "store_true"}
        text += " (default: off)"
    elif kind is PAIR:
        how |= {"action": kind}
    elif isinstance(kind, tuple):
        how |= {"choices": kind}
    else:
        how |= {"type": kind, "metavar": metavar}
    if not text.endswith(")"):
        text += " (no default)" if default is None else f" (default: {default})"
    group.add_argument(flag, default=default, help=text, **how)


def data_options(command: argparse.ArgumentParser, nargs: Any = None, without: str = "") -> Any:
    """DATA, and how they are read; the names are those of :class:`opflow.data.load.Reading`."""
    group = _data(command, nargs, without)
    _add(
        group,
        "--target NAME|INDEX",
        str,
        None,
        "column of a table to predict, by its name or "
        "its place, 0 the first, -1 the last (default: the last)",
    )
    _add(
        group,
        "--task",
        ("auto", "regression", "classification"),
        "auto",
        "auto takes words, "
        "booleans and up to 20 repeated whole numbers for classes (default: auto)",
    )
    _add(
        group,
        "--missing",
        ("mean", "drop"),
        None,
        "fill missing values with the means of their "
        "columns, or leave rows out (default: refuse them)",
    )
    _add(
        group,
        "--encode",
        ("onehot",),
        None,
        "make columns of 0 and 1 from a column of words (default: refuse it)",
    )
    _add(
        group,
        "--standardise",
        PAIR,
        None,
        "shift and scale each feature to mean 0 and standard "
        "deviation 1 (default: yes for tables, no for arrays)",
    )
    _add(
        group,
        "--test-fraction SHARE",
        _share,
        None,
        "share of the samples to hold out, as 0.2, drawn by --seed",
    )
    return group


def _data(command: argparse.ArgumentParser, nargs: Any = None, without: str = "") -> Any:
    group = command.add_argument_group("data")
    default = None if without else REQUIRED
    _add(group, "data DATA", str, default, DATA + without, nargs=nargs)
    _add(group, "--targets FILE", str, None, "file with y, .npy or table (default: in DATA)")
    return group


def _network(command: argparse.ArgumentParser) -> Any:
    group = command.add_argument_group("network")
    _add(group, "--widths N,N,…", _widths, REQUIRED, "units of every hidden layer: 256,256,256")
    _add(group, "--dtype", ("float32", "float64"), "float64", "precision of all numbers")
    return group


def _method(command: argparse.ArgumentParser) -> Any:
    group = command.add_argument_group("method")
    _add(group, "--steps N", _at_least(0), None, "number of updates of the weights")
    _add(
        group,
        "--method",
        tuple(METHODS),
        "gd",
        "gradient descent, or a flow: adaptive, by the "
        "exponential of K, or of the linearised network",
    )
    _add(
        group,
        "--step SIZE",
        _step,
        None,
        "gd: step size (learning rate), or auto, which holds "
        "it below the stability limit (default: auto)",
    )
    _add(group, "--momentum M", float, None, "gd: share of the last update kept (default: 0)")
    _add(group, "--batch N", _at_least(1), None, "gd: samples drawn per step (default: all)")
    _add(group, "--tol T", _positive, None, "flows: relative error per step (default: theirs)")
    _add(
        group,
        "--eliminate",
        ("auto", "yes", "no"),
        "auto",
        "train the first layer through X Xᵀ, which is faster where features outnumber samples",
    )
    return group


def _output(command: argparse.ArgumentParser, default: Any, text: str, name: str = "DIR") -> Any:
    group = command.add_argument_group("output")
    _add(group, f"--out {name}", located, default, text)
    _add(group, "--overwrite", bool, False, f"replace earlier results in {name}")
    _add(group, "--quiet", bool, False, QUIET)
    _add(group, "--json", bool, False, JSON)
    return group


def _resources(command: argparse.ArgumentParser, device: bool = False) -> Any:
    group = command.add_argument_group("resources")
    _add(
        group,
        "--memory SIZE",
        _memory,
        None,
        "memory to use beyond X and y, such as 4GB (default: half of what is free)",
    )
    if device:
        _add(group, "--device", ("cpu", "gpu"), "cpu", "where to compute; gpu needs CuPy")
    return group


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


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The options that :func:`opflow.train` and an estimate share, as they are in Python."""
    eliminate = {"auto": None, "yes": True, "no": False}[args.eliminate]
    return {
        "method": method(args),
        "steps": args.steps,
        "memory": args.memory,
        "eliminate": eliminate,
    }
