"""Observers: what a run records on its way.

An observer is any callable of a :class:`Moment`; what it returns (a number or an array) is kept
under its name.  Those here cost what their docstrings say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from opflow.arrays import namespace
from opflow.operators.masks import pack
from opflow.operators.rows import row_slices
from opflow.relu.network import ReLUNetwork
from opflow.relu.passes import forward_blocks


@dataclass(frozen=True)
class Moment:
    """What an observer sees.

    Attributes
    ----------
    step : int
    time : float
    loss : float
    residual : array (N, k)
        A buffer of the run: copy what is to be kept.
    network : ReLUNetwork
    inputs, targets : arrays (N, d), (N, k)
    """

    step: int
    time: float
    loss: float
    residual: Any
    network: ReLUNetwork
    inputs: Any
    targets: Any


class Loss:
    """The loss; costs nothing."""

    name = "loss"

    def __call__(self, moment: Moment) -> float:
        return moment.loss


class ResidualNorm:
    """‖r‖ over all samples and outputs; costs 2·N·k flops."""

    name = "residual_norm"

    def __call__(self, moment: Moment) -> float:
        r = moment.residual
        return float((r.astype(np.float64) ** 2).sum()) ** 0.5


class GateFlips:
    """Gates that changed since the last observation, one count a layer.

    Costs a forward pass (2·N·P flops) and keeps N·Σn_ℓ/8 bytes.
    """

    name = "gate_flips"

    def __init__(self) -> None:
        self._last: list[Any] | None = None

    def __call__(self, moment: Moment) -> Any:
        net, xp = moment.network, namespace(moment.residual)
        n = moment.residual.shape[0]
        now = [xp.empty((n, -(-w // 8)), dtype=xp.uint8) for w in net.widths[1:]]
        for s, activations in forward_blocks(net, moment.inputs):
            for packed, a in zip(now, activations[1:], strict=True):
                packed[s] = pack(a > 0)
        before = self._last if self._last is not None and moment.step else now
        self._last = now
        return np.array([_differing_bits(a, b) for a, b in zip(now, before, strict=True)])


def _differing_bits(a: Any, b: Any) -> int:
    xp = namespace(a)
    return sum(
        int(xp.unpackbits(a[s] ^ b[s]).sum(dtype=xp.int64))
        for s in row_slices(len(a), 8 * a.shape[1])
    )


class Balancedness:
    r"""The largest drift of a balancedness invariant since the start, relative to the weights.

    Notes
    -----
    :math:`\|W^{\ell+1}_{:,j}\|^2/\eta_{\ell+1} - (\|W^\ell_{j,:}\|^2 + b_j^2)/\eta_\ell` is
    constant along the gradient flow for every hidden unit j below the top layer, so its drift
    is the discretisation error of a run.  0 for one hidden layer (there is no invariant).
    Costs 4·P flops.
    """

    name = "balancedness_drift"

    def __init__(self) -> None:
        self._start: Any = None

    def __call__(self, moment: Moment) -> float:
        now, size = balances(moment.network)
        if self._start is None or moment.step == 0:
            self._start = (now, size)
        start, size = self._start
        return max((float(abs(a - b).max()) / size for a, b in zip(now, start, strict=True)),
                   default=0.0)  # fmt: skip


def balances(network: ReLUNetwork) -> tuple[list[Any], float]:
    """The invariants of each layer but the last, and the largest norm in them."""
    out, size = [], 0.0
    for i in range(network.depth - 1):
        W, b, above = network.weights[i], network.biases[i], network.weights[i + 1]
        incoming = (W**2).sum(axis=1) + (0 if b is None else b**2)
        incoming = incoming / network.rates[i]
        outgoing = (above**2).sum(axis=0) / network.rates[i + 1]
        out.append(outgoing - incoming)
        size = max(size, float(incoming.max()), float(outgoing.max()))
    return out, size or 1.0
