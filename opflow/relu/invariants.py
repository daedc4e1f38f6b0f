"""Invariants of gradient flow: balancedness, and the closed equations of the weight Grams."""

from __future__ import annotations

import itertools

import numpy as np

from opflow.machine.arrays import Array, Data, namespace, to_device_of
from opflow.operators import GramVelocity, Matrix, Operator
from opflow.operators.rules import scale
from opflow.relu.checks import check_layer, check_residual
from opflow.relu.fields import Fields
from opflow.relu.inputs import input_operator
from opflow.relu.network import ReLUNetwork


def balances(network: ReLUNetwork) -> tuple[list[Array], float]:
    r"""The balancedness invariants of each trained layer but the last, and their largest norm.

    Parameters
    ----------
    network : ReLUNetwork

    Returns
    -------
    invariants : list of arrays (n_ℓ,), float64
    size : float
        The largest of the squared norms that they are differences of; 1 if there is none.

    See Also
    --------
    opflow.observe.Balancedness : Their drift along a run.

    Notes
    -----
    :math:`\|W^{\ell+1}_{:,j}\|^2/\eta_{\ell+1} - (\|W^\ell_{j,:}\|^2 + b_j^2)/\eta_\ell` is
    constant along the gradient flow [1]_ for every hidden unit j below the top layer, and for those
    of the top layer too where the readout is trained, which is :math:`W^{L+1}` then.  A frozen
    layer (η = 0) and the one below it have none: an empty array stands there.  4·P flops.

    References
    ----------
    .. [1] S. S. Du, W. Hu, J. D. Lee, "Algorithmic regularization in learning deep homogeneous
       models: layers are automatically balanced", 2018, arXiv:1806.00900.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork([np.ones((2, 3)), 2 * np.ones((4, 2))], np.ones((1, 4)))
    >>> of.observe.balances(net)
    ([array([13., 13.])], 16.0)
    """
    invariants = []
    size = 0.0
    layers = zip(network.layers(), network.layer_rates(), strict=True)
    for ((W, bias), rate), ((above, _), rate_above) in itertools.pairwise(layers):
        if not (rate and rate_above):
            invariants.append(namespace(W).empty(0))
            continue
        incoming = _squares(W, axis=1)
        if bias is not None:
            incoming = incoming + bias.astype(np.float64) ** 2
        incoming = incoming / rate
        outgoing = _squares(above, axis=0) / rate_above
        invariants.append(outgoing - incoming)
        size = max(size, float(incoming.max()), float(outgoing.max()))
    return invariants, size or 1.0


def balance_drift(network: ReLUNetwork, start: list[Array], size: float) -> float:
    """The largest distance of an invariant from what it was at the start, relative to `size`.

    `start` and `size` are the :func:`balances` of the network at the start.  0 where there is no
    invariant: with one hidden layer and a fixed readout.

    Examples
    --------
    >>> import opflow as of
    >>> from opflow.relu.invariants import balance_drift, balances
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> balance_drift(net, *balances(net))
    0.0
    """
    now, _ = balances(network)
    drifts = [
        float(abs(a - to_device_of(b, a)).max()) for a, b in zip(now, start, strict=True) if len(a)
    ]
    return max(drifts, default=0.0) / size


def weight_gram_velocity(
    fields: Fields, layer: int, residual: Data, side: str = "input"
) -> Operator:
    r"""Return the velocity of a weight Gram, d(WᵀW)/dt or d(WWᵀ)/dt, from the fields alone.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.
    residual : array (N, k), (N,) for k = 1, or (N·k,)
        r = f − y.
    side : {"input", "output"}
        WᵀW, on the layer's input units, or WWᵀ, on its output units.

    Returns
    -------
    Operator
        Symmetric, of shape (n_{ℓ-1}, n_{ℓ-1}) or (n_ℓ, n_ℓ).

    See Also
    --------
    opflow.GramVelocity : The class of the result, up to a factor.
    opflow.observe.GramClosure : Checks the equation along a run.
    opflow.observe.balances : Invariants of the same flow.
    opflow.kernel_velocity : The velocity of the kernel.

    Notes
    -----
    .. math::
        d(W^{\ell T} W^\ell)/dt = -\eta_\ell \sum_\nu (a^{\ell-1}_\nu \rho_\nu^T
            + \rho_\nu a^{\ell-1,T}_\nu), \qquad \rho_\nu = \psi^{\ell-1,T}_\nu r_\nu,

        d(W^\ell W^{\ell T})/dt = -\eta_\ell \sum_\nu (s_\nu u_\nu^T + u_\nu s_\nu^T), \qquad
            s_\nu = \varphi^{\ell T}_\nu r_\nu, \quad u_\nu = h^\ell_\nu - b^\ell.

    2·N·n_ℓ·(k + n_{ℓ-1}) flops and N·n numbers here; a product costs 8·N·n flops a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> of.weight_gram_velocity(fields, 2, fields.outputs - 1.0).shape
    (5, 5)
    """
    if side not in ("input", "output"):
        raise ValueError(f"side must be 'input' or 'output', not {side!r}")
    layer = check_layer(fields, layer)
    r = check_residual(fields, residual).reshape(fields.samples, -1)
    if layer == 1 and fields.inputs is None:
        raise ValueError("these fields were built from gram=, without X, so there is no W¹")
    W = fields.network.weights[layer - 1]
    phi = fields.conjugate(layer).reshape(len(r), -1, len(W))
    s = (r[:, None, :] @ phi)[:, 0]
    a = input_operator(fields.activations[layer - 1], "a")
    if side == "input":
        moving = GramVelocity(a.T, Matrix(s @ W, symbol="ρ").T)
    else:
        moving = GramVelocity(Matrix(a.matmat(W.T), symbol="u").T, Matrix(s, symbol="s").T)
    return scale(-fields.network.rates[layer - 1], moving)


def _squares(W: Array, axis: int) -> Array:
    """Sums of squares along an axis, in float64."""
    return (W.astype(np.float64) ** 2).sum(axis=axis)
