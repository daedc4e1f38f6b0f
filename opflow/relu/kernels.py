"""The layer kernels and the collective kernel ``K = Σ_ℓ η_ℓ A^{ℓ-1} ∘ D^ℓ``.

Nothing N × N is formed: ``A ∘ D`` is the Gram operator of the Khatri–Rao product φ ⊙ a, which
is the Jacobian of the layer.
"""

from __future__ import annotations

from functools import partial

from opflow.evaluation import GramSide
from opflow.machine.arrays import Data, is_sparse, namespace
from opflow.operators import CrossGram, Gram, Operator
from opflow.operators.describe import superscript
from opflow.operators.measuring import measuring_operator
from opflow.operators.outputs import check_outputs
from opflow.operators.pullback import pushforward
from opflow.operators.rules import add, scale
from opflow.relu.checks import check_fields
from opflow.relu.fields import Fields
from opflow.relu.grams import conjugate_factor
from opflow.relu.jacobian import (
    chosen_outputs,
    jacobian,
    jacobian_route,
    layer_jacobians,
    reads_rows,
)
from opflow.relu.network import ReLUNetwork


def layer_kernels(fields: Fields, *, outputs: str | int = "all") -> list[Operator]:
    r"""Return the share of each trained layer in the collective kernel, first layer first.

    Parameters
    ----------
    fields : Fields
    outputs : {"all", "sum", "trace"} or int, default "all"
        As in :func:`collective_kernel`.

    Returns
    -------
    list of Operator
        Each (N·k, N·k), or (N, N) for other outputs; symmetric and PSD.

    See Also
    --------
    opflow.collective_kernel : Their sum.
    opflow.spectral.layer_shares : Their shares of the trace.
    opflow.layer_kernel_velocities : How they move.
    opflow.torch.layer_kernels : The same for any PyTorch module.

    Notes
    -----
    :math:`K_\ell = \eta_\ell\, A^{\ell-1} \circ D^\ell` [1]_, with A repeated over the k × k output
    block; a bias adds 1 to A.  A trained readout comes last: :math:`\eta_V\, A^L \otimes I_k`.
    One product costs 4·N·n_ℓ·(n_{ℓ-1} + k) flops a column.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> sum(of.layer_kernels(fields)).shape
    (3, 3)
    """
    rates = fields.network.layer_rates()
    kernels = []
    check_outputs(outputs)
    if fields.gram is not None:
        if outputs != "all":
            raise ValueError("fields that know their inputs by a Gram alone take outputs='all'")
        phi = conjugate_factor(fields, 1)
        terms: list[Operator] = [GramSide(phi, fields.gram)]  # the Gram need not have a factor
        if fields.network.biases[0] is not None:
            terms.append(Gram(phi))
        kernels.append(scale(rates[0], add(*terms)))
    first = 1 + len(kernels)
    for layer, parts in enumerate(layer_jacobians(fields, first), start=first):
        D = f"D{superscript(layer)}"
        symbols = [f"A{superscript(layer - 1)}∘{D}", D]  # the second with a bias only
        grams = [
            Gram(chosen_outputs(fields, part, outputs), symbol=symbol)
            for part, symbol in zip(parts, symbols, strict=False)
        ]
        kernels.append(scale(rates[layer - 1], add(*grams)))
    return kernels


def collective_kernel(
    fields: Fields, *, route: str | None = None, outputs: str | int = "all"
) -> Operator:
    r"""Return the kernel K of the residual dynamics ``dr/dt = −K r``, the neural tangent kernel.

    Parameters
    ----------
    fields : Fields
    route : {"cached", "transport"}, optional
        As in :func:`jacobian`.
    outputs : {"all", "sum", "trace"} or int, default "all"
        Of the k outputs of a sample: all, or N × N kernels: of their sum, of the output of this
        number, or "trace", the sum of the kernels of all outputs, by which alignment and CKA
        compare samples.

    Returns
    -------
    Operator of shape (N·k, N·k), or (N, N) for other outputs than all; symmetric and PSD
        Acts on residuals flattened sample-major.

    See Also
    --------
    opflow.layer_kernels : The share of each layer.
    opflow.jacobian : J, whose Gram this is.
    opflow.infinite_width : The limit of infinite width.
    opflow.torch.kernel : The kernel of any PyTorch module.

    Notes
    -----
    :math:`K = \sum_\ell \eta_\ell\, A^{\ell-1} \circ D^\ell = J J^T` [1]_, the
    empirical neural tangent kernel [2]_.  A product through cached conjugates costs 4·N·P +
    4·N·k·Σn_ℓ flops a column, through transport about 8·N·P; the workspace does not grow with N.
    ``diagonal()``, without a product, is the squared norms of the gradients of all outputs.  Of
    fields with a communicator, N counts the samples of all ranks, vectors are the rows of this one,
    and a product has one allreduce of P numbers a column.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.
    .. [2] A. Jacot, F. Gabriel, C. Hongler, "Neural tangent kernel: Convergence and generalization
       in neural networks", 2018, arXiv:1806.07572.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> K = of.collective_kernel(fields)
    >>> K.shape, K.psd
    ((3, 3), True)
    """
    # on ranks one allreduce for all layers
    if fields.space.sharded or jacobian_route(fields, route) == "transport":
        return Gram(jacobian(fields, route=route, outputs=outputs), symbol="K")
    kernel = add(*layer_kernels(fields, outputs=outputs))
    if fields.derived and reads_rows(fields) and not is_sparse(fields.inputs):
        return kernel.with_alternatives(
            transport=partial(collective_kernel, fields, route="transport", outputs=outputs)
        )
    return kernel


