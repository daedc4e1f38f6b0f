"""The Jacobian, the layer kernels and the collective kernel ``K = Σ_ℓ η_ℓ A^{ℓ-1} ∘ D^ℓ``.

Nothing N × N is formed: ``A ∘ D`` is the Gram operator of the Khatri–Rao product φ ⊙ a, which
is the Jacobian of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from opflow.evaluation import GramSide
from opflow.machine import gate_tables
from opflow.machine.arrays import is_sparse, module_name, namespace
from opflow.machine.cost import MachineProfile
from opflow.machine.ranks import Sharded
from opflow.machine.streams import prefetched
from opflow.machine.threads import bytes_over_rows, over_rows
from opflow.machine.workspace import row_slices
from opflow.operators import (
    CrossGram,
    Gram,
    HStack,
    KhatriRao,
    Matrix,
    Operator,
    PackedGates,
    ScaledGates,
    Zero,
)
from opflow.operators.algebra import add, is_operator, placed, scale
from opflow.operators.describe import superscript
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost
from opflow.operators.prices import Work, gram_work, product_bytes
from opflow.operators.sharded import ShardedRows
from opflow.relu.fields import Fields, check_fields
from opflow.relu.gradient import parameter_gradient
from opflow.relu.inputs import copied_width, input_operator
from opflow.relu.passes import conjugates, slopes, through

ROUTES = ("cached", "transport")


def jacobian(fields: Fields, *, route: str | None = None, rates: bool = True) -> Operator:
    r"""The Jacobian of the outputs with respect to the trained parameters.

    Parameters
    ----------
    fields : Fields
    route : {"cached", "transport"}, optional
        Through cached conjugates, or by backward and forward passes that store none; the cheaper
        by the cost model when not given.
    rates : bool, default True
        Scale the columns of layer ℓ by √η_ℓ, so that ``K = J Jᵀ`` for any rates; ``False``
        gives ∂f/∂W itself.  No difference for rates of 1.

    Returns
    -------
    Operator of shape (N·k, P)
        Rows: outputs flattened sample-major.  Columns: ``[vec W¹, b¹, vec W², …]``, vec in C
        order, biases where there are any.

    Notes
    -----
    :math:`J_\ell = \varphi^\ell \odot a^{\ell-1}`.  With rates it is the Jacobian in the
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
    if _route(fields, route) == "transport":
        return _sharded(fields, Transport(fields, rates=rates))
    layers = [
        scale(math.sqrt(rate) if rates else 1.0, part)
        for rate, parts in zip(fields.network.rates, _layer_jacobians(fields), strict=True)
        for part in parts
    ]
    return _sharded(fields, layers[0] if len(layers) == 1 else HStack(layers, symbol="J"))


def layer_kernels(fields: Fields) -> list[Operator]:
    r"""The share of each layer in the collective kernel, first layer first.

    Parameters
    ----------
    fields : Fields

    Returns
    -------
    list of Operator, each (N·k, N·k), symmetric and PSD

    Notes
    -----
    :math:`K_\ell = \eta_\ell\, A^{\ell-1} \circ D^\ell`, with A repeated over the k × k output
    block; a bias adds 1 to A.  One product costs 4·N·n_ℓ·(n_{ℓ-1} + k) flops a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> sum(of.layer_kernels(fields)).shape
    (3, 3)
    """
    kernels = []
    if fields.gram is not None:
        kernels.append(scale(fields.network.rates[0], _first_kernel_by_gram(fields)))
    first = 1 + len(kernels)
    for layer, parts in enumerate(_layer_jacobians(fields, first), start=first):
        parts = [_sharded(fields, part) for part in parts]
        grams = [
            Gram(part, symbol=f"A{superscript(layer - 1)}∘D{superscript(layer)}")
            for part in parts[:1]
        ]
        grams += [Gram(part, symbol=f"D{superscript(layer)}") for part in parts[1:]]
        kernels.append(scale(fields.network.rates[layer - 1], add(*grams)))
    return kernels


