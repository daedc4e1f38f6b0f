r"""The weight-induced Gram hierarchy: how fields move, and through which operators.

Under gradient flow ``dh^ℓ/dt = −H_ℓ r`` and ``dψ^ℓ/dt = −Ψ_ℓ r``.  Sample pair by sample pair
these velocities are sums over the *members* of two recursions, the backward pullback B and its
dual, the forward pushforward F, each a chain of masked weights.  Layers are counted 1..L.

A *Gram factor* is one step of a recursion, a sandwich ``Wᵀ D_μ · D_ν W`` or ``W D_μ · D_ν Wᵀ``;
the members B^{(m,m)} = F^{(m,m)} = I have none.  ``order=p`` keeps the members with at most p.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.linalg as spla

from opflow.arrays import namespace
from opflow.operators import (
    BlockDiagonal,
    FeatureLift,
    Gram,
    Identity,
    KhatriRao,
    Mask,
    Matrix,
    Operator,
    SampleLift,
    Weight,
    Zero,
)
from opflow.operators.algebra import add, compose, scale
from opflow.operators.pullback import pullback as pullback_step
from opflow.operators.pullback import pushforward as pushforward_step
from opflow.relu.fields import Fields
from opflow.relu.kernels import _up, jacobian
from opflow.relu.tangent import FieldTangent

__all__ = [
    "Members",
    "conjugate_velocity",
    "field_errors",
    "field_velocities",
    "hidden_velocity",
    "members",
    "pullback",
    "pushforward",
    "split",
]

# -- sample pair by sample pair ---------------------------------------------------------------


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
    mu, nu = _sample(fields, mu, "mu"), _sample(fields, nu, "nu")
    member: Operator = Identity(
        fields.network.widths[upper] + augmented, dtype=fields.network.dtype
    )
    for layer in range(upper, lower, -1):
        W = _weight(fields, layer, augmented)
        left = compose(_mask(fields, layer, mu, augmented), W)
        right = left if mu == nu else compose(_mask(fields, layer, nu, augmented), W)
        member = pullback_step(member, left, right)
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

    Raises
    ------
    ValueError, TypeError
        As :func:`pullback`.

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
    mu, nu = _sample(fields, mu, "mu"), _sample(fields, nu, "nu")
    member: Operator = Identity(fields.network.widths[lower], dtype=fields.network.dtype)
    for layer in range(lower + 1, upper + 1):
        W = _weight(fields, layer)
        left = compose(W, _mask(fields, layer - 1, mu))
        right = left if mu == nu else compose(W, _mask(fields, layer - 1, nu))
        member = pushforward_step(member, left, right)
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

    Raises
    ------
    ValueError, TypeError
        As :func:`pullback`, before any work is done.

    Notes
    -----
    With `top` a member costs some tens of products (4·n² flops a step each) and O(n·top) memory,
    without it n products and O(n³) flops.  Traces are exact, from row blocks of the member.

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
        top = _integer(top, "top", 1, math.inf)
    depth = check_fields(fields).network.depth
    wanted = [
        _layers(fields, lower, upper)
        for lower, upper in (
            layers
            if layers is not None
            else [(i, j) for i in range(1, depth) for j in range(i + 1, depth + 1)]
        )
    ]
    samples = [(_sample(fields, mu, "mu"), _sample(fields, nu, "nu")) for mu, nu in pairs]
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
            norms[i, j], traces[i, j] = found[0], trace
            if len(found) == B.shape[0]:
                floor = B.shape[0] * float(np.finfo(B.dtype).eps) * float(found[0])
                ranks[i, j] = int((found > floor).sum())
    return Members(wanted, samples, values, norms, traces, ranks)


def _singular_values(B: Operator, top: int | None) -> tuple[Any, float]:
    n = B.shape[0]
    if top is None or top >= n:
        dense = B.todense()
        return namespace(dense).linalg.svd(dense, compute_uv=False), float(dense.trace())
    start = np.random.default_rng(0).standard_normal(n).astype(B.dtype)
    found = spla.svds(B.to_scipy(), k=top, v0=start, return_singular_vectors=False)
    return np.sort(found)[::-1], float(B.trace())


# -- on the whole training set ----------------------------------------------------------------


def hidden_velocity(fields: Fields, layer: int, order: int | None = None) -> Operator:
    r"""H_ℓ: the velocity of the hidden field, ``dh^ℓ/dt = −H_ℓ r``.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.
    order : int, optional
        Keep the members with at most so many Gram factors; all by default (ℓ − 1 at most occur).

    Returns
    -------
    Operator of shape (N·n_ℓ, N·k)
        From residuals to the field h^ℓ, both flattened sample-major; the adjoint goes back.

    Raises
    ------
    ValueError, TypeError
        For a layer outside 1..L or a negative order.

    Notes
    -----
    .. math::
        H_\ell = \eta_\ell (A^{\ell-1} \otimes I)\, \varphi^{\ell T}
            + (I \otimes W^\ell)\, \theta^{\ell-1} H_{\ell-1}, \qquad H_0 = 0;

    a bias adds 1 to A.  The kernel follows by reading the outputs off the top field: K is
    :math:`(I \otimes V)\, \theta^L H_L`.  A product costs 4·N·P_m flops for each layer m <= ℓ and
    2·N·P_m for each hand-over, O(N·n) memory, and no pair of samples is visited.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 5, 4], seed=0)
    >>> fields = net.fields(np.eye(3))
    >>> H = of.hierarchy.hidden_velocity(fields, 2)
    >>> K = of.SampleLift(net.readout, 3) @ of.Mask(fields.gates[1]) @ H
    >>> bool(np.allclose(K.todense(), of.collective_kernel(fields).todense()))
    True
    """
    layer, order = check_layer(fields, layer), _order(fields, order)
    net, n = fields.network, fields.samples
    lowest = max(1, layer - order)  # where the truncation cuts the recursion off
    for m in range(lowest, layer + 1):
        own = compose(
            FeatureLift(_activation_gram(fields, m - 1), net.widths[m]),
            BlockDiagonal(fields.conjugates[m - 1], symbol=f"φ{_up(m)}").T,
        )
        own = scale(net.rates[m - 1], own)
        if m == lowest:
            velocity = own
        else:
            gate = Mask(fields.gates[m - 2], symbol=f"θ{_up(m - 1)}")
            velocity = add(own, compose(SampleLift(_weight(fields, m), n), gate, velocity))
    return velocity


def conjugate_velocity(fields: Fields, layer: int, order: int | None = None) -> Operator:
    r"""Ψ_ℓ: the velocity of the conjugate field, ``dψ^ℓ/dt = −Ψ_ℓ r``.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.
    order : int, optional
        Keep the members with at most so many Gram factors; all by default (L − ℓ − 1 at most
        occur).

    Returns
    -------
    Operator of shape (N·k·n_ℓ, N·k)
        From residuals to the field ψ^ℓ (N, k, n_ℓ), flattened in C order; zero for ℓ = L, where
        ψ is the fixed readout.

    Raises
    ------
    ValueError, TypeError
        For a layer outside 1..L or a negative order.

    Notes
    -----
    .. math::
        (\Psi_\ell r)_{\mu p} = \eta_{\ell+1} \sum_\nu [D^{\ell+1}(r)]_{\mu p,\nu}\, a^\ell_\nu
            + W^{\ell+1,T} \theta^{\ell+1}_\mu (\Psi_{\ell+1} r)_{\mu p}, \qquad \Psi_L = 0.

    The first term is :math:`(\varphi^{\ell+1} \otimes I)(\varphi^{\ell+1} \odot a^\ell)^T r`: the
    conjugate Gram D applied through its factor.  2·N·(1 + k)·P_m flops for each layer m > ℓ and
    2·N·k·P_m for each hand-over.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> of.hierarchy.conjugate_velocity(fields, 1).shape
    (15, 3)
    >>> of.hierarchy.conjugate_velocity(fields, 2)
    <12x3 Zero 0 float64>
    """
    layer, order = check_layer(fields, layer), _order(fields, order)
    net, rows = fields.network, fields.samples * fields.network.outputs
    if layer == net.depth:
        return Zero(rows * net.widths[layer], rows, net.dtype)
    highest = min(net.depth, layer + 1 + order)
    for m in range(highest, layer, -1):
        phi = fields.conjugates[m - 1].reshape(rows, -1)
        phi = Matrix(phi, symbol=f"φ{_up(m)}")
        own = compose(
            FeatureLift(phi, net.widths[m - 1]),
            KhatriRao(phi, Matrix(fields.activations[m - 1], symbol=f"a{_up(m - 1)}")).T,
        )
        own = scale(net.rates[m - 1], own)
        if m == highest:
            velocity = own
        else:
            gates = fields.gates[m - 1].repeat(net.outputs, axis=0)
            gate = Mask(gates, symbol=f"θ{_up(m)}")
            velocity = add(own, compose(SampleLift(_weight(fields, m).T, rows), gate, velocity))
    return velocity


def field_velocities(fields: Fields, order: int | None = None) -> Operator:
    r"""All velocities at once, ``[H_1; …; H_L; Ψ_1; …; Ψ_L]``, with what they share done once.

    Parameters
    ----------
    fields : Fields
    order : int, optional
        As in :func:`hidden_velocity`.

    Returns
    -------
    Operator of shape (N·Σn_ℓ + N·k·Σn_ℓ, N·k)
        :func:`split` cuts a product into its fields.

    Raises
    ------
    ValueError, TypeError
        For a negative order.

    Notes
    -----
    The derivative of the fields along the direction :math:`J^T r` in which gradient flow moves
    the weights.  At full order one product costs 2·N·P flops for Jᵀ, 2·N·P for the hidden and
    2·N·k·(P − P_1) for the conjugate fields, and 2·N·(1 + k)·(P − P_1) at most for the
    hand-overs; the memory beyond the result does not grow with N.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> hidden, conjugate = of.hierarchy.split(
    ...     fields, of.hierarchy.field_velocities(fields) @ np.ones(3)
    ... )
    >>> [h.shape for h in hidden], [p.shape for p in conjugate]
    ([(3, 5), (3, 4)], [(3, 5), (3, 4)])
    """
    order = _order(fields, order)
    return compose(FieldTangent(fields, order), jacobian(fields, route="cached").T)


def split(fields: Fields, stacked: Any) -> tuple[list[Any], list[Any]]:
    """Views of a stacked field: hidden (N, n_ℓ) and conjugate (N, n_ℓ) or (N, k, n_ℓ).

    Parameters
    ----------
    fields : Fields
    stacked : array (N·Σn_ℓ + N·k·Σn_ℓ,)
        As :func:`field_velocities` gives it.

    Returns
    -------
    hidden, conjugate : lists of arrays, one a layer
        Shaped as ``fields.preactivations`` and ``fields.conjugates``.

    Raises
    ------
    ValueError
        If the shape is not that of a stacked field.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> of.hierarchy.split(fields, np.zeros(30))[0][0].shape
    (3, 5)
    """
    tangent = FieldTangent(check_fields(fields), fields.network.depth)
    if getattr(stacked, "shape", None) != tangent.shape[:1]:
        raise ValueError(
            f"stacked has shape {getattr(stacked, 'shape', None)} but the stacked fields are "
            f"{tangent.shape[:1]}"
        )
    hidden, conjugate = tangent.split(stacked[:, None])
    k = fields.network.outputs
    return (
        [h[..., 0] for h in hidden],
        [p[:, 0, :, 0] if k == 1 else p[..., 0] for p in conjugate],
    )


def field_errors(fields: Fields, reference: Fields) -> tuple[float, float]:
    """Relative distances of the hidden and of the conjugate fields from those of a reference.

    Parameters
    ----------
    fields, reference : Fields
        Of networks with the same widths and outputs, on the same number of samples.

    Returns
    -------
    hidden, conjugate : float
        √Σ_ℓ ‖h^ℓ − h^ℓ_ref‖² over √Σ_ℓ ‖h^ℓ_ref‖², and the same for φ.

    Raises
    ------
    TypeError, ValueError
        If the fields are of another network or training set.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> of.hierarchy.field_errors(fields, fields)
    (0.0, 0.0)
    """
    shapes = [
        (f.samples, *f.network.widths, f.network.outputs)
        for f in (check_fields(fields), check_fields(reference, "reference"))
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"reference has (N, d, n_1, …, n_L, k) = {shapes[1]} but fields has {shapes[0]}: "
            "they are of another network or training set"
        )
    return (
        _distance(fields.preactivations, reference.preactivations),
        _distance(fields.conjugates, reference.conjugates),
    )


def _distance(arrays: list[Any], references: list[Any]) -> float:
    def squares(values: Any) -> float:
        return float((values.astype(np.float64, copy=False) ** 2).sum())

    error = sum(squares(a - b) for a, b in zip(arrays, references, strict=True))
    return math.sqrt(error / (sum(map(squares, references)) or 1.0))


# -- parts and checks -------------------------------------------------------------------------


def _activation_gram(fields: Fields, layer: int) -> Operator:
    """A^ℓ, plus 1 if the layer above has a bias."""
    a = fields.activations[layer]
    gram: Operator = Gram(Matrix(a, symbol=f"a{_up(layer)}"), symbol=f"A{_up(layer)}")
    if fields.network.biases[layer] is not None:
        ones = namespace(fields.network.readout).ones((a.shape[0], 1), dtype=a.dtype)
        gram = add(gram, Gram(ones, symbol="1 1ᵀ"))
    return gram


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
    return Weight(W, symbol=f"W{_up(layer)}")


def _mask(fields: Fields, layer: int, sample: int, augmented: bool = False) -> Mask:
    gates = fields.activations[layer][sample] > 0
    if augmented:
        xp = namespace(gates)
        gates = xp.concatenate([gates, xp.ones(1, dtype=bool)])
    return Mask(gates, symbol=f"D{_up(layer)}{_down(sample)}")


def _down(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def check_fields(fields: Any, name: str = "fields") -> Fields:
    if not isinstance(fields, Fields):
        raise TypeError(f"{name} must be an opflow Fields, not {type(fields).__name__}")
    return fields


def _integer(value: Any, name: str, low: int, high: float) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be {limits}, not {value}")
    return int(value)


def check_layer(fields: Fields, layer: Any, name: str = "layer") -> int:
    return _integer(layer, name, 1, check_fields(fields).network.depth)


def _layers(fields: Fields, lower: Any, upper: Any) -> tuple[int, int]:
    lower, upper = check_layer(fields, lower, "lower"), check_layer(fields, upper, "upper")
    if lower > upper:
        raise ValueError(f"lower must not be above upper, but lower = {lower}, upper = {upper}")
    return lower, upper


def _sample(fields: Fields, sample: Any, name: str) -> int:
    return _integer(sample, name, 0, fields.samples - 1)


def _order(fields: Fields, order: Any) -> int:
    return (
        check_fields(fields).network.depth
        if order is None
        else _integer(order, "order", 0, math.inf)
    )
