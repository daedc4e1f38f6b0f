"""Pictures of shares and norms by layer, and of eigenvectors of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opflow.plot.axes import (
    COLOURS,
    DIVERGING,
    MARKERS,
    axes,
    line_colours,
    number,
    plain_ticks,
    tidy,
)
from opflow.relu.hierarchy import Members


def layer_shares(shares: Mapping[str, Sequence[float]], ax: Any = None) -> Any:
    """Share of each layer in tr K, a group of bars a layer.

    Parameters
    ----------
    shares : mapping of str to sequence of L floats
        Such as those at the start and at the end of a run.
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes
    """
    ax = axes(ax)
    width = 0.8 / max(len(shares), 1)
    for i, (label, values) in enumerate(shares.items()):
        x = np.arange(len(values)) + (i - (len(shares) - 1) / 2) * width
        ax.bar(x, 100 * np.asarray(values), 0.92 * width, color=COLOURS[i], label=label)
    layers = max((len(values) for values in shares.values()), default=0)
    ax.set_xticks(range(layers), [f"layer {i + 1}" for i in range(layers)])
    ax.set(ylabel="share of tr K (%)", title="Which layers the kernel lives in")
    top = max((share for values in shares.values() for share in values), default=0.0)
    ax.set_ylim(0, 118 * top or 100)  # all shares of a kernel that is zero are zero
    ax.legend(frameon=False, ncols=len(shares), loc="upper right")
    tidy(ax).grid(False, axis="x")
    return ax


def mode_shares(shares: Any, ax: Any = None) -> Any:
    """The share of each layer in each of the largest eigenvalues, as bars that add up to one.

    Parameters
    ----------
    shares : array (L, k)
        What :func:`opflow.spectral.spectrum_shares` gives.
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes

    Examples
    --------
    >>> import opflow.plot
    >>> ax = opflow.plot.mode_shares([[0.25, 0.5], [0.75, 0.5]])
    >>> [float(bar.get_height()) for bar in ax.patches]
    [25.0, 50.0, 75.0, 50.0]
    """
    shares = 100 * np.asarray(shares, dtype=float)
    if shares.ndim != 2:
        raise ValueError(f"shares must have shape (layers, modes), not {shares.shape}")
    ax, rank = axes(ax), np.arange(1, shares.shape[1] + 1)
    below = np.cumsum(shares, axis=0) - shares
    for i, colour in enumerate(line_colours(len(shares))):
        ax.bar(rank, shares[i], 0.85, bottom=below[i], color=colour, label=f"layer {i + 1}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="rank of the eigenvalue", ylabel="share of the eigenvalue (%)", ylim=(0, 100),
           title="Which layers the modes live in")  # fmt: skip
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), reverse=True)
    tidy(ax).grid(False)
    return ax


def hierarchy_norms(values: Mapping[str, Any], ax: Any = None) -> Any:
    """Norms of the hierarchy's members against layer distance, or any norms against layers.

    Parameters
    ----------
    values : mapping of str to Members, or to array (L,) or (L, …)
        What :func:`opflow.hierarchy.members` gives, whose norms are drawn against the distance
        of the two layers, or norms of layers 1..L, such as those of
        :func:`opflow.layer_kernel_velocities`.  Lines are medians over the further axes (sample
        pairs), bands reach from the smallest to the largest.
    ax : matplotlib axes, optional
        Of a new figure by default.

    Returns
    -------
    matplotlib axes
        Logarithmic; norms that are zero are left out.

    Raises
    ------
    ValueError
        If there is nothing to draw, or members and arrays are mixed.

    Examples
    --------
    >>> import numpy as np, opflow as of, opflow.plot
    >>> fields = of.ReLUNetwork.random([3, 8, 8, 8], seed=0).fields(np.eye(3))
    >>> found = of.hierarchy.members(fields, [(0, 0), (1, 1)])
    >>> ax = opflow.plot.hierarchy_norms({"μ = ν": found})
    >>> ax.get_xlabel(), ax.lines[0].get_xdata().tolist()
    ('layer distance (Gram factors)', [1, 2])
    """
    kinds = {isinstance(v, Members) for v in values.values()}
    if len(kinds) != 1:
        raise ValueError("values must hold members, or norms of layers, and at least one of them")
    members = kinds.pop()
    ax, ticks = axes(ax), set[int]()
    for i, (label, found) in enumerate(values.items()):
        norms = _by_distance(found) if members else dict(enumerate(np.asarray(found), start=1))
        seen = {x: v[v > 0] for x, v in ((x, np.ravel(v)) for x, v in norms.items())}
        seen = {x: v for x, v in seen.items() if v.size}
        colour, where = COLOURS[i % len(COLOURS)], list(seen)
        ax.semilogy(where, [np.median(v) for v in seen.values()], MARKERS[i % len(MARKERS)] + "-",
                    color=colour, ms=5, lw=1.6, label=label)  # fmt: skip
        if any(v.size > 1 for v in seen.values()):
            low, high = ([f(v) for v in seen.values()] for f in (np.min, np.max))
            ax.fill_between(where, low, high, color=colour, alpha=0.15, lw=0)
        ticks.update(where)
    ax.set_xticks(sorted(ticks))
    plain_ticks(ax.yaxis)
    ax.set(xlabel="layer distance (Gram factors)" if members else "layer",
           ylabel="operator norm" if members else "norm",
           title="Members of the hierarchy" if members else "Norms by layer")  # fmt: skip
    ax.legend(frameon=False)
    return tidy(ax)


def _by_distance(found: Members) -> dict[int, Any]:
    distances = np.array([upper - lower for lower, upper in found.layers])
    return {int(d): found.norms[distances == d] for d in np.unique(distances)}


def modes(vectors: Any, shape: tuple[int, int], eigenvalues: Any = None, ax: Any = None) -> Any:
    """Eigenvectors as pictures, where samples are the pixels of one.

    Parameters
    ----------
    vectors : array (h·w, m) or (3·h·w, m)
        One a column; rows are pixels in row-major order, each with its three colours if the
        kernel is of three outputs.
    shape : (h, w)
    eigenvalues : array (m,), optional
        For the titles.
    ax : matplotlib axes, optional
        Of a new figure by default; the pictures fill it.

    Returns
    -------
    matplotlib axes
        Its ``child_axes`` are those of the pictures.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Each mode has its own scale, with zero in the middle (white, or grey for colours): the size of
    an eigenvector is arbitrary, and so is its sign, here such that the sum is positive.

    Examples
    --------
    >>> import numpy as np, opflow.plot
    >>> ax = opflow.plot.modes(np.eye(6)[:, :2], (2, 3), [4.0, 1.0])
    >>> [picture.get_title() for picture in ax.child_axes]
    ['1: λ = 4', '2: λ = 1']
    """
    vectors = np.asarray(vectors, dtype=float)
    height, width = shape
    colours = vectors.shape[0] // (height * width) if vectors.ndim == 2 else 0
    if colours not in (1, 3) or vectors.shape[0] != colours * height * width:
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
        columns = _columns(m, height / width, ax.bbox.height / ax.bbox.width)
        rows = -(-m // columns)
    ax.axis("off")
    for i, vector in enumerate(vectors.T):
        row, column = divmod(i, columns)
        picture = ax.inset_axes((column / columns + 0.01 / columns, 1 - (row + 1) / rows,
                                 0.98 / columns, 0.86 / rows))  # fmt: skip
        vector, size = np.sign(vector.sum() or 1.0) * vector, float(abs(vector).max()) or 1.0
        if colours == 1:
            picture.imshow(vector.reshape(height, width), cmap=DIVERGING, vmin=-size, vmax=size)
        else:
            picture.imshow(0.5 + 0.5 * vector.reshape(height, width, 3) / size)
        value = "" if eigenvalues is None else f": λ = {number(float(eigenvalues[i]))}"
        picture.set_title(f"{i + 1}{value}", fontsize=8, pad=2)
        picture.set_axis_off()
    return ax


def _columns(count: int, picture: float, space: float) -> int:
    """Columns that make pictures largest; both shapes are heights over widths."""

    def size(columns: int) -> float:
        return min(1 / columns, space / (-(-count // columns) * (picture * 1.15)))

    return max(range(1, count + 1), key=size)