def collective_kernel(fields: Fields, *, route: str | None = None) -> Operator:
    r"""The kernel K of the residual dynamics ``dr/dt = −K r``.

    Parameters
    ----------
    fields : Fields
    route : {"cached", "transport"}, optional
        As in :func:`jacobian`.

    Returns
    -------
    Operator of shape (N·k, N·k), symmetric and PSD
        Acts on residuals flattened sample-major.

    Notes
    -----
    :math:`K = \sum_\ell \eta_\ell\, A^{\ell-1} \circ D^\ell = J J^T`, the empirical neural
    tangent kernel.  A product through cached conjugates costs 4·N·P + 4·N·k·Σn_ℓ flops a column,
    through transport about 8·N·P; the workspace does not grow with N.  Of fields with a
    communicator, N counts the samples of all ranks, vectors are the rows of this one, and a
    product has one allreduce of P numbers a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(np.eye(3))
    >>> K = of.collective_kernel(fields)
    >>> K.shape, K.psd
    ((3, 3), True)
    """
    if fields.space.sharded:  # one allreduce for all layers
        return Gram(jacobian(fields, route=route), symbol="K")
    if _route(fields, route) == "transport":
        return Gram(Transport(fields), symbol="K")
    kernel = add(*layer_kernels(fields))
    if fields.derived and _by_rows(fields) and not is_sparse(fields.inputs):
        kernel._alternatives = {"transport": partial(collective_kernel, fields, route="transport")}
    return kernel


def cross_kernel(fields: Fields, other: Fields) -> Operator:
    r"""The kernel between new points and the training set, K(X*, X).

    Parameters
    ----------
    fields : Fields
        On the new points.
    other : Fields
        On the training set, of the same network.

    Returns
    -------
    Operator of shape (M·k, N·k)
        Its adjoint is K(X, X*).

    Notes
    -----
    :math:`K(X^*, X) = J(X^*) J(X)^T`: to first order, outputs at new points move by
    ``−K(X*, X) r``, and in the lazy regime they are :math:`f_0 - K(X^*, X) \int_0^t r`.  A product
    costs half a product with the kernel of each set; sub-blocks are exact.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 5, 4], seed=0)
    >>> new, train = net.fields(-np.eye(3)[:2]), net.fields(np.eye(3))
    >>> of.cross_kernel(new, train).shape
    (2, 3)
    """
    ours, theirs = check_fields(fields).network, check_fields(other, "other").network
    same = ours is theirs or (
        ours.widths == theirs.widths
        and ours.rates == theirs.rates
        and all(
            a is b or (a is not None and b is not None and bool((a == b).all()))
            for a, b in zip(
                (*ours.weights, *ours.biases, ours.readout),
                (*theirs.weights, *theirs.biases, theirs.readout),
                strict=True,
            )
        )
    )
    if not same:
        raise ValueError("fields and other are of different networks: a cross kernel needs one")
    return CrossGram(jacobian(fields), jacobian(other), symbol="K(X*, X)")


def _sharded(fields: Fields, rows: Operator) -> Operator:
    """An operator on the samples of this rank, as one on the samples of all."""
    if not isinstance(fields.space, Sharded):
        return rows
    return ShardedRows(rows, fields.space, fields.network.outputs)


def _by_rows(fields: Fields) -> bool:
    """Whether transport can read the inputs it needs."""
    return fields.inputs is not None and not is_operator(fields.inputs)


