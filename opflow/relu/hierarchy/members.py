"""The members of the hierarchy, sample pair by sample pair: B and F, and their spectra.

Each is built literally by one step of its recursion after the other, ``Wᵀ D_μ B D_ν W`` and
``W D_μ F D_ν Wᵀ``, so its description shows the recursion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.linalg as spla

from opflow import operators
from opflow.machine.arrays import check_integer, namespace, to_host
from opflow.machine.workspace import op_namespace
from opflow.operators import Identity, Mask, Operator, Weight
from opflow.operators.algebra import compose
from opflow.operators.describe import subscript, superscript
from opflow.relu.fields import Fields, check_fields, check_layer, check_sample


def pullback(
    fields: Fields, lower: int, upper: int, mu: int, nu: int, *, augmented: bool = False
) -> Operator:
    r"""The member B^{(lower,upper)}_{μν} of the backward pullback recursion.

    Parameters
    ----------
    fields : Fields
    lower, upper : int
        Layers, 1 <= lower <= upper <= L.
    mu, nu : int
        Samples, 0 <= μ, ν < N.
    augmented : bool, default False
        In homogeneous coordinates: activations are (a, 1) and weights [[W, b], [0, 1]], so that
        biases take part.

    Returns
    -------
    Operator of shape (n_lower, n_lower)
        One more each way if `augmented`.  PSD for μ = ν, untagged otherwise.

    Raises
    ------
    ValueError, TypeError
        For layers outside 1..L, lower > upper, or a sample that is not there.

    Notes
    -----
    .. math::
        B^{(m,m)} = I, \qquad B^{(\ell-1,m)}_{\mu\nu}
            = W^{\ell T} D^\ell_\mu B^{(\ell,m)}_{\mu\nu} D^\ell_\nu W^\ell

    and :math:`d\psi^\ell_\mu/dt = -\sum_\nu \sum_{m>\ell} \eta_m (\varphi^m_\mu \cdot
    \varphi^m_\nu r_\nu) B^{(\ell,m-1)}_{\mu\nu} a^\ell_\nu`.  The adjoint of
    :math:`B_{\mu\nu}` is :math:`B_{\nu\mu}`.  A product costs 4·n_ℓ·n_{ℓ-1} flops a step.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 4, 4, 4], seed=0).fields(np.eye(3))
    >>> B = of.hierarchy.pullback(fields, 1, 3, 0, 1)
    >>> B.symbol
    'W²ᵀ D²₀ W³ᵀ D³₀ D³₁ W³ D²₁ W²'
    """
    lower, upper = _layers(fields, lower, upper)
    mu, nu = check_sample(fields, mu, "mu"), check_sample(fields, nu, "nu")
    member: Operator = Identity(
        fields.network.widths[upper] + augmented, dtype=fields.network.dtype
    )
    for layer in range(upper, lower, -1):
        W = _weight(fields, layer, augmented)
        left = compose(_mask(fields, layer, mu, augmented), W)
        right = left if mu == nu else compose(_mask(fields, layer, nu, augmented), W)
        member = operators.pullback(member, left, right)
    return member


def pushforward(fields: Fields, upper: int, lower: int, mu: int, nu: int) -> Operator:
    r"""The member F^{(upper,lower)}_{μν} of the forward pushforward recursion.

    Parameters
    ----------
    fields : Fields
    upper, lower : int
        Layers, 1 <= lower <= upper <= L.
    mu, nu : int
        Samples, 0 <= μ, ν < N.

    Returns
    -------
    Operator of shape (n_upper, n_upper)
        PSD for μ = ν, untagged otherwise.

    Notes
    -----
    .. math::
        F^{(m,m)} = I, \qquad F^{(\ell,m)}_{\mu\nu}
            = W^\ell D^{\ell-1}_\mu F^{(\ell-1,m)}_{\mu\nu} D^{\ell-1}_\nu W^{\ell T}

    and :math:`dh^\ell_\mu/dt = -\sum_\nu \sum_{m\le\ell} \eta_m A^{m-1}_{\mu\nu}
    F^{(\ell,m)}_{\mu\nu} \varphi^{\ell T}_\nu r_\nu`, where a bias at layer m adds 1 to A.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 4, 4], seed=0).fields(np.eye(3))
    >>> F = of.hierarchy.pushforward(fields, 2, 1, 0, 0)
    >>> F.symbol, F.psd
    ('W² D¹₀ D¹₀ W²ᵀ', True)
    """
    lower, upper = _layers(fields, lower, upper)
    mu, nu = check_sample(fields, mu, "mu"), check_sample(fields, nu, "nu")
    member: Operator = Identity(fields.network.widths[lower], dtype=fields.network.dtype)
    for layer in range(lower + 1, upper + 1):
        W = _weight(fields, layer)
        left = compose(W, _mask(fields, layer - 1, mu))
        right = left if mu == nu else compose(W, _mask(fields, layer - 1, nu))
        member = operators.pushforward(member, left, right)
    return member


class Members(NamedTuple):
    """What :func:`members` found; axes are (layer pairs, sample pairs).

    Attributes
    ----------
    layers : list of (lower, upper)
    pairs : list of (μ, ν)
    values : list of lists of arrays
        Singular values, descending: all, or the `top` largest.  They are the eigenvalues for
        μ = ν.
    norms : array
        Operator norms, the largest singular values.
    traces : array
    ranks : array of int
        Singular values above n·eps times the norm; -1 where only the largest were asked for.
    """

    layers: list[tuple[int, int]]
    pairs: list[tuple[int, int]]
    values: list[list[Any]]
    norms: Any
    traces: Any
    ranks: Any

    def __repr__(self) -> str:
        return f"<Members of {len(self.layers)} layer pairs and {len(self.pairs)} sample pairs>"


def members(
    fields: Fields,
    pairs: Iterable[tuple[int, int]],
    *,
    kind: str = "pullback",
    layers: Iterable[tuple[int, int]] | None = None,
    top: int | None = None,
) -> Members:
    """Spectra, norms, traces and ranks of members over layers and sample pairs.

    Parameters
    ----------
    fields : Fields
    pairs : sequence of (μ, ν)
    kind : {"pullback", "pushforward"}
    layers : sequence of (lower, upper), optional
        All 1 <= lower < upper <= L by default.
    top : int, optional
        Find only so many singular values, by Lanczos products; all of them (and the rank) by
        default, from one dense member at a time.

    Returns
    -------
    Members

    Notes
    -----
    With `top` a member costs some tens of products (4·n² flops a step each) and O(n·top) memory,
    without it (and on a device, where ARPACK is not) n products and O(n³) flops.  Traces are
    exact, from row blocks of the member.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 8, 8, 8], seed=0).fields(np.eye(3))
    >>> found = of.hierarchy.members(fields, [(0, 0), (0, 1)])
    >>> found.layers, found.norms.shape
    ([(1, 2), (1, 3), (2, 3)], (3, 2))
    >>> bool(np.allclose(found.traces[0, 0], found.values[0][0].sum()))
    True
    """
    if kind not in ("pullback", "pushforward"):
        raise ValueError(f"kind must be 'pullback' or 'pushforward', not {kind!r}")
    if top is not None:
        top = check_integer(top, "top", 1, math.inf)
    depth = check_fields(fields).network.depth
    wanted = [
        _layers(fields, *_two(pair, "layers", "(lower, upper)"))
        for pair in (
            layers
            if layers is not None
            else [(i, j) for i in range(1, depth) for j in range(i + 1, depth + 1)]
        )
    ]
    samples = [
        (check_sample(fields, mu, "mu"), check_sample(fields, nu, "nu"))
        for mu, nu in (_two(pair, "pairs", "(mu, nu)") for pair in pairs)
    ]
    shape = (len(wanted), len(samples))
    values: list[list[Any]] = [[] for _ in wanted]
    norms, traces, ranks = np.zeros(shape), np.zeros(shape), np.full(shape, -1)
    for i, (lower, upper) in enumerate(wanted):
        for j, (mu, nu) in enumerate(samples):
            B = (
                pullback(fields, lower, upper, mu, nu)
                if kind == "pullback"
                else pushforward(fields, upper, lower, mu, nu)
            )
            found, trace = _singular_values(B, top)
            values[i].append(found)
            norms[i, j], traces[i, j] = float(found[0]), trace
            if len(found) == B.shape[0]:
                floor = B.shape[0] * float(np.finfo(B.dtype).eps) * float(found[0])
                ranks[i, j] = int((found > floor).sum())
    return Members(wanted, samples, values, norms, traces, ranks)


def _singular_values(B: Operator, top: int | None) -> tuple[Any, float]:
    n = B.shape[0]
    xp = op_namespace(B)
    if top is None or top >= n or xp is not np:  # a member is no larger than the weights
        dense = B.todense()
        found = to_host(xp.linalg.svd(dense, compute_uv=False))
        return found[:top], float(dense.trace())
    start = np.random.default_rng(0).standard_normal(n).astype(B.dtype)
    if not B.matvec(start).any():  # ARPACK refuses the zero operator that dead units leave
        return np.zeros(top, dtype=B.dtype), 0.0
    found = spla.svds(B.to_scipy(), k=top, v0=start, return_singular_vectors=False)
    return np.sort(found)[::-1], float(B.trace())


def _two(pair: Any, name: str, wanted: str) -> tuple[Any, Any]:
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold {wanted}, not {pair!r}") from None
    return first, second


def _layers(fields: Fields, lower: Any, upper: Any) -> tuple[int, int]:
    lower, upper = check_layer(fields, lower, "lower"), check_layer(fields, upper, "upper")
    if lower > upper:
        raise ValueError(f"lower must not be above upper, but lower = {lower}, upper = {upper}")
    return lower, upper


def _weight(fields: Fields, layer: int, augmented: bool = False) -> Weight:
    W, b = fields.network.weights[layer - 1], fields.network.biases[layer - 1]
    if augmented:
        xp = namespace(W)
        wide = xp.zeros((W.shape[0] + 1, W.shape[1] + 1), dtype=W.dtype)
        wide[:-1, :-1] = W
        wide[-1, -1] = 1
        if b is not None:
            wide[:-1, -1] = b
        W = wide
    return Weight(W, symbol=f"W{superscript(layer)}")


def _mask(fields: Fields, layer: int, sample: int, augmented: bool = False) -> Mask:
    gates = fields.activations[layer][sample] > 0
    if augmented:
        xp = namespace(gates)
        gates = xp.concatenate([gates, xp.ones(1, dtype=bool)])
    return Mask(gates, symbol=f"D{superscript(layer)}{subscript(sample)}")
