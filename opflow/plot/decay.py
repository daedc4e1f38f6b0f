"""The residual along the eigenvectors of its kernel: how it decays, and where it departs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opflow.arrays import check_integer
from opflow.plot.axes import COLOURS, MARKERS, axes, number, shades, tidy

#: the label of what was not measured
PREDICTED = "predicted"


def decay(
    times: Any,
    coefficients: Any,
    eigenvalues: Any,
    predicted: Any = None,
    ax: Any = None,
    *,
    modes: Sequence[int] | None = None,
    tolerance: float = 0.1,
) -> Any:
    r"""The residual mode by mode as it decays, against the prediction of a constant kernel.

    Parameters
    ----------
    times : array (T,)
    coefficients : array (T, k)
        :math:`u_i \cdot r(t)`, with :math:`u_i` the eigenvectors of the kernel at the start.
    eigenvalues : array (k,)
        :math:`\lambda_i`.
    predicted : array (T, k), optional
        What a constant kernel gives; :math:`e^{-\lambda_i t}\, u_i \cdot r(0)` by default.
    ax : matplotlib axes, optional
        Of a new figure by default.
    modes : sequence of int, optional
        Which to draw, counted from 1; at most six, ever further apart, by default.
    tolerance : float, default 0.1
        A circle marks where a mode first departs from its prediction by more than this share.

    Returns
    -------
    matplotlib axes
        Logarithmic; in time as well if the decay times of the modes differ by more than 10.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Departures below some hundred times the rounding of the largest coefficient are not marked,
    and no smaller value is drawn.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> t = np.linspace(0, 3, 20)
    >>> ax = opflow.plot.decay(t, np.exp(-np.outer(t, [2.0, 1.0])), [2.0, 1.0])
    >>> [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    ['mode 1, λ = 2', 'mode 2, λ = 1', 'predicted']
    """
    coefficients = np.asarray(coefficients)
    rounding = np.finfo(coefficients.dtype).eps if coefficients.dtype.kind == "f" else 0.0
    times = np.asarray(times, dtype=float)
    sizes = np.abs(coefficients.astype(float))
    rates = np.asarray(eigenvalues, dtype=float)
    if sizes.shape != (len(times), len(rates)):
        raise ValueError(f"coefficients has shape {sizes.shape}, not ({len(times)}, {len(rates)})")
    if predicted is None:
        predicted = sizes[0] * np.exp(-np.outer(times - times[0], rates))
    predicted = np.abs(np.asarray(predicted, dtype=float))
    if predicted.shape != sizes.shape:
        raise ValueError(f"predicted has shape {predicted.shape}, not {sizes.shape}")
    if modes is None:
        modes = np.unique(np.geomspace(1, len(rates), 6).round().astype(int)).tolist()
    chosen = [check_integer(mode, "modes", 1, len(rates)) - 1 for mode in modes]
    ax, floor = axes(ax, (7.5, 4.0)), 100 * float(rounding) * float(sizes.max())
    gap = np.abs(sizes - predicted)
    off = (gap > tolerance * predicted) & (gap > floor)
    for mode, colour in zip(chosen, shades(len(chosen)), strict=True):
        ax.plot(times, _above(sizes[:, mode], floor), color=colour, lw=1.8,
                label=f"mode {mode + 1}, λ = {number(rates[mode])}")  # fmt: skip
        ax.plot(times, _above(predicted[:, mode], floor), "--", color=colour, lw=1.2)
    departing = [(int(off[:, mode].argmax()), mode) for mode in chosen if off[:, mode].any()]
    ax.plot([], [], "--", color="0.3", lw=1.2, label="predicted")
    if departing:
        ax.plot([times[at] for at, _ in departing], [sizes[at, mode] for at, mode in departing],
                "o", ms=8, mfc="none", mew=1.6, color=COLOURS[1], zorder=4,
                label=f"departs by more than {100 * tolerance:g} %")  # fmt: skip
    ax.set_yscale("log")
    seen = sizes[:, chosen]
    if (seen > floor).any():  # a prediction may fall far below what is there to be seen
        ax.set_ylim(bottom=seen[seen > floor].min() / 10)
    if (rates[chosen] > 0).all() and rates[chosen].max() > 10 * rates[chosen].min():
        ax.set_xscale("log")
    ax.set(xlabel="time", ylabel="size of the residual along the mode, |uᵢ·r|",
           title="Decay of the residual, mode by mode")  # fmt: skip
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return tidy(ax)


def projections(values: Mapping[str, Any], ax: Any = None) -> Any:
    r"""The size of a residual, or of targets, along each eigenvector, one line a label.

    Parameters
    ----------
    values : mapping of str to array (k,)
        :math:`u_i \cdot r` for the eigenvectors of descending eigenvalues; what is labelled
        "predicted" may leave the axis, which shows the others whole.
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.projections({"start": [3.0, -1.0], "end": [0.1, 0.5]})
    >>> ax.lines[0].get_ydata().tolist()
    [3.0, 1.0]
    """
    ax = axes(ax)
    for (label, numbers), colour, marker in zip(values.items(), COLOURS, MARKERS, strict=False):
        sizes = np.abs(np.asarray(numbers, dtype=float))
        rank = np.arange(1, len(sizes) + 1)
        ax.plot(rank, _above(sizes, 0.0), marker, color=colour, ms=5, label=label)
    seen = np.abs(np.concatenate([np.asarray(v, float) for k, v in values.items()
                                  if k != PREDICTED]))  # fmt: skip
    ax.set_yscale("log")
    if (seen > 0).any():  # a prediction may fall far below what is there to be seen
        ax.set_ylim(bottom=seen[seen > 0].min() / 10)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="rank of the mode", ylabel="size of the residual along the mode, |uᵢ·r|",
           title="The residual in the modes of K")  # fmt: skip
    ax.legend(frameon=False)
    return tidy(ax)


def _above(values: Any, floor: float) -> Any:
    return np.where(values > floor, values, np.nan)
