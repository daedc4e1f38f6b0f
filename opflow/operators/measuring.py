"""The checks of a measurement operator G: its shape, its dtype, its adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from opflow.machine.arrays import Array, check_real, mixed, module_name, namespace
from opflow.machine.workspace import op_namespace, operator_module
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator, is_operator

#: a dot test may be wrong by eps to this power: more than rounding, less than a wrong adjoint
ADJOINT = 0.4


def measuring_operator(measurement: Any, samples: int, outputs: int, like: Array) -> Operator:
    """`measurement` as an operator on outputs flattened sample-major, tried on random vectors.

    Its dtype and place are those of the array `like`.
    """
    if not is_operator(measurement):
        measurement = check_real(measurement, "measurement", dtype=like.dtype, finite=True)
    shape = measurement.shape
    wanted = samples * outputs
    if len(shape) != 2 or not shape[0] or shape[1] != wanted:
        each = f"; of.FeatureLift(measurement, {outputs}) measures each output alike"
        raise ValueError(
            f"measurement has shape {tuple(shape)} but there are {samples} samples of {outputs} "
            f"outputs: (M, {wanted}) is expected{each * (shape[1:] == (samples,))}"
        )
    G = as_operator(measurement, symbol="G")
    if not np.can_cast(G.dtype, like.dtype, "safe") and not G.dtype_free:
        raise TypeError(
            f"measurement is {G.dtype} but what it measures is {like.dtype}: make it real, and of "
            f"dtype={like.dtype.name!r}"
        )
    G = G.astype(like.dtype)
    if operator_module(G) not in (None, module_name(like)):
        raise TypeError(f"measurement: {mixed(op_namespace(G).empty(0), like)}")
    _check_products(G, namespace(like))
    return G


def _check_products(G: Operator, xp: Any) -> None:
    """Raise unless products of G are finite and those of its adjoint belong to them."""
    rng = np.random.default_rng(0)
    u, v = (xp.asarray(rng.standard_normal(n), dtype=G.dtype) for n in reversed(G.shape))
    try:
        Gu = G.matvec(u)
        Gv = G.rmatvec(v)
    except (TypeError, ValueError) as error:  # there is no adjoint, or a product of another length
        raise type(error)(f"measurement cannot be applied: {error}") from error
    if not all(bool(xp.isfinite(product).all()) for product in (Gu, Gv)):
        raise ValueError("measurement gives NaN or infinity")
    norm = xp.linalg.norm
    one, other, size = (float(x) for x in (v @ Gu, Gv @ u, norm(v) * norm(Gu) + norm(u) * norm(Gv)))
    if abs(one - other) > float(np.finfo(G.dtype).eps) ** ADJOINT * size:
        raise ValueError(
            f"measurement has an adjoint that is not its own: of random vectors vᵀ(G u) = {one:.6g}"
            f" but (Gᵀv)ᵀu = {other:.6g}"
        )
