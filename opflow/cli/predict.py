"""What a run predicts for new data, and how that compares with their known targets."""

from __future__ import annotations

from dataclasses import replace

import opflow as of
from opflow.data.files import Reading
from opflow.data.fit import fit
from opflow.data.load import load
from opflow.interface.words import counted
from opflow.machine.arrays import Array, Data


def predictions(
    run: of.Trajectory, data: str, targets: str | None, shares: bool
) -> tuple[dict[str, Array], str]:
    """The columns of predictions for a file by name, and how good they are.

    With `shares` the columns are probabilities of the classes, and not labels; `data` and
    `targets` are as of :func:`opflow.data.load.load`.
    """
    task = run.task
    if task is None:
        raise ValueError("the run does not say what its outputs mean: opflow train makes one")
    if shares and task.classes is None:
        raise ValueError(f"--proba is for classes, but {task.name} is a regression")
    how = Reading()
    if "fill" in task.recipe:
        how = Reading(missing="mean")
    found = load(data, targets, run.network.dtype, how, like=task, ask=False)
    outputs = outputs_of(run, found.inputs)
    answers = task.answers(outputs)
    about = f"{counted(len(outputs), 'prediction')} of {task.name}"
    if found.labels is not None:
        about += f", accuracy {(answers == task.classes[found.labels]).mean():.4g}"
    elif found.targets is not None:
        good = fit(outputs - found.targets, found.targets, task.targets.scale)
        about += f", RMSE {good['rmse']:.4g}, R² {good['r2']:.4g}"
    names = [task.name]
    values = answers.reshape(len(answers), -1)
    if shares:
        values = task.probabilities(outputs)
        names = [*map(str, task.classes)]
    elif values.shape[1] > 1:
        names = [f"{task.name}_{i}" for i in range(values.shape[1])]
    return dict(zip(names, values.T, strict=True)), "; ".join([about, *found.notes])


def outputs_of(run: of.Trajectory, prepared: Data) -> Array:
    """The outputs of the model at inputs that its task has prepared already."""
    return replace(run, task=None).predict(prepared)
