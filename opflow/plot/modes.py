"""The modes of the kernel: how the residual decays along them, and eigenvectors of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.dynamics.storage.trajectory import Trajectory
from opflow.machine.arrays import Data, as_array, check_integer
from opflow.plot import axes as look
from opflow.plot.axes import Axes, axes, finish, number, styled
from opflow.plot.given import by_label, moments, name_moments, numbers, observed
from opflow.spectral.eigen.results import Eigenpairs

#: the label of what was not measured
PREDICTED = "predicted"
SIZE = "size of the residual along the mode, |uᵢ·r|"


def decay(
    times: Data,
    coefficients: Data = None,
    eigenvalues: Data = None,
    predicted: Data = None,
    ax: Axes = None,
    *,
    modes: Sequence[int] | None = None,
    tolerance: float = 0.1,
    **style: Any,
) -> Axes:
    r"""The residual mode by mode as it decays, against the prediction of a constant kernel.

    Parameters
    ----------
    times : Trajectory or array (T,)
        A run with :class:`opflow.observe.TopEigenpairs` and its `modes` needs no more arrays.
    coefficients : array (T, k)
        :math:`u_i \cdot r(t)`, with :math:`u_i` the eigenvectors of the kernel at the start.
    eigenvalues : array (k,)
        :math:`\lambda_i`.
    predicted : array (T, k), optional
        What a constant kernel gives; :math:`e^{-\lambda_i t}\, u_i \cdot r(0)` by default.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    modes : sequence of int, optional
        Which to draw, counted from 1; at most six, ever further apart, by default.
    tolerance : float, default 0.1
        A circle marks where a mode first departs from its prediction by more than this share.
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.decay : The prediction of a constant kernel.
    opflow.observe.TopEigenpairs : Observes the modes along a run.
    opflow.plot.projections : All modes at one time.

    Notes
    -----
    Time is logarithmic if the decay times of the modes differ by more than 10.  Departures below
    some hundred times the rounding of the largest coefficient are not marked, and no smaller
    value is drawn; a prediction ends at a tenth of the least that was measured.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> t = np.linspace(0, 3, 20)
    >>> ax = opflow.plot.decay(t, np.exp(-np.outer(t, [2.0, 1.0])), [2.0, 1.0])
    >>> [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    ['mode 1, λ = 2', 'mode 2, λ = 1', 'predicted']
    """
    if isinstance(times, Trajectory) and coefficients is None:
        ask = "top := of.observe.TopEigenpairs(), top.modes"
        coefficients = observed(times, "modes", ask)
        eigenvalues = observed(times, "eigenvalues", ask)[0]
    sizes = np.abs(numbers(coefficients, "coefficients", "an array (T, k)", (2,)))
    dtype = as_array(coefficients, "coefficients").dtype
    rounding = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
    rates = numbers(eigenvalues, "eigenvalues", "an array (k,)")
    at = moments(times, len(sizes))
    shape = (len(at), len(rates))
    if sizes.shape != shape:
        raise ValueError(f"coefficients has shape {sizes.shape}, not {shape}")
    if predicted is None:
        predicted = sizes[0] * np.exp(-np.outer(at - at[0], rates))
    predicted = np.abs(numbers(predicted, "predicted", "an array (T, k)", (2,)))
    if predicted.shape != shape:
        raise ValueError(f"predicted has shape {predicted.shape}, not {shape}")
    if modes is None:
        modes = np.unique(np.geomspace(1, len(rates), 6).round().astype(int)).tolist()
    chosen = [check_integer(mode, "modes", 1, len(rates)) - 1 for mode in modes]
    floor = max(100 * rounding, look.NOTHING) * float(sizes.max())
    off = np.abs(sizes - predicted) > np.maximum(tolerance * predicted, floor)
    least = _least(sizes[:, chosen], floor)
    ax = axes(ax, (7.5, 4.0))
    for mode, colour in zip(chosen, look.shades(len(chosen)), strict=True):
        label = f"mode {mode + 1}, λ = {number(rates[mode])}"
        ours = styled(style, label, color=colour, linewidth=1.8)
        (line,) = ax.plot(at, _above(sizes[:, mode], floor), **ours)
        ax.plot(at, _above(predicted[:, mode], least), "--", color=line.get_color(), lw=1.2)
    ax.plot([], [], "--", color=look.ROLES[PREDICTED], lw=1.2, label=PREDICTED)
    departing = [mode for mode in chosen if off[:, mode].any()]
    if departing:
        first = off[:, departing].argmax(axis=0)
        name = f"departs by more than {100 * tolerance:g} %"
        circle = {"ms": 8, "mfc": "none", "mew": 1.6, "color": "black", "zorder": 4}
        ax.plot(at[first], sizes[first, departing], "o", label=name, **circle)
    if least > 0:
        ax.set(yscale="log", ylim=(least, None))
    if (rates[chosen] > 0).all() and rates[chosen].max() > 10 * rates[chosen].min():
        ax.set_xscale("log")
    name_moments(ax, times)
    return finish(ax, "Decay of the residual, mode by mode", "", SIZE, look.BESIDE)


def projections(values: Data, ax: Axes = None, **style: Any) -> Axes:
    r"""The size of a residual, or of targets, along each eigenvector.

    Parameters
    ----------
    values : array (k,), or mapping of labels to arrays (k,)
        :math:`u_i \cdot r` for the eigenvectors of descending eigenvalues.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.projections : Computes them.
    opflow.plot.decay : A few modes along a run.

    Notes
    -----
    Of what is labelled "predicted", only what is at least a tenth of the least of the others is
    drawn; the legend says how much is not.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.projections({"start": [3.0, -1.0], "end": [0.1, 0.5]})
    >>> ax.lines[0].get_ydata().tolist()
    [3.0, 1.0]
    """
    what = "projections (k,), or a mapping of labels to such"
    sets = by_label(values, "values", lambda v: np.abs(numbers(v, "values", what)))
    measured = np.concatenate([v for k, v in sets.items() if k != PREDICTED] or [*sets.values()])
    least = _least(measured, look.NOTHING * float(measured.max()))
    ax = axes(ax)
    for label, values, own in look.marked(sets):
        sizes = _above(values, least)
        left_out = int(np.isnan(sizes).sum())
        if label == PREDICTED and left_out:
            label += f"\n({left_out} of {len(sizes)} below {number(least)})"
        ours = styled(style, label, **own, linestyle="", markersize=5)
        ax.plot(np.arange(1, len(sizes) + 1), sizes, **ours)
    if least > 0:
        ax.set(yscale="log", ylim=(least, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    title = "The residual in the modes of K"
    return finish(ax, title, "rank of the mode", SIZE, look.BESIDE)


def modes(
    vectors: Data, shape: tuple[int, int], eigenvalues: Data = None, ax: Axes = None, **style: Any
) -> Axes:
    """Eigenvectors as pictures, where samples are the pixels of one.

    Parameters
    ----------
    vectors : Eigenpairs, or array (h·w, m) or (3·h·w, m)
        One a column; rows are pixels in row-major order, each with its three colours if the
        kernel is of three outputs.
    shape : (h, w)
    eigenvalues : array (m,), optional
        For the titles; those of eigenpairs by default.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``imshow``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.eigsh : Computes eigenpairs.

    Notes
    -----
    The pictures fill the axes, as its ``child_axes``, each on a scale of its own with zero in the
    middle (white, or grey for colours), and with the sign that makes the sum positive.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> ax = opflow.plot.modes(np.eye(6)[:, :2], (2, 3), [4.0, 1.0])
    >>> [picture.get_title() for picture in ax.child_axes]
    ['1: λ = 4', '2: λ = 1']
    """
    if isinstance(vectors, Eigenpairs):
        if eigenvalues is None:
            eigenvalues = vectors.eigenvalues
        vectors = vectors.eigenvectors
    vectors = numbers(vectors, "vectors", "Eigenpairs or an array (pixels, modes)", (2,))
    height, width = shape
    pixels = height * width
    if len(vectors) not in (pixels, 3 * pixels):
        raise ValueError(
            f"vectors has shape {vectors.shape}, but a picture of {height} × {width} has "
            f"{pixels} rows, or {3 * pixels} with colours"
        )
    m = vectors.shape[1]
    if eigenvalues is not None and np.shape(eigenvalues) != (m,):
        raise ValueError(f"eigenvalues has shape {np.shape(eigenvalues)}, not ({m},)")
    if ax is None:
        columns = max(1, min(m, round(math.sqrt(m * height / width * 1.6))))
    else:
        columns = _columns(m, height / width, axes(ax).bbox.height / ax.bbox.width)
    rows = -(-m // columns)
    ax = axes(ax, (2.0 * columns, (2.0 * height / width + 0.3) * rows + 0.3))
    ax.axis("off")
    for i, vector in enumerate(vectors.T):
        row, column = divmod(i, columns)
        corner = ((column + 0.01) / columns, 1 - (row + 1) / rows)
        picture = ax.inset_axes((*corner, 0.98 / columns, 0.86 / rows))
        vector = np.sign(vector.sum() or 1.0) * vector
        size = float(abs(vector).max()) or 1.0
        if len(vector) == pixels:
            scale = styled(style, cmap=look.DIVERGING, vmin=-size, vmax=size)
            picture.imshow(vector.reshape(height, width), **scale)
        else:
            picture.imshow(0.5 + 0.5 * vector.reshape(height, width, 3) / size, **style)
        title = f"{i + 1}"
        if eigenvalues is not None:
            title += f": λ = {number(float(eigenvalues[i]))}"
        picture.set_title(title, fontsize=8, pad=2)
        picture.set_axis_off()
    return ax


def _columns(count: int, picture: float, space: float) -> int:
    """Columns that make pictures largest; both shapes are heights over widths."""

    def size(columns: int) -> float:
        return min(1 / columns, space / (-(-count // columns) * (picture * 1.15)))

    return max(range(1, count + 1), key=size)


def _least(measured: Data, floor: float) -> float:
    """Where the axis begins: at a tenth of the least that was measured; 0 if nothing was."""
    seen = measured[measured > floor]
    return float(seen.min()) / 10 if seen.size else 0.0


def _above(values: Data, floor: float) -> Any:
    return np.where(values > floor, values, np.nan)