def _route(fields: Fields, route: str | None) -> str:
    if route not in (None, *ROUTES):
        raise ValueError(f"route must be 'cached' or 'transport', not {route!r}")
    if not fields.samples:
        return "cached"
    if not fields.derived and route == "transport":
        raise ValueError("route='transport' recomputes fields from weights; these are a state")
    if route == "transport" and not _by_rows(fields):
        raise ValueError("route='transport' needs inputs that can be read by rows")
    if route is not None:
        return route
    net, n = fields.network, fields.samples
    if fields.storage == "packed" and net.depth == 1 and _gates_suffice(fields, fields.inputs):
        return "cached"  # the conjugates are what is held
    if fields.storage != "cached":
        return "transport"
    if net.outputs == 1 or is_sparse(fields.inputs) or not (fields.derived and _by_rows(fields)):
        return "cached"
    # Both do the same GEMMs with the parameters; cached then reads N·k·Σn conjugates twice,
    # transport pays a second chain of GEMMs through the layers above the first.
    # The rates are nominal: which form K has does not depend on the machine unless that was asked
    # of materialise.
    entries = n * net.outputs * sum(net.widths[1:])
    cached = Cost(4.0 * entries, 2.0 * entries * net.dtype.itemsize)
    upper = sum(W.size for W in net.weights[1:])
    transport = Cost(4.0 * n * (upper + net.outputs * net.widths[-1]), 0.0)
    seconds = [MachineProfile().seconds(cost, net.dtype) for cost in (cached, transport)]
    return "cached" if seconds[0] <= seconds[1] else "transport"


def _first_kernel_by_gram(fields: Fields) -> Operator:
    """``A⁰ ∘ D¹`` for a Gram A⁰ that need not have a factor."""
    phi = Matrix(fields.conjugate(1), symbol="φ¹")
    kernel = GramSide(phi, fields.gram)
    return kernel if fields.network.biases[0] is None else add(kernel, Gram(phi))


def _layer_jacobians(fields: Fields, first: int = 1) -> list[list[Operator]]:
    """For each layer from `first`, ``φ ⊙ a`` and, with a bias, φ itself (no rates)."""
    net = fields.network
    if not fields.samples:  # other ranks have some
        return [
            [placed(Zero(0, p.size, net.dtype), module_name(p)) for p in pair if p is not None]
            for pair in zip(net.weights, net.biases, strict=True)
        ]
    out: list[list[Operator]] = []
    below = fields.activations[:-1] if net.depth > 1 else [fields.inputs]
    for layer in range(first, net.depth + 1):
        inputs = input_operator(
            below[layer - 1], "X" if layer == 1 else f"a{superscript(layer - 1)}"
        )
        conjugate = _conjugate(fields, layer, below[layer - 1])
        parts: list[Operator] = [KhatriRao(conjugate, inputs)]
        if net.biases[layer - 1] is not None:
            parts.append(conjugate)
        out.append(parts)
    return out


def _conjugate(fields: Fields, layer: int, below: Any) -> Operator:
    """φ^ℓ, (N·k, n_ℓ): as gates where it is no more than these and their products are faster."""
    net, symbol = fields.network, f"φ{superscript(layer)}"
    if layer == net.depth and _gates_suffice(fields, below):
        gates = PackedGates.from_bits(fields.top_bits, net.widths[-1], net.dtype)
        return ScaledGates(gates, net.readout[0], symbol=symbol)
    return Matrix(fields.conjugate(layer), symbol=symbol)


def _gates_suffice(fields: Fields, below: Any) -> bool:
    """Whether the top conjugates are gates times the readout, and `below` multiplies them fast."""
    net = fields.network
    return (
        fields.derived
        and net.outputs == 1
        and net.widths[-1] >= gate_tables.FEWEST
        and gate_tables.tabulated(net.dtype, below)
    )


