"""The command line: ``opflow train`` and ``opflow estimate``.

Wrong input ends with exit code 2 and one line on stderr; a run that diverges with code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

import opflow as of
from opflow.data import DataSet, load
from opflow.estimate import estimate, report

FILES = ("config.json", "trajectory.npz", "summary.json", "summary.txt", "loss.png",
         "eigenvalues.png", "layer_shares.png")  # fmt: skip
EIGENVALUES = 24


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong
        return int(stop.code or 0)
    try:
        return int(args.command(args))
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        return _fail(error, 2)
    except of.DivergenceError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(error: object, code: int) -> int:
    print("opflow: error:", " ".join(str(error).split()), file=sys.stderr)
    return code


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
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (value >= least and value == int(value)):
            raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least {least}")
        return int(value)

    return count


def _step(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        of.GradientDescent(step=float(text))
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive, or auto") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="opflow", description="Residual dynamics of ReLU networks.")
    parser.add_argument("--version", action="version", version=f"opflow {of.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    data = "digits, or a file: .npz with X and y, .npy, .csv, SciPy sparse .npz"

    train = commands.add_parser("train", help="train a network on data", description=(
        "Train by full-batch gradient descent. Integer targets are class labels: they become "
        "one-hot vectors minus their mean, and the table shows the accuracy."))  # fmt: skip
    train.add_argument("data", metavar="DATA", help=data)
    train.add_argument("--targets", metavar="FILE", help=".npy or .csv with y")
    train.add_argument("--widths", type=_widths, required=True, help="hidden widths: 256,256,256")
    train.add_argument("--steps", type=_at_least(0), required=True)
    train.add_argument("--step", type=_step, default="auto", help="step size, or auto (default)")
    train.add_argument("--scaling", choices=("ntk", "standard", "mean-field"), default="ntk")
    train.add_argument("--seed", type=_at_least(0), default=0)
    train.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder")
    train.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    train.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    train.set_defaults(command=_train)

    guess = commands.add_parser(
        "estimate", help="memory and flops of a run, before anything is allocated"
    )
    guess.add_argument("data", metavar="DATA", nargs="?", help=data)
    guess.add_argument("--targets", metavar="FILE", help=".npy or .csv with y")
    guess.add_argument("--samples", type=_at_least(1), help="N, such as 1e9, instead of DATA")
    guess.add_argument("--features", type=_at_least(1), help="d, instead of DATA")
    guess.add_argument("--outputs", type=_at_least(1), help="k (default 1, or as DATA has)")
    guess.add_argument("--widths", type=_widths, required=True)
    guess.add_argument("--steps", type=_at_least(0), default=1)
    guess.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    guess.set_defaults(command=_estimate)
    return parser


def _estimate(args: argparse.Namespace) -> int:
    shape = (args.samples, args.features)
    if args.data is not None:
        if any(shape):
            raise ValueError("give either DATA or --samples and --features")
        data = load(args.data, args.targets)
        samples, features = data.inputs.shape
        outputs = args.outputs or data.targets.shape[1]
    elif None in shape:
        raise ValueError("DATA, or --samples and --features, is needed")
    else:
        (samples, features), outputs = shape, args.outputs or 1
    print(f"N = {samples:,}, d = {features:,}, widths {args.widths}, k = {outputs}, {args.dtype}")
    print(report(estimate(samples, [features, *args.widths], outputs, args.dtype, args.steps)))
    return 0


def _train(args: argparse.Namespace) -> int:
    data = load(args.data, args.targets, args.dtype)
    folder = _prepare(args.out, args.overwrite)
    features, outputs = data.inputs.shape[1], data.targets.shape[1]
    network = of.ReLUNetwork.random(
        [features, *args.widths],
        outputs=outputs,
        scaling=args.scaling,
        seed=args.seed,
        dtype=args.dtype,
    )
    started = time.perf_counter()
    before = _analyse(network, data)
    run = of.train(
        network,
        data.inputs,
        data.targets,
        method=of.GradientDescent(step=args.step),
        steps=args.steps,
        observe=[of.observe.ResidualNorm(), of.observe.Balancedness()],
        progress=not args.quiet,
    )
    after = _analyse(run.network, data)
    config = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()
              if k != "command"}  # fmt: skip
    config["version"] = of.__version__
    summary = _summary(run, data, before, after, time.perf_counter() - started)
    table = _table(summary)
    _write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    _write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    _write(folder / "summary.txt", table + "\n")
    run.save(folder / "trajectory.npz")
    pictures = _draw(folder, run, before, after)
    if not args.quiet:
        print(table)
        print(f"\n{pictures}; everything is in {folder}")
    return 0


def _prepare(folder: Path, overwrite: bool) -> Path:
    """The run folder, made and known to be writable, with nothing in it to lose."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror}") from error
    there = [name for name in FILES if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(f"--out {folder} already holds {', '.join(there)}; --overwrite replaces")
    return folder


def _analyse(network: of.ReLUNetwork, data: DataSet) -> dict[str, Any]:
    """Eigenvalues of K, layer shares of its trace, and accuracy, at one moment."""
    fields = network.fields(data.inputs)
    traces = [float(kernel.trace()) for kernel in of.layer_kernels(fields)]
    K = of.collective_kernel(fields)
    count = min(EIGENVALUES, K.shape[0] - 1)
    if K.shape[0] <= 2 * EIGENVALUES:
        values = np.linalg.eigvalsh(K.todense())[::-1][:EIGENVALUES]
    else:
        start = np.random.default_rng(0).standard_normal(K.shape[0]).astype(K.dtype)
        values = spla.eigsh(K, k=count, v0=start, tol=1e-3, return_eigenvectors=False)
        values = np.sort(values)[::-1]
    total = sum(traces) or 1.0
    accuracy = None
    if data.labels is not None:
        accuracy = float((fields.outputs.argmax(axis=1) == data.labels).mean())
    return {"eigenvalues": [float(v) for v in values], "accuracy": accuracy, "trace": sum(traces),
            "shares": [t / total for t in traces]}  # fmt: skip


def _summary(
    run: of.Trajectory, data: DataSet, before: dict[str, Any], after: dict[str, Any], seconds: float
) -> dict[str, Any]:
    norms = run.observations["residual_norm"]
    top = [moment["eigenvalues"][0] for moment in (before, after)]
    return {
        "samples": int(data.inputs.shape[0]),
        "widths": list(run.network.widths),
        "outputs": run.network.outputs,
        "parameters": run.network.parameters,
        "dtype": str(run.network.dtype),
        "steps": len(run.times) - 1,
        "interrupted": run.interrupted,
        "step": run.step,
        "note": run.note,
        "products": run.products,
        "time": float(run.times[-1]),
        "loss": [float(run.losses[0]), float(run.losses[-1])],
        "residual_norm": [float(norms[0]), float(norms[-1])],
        "accuracy": [before["accuracy"], after["accuracy"]],
        "largest_eigenvalue": top,
        "stability_limit": [2 / v if v > 0 else None for v in top],
        "trace": [before["trace"], after["trace"]],
        "layer_shares": [before["shares"], after["shares"]],
        "balancedness_drift": float(run.observations["balancedness_drift"][-1]),
        "seconds": seconds,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _table(s: dict[str, Any]) -> str:
    def pair(values: Sequence[Any]) -> str:
        start, end = (f"{v:.4g}" if v is not None else "none" for v in values)
        return f"{start:>12}  ->  {end}"

    rows = [
        ("network", f"{'-'.join(map(str, s['widths']))}-{s['outputs']}, "
                    f"{s['parameters']:,} parameters, {s['dtype']}"),
        ("samples", f"{s['samples']:,}"),
        ("steps", f"{s['steps']:,}{' (interrupted)' if s['interrupted'] else ''}"),
        ("step size", s["note"]),
        ("kernel products", f"{s['products']:,}"),
        ("loss", pair(s["loss"])),
        ("residual norm", pair(s["residual_norm"])),
        ("accuracy", pair(s["accuracy"])) if s["accuracy"][0] is not None else None,
        ("λ_max(K)", pair(s["largest_eigenvalue"])),
        ("2/λ_max(K)", pair(s["stability_limit"])),
        ("tr K", pair(s["trace"])),
        ("balancedness drift", f"{s['balancedness_drift']:.3g}"),
        ("time, memory", f"{s['seconds']:.1f} s, {s['peak_memory'] / 2**20:,.0f} MiB at the peak"),
    ]  # fmt: skip
    return "\n".join(f"{name:20}{value}" for name, value in filter(None, rows))


def _draw(folder: Path, run: of.Trajectory, before: dict[str, Any], after: dict[str, Any]) -> str:
    from opflow import plot

    try:
        pictures = {
            "loss.png": plot.loss(run),
            "eigenvalues.png": plot.eigenvalues(
                {"start": before["eigenvalues"], "end": after["eigenvalues"]}
            ),
            "layer_shares.png": plot.layer_shares(
                {"start": before["shares"], "end": after["shares"]}
            ),
        }
    except ImportError as error:
        return f"no pictures: {error}"
    for name, ax in pictures.items():
        temporary = folder / f".{name}"
        ax.figure.savefig(temporary, format="png")
        os.replace(temporary, folder / name)
    return f"pictures: {', '.join(pictures)}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
