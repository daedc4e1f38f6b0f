"""Velocity operators of hidden fields (H_ℓ) and conjugate fields (Ψ_ℓ), truncated or not.

They are compositions of lifts, masks and Grams that read as the recursions do;
:func:`field_velocities` applies all of them at once, and what they share once.
"""

from __future__ import annotations

import math

import numpy as np

from opflow.machine.arrays import Array
from opflow.operators import BlockDiagonal, FeatureLift, Operator, SampleLift, Zero
from opflow.operators.describe import superscript
from opflow.operators.rules import add, compose, scale
from opflow.relu.checks import check_fields, check_layer, check_order
from opflow.relu.fields import Fields
from opflow.relu.grams import (
    activation_factor,
    activation_gram,
    conjugate_factor,
    slope_mask,
    weight,
)
from opflow.relu.hierarchy.tangent import FieldTangent
from opflow.relu.jacobian import jacobian
from opflow.relu.readout_jacobian import layer_jacobian


def hidden_velocity(fields: Fields, layer: int, order: int | None = None) -> Operator:
    r"""Return H_ℓ, the velocity of a hidden field: ``dh^ℓ/dt = −H_ℓ r``.

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

    See Also
    --------
    opflow.hierarchy.conjugate_velocity : The velocity of a conjugate field.
    opflow.hierarchy.field_velocities : All velocities at once.
    opflow.hierarchy.pushforward : Its members, sample pair by sample pair.
    opflow.collective_kernel : The kernel that follows from it.

    Notes
    -----
    The dynamics of hidden fields of [1]_, as an operator:

    .. math::
        H_\ell = \eta_\ell (A^{\ell-1} \otimes I)\, \varphi^{\ell T}
            + (I \otimes W^\ell)\, \theta^{\ell-1} H_{\ell-1}, \qquad H_0 = 0;

    a bias adds 1 to A, and other units have their slopes s in the place of θ.  The kernel follows
    by reading the outputs off the top field: :math:`(I \otimes V)\, \theta^L H_L` is K without
    the share of a trained readout.  A product costs 4·N·P_m flops for each layer m <= ℓ and
    2·N·P_m for each propagation step, O(N·n) memory, and no pair of samples is visited.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

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
    layer = check_layer(fields, layer)
    net = fields.network
    lowest = max(1, layer - check_order(fields, order))  # the truncation cuts off what is below
    n = fields.samples
    velocity: Operator = Zero(n * net.widths[0], n * net.outputs, net.dtype)  # H_0
    for m in range(lowest, layer + 1):
        A = FeatureLift(activation_gram(fields, m - 1), net.widths[m])
        phi = BlockDiagonal(fields.conjugates[m - 1], symbol=f"φ{superscript(m)}")
        own = scale(net.rates[m - 1], compose(A, phi.T))
        if m > lowest:
            gate = slope_mask(fields, m - 1)
            W = SampleLift(weight(fields, m), n)
            own = add(own, compose(W, gate, velocity))
        velocity = own
    return velocity


def conjugate_velocity(fields: Fields, layer: int, order: int | None = None) -> Operator:
    r"""Return Ψ_ℓ, the velocity of a conjugate field: ``dψ^ℓ/dt = −Ψ_ℓ r``.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.
    order : int, optional
        Keep the members with at most so many Gram factors; all by default (L − ℓ − 1 at most
        occur, one more with a trained readout).

    Returns
    -------
    Operator of shape (N·k·n_ℓ, N·k)
        From residuals to the field ψ^ℓ (N, k, n_ℓ), flattened in C order; zero for ℓ = L, where
        ψ is the readout, unless that is trained.

    See Also
    --------
    opflow.hierarchy.hidden_velocity : The velocity of a hidden field.
    opflow.hierarchy.field_velocities : All velocities at once.
    opflow.hierarchy.pullback : Its members, sample pair by sample pair.

    Notes
    -----
    The dynamics of conjugate fields of [1]_, as an operator.  Other units have their slopes s in
    the place of θ.  A trained readout is a layer L + 1 with
    :math:`\varphi = 1`, so that :math:`\Psi_L r = \eta_V \sum_\nu r_\nu a^L_\nu` in the place of 0.

    .. math::
        (\Psi_\ell r)_{\mu p} = \eta_{\ell+1} \sum_\nu [D^{\ell+1}(r)]_{\mu p,\nu}\, a^\ell_\nu
            + W^{\ell+1,T} \theta^{\ell+1}_\mu (\Psi_{\ell+1} r)_{\mu p}, \qquad \Psi_L = 0.

    The first term is :math:`(\varphi^{\ell+1} \otimes I)(\varphi^{\ell+1} \odot a^\ell)^T r`: the
    conjugate Gram D applied through its factor.  2·N·(1 + k)·P_m flops for each layer m > ℓ and
    2·N·k·P_m for each propagation step.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> of.hierarchy.conjugate_velocity(fields, 1).shape
    (15, 3)
    >>> of.hierarchy.conjugate_velocity(fields, 2)
    <12x3 Zero 0 float64>
    """
    layer = check_layer(fields, layer)
    net = fields.network
    rows = fields.samples * net.outputs
    velocity: Operator = Zero(rows * net.widths[layer], rows, net.dtype)
    rates = net.layer_rates()
    highest = min(len(rates), layer + 1 + check_order(fields, order))  # cut off what is above
    for m in range(highest, layer, -1):
        phi = conjugate_factor(fields, m)
        J = layer_jacobian(phi, activation_factor(fields, m - 1))
        own = scale(rates[m - 1], compose(FeatureLift(phi, net.widths[m - 1]), J.T))
        if m < highest:
            gate = slope_mask(fields, m, repeat=net.outputs)
            W = SampleLift(weight(fields, m).T, rows)
            own = add(own, compose(W, gate, velocity))
        velocity = own
    return velocity


def field_velocities(fields: Fields, order: int | None = None) -> Operator:
    r"""Stack all velocities, ``[H_1; …; H_L; Ψ_1; …; Ψ_L]``; what they share is computed once.

    Parameters
    ----------
    fields : Fields
    order : int, optional
        As in :func:`hidden_velocity`.

    Returns
    -------
    Operator of shape (N·Σn_ℓ + N·k·Σn_ℓ, N·k)
        :func:`split` cuts a product into its fields.

    See Also
    --------
    opflow.hierarchy.split : Cuts a product into fields.
    opflow.hierarchy.hidden_velocity : H of one layer.
    opflow.hierarchy.conjugate_velocity : Ψ of one layer.
    opflow.TruncatedFlow : The flow along truncated velocities.

    Notes
    -----
    The derivative of the fields along the direction :math:`J^T r` in which gradient flow moves
    the weights.  At full order one product costs 2·N·P flops for Jᵀ, 2·N·P for the hidden and
    2·N·k·(P − P_1) for the conjugate fields, and 2·N·(1 + k)·(P − P_1) at most for the
    propagation steps; the memory beyond the result does not grow with N.

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
    order = check_order(fields, order)
    return compose(FieldTangent(fields, order), jacobian(fields, route="cached").T)


