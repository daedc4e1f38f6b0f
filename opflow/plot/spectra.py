"""Pictures of spectra: eigenvalues against rank, and their density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from opflow.arrays import check_integer
from opflow.plot.axes import COLOURS, MARKERS, axes, plain_ticks, tidy

Fit = tuple[int, int]


def power_law(values: Any, ranks: Fit) -> tuple[float, float]:
    r"""The exponent and the factor of eigenvalues that fall as a power of their rank.

    Parameters
    ----------
    values : array (n,)
        Eigenvalues in any order.
    ranks : (int, int)
        First and last rank of the fit, counted from 1.

    Returns
    -------
    exponent, factor : floats
        λ ≈ factor · rank^exponent.

    Raises
    ------
    ValueError
        If the ranks are not two or more of those there are, or an eigenvalue among them is not
        positive.

    Notes
    -----
    Least squares in log λ against log rank.

    Examples
    --------
    >>> import opflow.plot
    >>> exponent, factor = opflow.plot.power_law([3.0, 3 / 4, 3 / 9], (1, 3))
    >>> round(exponent, 10), round(factor, 10)
    (-2.0, 3.0)
    """
    values = np.sort(np.asarray(values, dtype=float))[::-1]
    first, last = ranks
    last = check_integer(last, "the last rank of a fit", 1, len(values))
    first = check_integer(first, "the first rank of a fit", 1, max(last - 1, 1))
    chosen = values[first - 1 : last]
    if len(chosen) < 2 or not (chosen > 0).all():
        raise ValueError(
            f"a fit needs two positive eigenvalues at least, but ranks {first} to {last} end "
            f"at {chosen[-1]:.3g}"
        )
    slope, offset = np.polyfit(np.log(np.arange(first, last + 1)), np.log(chosen), 1)
    return float(slope), float(np.exp(offset))


def eigenvalues(values: Mapping[str, Any], ax: Any = None, *, fit: Fit | None = None) -> Any:
    """Eigenvalues against rank on logarithmic axes, one line a label.

    Parameters
    ----------
    values : mapping of str to array
        Those that are not positive are left out.
    ax : matplotlib axes, optional
        Of a new figure by default.
    fit : (int, int), optional
        Draw a power law through these ranks of every line, :func:`power_law`, with its exponent
        in the legend.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ValueError
        As :func:`power_law`.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> ax = opflow.plot.eigenvalues({"K": 1 / np.arange(1, 50) ** 2}, fit=(5, 40))
    >>> ax.lines[1].get_label()
    'ranks 5–40: rank^−2.00'
    """
    laws = {} if fit is None else {label: power_law(v, fit) for label, v in values.items()}
    ax = axes(ax)
    some = False
    for (label, numbers), colour, marker in zip(values.items(), COLOURS, MARKERS, strict=False):
        numbers = np.sort(np.asarray(numbers))[::-1]
        positive = numbers[numbers > 0]
        if positive.size:
            some = True
        else:
            label = f"{label}: none is positive"
        rank = np.arange(1, len(positive) + 1)
        ax.plot(rank, positive, marker + "-", color=colour, ms=4, lw=1, label=label)
        if fit is not None:
            exponent, factor = laws[label]
            law = f"ranks {fit[0]}–{fit[1]}: rank^{exponent:.2f}".replace("-", "−")
            ends = np.array(fit, dtype=float)
            ax.plot(ends, factor * ends**exponent, "--", color="black", lw=1.5, zorder=3, label=law)
    if some:  # an empty axis has no logarithm
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            plain_ticks(axis)
    else:
        ax.set(xticks=[], yticks=[])
    ax.set(xlabel="rank", ylabel="eigenvalue of K", title="Largest eigenvalues of K")
    ax.legend(frameon=False)
    return tidy(ax)


def density(found: Any, ax: Any = None, *, cumulative: bool = False, grid: Any = None) -> Any:
    """The spectral density with its 95 % band, or the cumulative density with its own.

    Parameters
    ----------
    found : Density, or mapping of str to Density
        What :func:`opflow.spectral.density` gives, all on the same axis, linear or logarithmic.
    ax : matplotlib axes, optional
        Of a new figure by default.
    cumulative : bool, default False
        Draw the share of the eigenvalues up to each value, zeros included.
    grid : array, optional
        Where to evaluate it; 400 points that cover its support by default.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ValueError
        If there is nothing to draw, or the axes are mixed.

    Notes
    -----
    Equal areas are equal shares of the spectrum on either axis: on a logarithmic one the density
    is per decade.  Zero eigenvalues are a number in the legend, not part of the density.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> found = of.spectral.density(of.Gram(np.random.default_rng(0).standard_normal((40, 30))))
    >>> [text.get_text() for text in opflow.plot.density(found).get_legend().get_texts()]
    ['10 of 40 eigenvalues are zero', '95 % band']
    """
    curves = found if isinstance(found, Mapping) else {"": found}
    logs = {bool(curve.log) for curve in curves.values()}
    if len(logs) != 1:
        raise ValueError("found must hold densities on the same axis, linear or logarithmic")
    ax, log, top = axes(ax), logs.pop(), 0.0
    for (label, curve), colour in zip(curves.items(), COLOURS, strict=False):
        points = curve.grid() if grid is None else np.asarray(grid, dtype=float)
        height = curve.cdf(points) if cumulative else curve(points)
        low, high = curve.cdf_band(points) if cumulative else curve.band(points)
        parts = (label, "" if cumulative and label else _zeros(curve))
        text = ", ".join(part for part in parts if part)
        ax.plot(points, height, color=colour, lw=1.8, label=text or None)
        # where nothing is known, the band may be far higher than all there is to be seen
        top = max(top, min(1.05 * float(high.max()), 2.5 * float(height.max())))
        band = "95 % band" if len(curves) == 1 else None
        ax.fill_between(points, low, high, color=colour, alpha=0.25, lw=0, label=band)
    if log:
        ax.set_xscale("log")
    ax.set_ylim(0, 1.02 if cumulative else 1.2 * top or None)  # room for the legend
    ax.set_xlabel("eigenvalue of K")
    if cumulative:
        ax.set(ylabel="share of eigenvalues up to there", title="Cumulative spectral density of K")
    else:
        ax.set(ylabel="density per decade" if log else "density", title="Spectral density of K")
    ax.legend(frameon=False)
    return tidy(ax)


def _zeros(curve: Any) -> str:
    """The zero eigenvalues of a density in words, or nothing if it has none."""
    null = curve.null
    if not null.high > 0.5:
        return ""
    if float(null) < 0.5:
        return f"at most {null.high:,.0f} of {curve.order:,} eigenvalues are zero"
    between = f" [{null.low:,.0f}, {null.high:,.0f}]" if null.high - null.low >= 1 else ""
    return f"{float(null):,.0f}{between} of {curve.order:,} eigenvalues are zero"
