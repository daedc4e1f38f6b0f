"""Pictures of layers: their widths, shares and norms; and eigenvectors of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.machine.arrays import Data
from opflow.operators.operator import Operator
from opflow.plot import axes as look
from opflow.plot.axes import Axes, axes, colours, finish, number, styled
from opflow.plot.given import by_label, numbers
from opflow.relu.fields import Fields
from opflow.relu.hierarchy import Members
from opflow.relu.kernels import collective_kernel, layer_kernels
from opflow.relu.network import ReLUNetwork
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.results import Eigenpairs
from opflow.spectral.modes import layer_shares as shares_of
from opflow.spectral.modes import spectrum_shares


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
    hidden = [f"layer {i + 1}" for i in range(net.depth)]
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
    for i, (label, values, colour) in enumerate(look.coloured(sets)):
        layers = range(1, len(values) + 1)
        if not label:
            colour = colours(f"layer {layer}" for layer in layers)
        at = np.array(layers) + (i - (len(sets) - 1) / 2) * width
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
        K = collective_kernel(shares)
        pairs = eigsh(K, min(20, K.shape[0]), tol=1e-6)
        shares = spectrum_shares(layer_kernels(shares), pairs.eigenvectors)
    shares = 100 * numbers(shares, "shares", "Fields or an array (layers, modes)", (2,))
    ranks = np.arange(1, shares.shape[1] + 1)
    layers = {f"layer {i}": share for i, share in enumerate(shares, start=1)}
    ax = axes(ax)
    below = np.zeros(len(ranks))
    for label, share, colour in look.coloured(layers):
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
    kinds = {members for members, _ in sets.values()}
    if len(kinds) != 1:
        raise ValueError("values must hold members, or norms of layers, and not both")
    members = kinds.pop()
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
    if members:
        x = "layer distance (Gram factors)"
        return finish(ax, "Members of the hierarchy", x, "operator norm")
    return finish(ax, "Norms by layer", "layer", "norm")


def _norms(found: Data) -> tuple[bool, dict[int, Any]]:
    """Whether these are members, and their norms by distance, or norms by layer."""
    if isinstance(found, Members):
        distances = np.array([upper - lower for lower, upper in found.layers])
        norms = np.asarray(found.norms)
        return True, {int(d): norms[distances == d].ravel() for d in np.unique(distances)}
    array = numbers(found, "values", "Members or an array of norms (L,) or (L, …)", (1, 2, 3))
    return False, {i: norms.ravel() for i, norms in enumerate(array, start=1)}


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
    channels = vectors.shape[0] // (height * width)
    if channels not in (1, 3) or vectors.shape[0] != channels * height * width:
        raise ValueError(
            f"vectors has shape {vectors.shape}, but a picture of {height} × {width} has "
            f"{height * width} rows, or {3 * height * width} with colours"
        )
    m = vectors.shape[1]
    if eigenvalues is not None and np.shape(eigenvalues) != (m,):
        raise ValueError(f"eigenvalues has shape {np.shape(eigenvalues)}, not ({m},)")
    if ax is None:
        columns = max(1, min(m, round(math.sqrt(m * height / width * 1.6))))
        rows = -(-m // columns)
        ax = axes(ax, (2.0 * columns, (2.0 * height / width + 0.3) * rows + 0.3))
    else:
        columns = _columns(m, height / width, axes(ax).bbox.height / ax.bbox.width)
        rows = -(-m // columns)
    ax.axis("off")
    for i, vector in enumerate(vectors.T):
        row, column = divmod(i, columns)
        corner = ((column + 0.01) / columns, 1 - (row + 1) / rows)
        picture = ax.inset_axes((*corner, 0.98 / columns, 0.86 / rows))
        vector = np.sign(vector.sum() or 1.0) * vector
        size = float(abs(vector).max()) or 1.0
        if channels == 1:
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
