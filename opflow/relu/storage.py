"""How fields hold their activations in memory: cached, packed or recomputed, and its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opflow.relu.network import ReLUNetwork

#: how activations are held, fastest products first
STORAGES = ("cached", "packed", "recomputed")


def packs_top(network: ReLUNetwork, storage: str) -> bool:
    """Whether a storage holds the top layer as gates; not if a trained readout reads it."""
    return storage == "packed" and network.readout_rate is None


def storage_bytes(network: ReLUNetwork, samples: int, storage: str) -> float:
    """Bytes of the activations in a storage, and of conjugates once they are cached."""
    if storage == "recomputed":
        return 0.0
    *lower, top = network.widths[1:]
    item = network.dtype.itemsize
    if storage == "packed":
        held = -(-top // 8) if packs_top(network, storage) else top * item
        return float(samples) * (sum(lower) * item + held)
    return float(samples) * (1 + network.outputs) * (sum(lower) + top) * item


def storage_within(network: ReLUNetwork, samples: int, budget: float) -> str:
    """The storage with the fastest products that fits `budget` bytes.

    With one hidden layer of gates that are packed there is no chain of GEMMs to save: packed is as
    fast as cached.
    """
    gates = packs_top(network, "packed") and network.slopes[-1] != 1
    ranked = STORAGES[1:] if network.depth == 1 and gates else STORAGES
    return next(s for s in ranked if storage_bytes(network, samples, s) <= max(budget, 0.0))
