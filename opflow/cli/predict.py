"""What a run predicts for new data, and how that compares with what is known of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import opflow as of
from opflow.data.load import Reading, counted, load
from opflow.dynamics.observe.goodness import fit


def predictions(
    run: of.Trajectory, data: str, targets: str | None, shares: bool
) -> tuple[list[str], list[Any], str]:
    """Names and values of the columns of predictions for a file, and how good they are.

    With `shares` they are probabilities of the classes, and not labels; `data` and `targets` are
    as of :func:`opflow.data.load.load`.
    """
    task = run.task
    if task is None:
        raise ValueError("the run does not say what its outputs mean: opflow train makes one")
    if shares and task.classes is None:
        raise ValueError(f"--proba is for classes, but {task.name} is a regression")
    how = Reading(missing="mean" if "fill" in task.recipe else None)
    found = load(data, targets, run.network.dtype, how, like=task, ask=False)
    outputs = replace(run, task=None).predict(found.inputs)
    answers = task.answers(outputs)
    told = f"{counted(len(outputs), 'prediction')} of {task.name}"
    if found.labels is not None:
        told += f", accuracy {(answers == task.classes[found.labels]).mean():.4g}"
    elif found.targets is not None:
        good = fit(outputs - found.targets, found.targets, task.targets.scale)
        told += f", RMSE {good['rmse']:.4g}, R² {good['r2']:.4g}"
    values = task.probabilities(outputs) if shares else answers.reshape(len(answers), -1)
    names = [task.name]
    if shares:
        names = [*map(str, task.classes)]
    elif values.shape[1] > 1:
        names = [f"{task.name}_{i}" for i in range(values.shape[1])]
    return names, [*values.T], "; ".join([told, *found.notes])
