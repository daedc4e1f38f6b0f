"""Observers of how well a run fits: loss, residual, held-out loss, accuracy."""

from __future__ import annotations

import numpy as np

from opflow.dynamics.objectives import CrossEntropy
from opflow.dynamics.observe.moment import Moment
from opflow.machine.arrays import Data, as_array, as_samples, check_real


class Loss:
    """The loss at every moment, at no cost.

    See Also
    --------
    opflow.observe.HeldOutLoss : The loss on other data.
    opflow.plot.loss : Draws it.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.Loss()])
    >>> bool((run.observations["loss"] == run.losses).all())
    True
    """

    name = "loss"

    def __call__(self, moment: Moment) -> float:
        return moment.loss


class ResidualNorm:
    """The norm ‖r‖ of the residual, or the force, over all samples and outputs.

    Costs 2·N·k flops.

    See Also
    --------
    opflow.observe.Loss : The loss.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.ResidualNorm()])
    >>> run.observations["residual_norm"].shape
    (6,)
    """

    name = "residual_norm"

    def __call__(self, moment: Moment) -> float:
        return float(moment.space.norm(moment.residual.astype(np.float64)))


class HeldOutLoss:
    """The loss on data that the run does not train on, averaged over its samples.

    Parameters
    ----------
    X : array (M, d), rows on disk, sparse matrix or operator
    y : array (M,) or (M, k)
        As in :func:`opflow.train`.
    name : str, default "held_out_loss"

    See Also
    --------
    opflow.observe.Loss : The loss of the training set.
    opflow.plot.held_out : Draws it.

    Notes
    -----
    Costs a forward pass over the M samples (and 2·N·d·n_1 flops for W¹, if the first layer was
    eliminated).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8], seed=0)
    >>> held_out = of.observe.HeldOutLoss(-np.eye(3), np.ones(3))
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[held_out])
    >>> run.observations["held_out_loss"].shape
    (6,)
    """

    def __init__(self, X: Data, y: Data, *, name: str = "held_out_loss") -> None:
        self.name = name
        self.inputs = as_samples(X, "X")
        self.targets = check_real(y, "y", finite=True)
        _check_samples(self.inputs, len(self.targets), "y")

    def __call__(self, moment: Moment) -> float:
        f = moment.predict(self.inputs)
        y = moment.objective.targets(self.targets, f.shape[1])
        if f.shape != y.shape:
            raise ValueError(f"{self.name}: y has shape {y.shape} but outputs {f.shape}")
        return float(moment.objective.value(f, y).astype(np.float64).sum()) / len(y)


class Accuracy:
    """The share of samples whose largest output is that of their class.

    Parameters
    ----------
    X : array (M, d), rows on disk, sparse matrix or operator
    labels : int array (M,)
        The class of each sample, 0..k − 1 for k outputs.
    name : str, default "accuracy"

    Raises
    ------
    ValueError
        If the labels are no integers from 0, one a row of X; when called, if one of them is
        beyond the outputs, or the network has a single output that names no class.

    See Also
    --------
    opflow.observe.HeldOutLoss : The loss instead.
    opflow.plot.accuracy : Draws it.

    Notes
    -----
    Costs as :class:`HeldOutLoss`.

    A single output of the cross-entropy is class 1 where it is positive.  Of another objective it
    does not say which values stand for the classes: there is no accuracy of it.  Train one output
    a class, on ``np.eye(k)[labels]``, or observe your own rule:
    ``lambda moment: np.mean(np.sign(moment.predict(X)[:, 0]) == y)`` for targets y = ±1.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 64], outputs=3, seed=0)
    >>> accuracy = of.observe.Accuracy(np.eye(3), np.arange(3))
    >>> run = of.train(net, np.eye(3), np.eye(3), steps=50, observe=[accuracy])
    >>> float(run.observations["accuracy"][-1])
    1.0
    """

    def __init__(self, X: Data, labels: Data, *, name: str = "accuracy") -> None:
        self.name = name
        self.inputs = as_samples(X, "X")
        labels = as_array(labels, "labels")
        if labels.dtype.kind in "bf" and bool((labels == labels.round()).all()):
            labels = labels.astype(int)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be integers of shape (M,), not {labels.dtype} of {labels.shape}"
            )
        _check_samples(self.inputs, len(labels), "labels")
        if int(labels.min()) < 0:
            raise ValueError(f"labels must be classes 0..k − 1, not {int(labels.min())}")
        self.labels = labels

    def __call__(self, moment: Moment) -> float:
        f = moment.predict(self.inputs)
        k = f.shape[1]
        highest = int(self.labels.max())
        if k == 1 and isinstance(moment.objective, CrossEntropy) and highest < 2:
            return float(((f[:, 0] > 0) == self.labels).mean())
        if k == 1:
            raise ValueError(
                f"{self.name}: the network has one output, which names no class: give it one a "
                "class (targets np.eye(k)[labels]), or observe the sign, lambda moment: "
                "np.mean(np.sign(moment.predict(X)[:, 0]) == y)"
            )
        if highest >= k:
            raise ValueError(
                f"{self.name}: labels has class {highest}, but {k} outputs stand for 0..{k - 1}"
            )
        return float((f.argmax(axis=1) == self.labels).mean())


def _check_samples(X: Data, count: int, name: str) -> None:
    """Raise unless there is a sample, and one entry of `name` for each row of X."""
    if count != X.shape[0]:
        raise ValueError(f"{name} has {count} rows but X has {X.shape[0]}")
    if not count:
        raise ValueError("X has no rows")
