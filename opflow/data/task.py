"""Targets encoded for a network (one-hot classes, scaled numbers), and its outputs decoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from opflow.data.standardise import Standardiser
from opflow.data.tables import of_frame
from opflow.machine.arrays import Array, Data, as_array, to_device_of, to_host
from opflow.machine.files import under

#: what the arrays of a task are called in a file
_PREFIX = "task_"


@dataclass(frozen=True, eq=False)
class Task:
    """What makes inputs and targets of data, and answers of a network's outputs.

    Parameters
    ----------
    targets : Standardiser
        Of a regression's targets, or with scale 1 of the one-hot vectors of classes.
    classes : array (k,), optional
        Names of the classes, sorted.
    inputs : Standardiser, optional
        Of the features.
    columns, recipe : tuple of str, dict
        Columns that a prediction needs, and how numbers are made of them; what JSON can hold.
    name : str
        Of the target.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> from opflow.data.task import Task
    >>> task = Task(of.Standardiser([0.75, 0.25], [1, 1]), classes=np.array(["ham", "spam"]))
    >>> y = task.encode(["spam", "ham"])
    >>> y.tolist(), task.answers(y).tolist()
    ([[-0.75, 0.75], [0.25, -0.25]], ['spam', 'ham'])
    >>> task.probabilities(np.array([[0.0, 0.0], [0.5, -0.5]])).tolist()
    [[0.75, 0.25], [1.0, 0.0]]
    """

    targets: Standardiser
    classes: Any = None
    inputs: Standardiser | None = None
    columns: tuple[str, ...] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    name: str = "y"

    def prepare(self, X: Data) -> Data:
        """X as the network takes it, standardised by `inputs`.

        Of a pandas table, `columns` are taken; numbers are made of its words, and missing values
        filled, as they were for the training set.
        """
        if self.columns is not None and hasattr(X, "columns"):
            lacking = [name for name in self.columns if name not in X.columns]
            if lacking:
                raise ValueError(f"X lacks the columns {', '.join(lacking)}")
            X = X[list(self.columns)]
            categories = self.recipe.get("categories", [])
            if len(categories) == X.shape[1] and hasattr(X, "iloc"):
                table = of_frame(X)
                X = np.hstack([table.numbers(i, words)[0] for i, words in enumerate(categories)])
                if "fill" in self.recipe:
                    X = np.where(np.isnan(X), self.recipe["fill"], X)
        return X if self.inputs is None else self.inputs.transform(X)

    def encode(self, y: Data) -> Array:
        """Targets (N, k) of known labels (N,), or of values (N,) or (N, k) in their own units."""
        y = as_array(y, self.name)
        if self.classes is None:
            return self.targets.transform(y[:, None] if y.ndim == 1 else y)
        labels = to_host(y)
        if labels.ndim != 1:
            raise ValueError(f"{self.name} must be one label a sample, not of shape {labels.shape}")
        chosen = np.asarray(labels[:, None] == self.classes)
        unknown = labels[~chosen.any(axis=1)]
        if len(unknown):
            raise ValueError(f"{self.name} has the class {unknown[0]}, not one of {self.known()}")
        return to_device_of(self.targets.transform(chosen), y)

    def known(self) -> str:
        """The classes, or the first ten of them, in words."""
        more = ", …" * (len(self.classes) > 10)
        return ", ".join(map(str, self.classes[:10].tolist())) + more

    def answers(self, outputs: Array) -> Array:
        """Labels (N,), or values in their own units, (N, k) or (N,), of a network's outputs."""
        values = self.targets.inverse(outputs)
        if self.classes is not None:
            return self.classes[to_host(values.argmax(axis=1))]
        return values[:, 0] if values.shape[1] == 1 else values

    def probabilities(self, outputs: Array) -> Array:
        """Estimates of the probability of each class, (N, k).

        The squared loss drives outputs to conditional means of the targets: the mean is added to
        them, negative numbers count as 0, and they are divided by their sum.  Where none is
        positive, all classes are equally likely.  ``ValueError`` for a regression.
        """
        if self.classes is None:
            raise ValueError(f"{self.name} is a regression's: there are no classes")
        shares = self.targets.inverse(outputs).clip(min=0)
        shares[shares.max(axis=1) == 0] = 1
        return shares / shares.sum(axis=1, keepdims=True)

    def arrays(self) -> dict[str, Any]:
        """What a file keeps of the task; :meth:`from_arrays` reads it."""
        arrays = {"target_mean": self.targets.mean, "target_scale": self.targets.scale}
        about: dict[str, Any] = {name: vars(self)[name] for name in ("columns", "recipe", "name")}
        about["targets"] = str(self.targets.dtype)
        if self.inputs is not None:
            arrays |= {"input_mean": self.inputs.mean, "input_scale": self.inputs.scale}
            about["inputs"] = str(self.inputs.dtype)
        if self.classes is not None:
            arrays["classes"] = np.array(np.asarray(self.classes).tolist())  # text, not objects
        arrays["about"] = np.array(json.dumps(about))
        return {_PREFIX + name: array for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Task | None:
        """The task that a file keeps among other arrays; None if it keeps none."""
        arrays = under(_PREFIX, arrays)
        if not arrays:
            return None
        about = json.loads(arrays["about"].item())
        inputs = None
        if "inputs" in about:
            inputs = Standardiser(arrays["input_mean"], arrays["input_scale"], about["inputs"])
        targets = Standardiser(arrays["target_mean"], arrays["target_scale"], about["targets"])
        columns = about["columns"] and tuple(about["columns"])
        return cls(targets, arrays.get("classes"), inputs, columns, about["recipe"], about["name"])
