"""The fields of a network on a training set: activations, gates, conjugates, outputs.

Activations are computed once and kept, or kept in part, or computed anew row block by row block,
as memory allows; everything else follows from them on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from opflow.machine.arrays import Array, check_integer, locked, module_name, namespace
from opflow.machine.ranks import LOCAL, RowDistribution, same, space_of, together
from opflow.machine.threads import cached_property, over_rows
from opflow.machine.workspace import parse_memory, row_slices
from opflow.operators.gates import pack, unpack
from opflow.operators.rules import is_operator
from opflow.relu.inputs import check_inputs, first_hidden, input_rows
from opflow.relu.passes import (
    blocks,
    forward,
    lower_conjugates,
    preactivation,
)

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork


#: how activations are held, fastest products first
STORAGES = ("cached", "packed", "recomputed")
#: flops that take the time of packing one gate
PACKING = 50.0


def storage_bytes(network: ReLUNetwork, samples: int, storage: str) -> float:
    """What the fields hold of activations in a storage, and of conjugates once cached."""
    *lower, top = network.widths[1:]
    item, n = network.dtype.itemsize, float(samples)
    return {
        "cached": n * (1 + network.outputs) * (sum(lower) + top) * item,
        "packed": n * (sum(lower) * item + -(-top // 8)),
        "recomputed": 0.0,
    }[storage]


def storage_within(network: ReLUNetwork, samples: int, budget: float) -> str:
    """The storage with the fastest products that fits `budget` bytes.

    With one hidden layer there is no chain of GEMMs to save: packed is as fast as cached.
    """
    ranked = STORAGES if network.depth > 1 else STORAGES[1:]
    return next(s for s in ranked if storage_bytes(network, samples, s) <= max(budget, 0.0))


class Fields:
    r"""The fields of `network` on the samples `X`.

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
        Make sure that X is, one pass over it; not needed for an X that has been checked.
    comm : mpi4py.MPI.Comm or Sharded, optional
        X is this rank's rows of the inputs, and kernels are of the samples of all ranks.

    Notes
    -----
    With ℓ = 1..L and index 0 of every list being ℓ = 1, except `activations`, whose index 0 is
    the input:

    * `activations` a^ℓ (N, n_ℓ): computed at construction (2·N·P flops) and held, N·Σn_ℓ numbers;
      "packed" holds those below the top layer and the gates of the top at one bit each, and
      "recomputed" nothing: a product then pays another forward pass each way.  Asked for as a
      list, they are computed anew where they are not held, and not kept;
    * `preactivations` h^ℓ (N, n_ℓ): recomputed from the activations on first use, then kept;
    * `gates` θ^ℓ (N, n_ℓ), bool, ``h > 0``: read off the activations on first use, then kept;
    * `conjugates` φ^ℓ = ∂f/∂h^ℓ, (N, n_ℓ) for one output, (N, k, n_ℓ) for k: computed on first
      use (2·N·k·(P − P_1) flops), then kept;
    * `outputs` f (N, k).

    Kernels of "packed" and "recomputed" fields take the transport route and keep no conjugates;
    with one hidden layer and one output, packed gates are the conjugates, and where gate products
    are to be had a kernel is made of them.
    `nbytes` counts what is held at the moment, without the input.  Fields are
    immutable: on the host their arrays are read-only.

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
    gram: Any = None
    #: how the samples are held: all here, or some by every rank
    space: RowDistribution = LOCAL

    def __init__(
        self,
        network: ReLUNetwork,
        X: Any,
        *,
        storage: str | None = None,
        memory: float | str | None = None,
        finite: bool = True,
        comm: Any = None,
    ) -> None:
        self.network, self.inputs = (
            network,
            together(comm, lambda: check_inputs(X, network, finite=finite, empty=comm is not None)),
        )
        same(comm, network.digest, "network")
        self.space = space_of(comm, self.inputs.shape[0])
        self.samples = int(self.inputs.shape[0])
        if storage not in (None, *STORAGES):
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}")
        if storage is None and memory is not None:
            budget = parse_memory(memory, module_name(network.readout))
            storage = storage_within(network, self.samples, budget)
        self.storage = "cached" if storage is None or is_operator(X) else storage
        self._kept = self._held(first_hidden(network, self.inputs))

    def _held(self, first: Any, storage: str | None = None) -> list[Any]:
        """What a storage keeps of ``[a^1, …, a^L]``."""
        net, xp, n = self.network, namespace(self.network.readout), self.samples
        storage = storage or self.storage
        if storage == "recomputed":
            return []
        kept = [xp.empty((n, width), dtype=net.dtype) for width in net.widths[1:]]
        packed = storage == "packed"
        if packed:
            kept[-1] = xp.empty((n, -(-net.widths[-1] // 8)), dtype=xp.uint8)

        def fill(samples: slice) -> None:
            for s in blocks(net, samples, 0, first.data):
                places = [None if packed and a is kept[-1] else a[s] for a in kept]
                activations = forward(net, first.read(s, places[0])[1], out=places)
                if packed:
                    kept[-1][s] = pack(activations[-1] > 0)

        over_rows(n, fill, 2.0 * n * net.parameters, first.data)
        return [locked(a) for a in kept]

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
        self.samples, self.storage = int(X.shape[0]), "cached"
        self.preactivations = preactivations
        self._kept = [locked(xp.maximum(h, 0)) for h in preactivations]
        self.conjugates = [
            locked((psi_l * (h > 0)[:, None, :])[:, middle])
            for psi_l, h in zip(psi, preactivations, strict=True)
        ]
        self.lower_conjugates = self.conjugates[:-1]
        return self

    @classmethod
    def from_hidden(cls, network: ReLUNetwork, first: Any, samples: int, gram: Any) -> Fields:
        """Fields from a pass that gives h^1, where the inputs are known by their Gram alone."""
        self = object.__new__(cls)
        self.network, self.inputs, self.gram = network, None, gram
        self.samples, self.storage = samples, "cached"
        self._kept = self._held(first)
        return self

    @property
    def activations(self) -> list[Any]:
        """``[X, a^1, …, a^L]``, each (N, n_ℓ)."""
        net, kept = self.network, self._kept
        if self.storage != "cached":
            kept = self._held(first_hidden(net, self.inputs), "cached")
        return [self.inputs, *kept]

    def rows(self, index: Any, inputs: bool = True) -> list[Any]:
        """``[X, a^1, …]`` of some samples; zeros and ones of θ^L for a^L where that is packed.

        Without `inputs` None for X, unless it is needed for the others.
        """
        if self.storage == "recomputed":
            below = input_rows(self.inputs, index)
            return [below, *forward(self.network, preactivation(self.network, 1, below))[1:]]
        kept = [a[index] for a in self._kept]
        if self.storage == "packed":
            kept[-1] = unpack(kept[-1], self.network.widths[-1])
        whole = self.inputs is None or is_operator(self.inputs)
        return [None if whole or not inputs else input_rows(self.inputs, index), *kept]

    @cached_property
    def preactivations(self) -> list[Any]:
        """``[h^1, …, h^L]``, each (N, n_ℓ)."""
        return [locked(h) for h in self.hidden()]

    def hidden(self) -> list[Any]:
        """``[h^1, …, h^L]`` computed anew, for the caller to write to."""
        net, X = self.network, self.inputs
        found = [preactivation(net, i, a) for i, a in enumerate(self.activations[1:-1], start=2)]
        first = first_hidden(net, X)
        h = namespace(net.readout).empty((self.samples, net.widths[1]), dtype=net.dtype)
        for s in blocks(net, self.samples, 0, X):
            first.read(s, h[s])
        return [h, *found]

    @cached_property
    def gates(self) -> list[Any]:
        """``[θ^1, …, θ^L]``, each (N, n_ℓ) bool."""
        return [locked(a > 0) for a in self.activations[1:]]

    @property
    def top_bits(self) -> Any:
        """θ^L packed, eight gates a byte, (N, ⌈n_L/8⌉); not kept."""
        if self.storage == "packed":
            return self._kept[-1]
        top = self.activations[-1]
        bits = namespace(top).empty((len(top), -(-top.shape[1] // 8)), dtype=np.uint8)

        def fill(samples: slice) -> None:
            for s in row_slices(samples, 2 * top.shape[1]):
                bits[s] = pack(top[s] > 0)

        over_rows(len(top), fill, PACKING * top.size, top)
        return bits

    @cached_property
    def outputs(self) -> Array:
        """f, (N, k)."""
        net = self.network
        if self.storage == "cached":
            return locked(self._kept[-1] @ net.readout.T)
        out = namespace(net.readout).empty((self.samples, net.outputs), dtype=net.dtype)
        for s in blocks(net, self.samples, X=self.inputs):
            *_, below, top = self.rows(s, net.depth == 1)
            if self.storage == "packed":
                top = preactivation(net, net.depth, below) * top
            out[s] = top @ net.readout.T
        return locked(out)

    @cached_property
    def conjugates(self) -> list[Any]:
        """``[φ^1, …, φ^L]``, each (N, n_ℓ) for one output, (N, k, n_ℓ) for k."""
        xp = namespace(self.network.readout)
        widest = self.network.depth - 1

        def top(rows: list[Any], seed: Any, out: list[Any]) -> None:
            gates = rows[-1] > 0
            xp.multiply(seed, gates if seed.ndim == 2 else gates[:, None], out=out[0])

        return [*self.lower_conjugates, *self._conjugates(slice(widest, None), top)]

    @cached_property
    def lower_conjugates(self) -> list[Any]:
        """``[φ^1, …, φ^{L-1}]``, without the top one, which is no more than its gates."""
        if self.network.depth == 1:
            return []
        return self._conjugates(slice(-1), partial(lower_conjugates, self.network))

    def conjugate(self, layer: int) -> Any:
        """φ^ℓ as a matrix (N·k, n_ℓ); those of the top layer are computed only if asked for."""
        phi = (self.conjugates if layer == self.network.depth else self.lower_conjugates)[layer - 1]
        return phi.reshape(-1, phi.shape[-1])

    def _conjugates(
        self, layers: slice, work: Callable[[list[Any], Any, list[Any]], None]
    ) -> list[Any]:
        """Conjugates of some layers, which `work` fills in by row blocks."""
        assert self.derived
        net = self.network
        n = self.samples
        xp = namespace(net.readout)
        middle = () if net.outputs == 1 else (net.outputs,)
        widths = net.widths[1:][layers]
        out = [xp.empty((n, *middle, width), dtype=net.dtype) for width in widths]

        def fill(samples: slice) -> None:
            for s in blocks(net, samples, net.outputs, self.inputs):
                rows = self.rows(s, inputs=False)
                seed = self.seed(rows)
                work(rows, seed if middle else seed[:, 0], [phi[s] for phi in out])

        read = self.inputs if self.storage == "recomputed" else self._kept[0]
        upper = net.parameters - net.weights[0].size
        over_rows(n, fill, 2.0 * n * net.outputs * upper, read)
        return [locked(phi) for phi in out]

    def seed(self, rows: list[Any]) -> Any:
        """ψ^L of some samples, (b, k, n_L): the readout for each."""
        V = self.network.readout
        return namespace(V).broadcast_to(V, (rows[-1].shape[0], *V.shape))

    @property
    def nbytes(self) -> int:
        """Bytes held now, without the input."""
        kept = [self._kept]
        phi = "conjugates" if "conjugates" in self.__dict__ else "lower_conjugates"
        kept += [self.__dict__[k] for k in ("preactivations", "gates", phi) if k in self.__dict__]
        outputs = self.__dict__.get("outputs")
        return sum(int(a.nbytes) for arrays in kept for a in arrays) + (
            0 if outputs is None else int(outputs.nbytes)
        )

    def __repr__(self) -> str:
        return f"<Fields of {self.samples:,} samples on {self.network!r}, {self.nbytes:,} bytes>"


def check_fields(fields: Any, name: str = "fields") -> Fields:
    """Return `fields` if it is a :class:`Fields` of samples that are all here, else raise."""
    if not isinstance(fields, Fields):
        raise TypeError(f"{name} must be an opflow Fields, not {type(fields).__name__}")
    if fields.space.sharded:
        raise ValueError(
            f"{name} is sharded over ranks: of such samples there are kernels and Jacobians only"
        )
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
