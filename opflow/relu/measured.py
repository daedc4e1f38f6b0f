"""Outputs behind a linear operator G: checks of G, and the kernel ``G K Gᵀ``."""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.machine.arrays import Data, check_real, mixed, module_name, namespace
from opflow.machine.workspace import op_namespace, operator_module
from opflow.operators.operator import Operator
from opflow.operators.pullback import pushforward
from opflow.operators.rules import as_operator, is_operator
from opflow.relu.checks import check_fields
from opflow.relu.fields import Fields
from opflow.relu.kernels import collective_kernel
from opflow.relu.network import ReLUNetwork

#: of the dot test: PyLops operators in single precision meet it, a wrong adjoint does not
ADJOINT = 0.4


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
    G = measuring_operator(measurement, net, fields.samples)
    return pushforward(collective_kernel(fields, route=route), G)


def measuring_operator(measurement: Any, network: ReLUNetwork, samples: int) -> Operator:
    """G as an operator of the network's dtype that was tried on random vectors."""
    if not is_operator(measurement):
        measurement = check_real(measurement, "measurement", dtype=network.dtype, finite=True)
    if len(measurement.shape) != 2 or not measurement.shape[0]:
        raise ValueError(f"measurement must be of shape (M, N·k), not {measurement.shape}")
    G = as_operator(measurement, symbol="G")
    k = network.outputs
    if G.shape[1] != samples * k:
        each = f"; of.FeatureLift(measurement, {k}) measures each output alike"
        raise ValueError(
            f"measurement has shape {G.shape} but there are {samples} samples of {k} outputs: "
            f"(M, {samples * k}) is expected{each * (G.shape[1] == samples)}"
        )
    if not np.can_cast(G.dtype, network.dtype, "safe") and not G.dtype_free:
        raise TypeError(
            f"measurement is {G.dtype} but the network is {network.dtype}: make it real, "
            f"and of dtype={network.dtype.name!r}"
        )
    G = G.astype(network.dtype)
    here = module_name(network.readout)
    if operator_module(G) not in (None, here):
        raise TypeError(f"measurement: {mixed(op_namespace(G).empty(0), network.readout)}")
    _check_products(G, namespace(network.readout))
    return G


def _check_products(G: Operator, xp: Any) -> None:
    """Raise unless products of G are finite and those of its adjoint belong to them."""
    rng = np.random.default_rng(0)
    u, v = (xp.asarray(rng.standard_normal(n), dtype=G.dtype) for n in reversed(G.shape))
    try:
        Gu, Gv = G.matvec(u), G.rmatvec(v)
    except TypeError as error:
        raise TypeError(f"measurement cannot be applied: {error}") from error
    if not all(bool(xp.isfinite(product).all()) for product in (Gu, Gv)):
        raise ValueError("measurement gives NaN or infinity")
    one, other = float(v @ Gu), float(Gv @ u)
    sizes = float(xp.linalg.norm(v) * xp.linalg.norm(Gu) + xp.linalg.norm(u) * xp.linalg.norm(Gv))
    if abs(one - other) > float(np.finfo(G.dtype).eps) ** ADJOINT * sizes:
        raise ValueError(
            f"measurement has an adjoint that is not its own: vᵀ(G u) = {one:.6g} but "
            f"(Gᵀv)ᵀu = {other:.6g} of random vectors"
        )
