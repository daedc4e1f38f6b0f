"""The kernel of outputs that are measured by a linear operator, ``G K Gᵀ``."""

from __future__ import annotations

from opflow.machine.arrays import Data
from opflow.operators.measuring import measuring_operator
from opflow.operators.operator import Operator
from opflow.operators.pullback import pushforward
from opflow.relu.checks import check_fields
from opflow.relu.fields import Fields
from opflow.relu.kernels import collective_kernel


def measured_kernel(fields: Fields, measurement: Data, *, route: str | None = None) -> Operator:
    r"""Return G K Gᵀ, the kernel of the residual r = G f − d of measured outputs.

    Parameters
    ----------
    fields : Fields
    measurement : operator, array or sparse matrix (M, N·k)
        G, on outputs flattened sample-major, of the network's dtype.
    route : {"cached", "transport"}, optional
        As in :func:`jacobian`.

    Returns
    -------
    Operator of shape (M, M), symmetric and PSD

    See Also
    --------
    opflow.train : Trains through a `measurement`.
    opflow.collective_kernel : K itself.
    opflow.spectral.resolution : What such data determine of the outputs.

    Notes
    -----
    :math:`dr/dt = -G K G^T r`.  A product is one with K, one with G and one with Gᵀ.  Its Jacobian
    is ``G @ of.jacobian(fields)``; ``of.cross_kernel(new, fields) @ G.T`` predicts at new points
    from the coefficients of a regression on it, ``of.spectral.kernel_regression(GKG, d - G @ f0)``.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> mean = np.full((1, 3), 1 / 3)
    >>> K, M = of.collective_kernel(fields), of.measured_kernel(fields, mean)
    >>> M.shape, M.psd, bool(np.isclose(M.todense()[0, 0], K.todense().mean()))
    ((1, 1), True, True)
    """
    net = check_fields(fields).network
    if fields.space.sharded:
        raise ValueError("measurement needs all samples here: fields without comm=")
    G = measuring_operator(measurement, fields.samples, net.outputs, net.readout)
    return pushforward(collective_kernel(fields, route=route), G)