class Transport(Operator):
    r"""The Jacobian by transport: backpropagate, then push tangents forward.

    Parameters
    ----------
    fields : Fields
    rates : bool, default True
        As in :func:`jacobian`.

    Notes
    -----
    ``Jᵀ r`` backpropagates r through the gates, ``J m`` pushes the tangent
    :math:`\dot h^\ell = a^{\ell-1} M_\ell^T + \dot a^{\ell-1} W^{\ell T}` forward; together
    8·N·P − 4·N·P_1 + 4·N·k·n_L flops a column for any number k of outputs, and no conjugate is
    stored.
    """

    def __init__(self, fields: Fields, *, rates: bool = True) -> None:
        net = fields.network
        self.fields = fields
        self.rates = rates
        self.scales = [math.sqrt(r) if rates else 1.0 for r in net.rates]
        super().__init__((fields.samples * net.outputs, net.parameters), net.dtype, symbol="J")

    @property
    def data(self) -> Any:
        """The readout: the operator is where it is."""
        return self.fields.network.readout

    def cost(self, columns: int = 1) -> Cost:
        net, n = self.fields.network, self.fields.samples
        first, k = net.weights[0].size, net.outputs
        flops = 2.0 * n * (2 * net.parameters - first + k * net.widths[-1])
        stored = float(n) * net.widths[0] * self.dtype.itemsize + self.fields.nbytes
        if self.fields.storage == "recomputed":
            flops += 2.0 * n * net.parameters
        return Cost(flops * columns, stored + self._vector_bytes(columns))

    def _blocks(self, columns: int, dtype: Any, samples: slice | None = None) -> Iterable[slice]:
        X = self.fields.inputs
        width = sum(self.fields.network.widths[1:]) * (2 + 3 * columns) + copied_width(X)
        rows = samples or slice(0, self.fields.samples)
        return prefetched(row_slices(rows, width * dtype.itemsize), X)

    def _rmatmat(self, X: Any) -> Any:
        xp, net, c = namespace(X), self.fields.network, X.shape[1]
        k = net.outputs

        def visit(samples: slice) -> Iterator[tuple[list[Any], list[Any]]]:
            for s in self._blocks(c, X.dtype, samples):
                rows = self.fields.rows(s)
                r = X[s.start * k : s.stop * k].reshape(-1, k, c)
                yield rows[:-1], slopes(net, rows, r[:, :, 0] if c == 1 else r.transpose(0, 2, 1))

        flops = self.cost(c).flops / 2
        sums = parameter_gradient(
            net, self.fields.samples, visit, flops, self.fields.inputs, columns=c
        )
        out = xp.empty((self.shape[1], c), dtype=X.dtype)
        start = 0
        for total, p, rate in zip(sums, net.parameter_list(), net.parameter_rates(), strict=True):
            part = out[start : start + p.size]
            part[...] = total.reshape(c, -1).T
            if self.rates:
                part *= math.sqrt(rate)
            start += p.size
        return out

    def _matmat(self, X: Any) -> Any:
        xp, net, c = namespace(X), self.fields.network, X.shape[1]
        k = net.outputs
        directions = [
            size * X[weight].reshape(*W.shape, c).transpose(1, 2, 0).reshape(W.shape[1], -1)
            for (weight, _), size, W in zip(
                net.parameter_slices(), self.scales, net.weights, strict=True
            )
        ]
        out = xp.empty((self.shape[0], c), dtype=X.dtype)

        def push(samples: slice) -> None:
            for s in self._blocks(c, X.dtype, samples):
                rows = self.fields.rows(s)
                tangent: Any = None
                for i, ((_, bias), W) in enumerate(
                    zip(net.parameter_slices(), net.weights, strict=True)
                ):
                    pushed = (rows[i] @ directions[i]).reshape(-1, c, W.shape[0])
                    if bias is not None:
                        pushed += self.scales[i] * X[bias].T
                    if tangent is not None:
                        pushed += through(tangent, W.T)
                    tangent = pushed
                    tangent *= (rows[i + 1] > 0)[:, None, :]
                outputs = through(tangent, net.readout.T)
                out[s.start * k : s.stop * k] = outputs.transpose(0, 2, 1).reshape(-1, c)

        over_rows(self.fields.samples, push, self.cost(c).flops / 2, self.fields.inputs)
        return out


