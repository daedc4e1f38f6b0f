"""Members of the hierarchy for sample pairs: pullbacks B, pushforwards F, their spectra.

Each is built literally by one step of its recursion after the other, ``Wᵀ D_μ B D_ν W`` and
``W D_μ F D_ν Wᵀ``, so its description shows the recursion.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.sparse.linalg as spla

from opflow import operators
from opflow.machine.arrays import Array, check_integer, to_host
from opflow.machine.workspace import op_namespace
from opflow.operators import Identity, Operator
from opflow.operators.rules import compose
from opflow.relu.checks import check_fields, check_layer, check_sample
from opflow.relu.fields import Fields
from opflow.relu.grams import sample_mask, weight


def pullback(
    fields: Fields, lower: int, upper: int, mu: int, nu: int, *, augmented: bool = False
) -> Operator:
    r"""Return the member B^{(lower,upper)}_{μν} of the backward pullback recursion.

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

    See Also
    --------
    opflow.hierarchy.pushforward : The dual recursion.
    opflow.hierarchy.members : Spectra of many members.
    opflow.pullback : One step, for any operators.
    opflow.WeightGram : The first nontrivial member.

    Notes
    -----
    The backward recursion of [1]_ is

    .. math::
        B^{(m,m)} = I, \qquad B^{(\ell-1,m)}_{\mu\nu}
            = W^{\ell T} D^\ell_\mu B^{(\ell,m)}_{\mu\nu} D^\ell_\nu W^\ell

    and :math:`d\psi^\ell_\mu/dt = -\sum_\nu \sum_{m>\ell} \eta_m (\varphi^m_\mu \cdot
    \varphi^m_\nu r_\nu) B^{(\ell,m-1)}_{\mu\nu} a^\ell_\nu`.  The adjoint of
    :math:`B_{\mu\nu}` is :math:`B_{\nu\mu}`.  A product costs 4·n_ℓ·n_{ℓ-1} flops a step.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 4, 4, 4], seed=0).fields(np.eye(3))
    >>> B = of.hierarchy.pullback(fields, 1, 3, 0, 1)
    >>> B.symbol
    'W²ᵀ D²₀ W³ᵀ D³₀ D³₁ W³ D²₁ W²'
    """
    lower, upper = _layers(fields, lower, upper)
    mu, nu = _samples(fields, mu, nu)
    net = fields.network
    member: Operator = Identity(net.widths[upper] + augmented, dtype=net.dtype)
    for layer in range(upper, lower, -1):
        W = weight(fields, layer, augmented)
        steps = {s: compose(sample_mask(fields, layer, s, augmented), W) for s in {mu, nu}}
        member = operators.pullback(member, steps[mu], steps[nu])
    return member


def pushforward(fields: Fields, upper: int, lower: int, mu: int, nu: int) -> Operator:
    r"""Return the member F^{(upper,lower)}_{μν} of the forward pushforward recursion.

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

    See Also
    --------
    opflow.hierarchy.pullback : The dual recursion.
    opflow.hierarchy.members : Spectra of many members.
    opflow.pushforward : One step, for any operators.

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
    mu, nu = _samples(fields, mu, nu)
    member: Operator = Identity(fields.network.widths[lower], dtype=fields.network.dtype)
    for layer in range(lower + 1, upper + 1):
        W = weight(fields, layer)
        steps = {s: compose(W, sample_mask(fields, layer - 1, s)) for s in {mu, nu}}
        member = operators.pushforward(member, steps[mu], steps[nu])
    return member


class Members(NamedTuple):
    """The result of :func:`members`, with axes (layer pairs, sample pairs).

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

    See Also
    --------
    opflow.hierarchy.members : Makes it.
    opflow.plot.hierarchy_norms : Plots the norms.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 8, 8], seed=0).fields(np.eye(3))
    >>> of.hierarchy.members(fields, [(0, 0), (0, 1)]).traces.shape
    (1, 2)
    """

    layers: list[tuple[int, int]]
    pairs: list[tuple[int, int]]
    values: list[list[Array]]
    norms: Array
    traces: Array
    ranks: Array

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
    """Compute spectra, norms, traces and ranks of members over layers and sample pairs.

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
        With axes (layer pairs, sample pairs).

    See Also
    --------
    opflow.hierarchy.pullback : One member of the pullback.
    opflow.hierarchy.pushforward : One member of the pushforward.
    opflow.hierarchy.Members : The result.
    opflow.plot.hierarchy_norms : Plots the norms.

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
        top = check_integer(top, "top", 1)
    depth = check_fields(fields).network.depth
    if layers is None:
        layers = itertools.combinations(range(1, depth + 1), 2)
    wanted = [_layers(fields, *_two(pair, "layers", "(lower, upper)")) for pair in layers]
    samples = [_samples(fields, *_two(pair, "pairs", "(mu, nu)")) for pair in pairs]
    values: list[list[Array]] = [[] for _ in wanted]
    shape = (len(wanted), len(samples))
    found = Members(wanted, samples, values, np.zeros(shape), np.zeros(shape), np.full(shape, -1))
    for i, (lower, upper) in enumerate(wanted):
        for j, (mu, nu) in enumerate(samples):
            if kind == "pullback":
                member = pullback(fields, lower, upper, mu, nu)
            else:
                member = pushforward(fields, upper, lower, mu, nu)
            singular, found.traces[i, j] = _singular_values(member, top)
            values[i].append(singular)
            found.norms[i, j] = singular[0]
            if len(singular) == member.shape[0]:
                rounding = len(singular) * float(np.finfo(member.dtype).eps) * float(singular[0])
                found.ranks[i, j] = (singular > rounding).sum()
    return found


def _singular_values(member: Operator, top: int | None) -> tuple[Array, float]:
    """The `top` largest singular values, all by default, descending, and the trace."""
    n = member.shape[0]
    xp = op_namespace(member)
    if top is None or top >= n or xp is not np:  # a member is no larger than the weights
        dense = member.todense()
        found = to_host(xp.linalg.svd(dense, compute_uv=False))
        return found[:top], float(dense.trace())
    start = np.random.default_rng(0).standard_normal(n).astype(member.dtype)
    if not member.matvec(start).any():  # ARPACK refuses the zero operator that dead units leave
        return np.zeros(top, dtype=member.dtype), 0.0
    found = spla.svds(member.to_scipy(), k=top, v0=start, return_singular_vectors=False)
    return np.sort(found)[::-1], float(member.trace())


def _two(pair: object, name: str, content: str) -> tuple[Any, Any]:
    try:
        first, second = cast("tuple[Any, Any]", pair)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold {content}, not {pair!r}") from None
    return first, second


def _layers(fields: Fields, lower: int, upper: int) -> tuple[int, int]:
    lower = check_layer(fields, lower, "lower")
    upper = check_layer(fields, upper, "upper")
    if lower > upper:
        raise ValueError(f"lower must not be above upper, but lower = {lower}, upper = {upper}")
    return lower, upper


def _samples(fields: Fields, mu: int, nu: int) -> tuple[int, int]:
    return check_sample(fields, mu, "mu"), check_sample(fields, nu, "nu")
