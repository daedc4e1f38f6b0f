"""Simplification of sums, products, multiples and adjoints when they are built.

Sums and products are flat, identities are dropped, scalars move out of products, a double adjoint
is undone, zeros vanish from sums, a product with a zero is zero, and the adjoint of a symmetric
operator is itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from opflow.operators.algebra import Product, Sum
from opflow.operators.composite import Adjoint, Cast, Composite, Scaled, unify
from opflow.operators.diagonal import Identity, Zero
from opflow.operators.operator import Operator
from opflow.operators.rules import add, adjoint, cast, compose, multiple


def _flat(kind: type[Composite], ops: Iterable[Operator]) -> list[Operator]:
    """The operators, with the parts of those of this kind in their place."""
    parts = (op.parts if isinstance(op, kind) else (op,) for op in ops)
    return list(itertools.chain.from_iterable(parts))


@add.register(Operator)
def _add(*terms: Operator) -> Operator:
    flat = _flat(Sum, terms)
    if len({t.shape for t in flat}) == 1:  # Sum says what is wrong with other shapes
        flat = [t for t in flat if not isinstance(t, Zero)] or flat[:1]
    return flat[0] if len(flat) == 1 else Sum(flat)


@compose.register(Operator)
def _compose(*factors: Operator) -> Operator:
    for left, right in itertools.pairwise(factors):
        if left.shape[1] != right.shape[0]:
            raise ValueError(
                f"cannot multiply {type(left).__name__} of shape {left.shape} by "
                f"{type(right).__name__} of shape {right.shape}"
            )
    scalar = math.prod(factor.scalar for factor in factors if isinstance(factor, Scaled))
    flat = _flat(Product, _flat(Scaled, factors))
    if any(isinstance(f, Zero) for f in flat):
        return Zero(flat[0].shape[0], flat[-1].shape[1], unify(flat)[0].dtype)
    # An identity still has a say in the dtype when nothing else has.
    flat = unify([f for f in flat if not isinstance(f, Identity)] or flat[:1])
    return multiple(flat[0] if len(flat) == 1 else Product(flat), scalar)


@multiple.register(Operator)
def _multiple(op: Operator, scalar: float) -> Operator:
    if isinstance(op, Scaled):
        scalar *= op.scalar
        op = op.parts[0]
    return op if scalar == 1.0 or isinstance(op, Zero) else Scaled(scalar, op)


@adjoint.register(Operator)
def _adjoint(op: Operator) -> Operator:
    if op.symmetric:
        return op
    if isinstance(op, Adjoint):
        return op.parts[0]
    if isinstance(op, Zero):
        return Zero(op.shape[1], op.shape[0], op.dtype)
    if isinstance(op, Sum):
        return add(*map(adjoint, op.parts))
    if isinstance(op, Product):
        return compose(*map(adjoint, reversed(op.parts)))
    if isinstance(op, Scaled):
        return multiple(adjoint(op.parts[0]), op.scalar)
    return Adjoint(op)


cast.register(Operator, Cast)
