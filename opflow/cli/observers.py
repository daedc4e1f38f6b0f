"""What ``opflow train`` records of a run: its fit, its accuracy, its balancedness."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import opflow as of
from opflow.data.fit import fit
from opflow.data.load import DataSet
from opflow.dynamics.observe import Moment
from opflow.machine.arrays import Array

#: the label of each recorded number in a table
LABELS = {
    "loss": "loss",
    "rmse": "RMSE",
    "r2": "R²",
    "residual_norm": "residual norm",
    "accuracy": "accuracy",
    "held_out_loss": "held-out loss",
    "held_out_rmse": "held-out RMSE",
    "held_out_r2": "held-out R²",
    "held_out_accuracy": "held-out accuracy",
}


def accuracy(labels: Array, moment: Moment) -> float:
    """The share of training samples whose largest output is that of their class; 2·N·k flops."""
    right = (moment.residual + moment.targets).argmax(axis=1) == labels
    return float(moment.space.total(right.sum())) / moment.samples


def fitted(name: str, scale: Array, test: DataSet | None, moment: Moment) -> float:
    """One number of :func:`opflow.data.fit.fit`; the loss of held-out data is per sample."""
    key = ("fit", test is None)  # the numbers of one fit are computed once
    if key not in moment.shared:
        if test is None:
            found = fit(moment.residual, moment.targets, scale, moment.space)
        else:
            y = test.targets
            found = fit(moment.predict(test.inputs) - y, y, scale)
            found["loss"] /= len(y)
        moment.shared[key] = found
    return moment.shared[key][name]


class Drift(of.observe.Balancedness):
    """Balancedness where W¹ is at hand: forming it costs an eliminated layer many steps."""

    def __call__(self, moment: Moment) -> float:
        if moment.state.first.route == "eliminated":
            return math.nan
        return super().__call__(moment)


def observers(data: DataSet, test: DataSet | None, depth: int) -> dict[str, Callable[..., Any]]:
    """What the command line records of a run; held-out data cost forward passes.

    Of samples spread over ranks, `data` are those of this rank and `test` are whole.
    """
    seen: dict[str, Callable[..., Any]] = {
        "step": lambda moment: moment.step,
        "residual_norm": of.observe.ResidualNorm(),
    }
    if depth > 1:
        seen["balancedness_drift"] = Drift()
    if data.labels is None and data.task is not None:
        scale = data.task.targets.scale
        for name in ("loss", "residual_norm", "rmse", "r2"):
            seen[name] = partial(fitted, name, scale, None)
        if test is not None:
            for name in ("loss", "rmse", "r2"):
                seen[f"held_out_{name}"] = partial(fitted, name, scale, test)
        return seen
    if data.labels is not None:
        seen["accuracy"] = partial(accuracy, data.labels)
    if test is not None:
        seen["held_out_loss"] = of.observe.HeldOutLoss(test.inputs, test.targets)
        if test.labels is not None:
            seen["held_out_accuracy"] = of.observe.Accuracy(test.inputs, test.labels)
    return seen
