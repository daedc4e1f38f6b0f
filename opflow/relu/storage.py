"""Choice of how :class:`Fields` hold activations (cached, packed, recomputed), and its bytes."""

from __future__ import annotations

from opflow.machine.arrays import Array, locked, namespace
from opflow.machine.threads import over_rows
from opflow.operators.gates import pack
from opflow.relu.inputs import Hidden
from opflow.relu.network_arrays import NetworkArrays
from opflow.relu.passes import blocks, forward, new_array

#: how activations are held, fastest products first
STORAGES = ("cached", "packed", "recomputed")


def packs_top(network: NetworkArrays, storage: str) -> bool:
    """Whether a storage holds the top layer as gates; not if a trained readout reads it."""
    return storage == "packed" and network.readout_rate is None


def held_activations(
    network: NetworkArrays, samples: int, first: Hidden, storage: str
) -> list[Array]:
    """What a storage keeps of ``[ã^1, …, ã^L]``."""
    if storage == "recomputed":
        return []
    packed = packs_top(network, storage)
    kept = [new_array(network, samples, width) for width in network.widths[1:]]
    if packed:
        xp = namespace(network.readout)
        kept[-1] = xp.empty((samples, -(-network.widths[-1] // 8)), dtype=xp.uint8)

    def fill(rows: slice) -> None:
        for s in blocks(network, rows, 0, first.data):
            places: list[Array | None] = [a[s] for a in kept]
            if packed:
                places[-1] = None
            activations = forward(network, first.read(s, places[0])[1], out=places)
            if packed:
                kept[-1][s] = pack(activations[-1] > 0)

    over_rows(samples, fill, 2.0 * samples * network.parameters, first.data)
    return [locked(a) for a in kept]


def storage_bytes(network: NetworkArrays, samples: int, storage: str) -> float:
    """Bytes of the activations in a storage, and of conjugates once they are cached."""
    if storage == "recomputed":
        return 0.0
    *_, top = network.widths
    item = network.dtype.itemsize
    held = sum(network.widths[1:]) * item
    if storage == "cached":
        held *= 1 + network.outputs
    elif packs_top(network, storage):
        held += -(-top // 8) - top * item
    return float(samples) * held


def storage_within(network: NetworkArrays, samples: int, budget: float) -> str:
    """The storage with the fastest products that fits `budget` bytes.

    With one hidden layer of gates that are packed there is no chain of GEMMs to save: packed is as
    fast as cached.
    """
    gates = packs_top(network, "packed") and network.slopes[-1] != 1
    ranked = STORAGES[1:] if network.depth == 1 and gates else STORAGES
    return next(s for s in ranked if storage_bytes(network, samples, s) <= max(budget, 0.0))
