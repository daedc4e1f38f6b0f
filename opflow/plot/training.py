"""Pictures of a run: its losses, and how its kernel moves against targets and stability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opflow.plot.axes import COLOURS, axes, line_colours, one_line_each, tidy


def loss(trajectory: Any, ax: Any = None) -> Any:
    """Loss against time, logarithmic; returns the axes."""
    ax = axes(ax)
    ax.plot(trajectory.times, trajectory.losses, color=COLOURS[0], linewidth=1.8)
    if np.min(trajectory.losses) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="time", ylabel="loss", title="Training loss")
    return tidy(ax)


def held_out(trajectory: Any, ax: Any = None) -> Any:
    """Loss a sample against time, of the training set and of held-out data; returns the axes.

    The trajectory is of a run of the summed loss with :class:`opflow.observe.HeldOutLoss`.
    """
    ax = axes(ax)
    losses = {
        "training set": np.asarray(trajectory.observations.get("loss", trajectory.losses))
        / len(trajectory.residual),
        "held out": np.asarray(trajectory.observations["held_out_loss"]),
    }
    for (label, values), colour, style in zip(losses.items(), COLOURS, ("-", "--"), strict=False):
        ax.plot(trajectory.times, values, style, color=colour, linewidth=1.8, label=label)
    if min(values.min() for values in losses.values()) > 0:
        ax.set_yscale("log")
    ax.set(xlabel="time", ylabel="loss a sample", title="Training and held-out loss")
    ax.legend(frameon=False)
    return tidy(ax)


def accuracy(trajectory: Any, ax: Any = None) -> Any:
    """Accuracy against time, held-out too where it was observed; returns the axes."""
    ax = axes(ax)
    names = {"accuracy": "training set", "held_out_accuracy": "held out"}
    for (name, label), colour, style in zip(names.items(), COLOURS, ("-", "--"), strict=False):
        if name in trajectory.observations:
            values = 100 * np.asarray(trajectory.observations[name])
            ax.plot(trajectory.times, values, style, color=colour, linewidth=1.8, label=label)
    ax.set(xlabel="time", ylabel="accuracy (%)", title="Accuracy", ylim=(0, 102))
    ax.legend(frameon=False, loc="lower right")
    return tidy(ax)


def alignment(times: Any, values: Mapping[str, Any], ax: Any = None) -> Any:
    r"""Alignment of kernels with the targets along a run, one line a kernel.

    Parameters
    ----------
    times : array (T,)
    values : mapping of str to array (T,)
        Such as the alignments of the kernels of the layers, by name.
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ValueError
        If there is no line, or one has not an entry a time.

    Notes
    -----
    The alignment :math:`y^T K y / (\|K\|_F \|y\|^2)` is 1 for K ∝ y yᵀ and at least 0 for a PSD
    kernel; :func:`opflow.spectral.alignment` computes it.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.alignment([0, 1, 2], {"layer 1": [0.1, 0.2, 0.3]})
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time', 'alignment with the targets')
    """
    times = np.asarray(times, dtype=float)
    lines = one_line_each(values, "values", len(times))
    ax = axes(ax)
    for (label, numbers), colour in zip(lines.items(), line_colours(len(lines)), strict=True):
        ax.plot(times, numbers, color=colour, linewidth=1.8, label=label)
    ax.set(xlabel="time", ylabel="alignment with the targets", title="Alignment with the targets")
    low = min(float(np.nanmin(numbers)) for numbers in lines.values())
    ax.set_ylim(bottom=min(0.0, 1.05 * low), top=1.08 * ax.get_ylim()[1])
    ax.legend(frameon=False, ncols=1 + (len(lines) > 4))
    return tidy(ax)


def sharpness(times: Any, values: Any, step: Any, ax: Any = None) -> Any:
    r"""The largest eigenvalues along a run against the edge of stability, 2/step.

    Parameters
    ----------
    times : array (T,)
    values : array (T,) or (T, k)
        The largest eigenvalue, or the k largest in descending order.
    step : float or array (T,)
        The step of gradient descent (times 1/N for the mean loss).
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ValueError
        If the shapes do not fit, or a step is not positive.

    Notes
    -----
    Gradient descent multiplies the residual along an eigenvector of the kernel by
    :math:`1 - \eta\lambda`: it grows where :math:`\lambda > 2/\eta`, the shaded region.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.sharpness([0, 1, 2], [1.0, 1.5, 1.9], step=1.0)
    >>> [line.get_label() for line in ax.lines]
    ['λ_max(K)', '2/step']
    """
    times, values = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    if values.ndim not in (1, 2) or len(values) != len(times):
        raise ValueError(f"values has shape {values.shape}, not ({len(times)},) or one more axis")
    step = np.broadcast_to(np.asarray(step, dtype=float), times.shape)
    if not (step > 0).all():
        raise ValueError("step must be positive")
    ax, edge = axes(ax), 2 / step
    for numbers in values.reshape(len(times), -1).T[:0:-1]:
        ax.plot(times, numbers, color="0.7", linewidth=1)
    ax.plot(times, values.reshape(len(times), -1)[:, 0], color=COLOURS[0], linewidth=1.8,
            label="λ_max(K)")  # fmt: skip
    ax.plot(times, edge, "--", color=COLOURS[1], linewidth=1.4, label="2/step")
    top = 1.15 * max(float(np.nanmax(values)), float(edge.max()))
    ax.fill_between(times, edge, top, color=COLOURS[1], alpha=0.08, linewidth=0)
    ax.set(xlabel="time", ylabel="eigenvalue of K", title="Sharpness and the edge of stability")
    ax.set_ylim(0, top)
    ax.legend(frameon=False)
    return tidy(ax)
