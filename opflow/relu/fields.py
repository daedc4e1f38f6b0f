"""The fields of a network on a training set: activations, gates, conjugates, outputs.

Activations are computed once and kept, or kept in part, or computed anew row block by row block,
as memory allows; everything else follows from them on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opflow.machine.arrays import Array, Data, Index, locked, module_name, namespace
from opflow.machine.ranks import LOCAL, RowDistribution, same, space_of, together
from opflow.machine.threads import cached_property, over_rows
from opflow.machine.workspace import parse_memory
from opflow.operators import Operator
from opflow.operators.gates import unpack
from opflow.operators.rules import is_operator
from opflow.relu.inputs import StoredHidden, check_inputs, first_hidden, input_rows
from opflow.relu.passes import (
    all_conjugates,
    blocks,
    forward,
    layer_activation,
    lower_conjugates,
    new_array,
    preactivation,
    top_conjugate,
    top_outputs,
)
from opflow.relu.storage import STORAGES, held_activations, packs_top, storage_within
from opflow.relu.units import activate, packed_gates, sloped, slopes

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


class Fields:
    r"""The fields of `network` on the samples `X`: activations, gates, conjugates and outputs.

    Parameters
    ----------
    network : ReLUNetwork
    X : array (N, d), rows on disk, sparse matrix or operator
        Of the network's dtype, finite; referenced, not copied.
    storage : {"cached", "packed", "recomputed"}, optional
        How activations are held; "cached" by default, and always for an X that is an operator.
    memory : float or str, optional
        Bytes the fields may hold (``"4GB"``): the storage with the fastest products that fits.
    finite : bool, default True
        Check in one pass that X is finite; not needed for an X that has been checked.
    comm : mpi4py.MPI.Comm or Sharded, optional
        X is this rank's rows of the inputs, and kernels are of the samples of all ranks.

    See Also
    --------
    opflow.ReLUNetwork.fields : Makes them.
    opflow.collective_kernel : Their kernel.
    opflow.hierarchy.field_velocities : How they move under gradient flow.

    Notes
    -----
    Index 0 of every list is ℓ = 1, except of `activations`, whose index 0 is the input.

    * `activations` a^ℓ (N, n_ℓ): computed at construction (2·N·P flops) and held, N·Σn_ℓ numbers;
      "packed" holds those below the top layer and the gates of the top at one bit each (with a
      trained readout, which reads them, all activations), "recomputed" nothing: a product then
      pays another forward pass each way.
    * `preactivations` h^ℓ (N, n_ℓ), `gates` θ^ℓ (N, n_ℓ), bool, ``h > 0``: from the activations.
    * `conjugates` φ^ℓ = ∂f/∂h^ℓ, (N, n_ℓ) for one output, (N, k, n_ℓ) for k: 2·N·k·(P − P_1)
      flops.
    * `outputs` f (N, k).

    All but the activations are computed on first use, then kept; `nbytes` counts what is held at
    the moment, without the input.  Fields are immutable: on the host their arrays are read-only.

    Kernels of "packed" and "recomputed" fields take the transport route and keep no conjugates;
    with one hidden layer and one output, packed gates are the conjugates, and a kernel is made of
    them where gate products are available.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork([np.array([[1.0, 0.0], [0.0, -1.0]])], np.array([1.0, 2.0]))
    >>> fields = net.fields(np.array([[3.0, 4.0]]))
    >>> fields.gates[0], fields.conjugates[0], fields.outputs
    (array([[ True, False]]), array([[1., 0.]]), array([[3.]]))
    """

    #: whether the fields follow from the network's weights, and may be recomputed from them
    derived = True
    #: the Gram of the inputs, where that is all that is known of them
    gram: Operator | None = None
    #: how the samples are held: all here, or some by every rank
    space: RowDistribution = LOCAL
    storage = "cached"
    inputs: Data
    #: the signed activations that are held, or θ^L packed in the place of the top one
    _kept: list[Array]

    def __init__(
        self,
        network: ReLUNetwork,
        X: Data,
        *,
        storage: str | None = None,
        memory: float | str | None = None,
        finite: bool = True,
        comm: Any = None,
    ) -> None:
        if storage not in (None, *STORAGES):
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}")
        self.network = network
        self.inputs = together(
            comm, lambda: check_inputs(X, network, finite=finite, empty=comm is not None)
        )
        same(comm, network.digest, "network")
        self.space = space_of(comm, self.inputs.shape[0])
        self.samples = int(self.inputs.shape[0])
        if storage is None and memory is not None:
            budget = parse_memory(memory, module_name(network.readout))
            storage = storage_within(network, self.samples, budget)
        if storage is not None and not is_operator(X):
            self.storage = storage
        self._kept = self._held(self.storage)

    def _held(self, storage: str) -> list[Array]:
        """What a storage keeps of ``[ã^1, …, ã^L]``."""
        first = first_hidden(self.network, self.inputs)
        return held_activations(self.network, self.samples, first, storage)

    @classmethod
    def from_state(
        cls, network: ReLUNetwork, X: Data, preactivations: list[Array], psi: list[Array]
    ) -> Fields:
        """Fields that are a state of their own: a and θ from h, φ = θ ∘ ψ; X is not checked.

        `preactivations` [h^1, …, h^L] is referenced; `psi` is [ψ^1, …, ψ^L], each (N, k, n_ℓ).
        """
        pairs = list(zip(preactivations, network.slopes, strict=True))
        kept = [locked(activate(h.copy(), slope)) for h, slope in pairs]
        self = cls.from_rows(network, [X, *kept])
        self.derived = False
        self.preactivations = preactivations
        self.conjugates = []
        for psi_l, (h, slope) in zip(psi, pairs, strict=True):
            phi = psi_l * slopes(h, slope, h.dtype)[:, None, :]
            self.conjugates.append(locked(phi[:, 0] if network.outputs == 1 else phi))
        self.lower_conjugates = self.conjugates[:-1]
        return self

    @classmethod
    def from_hidden(cls, network: ReLUNetwork, first: StoredHidden, gram: Operator) -> Fields:
        """Fields from h^1, where the inputs are known by their Gram alone."""
        kept = held_activations(network, len(first.data), first, cls.storage)
        self = cls.from_rows(network, [None, *kept])
        self.gram = gram
        return self

    @classmethod
    def from_rows(cls, network: ReLUNetwork, rows: list[Data]) -> Fields:
        """Fields with the inputs and the signed activations that :meth:`rows` gives."""
        self = object.__new__(cls)
        self.network = network
        self.inputs, *self._kept = rows
        self.samples = len(self._kept[0])
        return self

    @property
    def activations(self) -> list[Data]:
        """``[X, a^1, …, a^L]``, each (N, n_ℓ)."""
        net = self.network
        return [layer_activation(net, i, a) for i, a in enumerate([self.inputs, *self._signed()])]

    def _signed(self) -> list[Array]:
        """``[ã^1, …, ã^L]``."""
        if self.storage == "cached":
            return self._kept
        return self._held("cached")

    def rows(self, index: Index, inputs: bool = True) -> list[Data]:
        """``[X, ã^1, …]`` of some samples; zeros and ones of θ^L for ã^L where that is packed.

        Without `inputs` None for X, unless it is needed for the others.
        """
        if self.storage == "recomputed":
            below = input_rows(self.inputs, index)
            return forward(self.network, preactivation(self.network, 1, below), below)
        kept = [a[index] for a in self._kept]
        if packs_top(self.network, self.storage):
            kept[-1] = unpack(kept[-1], self.network.widths[-1])
        if not inputs or self.inputs is None or is_operator(self.inputs):
            return [None, *kept]
        return [input_rows(self.inputs, index), *kept]

    @cached_property
    def preactivations(self) -> list[Array]:
        """``[h^1, …, h^L]``, each (N, n_ℓ)."""
        return [locked(h) for h in self.hidden()]

    def hidden(self) -> list[Array]:
        """``[h^1, …, h^L]`` computed anew, for the caller to write to."""
        net = self.network
        found = [preactivation(net, i, a) for i, a in enumerate(self.activations[1:-1], start=2)]
        first = first_hidden(net, self.inputs)
        h = new_array(net, self.samples, net.widths[1])
        for s in blocks(net, self.samples, 0, first.data):
            first.read(s, h[s])
        return [h, *found]

    @cached_property
    def gates(self) -> list[Array]:
        """``[θ^1, …, θ^L]``, each (N, n_ℓ) bool."""
        return [locked(a > 0) for a in self._signed()]

    @property
    def top_bits(self) -> Array:
        """θ^L packed, eight gates a byte, (N, ⌈n_L/8⌉); not kept."""
        if packs_top(self.network, self.storage):
            return self._kept[-1]
        return packed_gates(self._signed()[-1])

    @cached_property
    def outputs(self) -> Array:
        """f, (N, k)."""
        net = self.network
        if self.storage == "cached":
            return locked(top_outputs(net, self._kept[-1]))
        out = new_array(net, self.samples, net.outputs)
        for s in blocks(net, self.samples, X=self.inputs):
            *_, below, top = self.rows(s, net.depth == 1)
            if packs_top(net, self.storage):  # |s|, which makes ã^L of h^L
                top = sloped(preactivation(net, net.depth, below), top, abs(net.slopes[-1]))
            out[s] = top_outputs(net, top)
        return locked(out)

    @cached_property
    def conjugates(self) -> list[Array]:
        """``[φ^1, …, φ^L]``, each (N, n_ℓ) for one output, (N, k, n_ℓ) for k."""
        if "lower_conjugates" in vars(self):
            return [*self.lower_conjugates, *self._conjugates(slice(-1, None), top_conjugate)]
        found = self._conjugates(slice(None), all_conjugates)  # one pass: it may read X
        self.lower_conjugates = found[:-1]
        return found

    @cached_property
    def lower_conjugates(self) -> list[Array]:
        """``[φ^1, …, φ^{L-1}]``, without the top one, which is no more than its gates."""
        if self.network.depth == 1:
            return []
        return self._conjugates(slice(-1), lower_conjugates)

    def conjugate(self, layer: int) -> Array:
        """φ^ℓ as a matrix (N·k, n_ℓ); those of the top layer are computed only if asked for."""
        phi = (self.conjugates if layer == self.network.depth else self.lower_conjugates)[layer - 1]
        return phi.reshape(-1, phi.shape[-1])

    def _conjugates(self, layers: slice, write: Callable[..., None]) -> list[Array]:
        """Conjugates of some layers, which `write` computes for a row block."""
        net = self.network
        n = self.samples
        V = net.readout
        if net.outputs == 1:
            V = V[0]
        out = [new_array(net, n, *V.shape[:-1], width) for width in net.widths[1:][layers]]

        def fill(samples: slice) -> None:
            for s in blocks(net, samples, net.outputs, self.inputs):
                seed = namespace(V).broadcast_to(V, (s.stop - s.start, *V.shape))
                write(net, self.rows(s, inputs=False), seed, [phi[s] for phi in out])

        read = self.inputs if self.storage == "recomputed" else self._kept[0]
        upper = net.parameters - net.weights[0].size
        over_rows(n, fill, 2.0 * n * net.outputs * upper, read)
        return [locked(phi) for phi in out]

    @property
    def nbytes(self) -> int:
        """Bytes held now, without the input."""
        known = vars(self)
        arrays = [*self._kept, *known.get("preactivations", ()), *known.get("gates", ())]
        arrays += known.get("conjugates") or known.get("lower_conjugates", ())
        if "outputs" in known:
            arrays.append(self.outputs)
        return sum(int(a.nbytes) for a in arrays)

    def __repr__(self) -> str:
        return f"<Fields of {self.samples:,} samples on {self.network!r}, {self.nbytes:,} bytes>"
