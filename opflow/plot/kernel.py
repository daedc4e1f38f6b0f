r"""Heat maps of a kernel: means over blocks of its entries, samples clustered or by class.

Nothing N × N is ever held: a picture has a few hundred cells a side, and entries are formed in
tiles of the workspace's size on the way to their means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Data, check_integer, to_host
from opflow.machine.workspace import op_namespace, row_slices, tile_side, tiles
from opflow.operators.operator import Operator
from opflow.plot.axes import DIVERGING, SEQUENTIAL, Axes, axes, styled
from opflow.plot.given import kernel_of
from opflow.relu.fields import Fields
from opflow.spectral.checks import symmetric_operator

#: samples that are clustered at most; the others join the one they are most alike
LANDMARKS = 512


def block_means(op: Data, order: Data = None, *, cells: int = 400, outputs: int = 1) -> Any:
    r"""Means of a kernel over blocks of samples, or its entries if it is small.

    Parameters
    ----------
    op : Operator
        Symmetric, of order N·k.
    order : int array (m,), optional
        Samples in the order to take them; all N as they are by default.
    cells : int, default 400
        Blocks a side; no more than samples.
    outputs : int, default 1
        k, where rows are samples × outputs, sample-major: entries are then means over the
        outputs, :math:`\frac1k \sum_p K_{(\mu p)(\nu p)}`.

    Returns
    -------
    array (c, c), float64, on the host
        c = min(cells, m).  Forms the m² k entries in tiles and holds c² numbers and a tile.

    See Also
    --------
    opflow.plot.heat_map : Draws them.
    opflow.materialise : All entries of an operator.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> opflow.plot.block_means(of.Gram(np.array([[1.0], [1.0], [2.0], [4.0]])), cells=2)
    array([[1., 3.],
           [3., 9.]])
    """
    op, samples = _samples(op, outputs)
    if order is None:
        order = np.arange(samples)
    order = _index(order, samples)
    check_integer(cells, "cells", 1)
    xp = op_namespace(op)
    m = len(order)
    c = min(cells, m)
    edges = -(-m * np.arange(c + 1) // c)  # blocks of nearly equal size
    size = np.diff(edges)
    block = np.repeat(np.arange(c), size)
    sums = np.zeros((c, c))

    def adder(s: slice) -> tuple[Any, slice]:
        """What sums the rows of a tile by their blocks, and which blocks these are."""
        first = block[s.start]
        last = block[s.stop - 1] + 1
        indicator = block[s] == np.arange(first, last)[:, None]
        return xp.asarray(indicator, dtype=op.dtype), slice(first, last)

    # the blocks of a tile add up in the operator's dtype, tiles in float64
    for r, s in tiles(m, m, True, tile_side(4 * op.dtype.itemsize, m)):
        left, rows = adder(r)
        right, cols = adder(s)
        entries = _over_outputs(op, order[r], order[s], outputs)
        part = to_host(left @ entries @ right.T).astype(np.float64)
        sums[rows, cols] += part
        if r != s:
            sums[cols, rows] += part.T
    return sums / (outputs * np.outer(size, size))


@keywords
def clustered(op: Data, *, outputs: int = 1, rng: Seed = 0, seed: Seed = 0) -> Any:
    r"""An order of the samples in which those that the kernel finds similar are neighbours.

    Parameters
    ----------
    op : Operator
        Symmetric PSD, of order N·k.
    outputs : int, default 1
        As in :func:`block_means`.
    rng, seed
        Of the landmarks.

    Returns
    -------
    int array (N,)

    See Also
    --------
    opflow.plot.heat_map : Draws the kernel in this order.

    Notes
    -----
    Up to 512 landmarks, drawn at random, are clustered by average linkage of the cosine distance
    :math:`1 - K_{\mu\nu} / \sqrt{K_{\mu\mu} K_{\nu\nu}}` and put in the order of the tree's leaves
    that keeps neighbours closest; the other samples go to the landmark they are most alike.
    Forms 512·N·k entries, in row blocks.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> X = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    >>> order = opflow.plot.clustered(of.Gram(X))
    >>> X[order].tolist() in ([[1, 0], [1, 0], [0, 1], [0, 1]], [[0, 1], [0, 1], [1, 0], [1, 0]])
    True
    """
    op, samples = _samples(op, outputs)
    count = min(samples, LANDMARKS)
    if count < 2:
        return np.arange(samples)
    chosen = np.sort(np.random.default_rng(rng).choice(samples, count, replace=False))

    K = to_host(_over_outputs(op, chosen, chosen, outputs)).astype(np.float64)
    size = np.sqrt(np.maximum(np.diag(K), 0))
    size[size == 0] = 1.0
    distance = np.maximum(1 - K / np.outer(size, size), 0)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    rank = np.empty(count, dtype=int)
    rank[leaves_list(tree)] = np.arange(count)
    nearest = np.empty(samples, dtype=int)
    for s in row_slices(samples, 4 * count * op.dtype.itemsize):
        alike = to_host(_over_outputs(op, np.arange(s.start, s.stop), chosen, outputs))
        nearest[s] = (alike / size).argmax(axis=1)
    nearest[chosen] = np.arange(count)
    return np.argsort(rank[nearest], kind="stable")


def _over_outputs(op: Operator, rows: Data, cols: Data, outputs: int) -> Any:
    """Entries between samples, summed over the outputs."""
    xp = op_namespace(op)
    return sum(
        op.block(xp.asarray(rows * outputs + p), xp.asarray(cols * outputs + p))
        for p in range(outputs)
    )


def heat_map(
    op: Data,
    ax: Axes = None,
    *,
    order: Data = None,
    labels: Data = None,
    cells: int = 400,
    outputs: int | None = None,
    **style: Any,
) -> Axes:
    r"""A heat map of the kernel, with similar samples side by side.

    Parameters
    ----------
    op : operator, array (N·k, N·k) or Fields
        Symmetric, of order N·k; of fields, their kernel.
    ax : matplotlib.axes.Axes, optional (that of a new figure by default)
    order : int array (m,), optional
        Samples in the order to draw them, which may be some of them only.
    labels : array (N,), optional
        The class of each sample: classes are drawn side by side and named.  Without it and
        without `order`, samples are clustered, :func:`clustered`.
    cells : int, default 400
        Cells a side at most; above, a cell is the mean over a block.
    outputs : int, optional
        k; the mean over the outputs is drawn.  By default that of fields, and 1 of others.
    **style : keywords of matplotlib's ``imshow``

    Returns
    -------
    matplotlib.axes.Axes

    See Also
    --------
    opflow.plot.block_means : What it draws.
    opflow.plot.clustered : The order of the samples.

    Notes
    -----
    Costs :func:`block_means`.  Colours go from the 0.3rd to the 99.7th percentile of the cells
    off the diagonal, so that a strong diagonal leaves the rest to be seen; where negative entries
    are more than a fringe, zero is in the middle of the map.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> K = of.Gram(np.random.default_rng(0).standard_normal((500, 20)))
    >>> opflow.plot.heat_map(K, cells=50).get_xlabel()
    'samples, clustered, in 50 blocks'
    """
    if outputs is None:
        outputs = op.network.outputs if isinstance(op, Fields) else 1
    op, samples = _samples(kernel_of(op), outputs)
    words = "samples"
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (samples,):
            raise ValueError(f"labels has shape {labels.shape}, not ({samples},)")
        if order is None:
            order = np.argsort(labels, kind="stable")
        words = "samples, class by class"
    elif order is None:
        order = clustered(op, outputs=outputs)
        words = "samples, clustered"
    means = block_means(op, order, cells=cells, outputs=outputs)
    if labels is not None:
        labels = labels[np.asarray(order)]
    return show_means(means, len(order), words, ax, labels=labels, outputs=outputs, **style)


def show_means(
    means: Data,
    samples: int,
    words: str,
    ax: Axes = None,
    *,
    labels: Data = None,
    outputs: int = 1,
    **style: Any,
) -> Axes:
    """The picture of :func:`heat_map` from block means, with the labels in the order drawn."""
    ax = axes(ax, (5.6, 4.6))
    off = ~np.eye(len(means), dtype=bool) | (len(means) == 1)
    low, high = np.quantile(means[off], (0.003, 0.997)).tolist()
    colours = SEQUENTIAL
    if -low > 0.25 * high:
        colours = DIVERGING
        high = max(-low, high)
        low = -high
    beyond = (means.min() < low, means.max() > high)
    extent = (0, samples, samples, 0)
    ours = styled(style, cmap=colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    image = ax.imshow(means, **ours)
    name = "kernel"
    if outputs > 1:
        name += ", mean over outputs"
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond]
    ax.figure.colorbar(image, ax=ax, shrink=0.85, label=name, extend=extend)
    if len(means) < samples:
        words += f", in {len(means):,} blocks"
    ax.set(xlabel=words, title=f"Kernel of {samples:,} samples")
    if labels is not None:
        _name_classes(ax, labels)
    return ax


def _name_classes(ax: Axes, labels: Data) -> None:
    """Thin lines between runs of equal labels, and their names at the side if there is room."""
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    if len(starts) > 30:
        return
    for start in starts[1:]:
        ax.axhline(start, color="white", lw=0.6)
        ax.axvline(start, color="white", lw=0.6)
    centres = (starts + np.r_[starts[1:], len(labels)]) / 2
    names = [str(label) for label in labels[starts]]
    ax.set_yticks(centres, names)
    ax.set_xticks(centres, names)
    ax.tick_params(length=0)


def _samples(op: Data, outputs: int) -> tuple[Operator, int]:
    op = symmetric_operator(op)
    check_integer(outputs, "outputs", 1)
    if op.shape[0] % outputs:
        raise ValueError(f"op has order {op.shape[0]}, which is no multiple of {outputs} outputs")
    return op, op.shape[0] // outputs


def _index(order: Data, samples: int) -> Any:
    order = np.asarray(order)
    if order.ndim != 1 or order.dtype.kind not in "iu" or not order.size:
        raise ValueError(f"order must be a vector of integers, not {order.dtype} {order.shape}")
    if order.min() < 0 or order.max() >= samples:
        outside = f"outside 0..{samples - 1}"
        raise ValueError(f"order runs from {order.min()} to {order.max()}, {outside}")
    return order
