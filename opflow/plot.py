"""Pictures of a run.  matplotlib is imported when one is drawn: ``pip install 'opflow[plot]'``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Okabe–Ito, told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'opflow[plot]'") from error
    return Figure(figsize=(6, 4), dpi=120, layout="constrained").add_subplot()


def _tidy(ax: Any) -> Any:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
    return ax


def loss(trajectory: Any, ax: Any = None) -> Any:
    """Loss against time, logarithmic; returns the axes."""
    ax = _axes(ax)
    ax.plot(trajectory.times, trajectory.losses, color=COLOURS[0], linewidth=1.8)
    if np.min(trajectory.losses) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="time", ylabel="loss", title="Training loss")
    return _tidy(ax)


def held_out(trajectory: Any, ax: Any = None) -> Any:
    """Loss a sample against time, of the training set and of held-out data; returns the axes.

    The trajectory is of a run of the summed loss with :class:`opflow.observe.HeldOutLoss`.
    """
    ax = _axes(ax)
    losses = {
        "training set": np.asarray(trajectory.losses) / len(trajectory.residual),
        "held out": np.asarray(trajectory.observations["held_out_loss"]),
    }
    for (label, values), colour, style in zip(losses.items(), COLOURS, ("-", "--"), strict=False):
        ax.plot(trajectory.times, values, style, color=colour, linewidth=1.8, label=label)
    if min(values.min() for values in losses.values()) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="time", ylabel="loss a sample", title="Training and held-out loss")
    ax.legend(frameon=False)
    return _tidy(ax)


def accuracy(trajectory: Any, ax: Any = None) -> Any:
    """Accuracy against time, held-out too where it was observed; returns the axes."""
    ax = _axes(ax)
    names = {"accuracy": "training set", "held_out_accuracy": "held out"}
    for (name, label), colour, style in zip(names.items(), COLOURS, ("-", "--"), strict=False):
        if name in trajectory.observations:
            values = 100 * np.asarray(trajectory.observations[name])
            ax.plot(trajectory.times, values, style, color=colour, linewidth=1.8, label=label)
    ax.set(xlabel="time", ylabel="accuracy (%)", title="Accuracy", ylim=(0, 102))
    ax.legend(frameon=False, loc="lower right")
    return _tidy(ax)


def eigenvalues(values: Mapping[str, Any], ax: Any = None) -> Any:
    """Eigenvalues against rank, one line a label, on logarithmic axes; returns the axes."""
    ax = _axes(ax)
    for (label, numbers), colour, marker in zip(values.items(), COLOURS, "os^Dv<>", strict=False):
        numbers = np.sort(np.asarray(numbers))[::-1]
        positive = numbers[numbers > 0]
        rank = np.arange(1, len(positive) + 1)
        ax.plot(rank, positive, marker + "-", color=colour, ms=4, lw=1, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):  # 60 rather than 6 x 10^1
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if axis is ax.yaxis and _decades(ax) < 2 else "")
    ax.set(xlabel="rank", ylabel="eigenvalue of K", title="Largest eigenvalues of K")
    ax.legend(frameon=False)
    return _tidy(ax)


def _decades(ax: Any) -> float:
    low, high = ax.get_ylim()
    return float(np.log10(high / low))


def layer_shares(shares: Mapping[str, Sequence[float]], ax: Any = None) -> Any:
    """Share of each layer in tr K, a group of bars a layer; returns the axes."""
    ax = _axes(ax)
    width = 0.8 / max(len(shares), 1)
    for i, (label, values) in enumerate(shares.items()):
        x = np.arange(len(values)) + (i - (len(shares) - 1) / 2) * width
        ax.bar(x, 100 * np.asarray(values), 0.92 * width, color=COLOURS[i], label=label)
    layers = max((len(values) for values in shares.values()), default=0)
    ax.set_xticks(range(layers), [f"layer {i + 1}" for i in range(layers)])
    ax.set(ylabel="share of tr K (%)", title="Which layers the kernel lives in")
    ax.set_ylim(0, 100 * max(max(v) for v in shares.values()) * 1.18)
    ax.legend(frameon=False, ncols=len(shares), loc="upper right")
    _tidy(ax).grid(False, axis="x")
    return ax
