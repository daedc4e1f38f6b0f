"""The options of the command line; nothing heavy is imported for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
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


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options and the name of their `command`; ``SystemExit`` where nothing is left to do."""
    if argv is None:
        argv = sys.argv[1:]
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
    _add(data, "--test-data FILE", "data to test on, of any kind of DATA")
    _add(data, "--test-targets FILE", "file with their y (default: in it)")
    network = _network(train)
    _add(network, "--scaling", "scaling with the widths", ("ntk", "standard", "mean-field"), "ntk")
    _add(network, "--seed N", "what the random weights and batches follow from", at_least(0), 0)
    method = _method(train)
    _add(method, "--until TIME", "time = step × steps to stop at", positive)
    _add(method, "--no-analysis", "leave out the kernel's eigenvalues, start and end", bool)
    output = _output(train, REQUIRED, "folder for the files of the run")
    _add(output, "--every N", "steps from one record to the next", at_least(1), 1)
    _add(output, "--explain", "print how the run is computed and what that costs", bool)
    saves = "steps (100) or seconds (600s) between saves"
    _add(output, "--checkpoint-every N|Ns", saves, interval, "600s")
    _add(output, "--resume", "go on with the run in DIR, if there is one", bool)
    _add(output, "--resume-from FILE", "go on from this saved state of the run", located)
    _resources(train, device=True)

    guess = command("estimate", "say what a run would take in memory and time, doing none of it")
    data = data_options(guess, " (default: --samples and --features)")
    _add(data, "--samples N", "number of rows, such as 1e9, without DATA", at_least(1))
    _add(data, "--features N", "number of columns, without DATA", at_least(1))
    _add(data, "--outputs N", "outputs of the network (default: DATA's, or 1)", at_least(1))
    _network(guess)
    _method(guess)
    _add(guess.add_argument_group("output"), "--json", JSON, bool)
    _resources(guess)
    guess.set_defaults(seed=0)

    look = command("spectrum", "analyse the kernel of a run, at its start and its end")
    _add(look, "run RUN", "folder of a run, or its trajectory.npz and DATA", located, REQUIRED)
    _data(look, " (default: that of RUN)")
    method = look.add_argument_group("method")
    _add(method, "--top N", "number of the largest eigenpairs", at_least(1), 20)
    ever = "however long it takes, or not (default: if it fits into --seconds)"
    _add(method, "--density", f"compute the density, {ever}", PAIR)
    _add(method, "--heat-map", f"picture the kernel, {ever}", PAIR)
    _add(method, "--steps N", "products per random vector of the density", at_least(4), 100)
    _add(method, "--probes N", "random vectors of the density, at most", at_least(2), 10)
    _add(method, "--seed N", "what the random vectors follow from", at_least(0), 0)
    _output(look, None, "folder for the results (default: RUN/spectrum)")
    resources = _resources(look, device=True)
    _add(resources, "--seconds S", "seconds that the analysis may take", positive, 60.0)

    answer = command("predict", "write the predictions of a run for new data, as a CSV")
    _add(answer, "run RUN", "folder of a run, or its trajectory.npz", located, REQUIRED)
    _data(answer)
    output = _output(answer, None, "CSV to write (default: standard output)", "FILE")
    _add(output, "--proba", "of classes, write an estimated probability of each", bool)

    draw = command("plot", "draw the pictures of a run, or of its spectrum, anew")
    _add(draw, "run RUN", "folder of a run or of a spectrum", located, REQUIRED)
    _add(draw, "--quiet", QUIET, bool)

    words = command("explain", "say what a word of the tables means, or list all words")
    words.add_argument("word", nargs="*", metavar="WORD", help="such as tr K (default: all words)")
    return top


def _add(
    group: Group, name: str, text: str, kind: object = str, default: object = None, **how: object
) -> None:
    """An option as ``--name METAVAR``; its sentence ends in what holds without it."""
    flag, _, metavar = name.partition(" ")
    if default is REQUIRED:
        if flag.startswith("-"):
            how["required"] = True
        default = None
        text += " (required)"
    if kind is bool:
        default = False
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


