"""What ``opflow train`` records of a run: its fit, its accuracy, its balancedness."""

from __future__ import annotations

import math
from collections.abc import Callable
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


class TrainingAccuracy:
    """The share of training samples whose largest output is that of their class; 2·N·k flops."""

    name = "accuracy"

    def __init__(self, labels: Array) -> None:
        self.labels = labels

    def __call__(self, moment: Moment) -> float:
        right = (moment.residual + moment.targets).argmax(axis=1) == self.labels
        return float(moment.space.total(right.sum())) / moment.samples


class Fit:
    """One number of :func:`opflow.data.fit.fit`; the loss of held-out data is per sample."""

    def __init__(self, name: str, scale: Array, test: DataSet | None = None) -> None:
        self.name = name
        self.scale = scale
        self.test = test

    def __call__(self, moment: Moment) -> float:
        key = ("fit", self.test is None)  # the numbers of one fit are computed once
        if key not in moment.shared:
            moment.shared[key] = self._numbers(moment)
        return float(moment.shared[key][self.name])

    def _numbers(self, moment: Moment) -> dict[str, float]:
        if self.test is None:
            return fit(moment.residual, moment.targets, self.scale, moment.space)
        y = self.test.targets
        found = fit(moment.predict(self.test.inputs) - y, y, self.scale)
        return found | {"loss": found["loss"] / len(y)}


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
        seen |= {name: Fit(name, scale) for name in ("loss", "residual_norm", "rmse", "r2")}
        if test is not None:
            seen |= {f"held_out_{name}": Fit(name, scale, test) for name in ("loss", "rmse", "r2")}
        return seen
    if data.labels is not None:
        seen["accuracy"] = TrainingAccuracy(data.labels)
    if test is not None:
        seen["held_out_loss"] = of.observe.HeldOutLoss(test.inputs, test.targets)
        if test.labels is not None:
            seen["held_out_accuracy"] = of.observe.Accuracy(test.inputs, test.labels)
    return seen
