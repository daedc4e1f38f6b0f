"""Pictures of layers: their widths, shares and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.machine.arrays import Data
from opflow.operators.operator import Operator
from opflow.plot import axes as look
from opflow.plot.axes import Axes, axes, coloured, colours, finish, layer_names, styled
from opflow.plot.given import by_label, numbers, top_pairs
from opflow.relu.fields import Fields
from opflow.relu.hierarchy import Members
from opflow.relu.kernels import layer_kernels
from opflow.relu.network import ReLUNetwork
from opflow.spectral.modes import layer_shares as shares_of
from opflow.spectral.modes import spectrum_shares

#: title and axes of norms of the hierarchy's members, and of other norms
MEMBERS = ("Members of the hierarchy", "layer distance (Gram factors)", "operator norm")
LAYERS = ("Norms by layer", "layer", "norm")


def network(net: ReLUNetwork, ax: Axes = None, **style: Any) -> Axes:
    """The widths of a network, a bar a layer, from its inputs to its outputs.

    Parameters
    ----------
    net : ReLUNetwork
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``bar``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.ReLUNetwork : The networks.

    Examples
    --------
    >>> import opflow as of, opflow.plot
    >>> ax = opflow.plot.network(of.ReLUNetwork.random([3, 8]))
    >>> [int(bar.get_height()) for bar in ax.patches]
    [3, 8, 1]
    """
    if not isinstance(net, ReLUNetwork):
        raise TypeError(f"net must be a ReLUNetwork, not {type(net).__name__}")
    widths = [*net.widths, net.outputs]
    hidden = layer_names(net.depth)
    tints = ["0.6", *colours(hidden), "0.6"]
    ax = axes(ax)
    bars = ax.bar(["inputs", *hidden, "outputs"], widths, **styled(style, color=tints))
    ax.bar_label(bars, fmt="{:,.0f}")
    ax.set(yscale="log", ylim=(min(widths) / 2, 2 * max(widths)))
    return finish(ax, f"Network of {net.parameters:,} parameters", "", "width", grid="y")


def layer_shares(shares: Data, ax: Axes = None, **style: Any) -> Axes:
    """The share of each layer in tr K, a group of bars a layer.

    Parameters
    ----------
    shares : Fields, layer kernels, array (L,), or mapping of labels to them
        Of fields or kernels they are computed, :func:`opflow.spectral.layer_shares`.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``bar``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.layer_shares : Computes them.
    opflow.plot.mode_shares : The shares in each eigenvalue.

    Examples
    --------
    >>> import opflow.plot
    >>> len(opflow.plot.layer_shares({"start": [0.5, 0.5], "end": [0.25, 0.75]}).patches)
    4
    """
    sets = by_label(shares, "shares", _shares)
    ax = axes(ax)
    width = 0.8 / len(sets)
    for i, (label, values, colour) in enumerate(coloured(sets)):
        if not label:
            colour = colours(layer_names(len(values)))
        at = np.arange(1, len(values) + 1) + (i - (len(sets) - 1) / 2) * width
        ax.bar(at, 100 * values, **styled(style, label, width=0.92 * width, color=colour))
    ax.set_xticks(range(1, max(map(len, sets.values())) + 1))
    ax.set_ylim(0, 118 * max(float(values.max()) for values in sets.values()) or 100)
    legend = {"ncols": len(sets), "loc": "upper right"}
    return finish(ax, "Which layers the kernel lives in", "layer", "share of tr K (%)", legend, "y")


def _shares(found: Data) -> Any:
    if isinstance(found, Fields):
        found = layer_kernels(found)
    if isinstance(found, Sequence) and any(isinstance(kernel, Operator) for kernel in found):
        found = shares_of(found)
    return numbers(found, "shares", "Fields, a sequence of kernels, or an array of shares (L,)")


def mode_shares(shares: Data, ax: Axes = None, **style: Any) -> Axes:
    """The share of each layer in each of the largest eigenvalues, as bars that add up to one.

    Parameters
    ----------
    shares : array (L, k) or Fields
        What :func:`opflow.spectral.spectrum_shares` gives; of fields, of 20 eigenvalues.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``bar``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.spectral.spectrum_shares : Computes them.
    opflow.plot.layer_shares : The shares in the trace.

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.mode_shares([[0.25, 0.5], [0.75, 0.5]])
    >>> [float(bar.get_height()) for bar in ax.patches]
    [25.0, 50.0, 75.0, 50.0]
    """
    if isinstance(shares, Fields):
        shares = spectrum_shares(layer_kernels(shares), top_pairs(shares).eigenvectors)
    shares = 100 * numbers(shares, "shares", "Fields or an array (layers, modes)", (2,))
    ranks = np.arange(1, shares.shape[1] + 1)
    layers = dict(zip(layer_names(len(shares)), shares, strict=True))
    ax = axes(ax)
    below = np.zeros(len(ranks))
    for label, share, colour in coloured(layers):
        ax.bar(ranks, share, bottom=below, **styled(style, label, width=0.85, color=colour))
        below = below + share
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylim(0, 100)
    legend = look.BESIDE | {"reverse": True}
    x = "rank of the eigenvalue"
    y = "share of the eigenvalue (%)"
    return finish(ax, "Which layers the modes live in", x, y, legend, "y")


def hierarchy_norms(values: Data, ax: Axes = None, **style: Any) -> Axes:
    """Norms of the hierarchy's members against layer distance, or any norms against layers.

    Parameters
    ----------
    values : Members, array (L,) or (L, …), or mapping of labels to either
        What :func:`opflow.hierarchy.members` gives, or norms of layers 1..L; zeros are left out.
        Lines are medians over the further axes (sample pairs), bands go from least to largest.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    **style : keywords of matplotlib's ``plot``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.hierarchy.members : Computes them.

    Notes
    -----
    The hierarchy is that of [1]_.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> fields = of.ReLUNetwork.random([3, 8, 8, 8], seed=0).fields(np.eye(3))
    >>> found = of.hierarchy.members(fields, [(0, 0), (1, 1)])
    >>> ax = opflow.plot.hierarchy_norms({"μ = ν": found})
    >>> ax.get_xlabel(), ax.lines[0].get_xdata().tolist()
    ('layer distance (Gram factors)', [1, 2])
    """
    sets = by_label(values, "values", _norms)
    words = {words for words, _ in sets.values()}
    if len(words) != 1:
        raise ValueError("values must hold members, or norms of layers, and not both")
    ax = axes(ax)
    ticks = set[int]()
    for label, (_, norms), own in look.marked(sets):
        seen = {x: v[v > 0] for x, v in norms.items() if (v > 0).any()}
        ours = styled(style, label, **own, markersize=5, linewidth=1.6)
        (line,) = ax.plot(list(seen), list(map(np.median, seen.values())), **ours)
        if any(v.size > 1 for v in seen.values()):
            low = [v.min() for v in seen.values()]
            high = [v.max() for v in seen.values()]
            ax.fill_between(list(seen), low, high, color=line.get_color(), alpha=0.15, lw=0)
        ticks.update(seen)
    if ticks:  # an empty axis has no logarithm
        ax.set_xticks(sorted(ticks))
        look.logarithmic(ax.yaxis)
    return finish(ax, *words.pop())


def _norms(found: Data) -> tuple[tuple[str, str, str], dict[int, Any]]:
    """The words of the picture, and norms by distance or by layer."""
    if isinstance(found, Members):
        distances = np.array([upper - lower for lower, upper in found.layers])
        norms = np.asarray(found.norms)
        return MEMBERS, {int(d): norms[distances == d].ravel() for d in np.unique(distances)}
    array = numbers(found, "values", "Members or an array of norms (L,) or (L, …)", (1, 2, 3))
    return LAYERS, {i: norms.ravel() for i, norms in enumerate(array, start=1)}
