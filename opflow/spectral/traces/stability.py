"""The largest eigenvalue beside the limit of stability of gradient descent."""

from __future__ import annotations

from typing import NamedTuple

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Data
from opflow.spectral.checks import Estimate, check_shift, symmetric_operator
from opflow.spectral.krylov.lanczos import extremes
from opflow.spectral.traces.norms import lanczos_estimate, spectrum_by_lapack


class Sharpness(NamedTuple):
    """The largest eigenvalue beside 2/step, the limit of stability.

    Attributes
    ----------
    largest : Estimate
    limit : float, 2 / step
    ratio : Estimate
        largest / limit: above 1, gradient descent at this step amplifies the top mode.

    See Also
    --------
    opflow.spectral.sharpness : Computes it.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.sharpness(np.eye(2), 0.5).limit
    4.0
    """

    largest: Estimate
    limit: float
    ratio: Estimate


@keywords
def sharpness(
    op: Data, step: float, *, products: int = 40, rng: Seed = 0, seed: Seed = 0
) -> Sharpness:
    r"""The largest eigenvalue beside 2/step, the edge of stability of gradient descent.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
        The kernel with the rates of its layers, whose largest eigenvalue is that of the
        Gauss–Newton matrix, or the Hessian of the loss, which has another one unless f is fitted.
    step : float
    products, rng, seed
        As for :func:`norm`.

    See Also
    --------
    opflow.observe.Sharpness : The largest eigenvalue along a run.

    Notes
    -----
    A step of gradient descent takes a mode from c to :math:`(1 - h\lambda)\,c`, which grows for
    :math:`\lambda > 2/h`.  Bounds are those of :func:`norm`, here of the largest
    eigenvalue, and so is the warning if their interval is wider than a tenth of the norm.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.sharpness(np.diag([1.0, 4.0]), 0.25).ratio
    0.5 (exact, 0 products)
    """
    op = symmetric_operator(op)
    step = check_shift(step, "step")
    if step == 0:
        raise ValueError("step must be positive, not 0")
    spectrum = spectrum_by_lapack(op, products)
    if spectrum is not None:
        largest = Estimate(float(spectrum.all()[-1]), products=spectrum.products)
    else:
        ends = extremes(op, products, rng)
        size = max(-ends.bottom, ends.ceiling)
        largest = lanczos_estimate(ends.top, ends.top, ends.ceiling, ends.products, size)
    return Sharpness(largest, 2 / step, largest.mapped(lambda x: x * step / 2))
