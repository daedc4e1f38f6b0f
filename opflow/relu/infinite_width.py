"""Kernels of infinitely wide networks: the NNGP and the neural tangent kernel, in tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from opflow.evaluation import FunctionGram
from opflow.machine.arrays import Array, Data, check_real, namespace
from opflow.machine.workspace import row_slices
from opflow.relu.inputs import check_inputs, is_whole
from opflow.relu.network import ReLUNetwork

#: arrays of the size of its result that the recursion holds at once
HELD = 12
#: how each kernel is written
SYMBOLS = {"ntk": "K∞", "nngp": "Σ∞"}
#: σ², β², η·n, the share of a trained bias in the Gram below, and the slope above, if units are
Map = tuple[float, float, float, float, float | None]


def infinite_width(
    network: ReLUNetwork,
    X: Data,
    X2: Data = None,
    *,
    kernel: str = "ntk",
    variances: Sequence[float] | None = None,
) -> FunctionGram:
    r"""Return the kernel of networks like `network` in the limit of infinite width.

    Parameters
    ----------
    network : ReLUNetwork
        Its depth, slopes, biases and rates count; see Notes.
    X : array (N, d) or rows on disk
    X2 : array (M, d) or rows on disk, optional
        `X` by default.  For predictions, `X` is the new points and `X2` the training set.
    kernel : {"ntk", "nngp"}, default "ntk"
        The limit of :func:`collective_kernel`, or the covariance of the outputs over the draw [3]_.
    variances : sequence of L + 1 floats, optional
        :math:`\sigma_\ell^2`, of the weights times :math:`n_{\ell-1}`; the readout's is last.
        By default :math:`2/(1 + \alpha_\ell^2)` and 1, as "ntk" and "standard" draw: arrays
        clearly not drawn so ("mean-field", PyTorch's, long training) are then refused.

    Returns
    -------
    FunctionGram of shape (N, N), symmetric and PSD, or (N, M)
        Of one output; for k outputs it is ``of.FeatureLift(kernel, k)``.

    See Also
    --------
    opflow.collective_kernel : The kernel of a finite network.
    opflow.FunctionGram : The class of the result.
    opflow.spectral.kernel_regression : Predictions by it.
    opflow.sklearn.NTKRegressor : An estimator with this kernel.

    Notes
    -----
    From :math:`S^0 = X X^T/d` and :math:`K^0 = 0`, for ℓ = 1..L + 1, the readout being the last,

    .. math::
        \Sigma^\ell = \sigma_\ell^2 S^{\ell-1} + \beta_\ell^2, \quad
        K^\ell = \sigma_\ell^2 \dot S^{\ell-1} \circ K^{\ell-1} + \eta_\ell n_{\ell-1} S^{\ell-1},

    :math:`S = pq((1-\alpha)^2 (\sin t + (\pi-t)\cos t)/2\pi + \alpha\cos t)` and :math:`\dot S =
    (1-\alpha)^2(\pi - t)/2\pi + \alpha`, the means of a(u) a(v) and of s(u) s(v) for normal u and
    v of covariance Σ, that is of deviations p and q at the angle t [1]_ [2]_.

    :math:`\eta_\ell n_{\ell-1}` is that of `network`, whose widths do not matter otherwise;
    :math:`\beta_\ell^2` is the mean square of the bias.  A trained bias adds
    :math:`1/n_{\ell-1}` to S: 1/d in the first layer, nothing in the others and the readout.
    Angles near 0 and π are exact to rounding.  A product forms N²/2 entries of some 30·L
    operations; ``of.materialise`` can keep them.

    References
    ----------
    .. [1] Y. Cho, L. K. Saul, "Kernel methods for deep learning", Advances in Neural Information
       Processing Systems 22, 2009.
    .. [2] A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel: Convergence and generalization
       in neural networks", 2018, arXiv:1806.07572.
    .. [3] J. Lee, Y. Bahri, R. Novak, S. S. Schoenholz, J. Pennington, J. Sohl-Dickstein, "Deep
       neural networks as Gaussian processes", 2018, arXiv:1711.00165.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([2, 8], seed=0)
    >>> of.infinite_width(net, np.eye(2), -np.eye(2), kernel="nngp").todense().round(4)
    array([[0.    , 0.1592],
           [0.1592, 0.    ]])
    """
    if not isinstance(network, ReLUNetwork):
        raise TypeError(f"network must be a ReLUNetwork, not {type(network).__name__}")
    if kernel not in tuple(SYMBOLS):  # which may be asked of what has no hash
        raise ValueError(f"kernel must be 'ntk' or 'nngp', not {kernel!r}")
    function = partial(_kernel, _maps(network, variances), kernel)
    if is_whole(X) or is_whole(X2):
        raise ValueError("X and X2 must be arrays or rows on disk: entries are made of rows")
    X = check_inputs(X, network)
    if X2 is not None:
        X2 = check_inputs(X2, network, "X2")
    return FunctionGram(function, X, X2, symbol=SYMBOLS[kernel])


def _maps(network: ReLUNetwork, variances: Sequence[float] | None) -> list[Map]:
    arrays = [*network.weights, network.readout]
    fans = network.widths
    drawn = [*(2 / (1 + slope**2) for slope in network.slopes), 1.0]
    if variances is None:
        variances = drawn
        names = [*(f"weights[{i}]" for i in range(network.depth)), "readout"]
        found = [_mean_square(W) * n for W, n in zip(arrays, fans, strict=True)]
        for name, W, n, mean, wanted in zip(names, arrays, fans, found, drawn, strict=True):
            x = mean / wanted
            # Chernoff's bound: a draw has this mean square with probability exp(-15) at most
            if x == 0 or W.size / 2 * (x - 1 - math.log(x)) > 15:
                raise ValueError(
                    f"{name} has variance {mean:.4g}/{n} but ReLUNetwork.random draws "
                    f"{wanted:.4g}/{n}: variances={[float(f'{v:.4g}') for v in found]} would "
                    "take what it has"
                )
    given = check_real(variances, "variances", finite=True)
    if given.shape != (len(arrays),) or not (given > 0).all():
        raise ValueError(f"variances must be {len(arrays)} positive numbers, not {variances}")
    biases = [0.0 if b is None else _mean_square(b) for b in (*network.biases, network.output_bias)]
    rates = [r * n for r, n in zip((*network.rates, network.readout_rate or 0), fans, strict=True)]
    shares = [0.0] * len(arrays)
    if network.biases[0] is not None:
        shares[0] = 1 / fans[0]
    return list(zip(given.tolist(), biases, rates, shares, (*network.slopes, None), strict=True))


def _mean_square(x: Array) -> float:
    rows = x.reshape(-1, x.shape[-1])
    return float((rows[:, None] @ rows[:, :, None]).sum(dtype=float)) / x.size  # long, for float32


def _kernel(maps: list[Map], kernel: str, A: Array, B: Array) -> Array:
    """The kernel as a function of two blocks of rows, computed in strips."""
    xp = namespace(A, B)
    out = xp.empty((A.shape[0], B.shape[0]), dtype=A.dtype)
    for s in row_slices(A.shape[0], HELD * B.shape[0] * A.dtype.itemsize):
        out[s] = _entries(xp, maps, kernel, A[s], B)
    return out


def _entries(xp: Any, maps: list[Map], kernel: str, A: Array, B: Array) -> Array:
    p = xp.linalg.norm(A, axis=1)[:, None]
    q = xp.linalg.norm(B, axis=1)[:, None]
    less, more = _gaps(xp, A / xp.where(p > 0, p, 1), B / xp.where(q > 0, q, 1))
    p = p / A.shape[1] ** 0.5
    q = q.T / A.shape[1] ** 0.5
    K: Any = 0.0
    slopes: Any = 0.0
    for variance, bias, rate, share, slope in maps:
        # below this map, E[a²] is p² and q², and E[aa'] is pq(1 - less) and pq(more - 1)
        K = variance * slopes * K + rate * (p * q * (more - less) / 2 + share)
        S = variance * p * q
        P = xp.sqrt(variance * p**2 + bias)
        Q = xp.sqrt(variance * q**2 + bias)
        if slope is None:
            break
        # PQ - Σ and PQ + Σ, without cancellation
        apart = bias * variance * (p - q) ** 2 / (P * Q + S + bias) if bias else 0.0
        less = S * less + apart
        more = S * more + apart + 2 * bias
        near = less <= more
        # The angle between the two preactivations, or what it lacks to π, is y.
        w = xp.minimum(less, more) / xp.where(P * Q > 0, P * Q, 1)
        y = 2 * xp.arcsin(xp.sqrt(w / 2))
        bend = (1 - slope) ** 2 / (2 * math.pi)
        slopes = slope + bend * xp.where(near, math.pi - y, y)
        # the units of a sample that is 0 stand at h = 0 and have the slope α
        at_zero = [slope + (1 - slope) / 2 * xp.sign(x) for x in (P, Q)]
        slopes = xp.where(P * Q > 0, slopes, at_zero[0] * at_zero[1])
        m = (1 + slope**2) / 2
        arc = bend * (xp.sqrt(w * (2 - w)) - y * (1 - w))
        less = xp.maximum(xp.where(near, m * w, (1 + slope) ** 2 / 2 - slope * w) - arc, 0) / m
        more = (xp.where(near, 2 * m - m * w, (1 - slope) ** 2 / 2 + slope * w) + arc) / m
        p = m**0.5 * P
        q = m**0.5 * Q
    if kernel == "nngp":
        return S * (more - less) / 2 + bias
    return K


def _gaps(xp: Any, U: Array, V: Array) -> tuple[Array, Array]:
    """1 - cos and 1 + cos of the angles of unit rows; where small, of their differences."""
    cos = xp.clip(U @ V.T, -1, 1)
    less = 1 - cos
    more = 1 + cos
    i, j = xp.nonzero(abs(cos) > 1 - float(xp.finfo(cos.dtype).eps) ** (1 / 3))
    for s in row_slices(len(i), 4 * U.shape[1] * U.dtype.itemsize):
        pairs = rows, cols = i[s], j[s]
        sign = xp.sign(cos[pairs])
        small = ((U[rows] - sign[:, None] * V[cols]) ** 2).sum(axis=1) / 2
        less[pairs] = xp.where(sign > 0, small, 2 - small)
        more[pairs] = xp.where(sign > 0, 2 - small, small)
    return less, more
