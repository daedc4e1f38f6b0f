"""The fields of a network on a training set: activations, gates, conjugates, outputs.

Activations are computed once and kept; everything else follows from them on first use.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from opflow.arrays import check_integer, check_real, is_sparse, namespace
from opflow.operators.rows import row_slices
from opflow.relu.passes import blocks, conjugates, preactivation, rectify

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


def check_inputs(X: Any, network: ReLUNetwork, name: str = "X", finite: bool = True) -> Any:
    """Return `X` if it can be the input of `network`, else say why not."""
    X = check_real(X, name)
    if X.ndim != 2:
        raise ValueError(f"{name} must be two-dimensional (samples, features), not {X.shape}")
    if X.shape[0] == 0:
        raise ValueError(f"{name} has shape {X.shape}: there are no samples")
    if X.shape[1] != network.widths[0]:
        raise ValueError(
            f"{name} has shape {X.shape} but the network expects {network.widths[0]} input features"
        )
    if X.dtype != network.dtype:
        raise TypeError(
            f"{name} is {X.dtype} but the network is {network.dtype}: cast one with .astype()"
        )
    namespace(X, network.readout)
    return check_real(X.tocsr() if is_sparse(X) else X, name, finite=finite)


class Fields:
    r"""The fields of `network` on the samples `X`.

    Parameters
    ----------
    network : ReLUNetwork
    X : array (N, d) or sparse matrix
        Of the network's dtype, finite; referenced, not copied.

    Notes
    -----
    With ℓ = 1..L and index 0 of every list being ℓ = 1, except `activations`, whose index 0 is
    the input:

    * `activations` a^ℓ (N, n_ℓ): computed at construction (2·N·P flops) and kept;
    * `preactivations` h^ℓ (N, n_ℓ): recomputed from the activations on first use, then kept;
    * `gates` θ^ℓ (N, n_ℓ), bool, ``h > 0``: read off the activations on first use, then kept;
    * `conjugates` φ^ℓ = ∂f/∂h^ℓ, (N, n_ℓ) for one output, (N, k, n_ℓ) for k: computed on first
      use (2·N·k·(P − P_1) flops), then kept;
    * `outputs` f (N, k).

    `nbytes` counts what is held at the moment, without the input.  Fields are treated as
    immutable; do not write to the arrays.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork([np.array([[1.0, 0.0], [0.0, -1.0]])], np.array([1.0, 2.0]))
    >>> fields = net.fields(np.array([[3.0, 4.0]]))
    >>> fields.gates[0], fields.conjugates[0], fields.outputs
    (array([[ True, False]]), array([[1., 0.]]), array([[3.]]))
    """

    def __init__(self, network: ReLUNetwork, X: Any) -> None:
        self.network = network
        self.inputs = check_inputs(X, network)
        xp, n = namespace(network.readout), self.inputs.shape[0]
        self.activations: list[Any] = [self.inputs]
        for layer, width in enumerate(network.widths[1:], start=1):
            a = xp.empty((n, width), dtype=network.dtype)
            for s in row_slices(n, width * network.dtype.itemsize):
                below = self.activations[-1][s]
                h = preactivation(network, layer, below, out=None if is_sparse(below) else a[s])
                a[s] = rectify(h)
            self.activations.append(a)

    #: whether the fields follow from the network's weights, and may be recomputed from them
    derived = True

    @classmethod
    def from_state(
        cls, network: ReLUNetwork, X: Any, preactivations: list[Any], psi: list[Any]
    ) -> Fields:
        """Fields that are a state of their own: a and θ from h, φ = θ ∘ ψ; X is not checked.

        `preactivations` [h^1, …, h^L] is referenced; `psi` is [ψ^1, …, ψ^L], each (N, k, n_ℓ).
        """
        self = object.__new__(cls)
        xp = namespace(network.readout)
        middle = 0 if network.outputs == 1 else slice(None)
        self.network, self.inputs, self.derived = network, X, False
        self.preactivations = preactivations
        self.activations = [X, *(xp.maximum(h, 0) for h in preactivations)]
        self.conjugates = [
            (psi_l * (h > 0)[:, None, :])[:, middle]
            for psi_l, h in zip(psi, preactivations, strict=True)
        ]
        return self

    @property
    def samples(self) -> int:
        """N."""
        return int(self.inputs.shape[0])

    @cached_property
    def preactivations(self) -> list[Any]:
        """``[h^1, …, h^L]``, each (N, n_ℓ)."""
        return [
            preactivation(self.network, layer, below)
            for layer, below in enumerate(self.activations[:-1], start=1)
        ]

    @cached_property
    def gates(self) -> list[Any]:
        """``[θ^1, …, θ^L]``, each (N, n_ℓ) bool."""
        return [a > 0 for a in self.activations[1:]]

    @cached_property
    def outputs(self) -> Any:
        """f, (N, k)."""
        return self.activations[-1] @ self.network.readout.T

    @cached_property
    def conjugates(self) -> list[Any]:
        """``[φ^1, …, φ^L]``, each (N, n_ℓ) for one output, (N, k, n_ℓ) for k."""
        net, n = self.network, self.samples
        xp = namespace(net.readout)
        middle = () if net.outputs == 1 else (net.outputs,)
        out = [xp.empty((n, *middle, w), dtype=net.dtype) for w in net.widths[1:]]
        for s in blocks(net, n, copies=2 * net.outputs):
            for phi, part in zip(out, self.conjugate_rows(s), strict=True):
                phi[s] = part.reshape(-1, *middle, part.shape[-1])
        return out

    def conjugate_rows(self, index: Any) -> list[Any]:
        """Conjugates of some samples, each (b, k, n_ℓ), computed and not kept."""
        net = self.network
        assert self.derived
        rows = [None, *(a[index] for a in self.activations[1:])]
        seed = namespace(net.readout).broadcast_to(
            net.readout, (rows[-1].shape[0], *net.readout.shape)
        )
        return conjugates(net, rows, seed)

    @property
    def nbytes(self) -> int:
        """Bytes held now, without the input."""
        kept = [self.activations[1:]]
        kept += [self.__dict__[k] for k in ("preactivations", "gates", "conjugates")
                 if k in self.__dict__]  # fmt: skip
        outputs = self.__dict__.get("outputs")
        return sum(int(a.nbytes) for arrays in kept for a in arrays) + (
            0 if outputs is None else int(outputs.nbytes)
        )

    def __repr__(self) -> str:
        return f"<Fields of {self.samples:,} samples on {self.network!r}, {self.nbytes:,} bytes>"


def check_fields(fields: Any, name: str = "fields") -> Fields:
    """Return `fields` if it is a :class:`Fields`, else raise ``TypeError``."""
    if not isinstance(fields, Fields):
        raise TypeError(f"{name} must be an opflow Fields, not {type(fields).__name__}")
    return fields


def check_layer(fields: Fields, layer: Any, name: str = "layer") -> int:
    """A layer, 1..L."""
    return check_integer(layer, name, 1, check_fields(fields).network.depth)


def check_sample(fields: Fields, sample: Any, name: str) -> int:
    """A sample, 0..N − 1."""
    return check_integer(sample, name, 0, check_fields(fields).samples - 1)


def check_order(fields: Fields, order: Any) -> int:
    """An order of truncation; None is the depth, at which nothing is cut off."""
    depth = check_fields(fields).network.depth
    return depth if order is None else check_integer(order, "order", 0)
