"""The Jacobian of the outputs: conjugate fields times activations, or by transport."""

from __future__ import annotations

from opflow.machine.arrays import Data, is_sparse, module_name
from opflow.machine.cost import NOMINAL
from opflow.machine.ranks import Sharded
from opflow.operators import HStack, Operator, PackedGates, ScaledGates, Zero
from opflow.operators.describe import superscript
from opflow.operators.kfac import Factors, kfac_blocks
from opflow.operators.operator import Cost, placed
from opflow.operators.outputs import check_outputs, of_outputs
from opflow.operators.rules import is_operator, scale
from opflow.operators.sharded import ShardedRows
from opflow.relu.directions import layer_scales
from opflow.relu.fields import Fields
from opflow.relu.grams import activation_symbol, conjugate_factor
from opflow.relu.inputs import input_operator
from opflow.relu.passes import gates_suffice
from opflow.relu.readout_jacobian import layer_jacobian
from opflow.relu.storage import packs_top
from opflow.relu.transport import Transport

#: how J is applied: through cached conjugates, or by passes that recompute them
ROUTES = ("cached", "transport")


def jacobian(
    fields: Fields,
    *,
    route: str | None = None,
    rates: bool = True,
    outputs: str | int = "all",
) -> Operator:
    r"""Return the Jacobian of the outputs with respect to the trained parameters.

    Parameters
    ----------
    fields : Fields
    route : {"cached", "transport"}, optional
        Through cached conjugates, or by backward and forward passes that store none; the cheaper
        by the cost model when not given.
    rates : bool, default True
        Scale the columns of layer ℓ by √η_ℓ, so that ``K = J Jᵀ`` for any rates; ``False``
        gives ∂f/∂W itself.  No difference for rates of 1.
    outputs : {"all", "sum", "trace"} or int, default "all"
        Of the k outputs of a sample: all, their sum, the one of this number, or all with columns of
        their own: (N, k·P), whose Gram is the sum of the kernels of all outputs.

    Returns
    -------
    Operator of shape (N·k, P), or with N rows for other outputs than all
        Rows: outputs flattened sample-major.  Columns: ``[vec W¹, b¹, vec W², …]``, vec in C
        order, biases where there are any; then those of a trained readout, ``[vec V, c]``.

    See Also
    --------
    opflow.collective_kernel : ``J Jᵀ``, the neural tangent kernel.
    opflow.hessian : The Hessian and its Gauss–Newton part.
    opflow.kfac : An approximation of ``Jᵀ J``.
    opflow.torch.jacobian : The Jacobian of any PyTorch module.

    Notes
    -----
    :math:`J_\ell = \varphi^\ell \odot a^{\ell-1}`, a trained readout being a layer with
    :math:`\varphi = 1`.  With rates it is the Jacobian in the
    coordinates :math:`W/\sqrt{\eta}`, in which the flow is a plain gradient flow; ``J.T @ J``
    (P × P) is the Gauss–Newton matrix there and has the nonzero spectrum of K.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 5, 4], outputs=2, seed=0)
    >>> fields = net.fields(np.eye(3))
    >>> J, K = of.jacobian(fields), of.collective_kernel(fields)
    >>> J.shape, bool(np.allclose((J @ J.T).todense(), K.todense()))
    ((6, 35), True)
    """
    if fields.gram is not None:
        raise ValueError("these fields know their inputs by a Gram alone: there is no Jacobian")
    check_outputs(outputs)
    if jacobian_route(fields, route) == "transport":
        return chosen_outputs(fields, Transport(fields, rates=rates), outputs)
    scales = layer_scales(fields.network, rates)
    layers = [
        scale(size, part)
        for size, parts in zip(scales, layer_jacobians(fields), strict=True)
        for part in parts
    ]
    J = layers[0] if len(layers) == 1 else HStack(layers, symbol="J")
    return chosen_outputs(fields, J, outputs)


