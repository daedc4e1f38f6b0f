"""Checks of arguments: fields, layers, samples, orders of truncation and residuals."""

from __future__ import annotations

from opflow.machine.arrays import Array, Data, check_integer, check_real, is_sparse, namespace
from opflow.relu.fields import Fields


def check_fields(fields: object, name: str = "fields") -> Fields:
    """Return `fields` if it is a :class:`Fields` of samples that are all here, else raise."""
    if not isinstance(fields, Fields):
        raise TypeError(f"{name} must be an opflow Fields, not {type(fields).__name__}")
    if fields.space.sharded:
        raise ValueError(
            f"{name} is sharded over ranks: of such samples there are kernels and Jacobians only"
        )
    return fields


def check_layer(fields: Fields, layer: int, name: str = "layer") -> int:
    """A layer, 1..L."""
    return check_integer(layer, name, 1, check_fields(fields).network.depth)


def check_sample(fields: Fields, sample: int, name: str) -> int:
    """A sample, 0..N − 1."""
    return check_integer(sample, name, 0, check_fields(fields).samples - 1)


def check_order(fields: Fields, order: int | None) -> int:
    """An order of truncation; None is the depth, at which nothing is cut off."""
    depth = check_fields(fields).network.depth
    return depth if order is None else check_integer(order, "order", 0)


def check_residual(fields: Fields, residual: Data) -> Array:
    """A residual (N, k) or (N·k,) in the network's dtype and on its device, else raise."""
    n = check_fields(fields).samples
    k = fields.network.outputs
    r = check_real(residual, "residual", dtype=fields.network.dtype)
    if is_sparse(r) or r.shape not in ((n, k), (n * k,)):
        raise ValueError(
            f"residual has shape {r.shape} but the fields have {n} samples and {k} outputs: "
            f"{(n, k)} or {(n * k,)} is expected"
        )
    namespace(r, fields.network.readout)
    return r
