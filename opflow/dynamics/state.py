r"""The state of a run and its velocity: parameters that move, a residual that is recomputed.

The state is (W¹, …, W^L), or, with the first layer *eliminated*, (C, W², …, W^L): h¹ is linear in
W¹ and gradient flow moves W¹ by combinations of samples, ``W¹(t) = W¹(0) + Cᵀ X``, so that
``h¹ = X W¹(0)ᵀ + (X Xᵀ) C`` and ``dC/dt = −η_1 φ^{1T} r``, with any PSD kernel in the place of
XXᵀ.  With one hidden layer no weight moves at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from opflow.machine.arrays import namespace
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded
from opflow.machine.threads import cached_property, over_rows
from opflow.machine.workspace import row_slices
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.relu.inputs import (
    HiddenPass,
    check_inputs,
    first_pass,
    input_operator,
    input_rows,
)
from opflow.relu.kernels import collective_kernel
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import blocks, forward, slopes

Arrays = list[Any]
#: flops that take the time of the element-wise passes over one entry of a field
ENTRY = 50.0


class FirstLayer(Protocol):
    """How the first layer is a function of the parameter that stands for it."""

    samples: int
    route: str
    has_weights: bool
    inputs: Any

    def start(self, network: ReLUNetwork) -> Any:
        """The parameter at the start."""

    def weights(self, parameter: Any) -> Any:
        """W¹."""

    def begin(self, network: ReLUNetwork, parameter: Any, accumulate: Any) -> Any:
        """A pass over the samples."""

    def fields(self, state: State, memory: Any) -> Fields:
        """The fields at a state."""

    def predict(self, state: State, X: Any) -> Any:
        """Outputs at new inputs."""


class WeightLayer:
    """The first layer as its weights: h¹ = X W¹ᵀ + b¹."""

    route, has_weights = "weights", True

    def __init__(self, X: Any) -> None:
        self.inputs, self.samples = X, int(X.shape[0])

    def start(self, network: ReLUNetwork) -> Any:
        return network.weights[0]

    def weights(self, parameter: Any) -> Any:
        return parameter

    def begin(self, network: ReLUNetwork, parameter: Any, accumulate: Any) -> Any:
        return first_pass(self.inputs, network.weights[0], network.biases[0], accumulate)

    def fields(self, state: State, memory: Any) -> Fields:
        least = None if memory is None else max(memory, 1.0)  # nothing is left: recomputed
        return Fields(state.network, self.inputs, memory=least, finite=False, comm=state.comm)

    def predict(self, state: State, X: Any) -> Any:
        return state.network(X)


class DualLayer:
    r"""The first layer eliminated: h¹ = h¹(0) + G C + b¹, G the Gram of the inputs or a kernel.

    Parameters
    ----------
    network : ReLUNetwork
        The start.
    X : array (N, d), rows on disk, sparse matrix, operator, or None
        None if only `gram` is known: the first layer then reads the rows of G, its weights are
        coefficients of the samples themselves, and d = N.
    gram : Operator (N, N)
    cross : callable, optional
        ``cross(X_new)``, the kernel between new points and the samples, for predictions.

    Notes
    -----
    h¹ is computed from C once a state, so it never drifts from it: one block product of G with
    n_1 columns a step, and 4·N·n_1 numbers.
    """

    route = "eliminated"

    def __init__(
        self,
        network: ReLUNetwork,
        X: Any,
        gram: Operator,
        cross: Callable[[Any], Any] | None = None,
    ) -> None:
        self.inputs, self.gram, self.cross = X, gram, cross
        self.samples = int(gram.shape[0])
        #: in the space of a kernel of its own there are none
        self.has_weights = X is None or cross is None
        self._weights = network.weights[0]
        first = (gram if X is None else input_operator(X)).matmat(self._weights.T)
        self._base = first

    def start(self, network: ReLUNetwork) -> Any:
        return namespace(self._base).zeros(self._base.shape, dtype=self._base.dtype)

    def weights(self, parameter: Any) -> Any:
        if self.inputs is None:
            return self._weights + parameter.T
        if not self.has_weights:
            raise ValueError(
                "the first layer moved in the space of a kernel: it has no weights on X, but "
                "coefficients on the samples, and predicts through the kernel"
            )
        W = input_operator(self.inputs).rmatmat(parameter).T
        W += self._weights
        return W

    def hidden(self, network: ReLUNetwork, parameter: Any) -> Any:
        """h¹ on the samples."""
        h = self.gram.matmat(parameter)
        h += self._base
        if network.biases[0] is not None:
            h += network.biases[0]
        return h

    def begin(self, network: ReLUNetwork, parameter: Any, accumulate: Any) -> Any:
        return HiddenPass(self.hidden(network, parameter.astype(self.gram.dtype, copy=False)))

    def fields(self, state: State, memory: Any) -> Fields:
        first = self.begin(state.upper, state.parameters[0], None)
        return Fields.from_hidden(state.upper, first, self.samples, self.gram)

    def predict(self, state: State, X: Any) -> Any:
        if self.cross is None:
            return state.network(X)
        net, C = state.upper, state.parameters[0].astype(state.upper.dtype, copy=False)
        X = check_inputs(X, net)
        out = namespace(net.readout).empty((X.shape[0], net.outputs), dtype=net.dtype)
        for s in blocks(net, X.shape[0], X=X):
            new = input_rows(X, s)
            h = new @ self._weights.T + self.cross(new) @ C
            if net.biases[0] is not None:
                h += net.biases[0]
            out[s] = forward(net, h)[-1] @ net.readout.T
        return out


class State:
    """Parameters on a training set.  States are immutable; moving one gives another.

    Parameters
    ----------
    network : ReLUNetwork
        The start of the run.
    first : WeightLayer or DualLayer
    targets : array (N, k)
    parameters : list of arrays, optional
        ``[W¹ or C, b¹, W², b², …]``, a bias only where there is one; those of `network` by
        default.
    accumulate : dtype, optional
        Parameters and sums over row blocks are held in this dtype, GEMMs stay in the network's.
    memory : float, optional
        Bytes that the fields of :meth:`kernel` may hold.
    space : Space, optional
        How the samples are held: all here, or those of `first` and `targets` by this rank.
    """

    def __init__(
        self,
        network: ReLUNetwork,
        first: FirstLayer,
        targets: Any,
        parameters: Arrays | None = None,
        accumulate: Any = None,
        memory: float | None = None,
        space: RowDistribution = LOCAL,
    ) -> None:
        self.first, self.targets, self._start = first, targets, network
        self.memory, self.space = memory, space
        self.accumulate = None if accumulate == network.dtype else accumulate
        if parameters is None:
            parameters = [first.start(network), *network.parameter_list()[1:]]
            if self.accumulate is not None:
                parameters = [p.astype(self.accumulate) for p in parameters]
        self.parameters = parameters
        used = [p.astype(network.dtype, copy=False) for p in parameters]
        if first.route == "eliminated":
            used[0] = network.weights[0]
        #: the network above the first layer, and its bias
        self.upper = network.with_parameters(used)

    @property
    def samples(self) -> int:
        """Of all ranks."""
        space = self.space
        return space.size if isinstance(space, Sharded) else self.first.samples

    @property
    def comm(self) -> RowDistribution | None:
        """What fields on the same samples are told."""
        return self.space if self.space.sharded else None

    @cached_property
    def network(self) -> ReLUNetwork:
        """The network at this state; costs 2·N·d·n_1 flops if its first layer was eliminated."""
        if self.first.route != "eliminated":
            return self.upper
        C = self.parameters[0].astype(self.upper.dtype, copy=False)
        return self.upper.moved([self.first.weights(C), *self.upper.weights[1:]], self.upper.biases)

    def moved(self, direction: Arrays, step: float) -> State:
        """The state at ``parameters + step · direction``."""
        parameters = []
        for old, move in zip(self.parameters, direction, strict=True):
            new = step * move.astype(old.dtype, copy=False)
            new += old
            parameters.append(new)
        return self.at(parameters)

    def at(self, parameters: Arrays) -> State:
        """The same training set at other parameters."""
        return State(
            self._start,
            self.first,
            self.targets,
            parameters,
            self.accumulate,
            self.memory,
            self.space,
        )

    def evaluate(self, residual: Any) -> float:
        """Fill `residual` with f − y, keep the velocity as `slope`, return ½ Σ |r|².

        About 2·N·(3P − P_1) flops in one pass over row blocks; the loss is summed in float64.
        """
        return float(self.fill(residual))

    def fill(self, residual: Any) -> Any:
        """As :meth:`evaluate`, with the loss left on the device."""
        xp = namespace(residual)

        def vector(s: slice, f: Any) -> Any:
            return xp.subtract(f, self.targets[s], out=residual[s])

        self.slope = self._pass(vector)
        loss = 0.0
        for s in row_slices(len(residual), 24 * residual.shape[1]):
            loss = loss + 0.5 * (residual[s].astype(xp.float64) ** 2).sum()
        return self.space.total(loss)

    def taken(self) -> Arrays:
        """The slope, given away: a state that has been left need not hold it."""
        slope = self.slope
        del self.slope
        return slope

    def direction(self, u: Any) -> Arrays:
        """−η_ℓ (Jᵀu)_ℓ, aligned with `parameters`, for u (N, k)."""
        return self._pass(lambda s, f: u[s])

    def _pass(self, vector: Callable[[slice, Any], Any]) -> Arrays:
        net = self.upper
        first = self.first.begin(net, self.parameters[0], self.accumulate)

        def share(samples: slice) -> tuple[Any, Arrays, Arrays]:
            part = first.fork()
            return part, *self._sums(part, samples, vector)

        # of an eliminated first layer, whose product with the Gram is made, entries are left
        read = net.parameters - (net.weights[0].size if self.first.route == "eliminated" else 0)
        flops = self.first.samples * (6.0 * read + ENTRY * sum(net.widths[1:]))
        item = np.dtype(self.accumulate or net.dtype).itemsize
        (first, weights, biases), *others = over_rows(
            self.first.samples, share, flops, first.data, sums=2.0 * net.parameters * item
        )
        for part, *sums in others:
            first.join(part)
            for total, more in zip((*weights[1:], *biases), (*sums[0][1:], *sums[1]), strict=True):
                if total is not None:
                    total += more
        weights[0] = first.gradient()
        if self.space.sharded:
            weights, biases = _unflat(net, _totals(_interleaved(weights, biases), self.space))
        for rate, W, b in zip(net.rates, weights, biases, strict=True):
            W *= -rate
            if b is not None:
                b *= -rate
        return _interleaved(weights, biases)

    def _sums(
        self, first: Any, samples: slice, vector: Callable[[slice, Any], Any]
    ) -> tuple[Arrays, Arrays]:
        """∂loss/∂W^ℓ and ∂loss/∂b^ℓ over a range of samples; `first` collects those of W¹."""
        net = self.upper
        xp, dtype = namespace(net.readout), self.accumulate or net.dtype
        weights = [None, *(xp.zeros(W.shape, dtype=dtype) for W in net.weights[1:])]
        biases = [None if b is None else xp.zeros(b.shape, dtype=dtype) for b in net.biases]
        for s in blocks(net, samples, 1, self.first.inputs):
            activations = forward(net, first.rows(s))
            r = vector(s, activations[-1] @ net.readout.T)
            phis = slopes(net, activations, r, isinstance(first, HiddenPass))
            for total, phi, below in zip(weights[1:], phis[1:], activations[1:-1], strict=True):
                total += phi.T @ below
            for total, phi in zip(biases, phis, strict=True):
                if total is not None:
                    total += phi.sum(axis=0)
            first.collect(s, phis[0])  # last: it may overwrite a¹
        return weights, biases

    def forward_blocks(self) -> Iterator[tuple[slice, Arrays]]:
        """Row block by row block, the slice and the activations ``[None, a^1, …, a^L]``."""
        net = self.upper
        first = self.first.begin(net, self.parameters[0], None)
        for s in blocks(net, self.first.samples, X=self.first.inputs):
            yield s, forward(net, first.rows(s))

    def outputs(self) -> Any:
        """f on the samples, (N, k); one forward pass."""
        net = self.upper
        out = namespace(net.readout).empty((self.first.samples, net.outputs), dtype=net.dtype)
        for s, activations in self.forward_blocks():
            out[s] = activations[-1] @ net.readout.T
        return out

    def snapshot(self) -> Fields:
        """The fields at this state."""
        return self.first.fields(self, self.memory)

    def kernel(self) -> Operator:
        """K at this state, gates frozen."""
        return collective_kernel(self.snapshot())

    def predict(self, X: Any) -> Any:
        """Outputs at new inputs, in row blocks."""
        return self.first.predict(self, X)


def _totals(arrays: Arrays, space: RowDistribution) -> Arrays:
    """Sums over all ranks, by one allreduce of all numbers."""
    xp = namespace(*arrays)
    flat = space.total(xp.concatenate([a.reshape(-1) for a in arrays]))
    edges = np.cumsum([a.size for a in arrays])[:-1].tolist()
    return [part.reshape(a.shape) for part, a in zip(xp.split(flat, edges), arrays, strict=True)]


def _interleaved(weights: Arrays, biases: Arrays) -> Arrays:
    return [p for pair in zip(weights, biases, strict=True) for p in pair if p is not None]


def _unflat(network: ReLUNetwork, parameters: Arrays) -> tuple[Arrays, Arrays]:
    rest = iter(parameters)
    weights, biases = [], []
    for b in network.biases:
        weights.append(next(rest))
        biases.append(None if b is None else next(rest))
    return weights, biases
