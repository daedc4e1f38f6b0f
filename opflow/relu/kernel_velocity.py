"""The kernel velocity dK/dt, from the velocities of the fields alone.

The product rule for Grams whose factors move: ``dK/dt = Σ_ℓ η_ℓ (Ȧ^{ℓ-1} ∘ D^ℓ + A^{ℓ-1} ∘ Ḋ^ℓ)``
inside an activation region, where gates are constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from opflow.operators import GramVelocity, KhatriRao, Matrix, Operator, Zero
from opflow.operators.algebra import add, scale
from opflow.operators.describe import superscript
from opflow.relu.fields import Fields, check_fields
from opflow.relu.hierarchy.velocities import check_residual, field_velocities, split
from opflow.relu.inputs import input_operator

__all__ = ["KernelVelocity", "kernel_velocity", "layer_kernel_velocities"]


class KernelVelocity(NamedTuple):
    """What moves one layer's kernel; the sum of the two is its velocity.

    Attributes
    ----------
    activations : Operator
        η Ȧ ∘ D, because activations move; zero in the first layer, whose inputs are fixed.
    conjugates : Operator
        η A ∘ Ḋ, because conjugates move; zero in the last layer, whose readout is fixed.
    """

    activations: Operator
    conjugates: Operator


def kernel_velocity(fields: Fields, residual: Any) -> Operator:
    r"""dK/dt along gradient flow, inside the activation region.

    Parameters
    ----------
    fields : Fields
    residual : array (N, k), (N,) for k = 1, or (N·k,)
        r = f − y, of the network's dtype or converted to it.

    Returns
    -------
    Operator of shape (N·k, N·k), symmetric
        Zero for one hidden layer, where K moves only when gates flip.

    Notes
    -----
    .. math::
        \dot K = \sum_\ell \eta_\ell (\dot A^{\ell-1} \circ D^\ell + A^{\ell-1} \circ
        \dot D^\ell) = \dot J J^T + J \dot J^T, \qquad
        \dot J_\ell = \dot\varphi^\ell \odot a^{\ell-1} + \varphi^\ell \odot \dot a^{\ell-1},

    with :math:`\dot a^\ell = -\theta^\ell \circ H_\ell r` and :math:`\dot\varphi^\ell =
    -\theta^\ell \circ \Psi_\ell r`, computed once here and kept, N·(1 + k)·Σn_ℓ numbers.  A
    product costs about 12·N·P flops a column and forms no N × N array.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> dK = of.kernel_velocity(fields, fields.outputs - 1.0)
    >>> dK.symmetric, dK.psd, dK.shape
    (True, False, (3, 3))
    """
    net = check_fields(fields).network
    total: list[Operator] = [Zero(fields.samples * net.outputs, dtype=net.dtype)]
    for (phi, a), (dphi, da), rate, b in zip(
        *_moving(fields, residual), net.rates, net.biases, strict=True
    ):
        moved = [KhatriRao(dphi, a)] if dphi is not None else []
        moved += [KhatriRao(phi, da)] if da is not None else []
        if moved:  # one Gram a layer: both parts share the products with φ ⊙ a
            total.append(scale(rate, GramVelocity(KhatriRao(phi, a), add(*moved))))
        if b is not None and dphi is not None:  # the 1 that a bias adds to A
            total.append(scale(rate, GramVelocity(phi, dphi)))
    return add(*total)


def layer_kernel_velocities(fields: Fields, residual: Any) -> list[KernelVelocity]:
    r"""dK/dt layer by layer, in two parts: activations moving, conjugates moving.

    Parameters
    ----------
    fields, residual
        As :func:`kernel_velocity`.

    Returns
    -------
    list of KernelVelocity
        First layer first; all of them add up to :func:`kernel_velocity`.

    Notes
    -----
    :math:`\eta_\ell \dot A^{\ell-1} \circ D^\ell` and :math:`\eta_\ell A^{\ell-1} \circ
    \dot D^\ell`, each 8·N·P_ℓ flops a product; a bias adds 1 to A.  ``trace()`` of a part is
    exact, O(N·n).

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> first, second = of.layer_kernel_velocities(fields, fields.outputs - 1.0)
    >>> first.activations.symbol, second.conjugates.symbol
    ('0', '0')
    """
    net = check_fields(fields).network
    zero: Operator = Zero(fields.samples * net.outputs, dtype=net.dtype)
    layers = []
    for (phi, a), (dphi, da), rate, b in zip(
        *_moving(fields, residual), net.rates, net.biases, strict=True
    ):
        J, A, D = KhatriRao(phi, a), zero, zero
        if da is not None:
            A = scale(rate, GramVelocity(J, KhatriRao(phi, da)))
        if dphi is not None:
            D = scale(rate, GramVelocity(J, KhatriRao(dphi, a)))
            if b is not None:
                D = add(D, scale(rate, GramVelocity(phi, dphi)))
        layers.append(KernelVelocity(A, D))
    return layers


_Pairs = list[tuple[Operator | None, Operator | None]]


def _moving(fields: Fields, residual: Any) -> tuple[list[tuple[Operator, Operator]], _Pairs]:
    """(φ^ℓ, a^{ℓ-1}) of each layer, and their velocities, None where fixed."""
    r = check_residual(fields, residual)
    dh, dpsi = split(fields, field_velocities(fields) @ r.reshape(-1))
    still: list[tuple[Operator, Operator]] = []
    moved: _Pairs = []
    for i in range(fields.network.depth):
        below, up = superscript(i), superscript(i + 1)
        a = fields.activations[i]
        still.append(
            (
                _rows(fields.conjugates[i], f"φ{up}"),
                input_operator(a, f"a{below}" if i else "X"),
            )
        )
        dphi = da = None
        if i + 1 < fields.network.depth:
            dphi = _rows(_gated(dpsi[i], fields.activations[i + 1]), f"dφ{up}")
        if i:
            da = Matrix(_gated(dh[i - 1], a), symbol=f"da{below}")
        moved.append((dphi, da))
    return still, moved


def _rows(phi: Any, symbol: str) -> Matrix:
    """Conjugates with the outputs along the rows, (N·k, n)."""
    return Matrix(phi.reshape(-1, phi.shape[-1]), symbol=symbol)


def _gated(velocity: Any, activation: Any) -> Any:
    """``−θ ∘ velocity``, in place."""
    gates = activation > 0
    velocity *= -(gates if velocity.ndim == 2 else gates[:, None, :]).astype(velocity.dtype)
    return velocity
