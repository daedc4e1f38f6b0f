"""An observer of a truncated run: how far its fields are from the exact ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.dynamics.observe.moment import Moment, Remembering
from opflow.machine.arrays import Array
from opflow.relu.fields import Fields
from opflow.relu.hierarchy import field_errors
from opflow.relu.kernels import collective_kernel
from opflow.spectral.krylov.lanczos import largest_eigenvalue


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