def cross_kernel(fields: Fields, other: Fields, *, outputs: str | int = "all") -> Operator:
    r"""Return the kernel between new points and the training set, K(X*, X).

    Parameters
    ----------
    fields : Fields
        On the new points.
    other : Fields
        On the training set, of the same network.
    outputs : {"all", "sum", "trace"} or int, default "all"
        As in :func:`collective_kernel`.

    Returns
    -------
    Operator of shape (M·k, N·k), or (M, N) for other outputs than all
        Its adjoint is K(X, X*).

    See Also
    --------
    opflow.collective_kernel : The kernel of one set.
    opflow.LinearisedFlow : Training in the lazy regime.
    opflow.spectral.kernel_regression : Regression that predicts through it.
    opflow.torch.cross_kernel : The same for any PyTorch module.

    Notes
    -----
    :math:`K(X^*, X) = J(X^*) J(X)^T`: to first order, outputs at new points move by
    ``−K(X*, X) r``, and in the lazy regime they are :math:`f_0 - K(X^*, X) \int_0^t r` [1]_.
    A product
    costs half a product with the kernel of each set; sub-blocks are exact.

    References
    ----------
    .. [1] J. Lee et al., "Wide neural networks of any depth evolve as linear models under gradient
       descent", 2019, arXiv:1902.06720.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 5, 4], seed=0)
    >>> new, train = net.fields(-np.eye(3)[:2]), net.fields(np.eye(3))
    >>> of.cross_kernel(new, train).shape
    (2, 3)
    """
    ours = check_fields(fields).network
    theirs = check_fields(other, "other").network
    if not _equal(ours, theirs):
        raise ValueError("fields and other are of different networks: a cross kernel needs one")
    new, old = (jacobian(part, outputs=outputs) for part in (fields, other))
    return CrossGram(new, old, symbol="K(X*, X)")


def measured_kernel(fields: Fields, measurement: Data, *, route: str | None = None) -> Operator:
    r"""Return G K Gᵀ, the kernel of the residual r = G f − d of measured outputs.

    Parameters
    ----------
    fields : Fields
    measurement : operator, array or sparse matrix (M, N·k)
        G, on outputs flattened sample-major, of the network's dtype.
    route : {"cached", "transport"}, optional
        As in :func:`jacobian`.

    Returns
    -------
    Operator of shape (M, M), symmetric and PSD

    See Also
    --------
    opflow.train : Trains through a `measurement`.
    opflow.collective_kernel : K itself.
    opflow.spectral.resolution : What such data determine of the outputs.

    Notes
    -----
    :math:`dr/dt = -G K G^T r`.  A product is one with K, one with G and one with Gᵀ.  Its Jacobian
    is ``G @ of.jacobian(fields)``; ``of.cross_kernel(new, fields) @ G.T`` predicts at new points
    from the coefficients of a regression on it, ``of.spectral.kernel_regression(GKG, d - G @ f0)``.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> mean = np.full((1, 3), 1 / 3)
    >>> K, M = of.collective_kernel(fields), of.measured_kernel(fields, mean)
    >>> M.shape, M.psd, bool(np.isclose(M.todense()[0, 0], K.todense().mean()))
    ((1, 1), True, True)
    """
    net = check_fields(fields).network
    G = measuring_operator(measurement, fields.samples, net.outputs, net.readout)
    return pushforward(collective_kernel(fields, route=route), G)


def _equal(one: ReLUNetwork, other: ReLUNetwork) -> bool:
    if one is other:
        return True
    arrays = one.arrays()
    others = other.arrays()
    return (
        one.settings() == other.settings()
        and arrays.keys() == others.keys()
        and all(
            bool(namespace(a, b).array_equal(a, b))
            for a, b in zip(arrays.values(), others.values(), strict=True)
        )
    )