entries_are_cheap.register(Transport, cheap_in_operands)


@gram_diagonal.register
def _gram_diagonal(J: Transport, weights: Any = None) -> Any:
    if weights is not None:
        return gram_diagonal.dispatch(Operator)(J, weights)
    net = J.fields.network
    xp = namespace(net.readout)
    out = xp.zeros((J.fields.samples, net.outputs), dtype=J.dtype)
    for s in J._blocks(net.outputs, J.dtype):
        rows = J.fields.rows(s)
        phis = conjugates(net, rows, J.fields.seed(rows))
        for size, b, below, phi in zip(J.scales, net.biases, rows[:-1], phis, strict=True):
            norms = gram_diagonal(Matrix(below)) + (b is not None)
            out[s] += size**2 * norms[:, None] * (phi**2).sum(axis=2)
    return out.reshape(-1)


@column_squares.register
def _column_squares(J: Transport) -> Any:
    net = J.fields.network
    out = namespace(net.readout).zeros(J.shape[1], dtype=J.dtype)
    for s in J._blocks(net.outputs, J.dtype):
        rows = J.fields.rows(s)
        phis = conjugates(net, rows, J.fields.seed(rows))
        for (weight, bias), size, below, phi in zip(
            net.parameter_slices(), J.scales, rows[:-1], phis, strict=True
        ):
            squares = size**2 * (phi**2).sum(axis=1)
            entries = below.multiply(below) if is_sparse(below) else below**2
            out[weight] += (entries.T @ squares).T.reshape(-1)
            if bias is not None:
                out[bias] += squares.sum(axis=0)
    return out


@gram_block.register
def _gram_block(J: Transport, rows: Any, cols: Any, weights: Any = None) -> Any:
    if weights is not None:
        return gram_block.dispatch(Operator)(J, rows, cols, weights)
    net, k = J.fields.network, J.fields.network.outputs
    xp = namespace(net.readout)
    outputs = xp.arange(J.shape[0])
    sides = []
    for index in (rows, cols):
        wanted = outputs[index]
        sample, output = wanted // k, wanted % k
        rows = J.fields.rows(sample)
        phis = conjugates(net, rows, J.fields.seed(rows))
        sides.append((rows[:-1], [phi[xp.arange(len(sample)), output] for phi in phis]))
    block = 0
    for size, b, left, right, phi, other in zip(
        J.scales,
        net.biases,
        sides[0][0],
        sides[1][0],
        sides[0][1],
        sides[1][1],
        strict=True,
    ):
        gram = left @ right.T
        gram = (gram.toarray() if is_sparse(gram) else gram) + (b is not None)
        block = block + size**2 * gram * (phi @ other.T)
    return block


@gram_work.register
def _of_transport(J: Transport, rows: int, cols: int) -> Work:
    """A sub-block of K: the conjugates of its samples, then one GEMM a side and layer."""
    widths, item = J.fields.network.widths, J.dtype.itemsize
    upper = sum(W.size for W in J.fields.network.weights[1:])
    flops = 2.0 * rows * cols * (sum(widths[:-1]) + sum(widths[1:])) + 2.0 * (rows + cols) * upper
    fields = float(rows + cols) * (1 + J.fields.network.outputs) * sum(widths) * item
    return Work(Cost(flops, fields), 4.0 * rows * cols * item + 2 * fields)


@product_bytes.register
def _transport_bytes(J: Transport, columns: int) -> float:
    width = sum(J.fields.network.widths[1:]) * (2 + 3 * columns)
    vectors = max(J.shape) * columns * J.dtype.itemsize
    rows = float(J.fields.samples) * width * J.dtype.itemsize
    sums = 2.0 * J.shape[1] * columns * J.dtype.itemsize
    return 3.0 * vectors + 2.0 * bytes_over_rows(rows, sums)
