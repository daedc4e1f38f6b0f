"""Coordinates of grids and their Fourier features: the inputs of a network that is a field."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer, check_real, namespace
from opflow.spectral.checks import check_shift


def coordinates(shape: int | Sequence[int], dtype: DTypeLike = np.float64) -> Array:
    """The points of a regular grid in [−1, 1]^d, one a row, in C order.

    Parameters
    ----------
    shape : int or sequence of d ints
        Points along each axis; a single one is at 0.
    dtype : dtype, default float64

    Returns
    -------
    array (n_1 ⋯ n_d, d)
        Outputs of a network on them are fields, ``f.reshape(shape)``.

    See Also
    --------
    opflow.fourier_features : Inputs of finer detail made of them.
    opflow.train : Its `measurement` trains a field behind an operator.

    Examples
    --------
    >>> import opflow as of
    >>> of.coordinates((2, 3)).tolist()
    [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    sides = [check_integer(n, "shape", 1) for n in np.atleast_1d(np.asarray(shape, object))]
    grid = np.indices(sides).reshape(len(sides), -1).T
    ends = np.array(sides) - 1
    return ((2 * grid - ends) / np.maximum(ends, 1)).astype(dtype)


@keywords
def fourier_features(
    X: Data,
    frequencies: Data = None,
    *,
    scale: float = 1.0,
    count: int = 128,
    rng: Seed = 0,
    seed: Seed = 0,
) -> Array:
    r"""Fourier features cos 2πBx and sin 2πBx of points, by which a network learns fine detail.

    Parameters
    ----------
    X : array (N, d)
    frequencies : array (m, d), optional
        B, in cycles per unit of X; by default `count` normal ones of standard deviation `scale`.
    scale : float, default 1
    count : int, default 128
    rng, seed : int, numpy.random.Generator or None, default 0

    Returns
    -------
    array (N, 2m)
        Cosines, then sines; squares of a row sum to m.

    See Also
    --------
    opflow.coordinates : Points of a grid.
    opflow.collective_kernel : The kernel on these inputs, whose spectrum shows the bandwidth.

    Notes
    -----
    Random Fourier features [1]_ in front of a network [2]_.  Inner products of rows are
    :math:`\sum_j \cos 2\pi b_j\cdot(x - x')`, for random frequencies about
    :math:`m\,e^{-2\pi^2\,\mathrm{scale}^2 |x - x'|^2}`: details down to 1/(2π·scale) are learned
    soon, finer ones slowly.  Along an axis 95 % of the frequencies are below 1.96·scale, and a grid
    of n points in [−1, 1] holds those up to (n − 1)/4: a scale above (n − 1)/8 fits noise.

    References
    ----------
    .. [1] A. Rahimi, B. Recht, "Random features for large-scale kernel machines", 2007.
    .. [2] M. Tancik et al., "Fourier features let networks learn high frequency functions in low
       dimensional domains", 2020, arXiv:2006.10739.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = of.coordinates((4, 4))
    >>> of.fourier_features(X, scale=0.5, count=64).shape
    (16, 128)
    >>> of.fourier_features(np.array([[0.25]]), np.array([[1.0]])).round(12).tolist()
    [[0.0, 1.0]]
    """
    X = check_real(X, "X", finite=True)
    if X.ndim != 2:
        raise ValueError(f"X must be two-dimensional (points, coordinates), not {X.shape}")
    if frequencies is None:
        size = check_integer(count, "count", 1), X.shape[1]
        frequencies = check_shift(scale, "scale") * np.random.default_rng(rng).standard_normal(size)
        frequencies = namespace(X).asarray(frequencies, dtype=X.dtype)
    B = check_real(frequencies, "frequencies", dtype=X.dtype, finite=True)
    if B.shape[1:] != X.shape[1:]:
        raise ValueError(f"frequencies must be (m, {X.shape[1]}), not {B.shape}")
    xp = namespace(X, B)
    angles = 2 * math.pi * (X @ B.T)
    return xp.concatenate([xp.cos(angles), xp.sin(angles)], axis=1)
