"""Pictures of spectra: eigenvalues against rank, and their density."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from opflow.dynamics.storage.trajectory import Trajectory
from opflow.machine.arrays import Data, check_integer
from opflow.operators.operator import Operator
from opflow.plot.axes import NOTHING, Axes, axes, coloured, finish, logarithmic, marked, styled
from opflow.plot.given import by_label, kernel_of, numbers, observed, top_pairs
from opflow.relu.fields import Fields
from opflow.spectral.density.density import Density
from opflow.spectral.density.density import density as density_of
from opflow.spectral.eigen.results import Eigenpairs, SingularTriplets

Fit = tuple[int, int]

#: of a density that is logarithmic or not: the scale of its eigenvalues, and what it is
SCALES = {True: ("log", "density per decade"), False: ("linear", "density")}
#: ratio of neighbouring eigenvalues above which there is a gap between them
GAP = 10.0


class PowerLaw(NamedTuple):
    """λ ≈ factor · rank^exponent, and R² of log λ: 1 where they are on the line."""

    exponent: float
    factor: float
    r2: float


def power_law(values: Data, ranks: Fit) -> PowerLaw:
    """Fit a power law of the rank to eigenvalues, by least squares of the logarithms.

    Parameters
    ----------
    values : array (n,)
        In any order.
    ranks : (int, int)
        First and last rank of the fit, counted from 1, of positive eigenvalues.

    Returns
    -------
    PowerLaw
        `exponent`, `factor` and `r2`: λ ≈ factor · rank^exponent, and R² of log λ.

    See Also
    --------
    opflow.plot.eigenvalues : Draws eigenvalues and this fit.
    opflow.spectral.eigsh : Computes eigenvalues.

    Examples
    --------
    >>> import opflow.plot
    >>> [round(number, 10) for number in opflow.plot.power_law([3.0, 3 / 4, 3 / 9], (1, 3))]
    [-2.0, 3.0, 1.0]
    """
    values = np.sort(numbers(values, "values", "an array of eigenvalues"))[::-1]
    first, last = ranks
    last = check_integer(last, "the last rank of a fit", 1, len(values))
    first = check_integer(first, "the first rank of a fit", 1, max(last - 1, 1))
    chosen = values[first - 1 : last]
    if len(chosen) < 2 or not (chosen > 0).all():
        raise ValueError(
            f"a fit needs two positive eigenvalues at least, but ranks {first} to {last} end "
            f"at {chosen[-1]:.3g}"
        )
    x = np.log(np.arange(first, last + 1))
    y = np.log(chosen)
    slope, offset = np.polyfit(x, y, 1)
    off = float(((y - slope * x - offset) ** 2).sum())
    r2 = 1 - off / max(float(((y - y.mean()) ** 2).sum()), off, 1e-24)  # equal ones are rounding
    return PowerLaw(float(slope), float(np.exp(offset)), r2)


def fit_ranks(eigenvalues: Data) -> Fit | None:
    """Ranks that a power law is fitted to: from a quarter of the positive ones on, up to a gap."""
    values = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    last = int((values > NOTHING * values[:1]).sum())
    if last < 4:
        return None
    first = last // 4
    jumps = np.flatnonzero(values[first - 1 : last - 1] > GAP * values[first:last])
    if jumps.size:
        last = first + int(jumps[0])
    if last - first < 2:
        return None
    return first, last


def eigenvalues(
    values: Data, ax: Axes = None, *, fit: Fit | str | None = None, **style: Any
) -> Axes:
    """Eigenvalues against rank on logarithmic axes.

    Parameters
    ----------
    values : Eigenpairs, SingularTriplets, array (n,), operator, Fields, or mapping of labels to it
        Those that are not positive, or below 1e-12 of the largest, are left out.  Of triplets
        the squares are drawn; of an operator, or the kernel of fields, the 20 largest are
        computed.  A run with :class:`opflow.observe.TopEigenpairs` has those of start and end.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    fit : (int, int) or "auto", optional
        Draw a power law through these ranks of every line, :func:`power_law`, with its exponent
        and R² in the legend.  "auto" takes those from a quarter of the positive ones on, up to
        the first gap of a factor of ten, three of them at least.
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.eigsh : Computes them.
    opflow.plot.power_law : The fit.
    opflow.plot.density : The density of all eigenvalues.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> ax = opflow.plot.eigenvalues(1 / np.arange(1, 50) ** 2, fit=(5, 40))
    >>> ax.lines[1].get_label()
    'rank^−2.00, ranks 5–40, R² 1.000'
    """
    if isinstance(values, Trajectory):
        seen = observed(values, "eigenvalues", "of.observe.TopEigenpairs()")
        values = {"start": seen[0], "end": seen[-1]}
    sets = by_label(values, "values", lambda found: np.sort(_eigenvalues(found))[::-1])
    if isinstance(fit, str) and fit != "auto":
        raise ValueError(f"fit must be two ranks or 'auto', not {fit!r}")
    laws = {}
    for label, found in sets.items():
        ranks = fit_ranks(found) if isinstance(fit, str) else fit
        if ranks is not None:
            laws[label] = (ranks, power_law(found, ranks))
    ax = axes(ax)
    for (label, found, own), dash in zip(marked(sets), cycle(("--", "-.", ":")), strict=False):
        seen = found[found > NOTHING * max(found[0], 0.0)]
        name = label if seen.size else _labelled(label, "none is positive")
        ours = styled(style, name, **own, linewidth=1, alpha=0.8, markersize=4)
        (line,) = ax.plot(np.arange(1, len(seen) + 1), seen, **ours)
        if label in laws:
            ranks, law = laws[label]
            words = f"rank^{law.exponent:.2f}, ranks {ranks[0]}–{ranks[1]}, R² {law.r2:.3f}"
            ours = {"linestyle": dash, "linewidth": 2.2, "color": line.get_color(), "zorder": 3}
            ours["label"] = _labelled(label, words.replace("^-", "^−"))
            ends = np.array(ranks, dtype=float)
            ax.plot(ends, law.factor * ends**law.exponent, marker="|", markersize=11, **ours)
    if any(line.get_xdata().size for line in ax.lines):
        logarithmic(ax.xaxis)
        logarithmic(ax.yaxis)
    else:  # an empty axis has no logarithm
        ax.set(xticks=[], yticks=[])
    return finish(ax, "Largest eigenvalues of K", "rank", "eigenvalue of K")


def _labelled(label: str, words: str) -> str:
    return f"{label}: {words}" if label else words


def _eigenvalues(found: Data) -> Any:
    if isinstance(found, (Fields, Operator)):
        found = top_pairs(found)
    if isinstance(found, SingularTriplets):
        found = found.kernel
    if isinstance(found, Eigenpairs):
        found = found.eigenvalues
    return numbers(found, "values", "Eigenpairs, an operator or an array of eigenvalues")


def density(
    found: Data, ax: Axes = None, *, cumulative: bool = False, grid: Data = None, **style: Any
) -> Axes:
    """The spectral density with its 95 % band, or the cumulative density with its own.

    Parameters
    ----------
    found : Density, operator, array (n, n), Fields, or mapping of labels to them
        Densities on the same axis, linear or logarithmic.  Of an operator, or the kernel of
        fields, it is computed with the defaults, on a logarithmic axis if it is PSD.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    cumulative : bool, default False
        Draw the share of the eigenvalues up to each value, zeros included.
    grid : array, optional
        Where to evaluate it; 400 points that cover its support by default.
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.density : Computes it.
    opflow.plot.eigenvalues : Eigenvalues against rank.

    Notes
    -----
    Equal areas are equal shares of the spectrum: on a logarithmic axis the density is per decade.
    Where a single eigenvalue would not be seen, the density itself is on a logarithmic axis, down
    to half the height of one.  The curve is dotted where its error is larger than itself.  Zero
    eigenvalues are named in the legend and are no part of the density.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> K = of.Gram(np.random.default_rng(0).standard_normal((40, 30)))
    >>> legend = opflow.plot.density(K).get_legend()
    >>> legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]
    ('10 of 40 eigenvalues are zero', ['density', '95 % band'])
    """
    curves = by_label(found, "found", _density)
    logs = {bool(curve.log) for curve in curves.values()}
    if len(logs) != 1:
        raise ValueError("found must hold densities on the same axis, linear or logarithmic")
    top = 0.0
    ax = axes(ax)
    for label, curve, colour in coloured(curves):
        points = curve.grid() if grid is None else np.asarray(grid, dtype=float)
        if cumulative:
            name = "share"
            height = curve.cdf(points)
            low, high = curve.cdf_band(points)
        else:
            name = "density"
            height = curve(points)
            low, high = curve.band(points)
        known = (high - height <= height) | cumulative
        ours = styled(style, label or name, color=colour, linewidth=1.8)
        (line,) = ax.plot(points, np.where(known, height, np.nan), **ours)
        tint = line.get_color()
        ax.plot(points, np.where(known, np.nan, height), ":", color=tint, linewidth=1)
        band = "95 % band" if len(curves) == 1 else None
        ax.fill_between(points, low, high, color=tint, alpha=0.25, linewidth=0, label=band)
        # where nothing is known, neither curve nor band says how high the rest is
        seen = height[known | ~known.any()]
        top = max(top, float(seen.max()), 0.3 * float(height.max()))
    zeros = [_labelled(label, _zeros(c)) for label, c in curves.items() if _zeros(c)]
    legend = {"title": "\n".join(zeros), "fontsize": 9, "title_fontsize": 9, "alignment": "left"}
    x = "eigenvalue of K"
    scale, y = SCALES[logs.pop()]
    ax.set_xscale(scale)
    if cumulative:
        ax.set_ylim(0, 1.02)
        title = "Cumulative spectral density of K"
        legend["loc"] = "lower right"
        return finish(ax, title, x, "share of eigenvalues up to there", legend)
    # the height of a single eigenvalue
    one = min(1 / (c.order * c.width * math.sqrt(2 * math.pi)) for c in curves.values())
    if top > 100 * one:
        ax.set(yscale="log", ylim=(one / 2, 100 * top))
    else:
        ax.set_ylim(0, 1.35 * top or None)
    legend["loc"] = "upper right"
    return finish(ax, "Spectral density of K", x, y, legend)


def _density(found: Data) -> Density:
    if isinstance(found, Density):
        return found
    K = kernel_of(found)
    return density_of(K, log=K.psd)


def _zeros(curve: Density) -> str:
    """The zero eigenvalues of a density in words, or nothing if it has none."""
    null = curve.null
    if not null.high > 0.5:
        return ""
    if float(null) < 0.5:
        return f"at most {null.high:,.0f} of {curve.order:,} eigenvalues are zero"
    count = f"{float(null):,.0f}"
    if null.high - null.low >= 1:
        count += f" [{null.low:,.0f}, {null.high:,.0f}]"
    return f"{count} of {curve.order:,} eigenvalues are zero"
