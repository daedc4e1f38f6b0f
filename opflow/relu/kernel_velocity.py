"""The kernel velocity dK/dt, from the velocities of the fields alone.

The product rule for Grams whose factors move: ``dK/dt = Σ_ℓ η_ℓ (Ȧ^{ℓ-1} ∘ D^ℓ + A^{ℓ-1} ∘ Ḋ^ℓ)``
inside an activation region, where gates are constant.
"""

from __future__ import annotations

from typing import NamedTuple

from opflow.machine.arrays import Data
from opflow.operators import GramVelocity, KhatriRao, Matrix, Operator, Zero
from opflow.operators.describe import superscript
from opflow.operators.rules import add, scale
from opflow.relu.checks import check_residual
from opflow.relu.fields import Fields
from opflow.relu.grams import activation_factor, conjugate_factor
from opflow.relu.hierarchy.velocities import field_velocities, split
from opflow.relu.readout_jacobian import layer_jacobian
from opflow.relu.units import sloped

__all__ = ["KernelVelocity", "kernel_velocity", "layer_kernel_velocities"]


class KernelVelocity(NamedTuple):
    """The two parts of the velocity of a layer's kernel, which is their sum.

    Attributes
    ----------
    activations : Operator
        η Ȧ ∘ D, because activations move; zero in the first layer, whose inputs are fixed.
    conjugates : Operator
        η A ∘ Ḋ, because conjugates move; zero in the last layer, whose φ is fixed by its gates
        (the one below a fixed readout, or a trained readout itself).

    See Also
    --------
    opflow.layer_kernel_velocities : Makes one per layer.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> first, _ = of.layer_kernel_velocities(fields, fields.outputs - 1.0)
    >>> first.conjugates.shape
    (3, 3)
    """

    activations: Operator
    conjugates: Operator


def kernel_velocity(fields: Fields, residual: Data) -> Operator:
    r"""Return dK/dt along gradient flow, inside the activation region.

    Parameters
    ----------
    fields : Fields
    residual : array (N, k), (N,) for k = 1, or (N·k,)
        r = f − y, of the network's dtype or converted to it.

    Returns
    -------
    Operator of shape (N·k, N·k), symmetric
        Zero for one hidden layer and a fixed readout, where K moves only when gates flip.

    See Also
    --------
    opflow.collective_kernel : K itself.
    opflow.layer_kernel_velocities : The same layer by layer.
    opflow.hierarchy.field_velocities : How the fields move.

    Notes
    -----
    .. math::
        \dot K = \sum_\ell \eta_\ell (\dot A^{\ell-1} \circ D^\ell + A^{\ell-1} \circ
        \dot D^\ell) = \dot J J^T + J \dot J^T, \qquad
        \dot J_\ell = \dot\varphi^\ell \odot a^{\ell-1} + \varphi^\ell \odot \dot a^{\ell-1},

    the first of a hierarchy of equations for the kernel [1]_, with :math:`\dot a^\ell =
    -\theta^\ell \circ H_\ell r` and :math:`\dot\varphi^\ell = -\theta^\ell \circ \Psi_\ell r` (θ
    the slopes of other units), computed once here and kept, N·(1 + k)·Σn_ℓ numbers.  A product
    costs about 12·N·P flops a column and forms no N × N array.

    References
    ----------
    .. [1] J. Huang, H.-T. Yau, "Dynamics of deep neural networks and neural tangent hierarchy",
       2019, arXiv:1909.08156.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> dK = of.kernel_velocity(fields, fields.outputs - 1.0)
    >>> dK.symmetric, dK.psd, dK.shape
    (True, False, (3, 3))
    """
    return add(*(layer.velocity() for layer in _layers(fields, residual)))


def layer_kernel_velocities(fields: Fields, residual: Data) -> list[KernelVelocity]:
    r"""Return dK/dt layer by layer, in two parts: activations moving, conjugates moving.

    Parameters
    ----------
    fields, residual
        As :func:`kernel_velocity`.

    Returns
    -------
    list of KernelVelocity
        First layer first, a trained readout last; all of them add up to :func:`kernel_velocity`.

    See Also
    --------
    opflow.kernel_velocity : Their sum.
    opflow.layer_kernels : The kernels that move.
    opflow.KernelVelocity : The two parts of a layer.

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
    return [
        KernelVelocity(layer._replace(dphi=None).velocity(), layer._replace(da=None).velocity())
        for layer in _layers(fields, residual)
    ]


class _Layer(NamedTuple):
    """The factors of a layer's kernel and their velocities, None where they are fixed."""

    rate: float
    bias: bool
    phi: Operator
    a: Operator
    dphi: Operator | None
    da: Operator | None

    def velocity(self) -> Operator:
        """The velocity of the layer's kernel."""
        moved: list[Operator] = []
        if self.dphi is not None:
            moved.append(KhatriRao(self.dphi, self.a))
        if self.da is not None:
            moved.append(layer_jacobian(self.phi, self.da))
        grams: list[Operator] = [Zero(self.phi.shape[0], dtype=self.phi.dtype)]
        if moved:  # one Gram a layer: both parts share the products with φ ⊙ a
            grams.append(GramVelocity(layer_jacobian(self.phi, self.a), add(*moved)))
        if self.bias and self.dphi is not None:  # the 1 that a bias adds to A
            grams.append(GramVelocity(self.phi, self.dphi))
        return add(*(scale(self.rate, gram) for gram in grams))


def _layers(fields: Fields, residual: Data) -> list[_Layer]:
    """Layer by layer, the factors of the kernel and their velocities along gradient flow."""
    r = check_residual(fields, residual).reshape(-1)
    net = fields.network
    dh, dpsi = split(fields, field_velocities(fields) @ -r)
    slopes = list(zip(fields.gates, net.slopes, strict=True))
    layers = []
    trained = net.layers()
    for i, rate in enumerate(net.layer_rates()):
        dphi = da = None
        if i + 1 < len(trained):
            velocity = sloped(dpsi[i], *slopes[i], dpsi[i])
            velocity = velocity.reshape(-1, velocity.shape[-1])
            dphi = Matrix(velocity, symbol=f"dφ{superscript(i + 1)}")
        if i:
            velocity = sloped(dh[i - 1], *slopes[i - 1], dh[i - 1])
            da = Matrix(velocity, symbol=f"da{superscript(i)}")
        phi = conjugate_factor(fields, i + 1)
        a = activation_factor(fields, i)
        layers.append(_Layer(rate, trained[i][1] is not None, phi, a, dphi, da))
    return layers
