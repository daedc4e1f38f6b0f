"""The options of the command line; nothing heavy is imported for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import opflow as of
from opflow.cli.parsing import Parser, at_least, fraction, interval, positive, step_size, widths
from opflow.cli.words import explained
from opflow.data.paths import located

if TYPE_CHECKING:
    from opflow.dynamics.methods.method import Method

METHODS = {
    "gd": "GradientDescent",
    "gauss-newton": "GaussNewton",
    "flow": "GradientFlow",
    "exponential": "ExponentialFlow",
    "linearised": "LinearisedFlow",
}
#: options of gradient descent; the other methods have a tolerance
DESCENT = ("step", "momentum", "batch", "weight_decay")
#: options that a run which goes on must have in common with its beginning
FIXED: tuple[str, ...] = ("widths", "scaling", "seed", "dtype", "method", *DESCENT, "tol")
FIXED += ("eliminate", "target", "task", "missing", "encode", "standardise", "test_fraction")
FIXED += ("test_data",)
#: what options and groups of options are added to
Group = argparse._ActionsContainer
REQUIRED: object = object()
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
    top = Parser(prog="opflow", description=ABOUT, epilog=EXAMPLES)
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
    _add(network, "--seed N", at_least(0), 0, "what the random weights and batches follow from")
    method = _method(train)
    _add(method, "--until TIME", positive, None, "time = step × steps to stop at")
    _add(method, "--no-analysis", bool, False, "leave out the kernel's eigenvalues, start and end")
    output = _output(train, REQUIRED, "folder for the files of the run")
    _add(output, "--every N", at_least(1), 1, "steps from one record to the next")
    _add(output, "--explain", bool, False, "print how the run is computed and what that costs")
    saves = "steps (100) or seconds (600s) between saves"
    _add(output, "--checkpoint-every N|Ns", interval, "600s", saves)
    _add(output, "--resume", bool, False, "go on with the run in DIR, if there is one")
    _add(output, "--resume-from FILE", located, None, "go on from this saved state of the run")
    _resources(train, device=True)

    guess = command("estimate", "say what a run would take in memory and time, doing none of it")
    data = data_options(guess, "?", " (default: --samples and --features)")
    _add(data, "--samples N", at_least(1), None, "number of rows, such as 1e9, without DATA")
    _add(data, "--features N", at_least(1), None, "number of columns, without DATA")
    _add(data, "--outputs N", at_least(1), None, "outputs of the network (default: DATA's, or 1)")
    _network(guess)
    _method(guess)
    _add(guess.add_argument_group("output"), "--json", bool, False, JSON)
    _resources(guess)
    guess.set_defaults(seed=0)

    look = command("spectrum", "analyse the kernel of a run, at its start and its end")
    _add(look, "run RUN", located, REQUIRED, "folder of a run, or its trajectory.npz and DATA")
    _data(look, "?", " (default: that of RUN)")
    method = look.add_argument_group("method")
    _add(method, "--top N", at_least(1), 20, "number of the largest eigenpairs")
    ever = "however long it takes, or not (default: if it fits into --seconds)"
    _add(method, "--density", PAIR, None, f"compute the density, {ever}")
    _add(method, "--heat-map", PAIR, None, f"picture the kernel, {ever}")
    _add(method, "--steps N", at_least(4), 100, "products per random vector of the density")
    _add(method, "--probes N", at_least(2), 10, "random vectors of the density, at most")
    _add(method, "--seed N", at_least(0), 0, "what the random vectors follow from")
    _output(look, None, "folder for the results (default: RUN/spectrum)")
    resources = _resources(look, device=True)
    _add(resources, "--seconds S", positive, 60.0, "seconds that the analysis may take")

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


def _add(group: Group, name: str, kind: object, default: object, text: str, **how: object) -> None:
    """An option as ``--name METAVAR``; its sentence ends in what holds without it."""
    flag, _, metavar = name.partition(" ")
    if default is REQUIRED:
        if flag.startswith("-"):
            how["required"] = True
        default = None
        text += " (required)"
    if kind is bool:
        how["action"] = "store_true"
        text += " (default: off)"
    elif kind is PAIR:
        how["action"] = kind
    elif isinstance(kind, tuple):
        how["choices"] = kind
    else:
        how |= {"type": kind, "metavar": metavar}
    if not text.endswith(")"):
        text += f" (default: {default})".replace("(default: None)", "(no default)")
    group.add_argument(flag, default=default, help=text, **how)  # type: ignore[arg-type]


def data_options(command: Group, nargs: str | None = None, without: str = "") -> Group:
    """DATA, and how they are read; the names are those of :class:`opflow.data.load.Reading`."""
    group = _data(command, nargs, without)
    text = "column of a table to predict, by its name or its place, 0 the first, -1 the "
    text += "last (default: the last)"
    _add(group, "--target NAME|INDEX", str, None, text)
    text = "auto takes words, booleans and up to 20 repeated whole numbers for classes "
    text += "(default: auto)"
    _add(group, "--task", ("auto", "regression", "classification"), "auto", text)
    text = "fill missing values with the means of their columns, or leave rows out "
    text += "(default: refuse them)"
    _add(group, "--missing", ("mean", "drop"), None, text)
    text = "make columns of 0 and 1 from a column of words (default: refuse it)"
    _add(group, "--encode", ("onehot",), None, text)
    text = "shift and scale each feature to mean 0 and standard deviation 1 (default: yes "
    text += "for tables, no for arrays)"
    _add(group, "--standardise", PAIR, None, text)
    text = "share of the samples to hold out, as 0.2, drawn by --seed"
    _add(group, "--test-fraction SHARE", fraction, None, text)
    return group


def _data(command: Group, nargs: str | None = None, without: str = "") -> Group:
    group = command.add_argument_group("data")
    _add(group, "data DATA", str, (not without and REQUIRED) or None, DATA + without, nargs=nargs)
    _add(group, "--targets FILE", str, None, "file with y, .npy or table (default: in DATA)")
    return group


def _network(command: Group) -> Group:
    group = command.add_argument_group("network")
    _add(group, "--widths N,N,…", widths, REQUIRED, "units of every hidden layer: 256,256,256")
    _add(group, "--dtype", ("float32", "float64"), "float64", "precision of all numbers")
    return group


def _method(command: Group) -> Group:
    group = command.add_argument_group("method")
    _add(group, "--steps N", at_least(0), None, "number of updates of the weights")
    text = "gradient descent, Gauss-Newton steps, or a flow: adaptive, by the exponential of K, or "
    text += "of the linearised network"
    _add(group, "--method", tuple(METHODS), "gd", text)
    text = "gd: step size (learning rate), or auto, which holds it below the stability "
    text += "limit (default: auto)"
    _add(group, "--step SIZE", step_size, None, text)
    _add(group, "--momentum M", float, None, "gd: share of the last update kept (default: 0)")
    _add(group, "--batch N", at_least(1), None, "gd: samples drawn per step (default: all)")
    _add(group, "--weight-decay L", float, None, "gd: λ of λ|W|²/2 beside the loss (default: 0)")
    _add(group, "--tol T", positive, None, "not gd: relative error per step (default: theirs)")
    text = "train the first layer through X Xᵀ, which is faster where features outnumber samples"
    _add(group, "--eliminate", ("auto", "yes", "no"), "auto", text)
    return group


def _output(command: Group, default: object, text: str, name: str = "DIR") -> Group:
    group = command.add_argument_group("output")
    _add(group, f"--out {name}", located, default, text)
    _add(group, "--overwrite", bool, False, f"replace earlier results in {name}")
    _add(group, "--quiet", bool, False, QUIET)
    _add(group, "--json", bool, False, JSON)
    return group


def _resources(command: Group, device: bool = False) -> Group:
    group = command.add_argument_group("resources")
    text = "memory to use beyond X and y, such as 4GB (default: half of what is free)"
    _add(group, "--memory SIZE", str, None, text)
    if device:
        _add(group, "--device", ("cpu", "gpu"), "cpu", "where to compute; gpu needs CuPy")
    return group


def method(args: argparse.Namespace) -> Method:
    """The method that the options describe."""
    descent = args.method == "gd"
    for name in (*DESCENT, "tol"):
        if vars(args)[name] is not None and descent != (name in DESCENT):
            raise ValueError(f"--{name.replace('_', '-')} is not for --method {args.method}")
    if (args.batch or args.weight_decay) and args.eliminate == "yes":
        raise ValueError("--eliminate yes excludes --batch and --weight-decay")
    kind = getattr(of, METHODS[args.method])
    if descent:
        known = {"batch": args.batch, "rng": args.seed, "weight_decay": args.weight_decay or 0.0}
        return kind(args.step or "auto", args.momentum or 0.0, **known)
    if args.tol is None:
        return kind()
    return kind(tol=args.tol)


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The options that :func:`opflow.train` and an estimate share, as they are in Python."""
    eliminate = {"auto": None, "yes": True, "no": False}[args.eliminate]
    known = {"steps": args.steps, "memory": args.memory, "eliminate": eliminate}
    return {"method": method(args), **known}
