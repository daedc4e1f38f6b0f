"""Pictures of a run: its losses, and how its kernel moves against targets and stability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opflow.dynamics.storage.trajectory import Trajectory
from opflow.machine.arrays import Array, Data
from opflow.plot.axes import ROLES, Axes, layer_names
from opflow.plot.given import by_label, moments, numbers, observed, over_time


def loss(run: Data, ax: Axes = None, **style: Any) -> Axes:
    """Loss against time, logarithmic.

    Parameters
    ----------
    run : Trajectory, array (T,), or mapping of labels to them
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.plot.held_out : The loss on other data beside it.
    opflow.observe.Loss : Observes the loss.
    opflow.Trajectory : A run.

    Examples
    --------
    >>> import opflow.plot
    >>> opflow.plot.loss([4.0, 2.0, 1.0], color="black").lines[0].get_color()
    'black'
    """

    lines = by_label(run, "run", _losses)
    times = by_label(run, "run", _times)
    title = "Training loss"
    return over_time(lines, times, ax, style, title, "loss", role="training set", log=True)


def _losses(found: Data) -> Array:
    """Losses; those of a run in the units of the targets, where they were observed."""
    if isinstance(found, Trajectory):
        found = found.observations.get("loss", found.losses)
    return numbers(found, "run", "a Trajectory or losses (T,)")


def _times(found: Data) -> Trajectory | None:
    """The run, which has times; arrays have none."""
    return found if isinstance(found, Trajectory) else None


def held_out(run: Data, ax: Axes = None, **style: Any) -> Axes:
    """Loss per sample against time, of the training set and of held-out data.

    Parameters
    ----------
    run : Trajectory, or mapping of labels to arrays (T,)
        A run of the summed loss with :class:`opflow.observe.HeldOutLoss`.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.observe.HeldOutLoss : Observes the loss on other data.
    opflow.plot.loss : The loss of the training set.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.held_out({"training set": [3.0, 1.0], "held out": [4.0, 2.0]})
    >>> [line.get_label() for line in ax.lines], ax.get_ylabel()
    (['training set', 'held out'], 'loss per sample')
    """
    lines = _observed(run, {"held out": "held_out_loss"}, "of.observe.HeldOutLoss(X, y)")
    if isinstance(run, Trajectory):
        lines = {"training set": _losses(run) / len(run.residual)} | lines
    times = dict.fromkeys(lines, _times(run))
    title = "Training and held-out loss"
    return over_time(lines, times, ax, style, title, "loss per sample", log=True)


def accuracy(run: Data, ax: Axes = None, **style: Any) -> Axes:
    """Accuracy against time, held-out too where it was observed.

    Parameters
    ----------
    run : Trajectory, array (T,) of shares, or mapping of labels to such arrays
        A run with :class:`opflow.observe.Accuracy`, as "accuracy" or "held_out_accuracy".
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.observe.Accuracy : Observes the accuracy.
    opflow.plot.confusion : Which classes are confused.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.accuracy([0.5, 0.75, 1.0])
    >>> ax.get_ylabel(), ax.lines[0].get_ydata().tolist()
    ('accuracy (%)', [50.0, 75.0, 100.0])
    """
    names = {"training set": "accuracy", "held out": "held_out_accuracy"}
    lines = _observed(run, names, "of.observe.Accuracy(X, labels)")
    lines = {label: 100 * values for label, values in lines.items()}
    times = dict.fromkeys(lines, _times(run))
    words = ("Accuracy", "accuracy (%)")
    legend = {"loc": "lower right"}
    ax = over_time(lines, times, ax, style, *words, role="training set", legend=legend)
    ax.set_ylim(0, 102)
    return ax


def _observed(run: Data, names: Mapping[str, str], observer: str) -> dict[str, Array]:
    """Lines of what a run observed, of one of these names at least, or of arrays."""
    if not isinstance(run, Trajectory):
        what = "a Trajectory or an array (T,)"
        return by_label(run, "run", lambda found: numbers(found, "run", what))
    there = [label for label in names if names[label] in run.observations] or list(names)[:1]
    return {label: observed(run, names[label], observer) for label in there}


def alignment(times: Data, values: Data = None, ax: Axes = None, **style: Any) -> Axes:
    r"""Alignment of kernels with the targets along a run, one line a kernel.

    Parameters
    ----------
    times : Trajectory or array (T,)
        A run with :class:`opflow.observe.Alignment` needs no `values`.
    values : array (T,) or (T, 1 + L), or mapping of labels to arrays (T,)
        Columns are K and its layers.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.alignment : Computes it.
    opflow.observe.Alignment : Observes it along a run.

    Notes
    -----
    The alignment [1]_ :math:`y^T K y / (\|K\|_F \|y\|^2)` is 1 for K ∝ y yᵀ and at least 0 for a
    PSD kernel; :func:`opflow.spectral.alignment` computes it.

    References
    ----------
    .. [1] C. Cortes, M. Mohri, A. Rostamizadeh, "Algorithms for learning kernels based on centered
       alignment", JMLR 13, 2012.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.alignment([0, 1, 2], {"layer 1": [0.1, 0.2, 0.3]})
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time', 'alignment with the targets')
    """
    if isinstance(times, Trajectory) and values is None:
        values = observed(times, "alignment", "of.observe.Alignment()")
    what = "an array of alignments, or a mapping of labels to such"
    lines = by_label(values, "values", lambda v: numbers(v, "values", what, (1, 2)))
    if "" in lines:
        columns = lines[""].reshape(len(lines[""]), -1).T
        lines = dict(zip(["K", *layer_names(len(columns) - 1)], columns, strict=True))
    low = min(float(np.nanmin(v, initial=0.0)) for v in lines.values())
    words = ("Alignment with the targets", "alignment with the targets")
    legend = {"ncols": 1 + (len(lines) > 4)}
    ax = over_time(lines, dict.fromkeys(lines, times), ax, style, *words, legend=legend)
    ax.set_ylim(bottom=1.05 * low, top=1.08 * ax.get_ylim()[1])
    return ax


def sharpness(
    times: Data, values: Data = None, step: Data = None, ax: Axes = None, **style: Any
) -> Axes:
    r"""The largest eigenvalues along a run against the edge of stability, 2/step.

    Parameters
    ----------
    times : Trajectory or array (T,)
        A run with :class:`opflow.observe.Sharpness` needs no more.
    values : array (T,) or (T, k)
        The largest eigenvalue, or the k largest in descending order.
    step : float or array (T,), optional
        The step of gradient descent (times 1/N for the mean loss); flows have none.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.sharpness : Computes it at one moment.
    opflow.observe.Sharpness : Observes it along a run.

    Notes
    -----
    Gradient descent multiplies the residual along an eigenvector of the kernel by
    :math:`1 - \eta\lambda`: it grows where :math:`\lambda > 2/\eta`, the shaded region [1]_.

    References
    ----------
    .. [1] J. Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
       stability", 2021, arXiv:2103.00065.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.sharpness([0, 1, 2], [1.0, 1.5, 1.9], step=1.0)
    >>> [line.get_label() for line in ax.lines]
    ['λ_max(K)', '2/step']
    """
    if isinstance(times, Trajectory) and values is None:
        values = observed(times, "sharpness", "of.observe.Sharpness()")
        if step is None and np.isfinite(times.step):
            step = times.step
    values = numbers(values, "values", "eigenvalues (T,) or (T, k)", (1, 2))
    values = values.reshape(len(values), -1)
    lines = {"λ_max(K)": values[:, 0]}
    if step is not None:
        step = numbers(step, "step", "a number or an array (T,)", (0, 1))
        if not (step > 0).all():
            raise ValueError("step must be positive")
        lines["2/step"] = np.broadcast_to(2 / step, len(values))
    top = 1.15 * max(float(np.nanmax(line)) for line in lines.values()) or 1.0
    words = ("Sharpness and the edge of stability", "eigenvalue of K")
    ax = over_time(lines, dict.fromkeys(lines, times), ax, style, *words)
    ax.set_ylim(0, top)
    at = moments(times, len(values))
    for others in values.T[1:]:
        ax.plot(at, others, color="0.7", linewidth=1, zorder=1)
    if step is not None:
        ax.fill_between(at, 2 / step, top, color=ROLES["2/step"], alpha=0.08, linewidth=0)
    return ax