def split(fields: Fields, stacked: Array) -> tuple[list[Array], list[Array]]:
    """Cut a stacked field into views: hidden (N, n_ℓ) and conjugate (N, n_ℓ) or (N, k, n_ℓ).

    Parameters
    ----------
    fields : Fields
    stacked : array (N·Σn_ℓ + N·k·Σn_ℓ,)
        As :func:`field_velocities` gives it.

    Returns
    -------
    hidden, conjugate : lists of arrays, one a layer
        Shaped as ``fields.preactivations`` and ``fields.conjugates``.

    See Also
    --------
    opflow.hierarchy.field_velocities : Gives stacked fields.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> of.hierarchy.split(fields, np.zeros(30))[0][0].shape
    (3, 5)
    """
    tangent = FieldTangent(check_fields(fields), fields.network.depth)
    shape = getattr(stacked, "shape", None)
    if shape != tangent.shape[:1]:
        raise ValueError(
            f"stacked has shape {shape} but the stacked fields are {tangent.shape[:1]}"
        )
    hidden, conjugate = tangent.split(stacked[:, None])
    if fields.network.outputs == 1:
        conjugate = [p[:, 0] for p in conjugate]
    return [h[:, 0, :, 0] for h in hidden], [p[..., 0] for p in conjugate]


def field_errors(fields: Fields, reference: Fields) -> tuple[float, float]:
    """Return the relative distances of hidden and conjugate fields from those of a reference.

    Parameters
    ----------
    fields, reference : Fields
        Of networks with the same widths and outputs, on the same number of samples.

    Returns
    -------
    hidden, conjugate : float
        √Σ_ℓ ‖h^ℓ − h^ℓ_ref‖² over √Σ_ℓ ‖h^ℓ_ref‖², and the same for φ.

    See Also
    --------
    opflow.observe.TruncationError : Records them along a run.
    opflow.TruncatedFlow : A flow that is compared so.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> of.hierarchy.field_errors(fields, fields)
    (0.0, 0.0)
    """
    shape = _shape(check_fields(fields))
    expected = _shape(check_fields(reference, "reference"))
    if shape != expected:
        raise ValueError(
            f"reference has (N, d, n_1, …, n_L, k) = {expected} but fields has {shape}: "
            "they are of another network or training set"
        )
    return (
        _distance(fields.preactivations, reference.preactivations),
        _distance(fields.conjugates, reference.conjugates),
    )


def _shape(fields: Fields) -> tuple[int, ...]:
    return fields.samples, *fields.network.widths, fields.network.outputs


def _distance(arrays: list[Array], references: list[Array]) -> float:
    """‖a − b‖ over ‖b‖, all arrays together."""
    error = sum(_squares(a - b) for a, b in zip(arrays, references, strict=True))
    return math.sqrt(error / (sum(map(_squares, references)) or 1.0))


def _squares(values: Array) -> float:
    return float((values.astype(np.float64, copy=False) ** 2).sum())