def layer_jacobians(fields: Fields, first: int = 1) -> list[list[Operator]]:
    """For each trained layer from `first`, ``φ ⊙ a`` and, with a bias, φ itself (no rates)."""
    net = fields.network
    if not fields.samples:
        return [[_no_rows(fields, p.size) for p in pair if p is not None] for pair in net.layers()]
    out: list[list[Operator]] = []
    layers = net.layers()
    below = fields.activations if len(layers) > 1 else [fields.inputs]
    for layer in range(first, len(layers) + 1):
        a = below[layer - 1]
        conjugate = _conjugate(fields, layer, a)
        parts = [layer_jacobian(conjugate, input_operator(a, activation_symbol(layer - 1)))]
        if layers[layer - 1][1] is not None:
            parts.append(conjugate)
        out.append(parts)
    return out


def _conjugate(fields: Fields, layer: int, below: Data) -> Operator:
    """φ^ℓ, (N·k, n_ℓ): as gates where it is no more than these and their products are faster."""
    net = fields.network
    if layer == net.depth and fields.derived and gates_suffice(net, below):
        gates = PackedGates.from_bits(fields.top_bits, net.widths[-1], net.dtype, net.slopes[-1])
        return ScaledGates(gates, net.readout[0], symbol=f"φ{superscript(layer)}")
    return conjugate_factor(fields, layer)


def reads_rows(fields: Fields) -> bool:
    """Whether transport can read the inputs it needs."""
    return fields.inputs is not None and not is_operator(fields.inputs)


def jacobian_route(fields: Fields, route: str | None) -> str:
    """One of `ROUTES`: the one that was asked for, or the cheaper one."""
    if route not in (None, *ROUTES):
        raise ValueError(f"route must be 'cached' or 'transport', not {route!r}")
    if not fields.samples:
        return "cached"
    if route == "transport" and not fields.derived:
        raise ValueError("route='transport' recomputes fields from weights; these are a state")
    if route == "transport" and not reads_rows(fields):
        raise ValueError("route='transport' needs inputs that can be read by rows")
    if route is not None:
        return route
    net = fields.network
    n = fields.samples
    if fields.storage != "cached":
        held = net.depth == 1 and packs_top(net, fields.storage)  # the conjugates, as gates
        return "cached" if held and gates_suffice(net, fields.inputs) else "transport"
    recomputable = fields.derived and reads_rows(fields)
    if net.outputs == 1 or is_sparse(fields.inputs) or not recomputable:
        return "cached"
    # Both do the same GEMMs with the parameters; cached then reads N·k·Σn conjugates twice,
    # transport pays a second chain of GEMMs through the layers above the first.
    # The rates are nominal: the form of K does not depend on the machine unless materialise asks.
    entries = n * net.outputs * sum(net.widths[1:])
    upper = sum(W.size for W in net.weights[1:])
    costs = {
        "cached": Cost(4.0 * entries, 2.0 * entries * net.dtype.itemsize),
        "transport": Cost(4.0 * n * (upper + net.readout.size), 0.0),
    }
    return min(costs, key=lambda name: NOMINAL.seconds(costs[name], net.dtype))


def chosen_outputs(fields: Fields, rows: Operator, outputs: str | int) -> Operator:
    """The rows of a Jacobian that `outputs` names, with those of other ranks."""
    k = fields.network.outputs
    if fields.samples or outputs == "all":
        chosen = of_outputs(rows, k, outputs)
    else:
        width = rows.shape[1] * (k if outputs == "trace" else 1)
        chosen = _no_rows(fields, width)
    if not isinstance(fields.space, Sharded):
        return chosen
    return ShardedRows(chosen, fields.space, k if outputs == "all" else 1)


def _no_rows(fields: Fields, width: int) -> Operator:
    """Columns of the Jacobian of no samples: other ranks have some."""
    V = fields.network.readout
    return placed(Zero(0, width, V.dtype), module_name(V))


@kfac_blocks.register
def _kfac_blocks(J: Transport) -> list[Factors]:
    return kfac_blocks(jacobian(J.fields, route="cached", rates=J.rates))
