"""Observers of the fields: gates that flip, the distance of truncated fields from exact ones."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment, Remembering
from opflow.machine.arrays import Array, namespace, to_device_of, to_host
from opflow.machine.workspace import row_slices
from opflow.operators.gates import pack
from opflow.relu.fields import Fields
from opflow.relu.hierarchy import field_errors
from opflow.relu.kernels import collective_kernel
from opflow.spectral.krylov.lanczos import largest_eigenvalue


class GateFlips(Remembering):
    """Gates that changed since the last observation, one count a layer.

    None change in a linearised flow: the model's gates are those of the start.  Costs a forward
    pass (2·N·P flops) and keeps N·Σn_ℓ/8 bytes.

    See Also
    --------
    opflow.Fields : Holds the gates.
    opflow.observe.KernelDistance : How far the kernel has moved.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8], seed=0)
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, observe=[of.observe.GateFlips()])
    >>> run.observations["gate_flips"].shape
    (6, 2)
    """

    name = "gate_flips"
    by_sample = remembered = ("last",)

    def __init__(self) -> None:
        #: the gates of the last observation, packed layer beside layer
        self.last: Any = None

    def __call__(self, moment: Moment) -> Array:
        if moment.space.sharded:  # checkpoints divide the rows of an observer as those of the data
            moment.state.measurement.refuse("GateFlips is not for measurement= with comm=")
        now, layers = _packed(moment)
        xp = namespace(now)
        before = now
        if self.last is not None and moment.step:
            before = to_device_of(self.last, now)
        self.last = now
        flips = xp.zeros(len(layers), dtype=xp.int64)
        for s in row_slices(len(now), 9 * now.shape[1]):
            flips += xp.stack(
                [xp.unpackbits(now[s, c] ^ before[s, c]).sum(dtype=xp.int64) for c in layers]
            )
        return to_host(moment.space.total(flips))


def _packed(moment: Moment) -> tuple[Array, list[slice]]:
    """The gates of all layers, eight a byte, and the columns of each layer."""
    widths = moment.tangent.upper.widths[1:]
    edges = np.cumsum([0, *(-(-w // 8) for w in widths)]).tolist()
    layers = [slice(*edge) for edge in itertools.pairwise(edges)]
    xp = namespace(moment.residual)
    packed = xp.empty((moment.tangent.first.samples, edges[-1]), dtype=xp.uint8)
    for s, activations in moment.tangent.forward_blocks():
        for columns, a in zip(layers, activations[1:], strict=True):
            packed[s, columns] = pack(a > 0)
    return packed, layers


class TruncationError(Remembering):
    """How far truncated fields are from the exact run: residual, hidden, conjugates, kernel.

    Parameters
    ----------
    kernel : bool, default True
        Measure the kernel too, by Lanczos.

    Raises
    ------
    ValueError
        When called in a run whose state is not fields, or whose samples are spread over ranks.

    See Also
    --------
    opflow.TruncatedFlow : The method whose error it is.
    opflow.hierarchy.field_errors : The distance of two sets of fields.

    Notes
    -----
    An array of three or four numbers: ‖r_p − r‖ over the first ‖r‖; the relative distances of h
    and of φ over all layers (:func:`opflow.hierarchy.field_errors`); ‖K_p − K‖₂/‖K‖₂ to a
    percent.  Costs the exact fields, and up to 150 kernel products with `kernel`.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork.random([3, 8, 8, 8], seed=0)
    >>> how = {"method": of.TruncatedFlow(order=1), "observe": [of.observe.TruncationError()]}
    >>> run = of.train(net, np.eye(3), np.ones(3), steps=5, **how)
    >>> run.observations["truncation_error"].shape
    (6, 4)
    """

    name = "truncation_error"
    remembered = ("start",)

    def __init__(self, *, kernel: bool = True) -> None:
        self.kernel = kernel
        self.start: Any = None  #: the norm of the first residual

    def __call__(self, moment: Moment) -> Array:
        if moment.space.sharded:
            raise ValueError(
                "TruncationError is for one machine: it compares fields sample by "
                "sample, and comm= spreads them over ranks"
            )
        fields = moment.fields
        if fields is None or moment.exact is None:
            raise ValueError("TruncationError needs a run with method=TruncatedFlow(...)")
        exact = Fields(moment.exact, moment.inputs, finite=False)
        r = moment.objective.force(exact.outputs, moment.targets).astype(np.float64)
        norm = moment.space.norm
        if moment.step == 0:
            self.start = float(norm(r)) or 1.0
        errors = [float(norm(moment.residual - r)) / self.start]
        errors += field_errors(fields, exact)
        if self.kernel:
            K = collective_kernel(exact)
            gap = collective_kernel(fields) - K
            size = largest_eigenvalue(K).value or 1.0
            far = max(largest_eigenvalue(side).value for side in (gap, -gap))
            errors.append(max(far, 0.0) / size)
        return np.array(errors)