def data_options(command: Group, without: str = "") -> Group:
    """DATA, and how they are read; the names are those of :class:`opflow.data.load.Reading`."""
    group = _data(command, without)
    text = "column of a table to predict, by its name or its place, 0 the first, -1 the "
    text += "last (default: the last)"
    _add(group, "--target NAME|INDEX", text)
    text = "auto takes words, booleans and up to 20 repeated whole numbers for classes "
    text += "(default: auto)"
    _add(group, "--task", text, ("auto", "regression", "classification"), "auto")
    text = "fill missing values with the means of their columns, or leave rows out "
    text += "(default: refuse them)"
    _add(group, "--missing", text, ("mean", "drop"))
    text = "make columns of 0 and 1 from a column of words (default: refuse it)"
    _add(group, "--encode", text, ("onehot",))
    text = "shift and scale each feature to mean 0 and standard deviation 1 (default: yes "
    text += "for tables, no for arrays)"
    _add(group, "--standardise", text, PAIR)
    text = "share of the samples to hold out, as 0.2, drawn by --seed"
    _add(group, "--test-fraction SHARE", text, fraction)
    return group


def _data(command: Group, without: str = "") -> Group:
    group = command.add_argument_group("data")
    if without:
        _add(group, "data DATA", DATA + without, nargs="?")
    else:
        _add(group, "data DATA", DATA, default=REQUIRED)
    _add(group, "--targets FILE", "file with y, .npy or table (default: in DATA)")
    return group


def _network(command: Group) -> Group:
    group = command.add_argument_group("network")
    _add(group, "--widths N,N,…", "units of every hidden layer: 256,256,256", widths, REQUIRED)
    _add(group, "--dtype", "precision of all numbers", ("float32", "float64"), "float64")
    return group


def _method(command: Group) -> Group:
    group = command.add_argument_group("method")
    _add(group, "--steps N", "number of updates of the weights", at_least(0))
    text = "gradient descent, Gauss-Newton steps, or a flow: adaptive, by the exponential of K, or "
    text += "of the linearised network"
    _add(group, "--method", text, tuple(METHODS), "gd")
    text = "gd: step size (learning rate), or auto, which holds it below the stability "
    text += "limit (default: auto)"
    _add(group, "--step SIZE", text, step_size)
    _add(group, "--momentum M", "gd: share of the last update kept (default: 0)", float)
    _add(group, "--batch N", "gd: samples drawn per step (default: all)", at_least(1))
    _add(group, "--weight-decay L", "gd: λ of λ|W|²/2 beside the loss (default: 0)", float)
    _add(group, "--tol T", "not gd: relative error per step (default: theirs)", positive)
    text = "train the first layer through X Xᵀ, which is faster where features outnumber samples"
    _add(group, "--eliminate", text, ("auto", "yes", "no"), "auto")
    return group


def _output(command: Group, default: object, text: str, name: str = "DIR") -> Group:
    group = command.add_argument_group("output")
    _add(group, f"--out {name}", text, located, default)
    _add(group, "--overwrite", f"replace earlier results in {name}", bool)
    _add(group, "--quiet", QUIET, bool)
    _add(group, "--json", JSON, bool)
    return group


def _resources(command: Group, device: bool = False) -> Group:
    group = command.add_argument_group("resources")
    text = "memory to use beyond X and y, such as 4GB (default: half of what is free)"
    _add(group, "--memory SIZE", text)
    if device:
        _add(group, "--device", "where to compute; gpu needs CuPy", ("cpu", "gpu"), "cpu")
    return group


def method(args: argparse.Namespace) -> Method:
    """The method that the options describe."""
    descent = args.method == "gd"
    given = {}
    for name in (*DESCENT, "tol"):
        if vars(args)[name] is not None:
            if descent != (name in DESCENT):
                raise ValueError(f"--{name.replace('_', '-')} is not for --method {args.method}")
            given[name] = vars(args)[name]
    if (args.batch or args.weight_decay) and args.eliminate == "yes":
        raise ValueError("--eliminate yes excludes --batch and --weight-decay")
    if descent:
        given["rng"] = args.seed
    return getattr(of, METHODS[args.method])(**given)


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """The options that :func:`opflow.train` and an estimate share, as they are in Python."""
    eliminate = {"auto": None, "yes": True, "no": False}[args.eliminate]
    known = {"steps": args.steps, "memory": args.memory, "eliminate": eliminate}
    return {"method": method(args), **known}


def start(values: Mapping[str, Any], inputs: int, outputs: int) -> of.ReLUNetwork:
    """The network that a run of these options, or of this configuration, begins with."""
    known = {name: values[name] for name in ("scaling", "seed", "dtype")}
    return of.ReLUNetwork.random([inputs, *values["widths"]], outputs=outputs, **known)
