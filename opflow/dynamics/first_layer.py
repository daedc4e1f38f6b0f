r"""The first layer of a run: as its weights, or *eliminated*, as coefficients of the samples.

h¹ is linear in W¹ and gradient flow moves W¹ by combinations of samples,
``W¹(t) = W¹(0) + Cᵀ X``, so that ``h¹ = X W¹(0)ᵀ + (X Xᵀ) C`` and ``dC/dt = −η_1 φ^{1T} r``, with
any PSD kernel in the place of XXᵀ.  With one hidden layer no weight moves at all.
"""

from __future__ import annotations

from collections.abc import Callable

from opflow.machine.arrays import Array, Data, namespace
from opflow.machine.ranks import RowDistribution
from opflow.operators import Operator
from opflow.relu.fields import Fields
from opflow.relu.inputs import (
    RowHidden,
    StoredHidden,
    check_inputs,
    first_hidden,
    input_operator,
    input_rows,
)
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import blocks, forward, top_outputs


class FirstLayer:
    """The first layer of a run, as its weights: h¹ = X W¹ᵀ + b¹.

    A state has one `parameter` for it, W¹ here, and the network of its other parameters, `upper`,
    whose first weights are W¹ only if they are that parameter.
    """

    #: its name in plans and files
    route = "weights"
    #: whether W¹ exists: not in the space of a kernel
    has_weights = True

    def __init__(self, X: Data) -> None:
        #: None where only a Gram of the samples is known
        self.inputs = X
        #: N on this rank
        self.samples = int(X.shape[0])

    def start(self, network: ReLUNetwork) -> Array:
        """The parameter at the start."""
        return network.weights[0]

    def upper(self, network: ReLUNetwork, parameters: list[Array]) -> ReLUNetwork:
        """`network` at these parameters."""
        return network.with_parameters(parameters)

    def network(self, upper: ReLUNetwork, parameter: Array) -> ReLUNetwork:
        """The whole network."""
        return upper

    def hidden(self, upper: ReLUNetwork, parameter: Array) -> RowHidden | StoredHidden:
        """h¹ of the samples."""
        return first_hidden(upper, self.inputs)

    def pull(self, slopes: Array) -> Array:
        """∂loss by the parameter from ∂loss/∂h¹ of all samples, where X is not read by rows."""
        return input_operator(self.inputs).rmatmat(slopes).T

    def entries(self, network: ReLUNetwork) -> int:
        """Trained numbers that a pass over the samples multiplies."""
        return network.parameters

    def fields(
        self, upper: ReLUNetwork, parameter: Array, memory: float | None, space: RowDistribution
    ) -> Fields:
        """The fields of the samples."""
        return Fields(upper, self.inputs, memory=memory, finite=False, comm=space)

    def predict(self, upper: ReLUNetwork, parameter: Array, X: Data) -> Array:
        """Outputs at new inputs."""
        return upper(X)


class DualLayer(FirstLayer):
    """The first layer eliminated: h¹ = h¹(0) + G C + b¹, G the Gram of the inputs or a kernel.

    ``cross(X_new)`` is the kernel between new points and the samples, for predictions.  Without X
    the first layer reads the rows of G: its weights are coefficients of the samples, and d = N.

    h¹ is computed from C once a state, so it never drifts from it: one block product of G with
    n_1 columns a step, and 4·N·n_1 numbers.
    """

    route = "eliminated"

    def __init__(
        self,
        network: ReLUNetwork,
        X: Data,
        gram: Operator,
        cross: Callable[[Data], Operator] | None = None,
    ) -> None:
        self.inputs = X
        self.gram = gram
        self.cross = cross
        self.samples = int(gram.shape[0])
        self.has_weights = X is None or cross is None
        self._weights = network.weights[0]
        #: h¹ of the start, without the bias
        self._base = (gram if X is None else input_operator(X)).matmat(self._weights.T)

    def start(self, network: ReLUNetwork) -> Array:
        return namespace(self._base).zeros(self._base.shape, dtype=self._base.dtype)

    def upper(self, network: ReLUNetwork, parameters: list[Array]) -> ReLUNetwork:
        return network.with_parameters([network.weights[0], *parameters[1:]])

    def network(self, upper: ReLUNetwork, parameter: Array) -> ReLUNetwork:
        if not self.has_weights:
            raise ValueError(
                "the first layer moved in the space of a kernel: it has no weights on X, but "
                "coefficients on the samples, and predicts through the kernel"
            )
        C = parameter.astype(upper.dtype, copy=False)
        if self.inputs is None:
            W = self._weights + C.T
        else:
            W = input_operator(self.inputs).rmatmat(C).T
            W += self._weights
        return upper.with_parameters([W, *upper.parameter_list()[1:]])

    def hidden(self, upper: ReLUNetwork, parameter: Array) -> StoredHidden:
        h = self.gram.matmat(parameter.astype(self.gram.dtype, copy=False))
        h += self._base
        if upper.biases[0] is not None:
            h += upper.biases[0]
        return StoredHidden(h)

    def pull(self, slopes: Array) -> Array:
        return slopes

    def entries(self, network: ReLUNetwork) -> int:
        return network.parameters - network.weights[0].size  # the Gram's product is made before

    def fields(
        self, upper: ReLUNetwork, parameter: Array, memory: float | None, space: RowDistribution
    ) -> Fields:
        return Fields.from_hidden(upper, self.hidden(upper, parameter), self.gram)

    def predict(self, upper: ReLUNetwork, parameter: Array, X: Data) -> Array:
        if self.cross is None:
            return self.network(upper, parameter)(X)
        C = parameter.astype(upper.dtype, copy=False)
        X = check_inputs(X, upper)
        out = namespace(upper.readout).empty((X.shape[0], upper.outputs), dtype=upper.dtype)
        for s in blocks(upper, X.shape[0], X=X):
            new = input_rows(X, s)
            h = new @ self._weights.T + self.cross(new) @ C
            if upper.biases[0] is not None:
                h += upper.biases[0]
            out[s] = top_outputs(upper, forward(upper, h)[-1])
        return out
