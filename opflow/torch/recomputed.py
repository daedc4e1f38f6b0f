"""The Jacobian with nothing held: Jᵀu by a backward pass, J v by a tangent pass, each time anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial, reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from opflow.machine.arrays import Array, Index, to_host
from opflow.machine.workspace import op_namespace
from opflow.operators import HStack, Operator
from opflow.operators.entries import column_squares, gram_diagonal
from opflow.operators.operator import Cost
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.data import Batch, Samples, Tensors, cast, length, over_columns
from opflow.torch.held import Plan, held_jacobians
from opflow.torch.model import Model, differentiable


def directions(model: Model, X: Array) -> tuple[Model, Tensors]:
    """The model in the precision of vectors (P, c), and they as directions (c, …) of parameters."""
    V = to_tensor(X).T
    sizes = [p.numel() for p in model.trained.values()]
    parts = zip(model.trained.items(), V.split(sizes, dim=1), strict=True)
    return model.astype(V.dtype), {n: part.reshape(-1, *p.shape) for (n, p), part in parts}


def vectors(parts: Iterable[Tensor]) -> Array:
    """Directions (c, …) of the parameters as vectors (P, c)."""
    return to_array(torch.cat([part.reshape(len(part), -1) for part in parts], dim=1).T)


def pulled(model: Model, batch: Batch, trained: Tensors, force: Tensor) -> Tensors:
    """Jᵀ g, as parameters."""
    return torch.func.vjp(partial(model, batch=batch), trained)[1](force)[0]


def pushed(model: Model, batch: Batch, tangent: Tensors) -> Tensor:
    """J v (b, k), by a tangent pass; where torch has none, by the transpose of a backward pass."""
    outputs = partial(model, batch=batch)
    if not model.padded:
        with suppress(NotImplementedError):
            return torch.func.jvp(outputs, (model.trained,), (tangent,))[1]
    f, pull = torch.func.vjp(outputs, model.trained)
    try:
        return torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(f))[1](tangent)[0]
    except NotImplementedError as error:
        raise NotImplementedError(
            f"torch knows no tangents of {model.title} ({error}): give more memory=, so that all "
            "factors are held"
        ) from error


class RecomputedJacobian(Operator):
    """J of the samples from `start`, in row blocks of `rows` samples.

    Notes
    -----
    A product costs a forward pass and a backward or a tangent pass, for any number of outputs; the
    diagonal of its Gram and sub-blocks k backward passes of the samples they need.
    """

    def __init__(self, model: Model, samples: Samples, plan: Plan, start: int, rows: int) -> None:
        self.model = model
        self.samples = samples
        self.plan = plan
        self.start = start
        #: samples of a row block
        self.at_once = rows
        self.data = model.like
        count = samples.size - start
        shape = (count * plan.outputs, model.parameters)
        super().__init__(shape, self.data.dtype, symbol="J")

    def cost(self, columns: int = 1) -> Cost:
        # of a module's passes the flops are not known: these are of layers with one position
        count = self.shape[0] // self.plan.outputs
        return Cost(4.0 * count * self.shape[1] * columns, self._vector_bytes(columns))

    def _blocks(self, columns: int, dtype: torch.dtype) -> Iterator[tuple[slice, Batch]]:
        """Row blocks: where they stand among the rows, and their samples."""
        k = self.plan.outputs
        rows = max(1, self.at_once // columns)
        for s, batch in self.samples.blocks(self.start, self.samples.size, rows):
            place = slice((s.start - self.start) * k, (s.stop - self.start) * k)
            yield place, cast(batch, dtype)

    def _rmatmat(self, X: Array) -> Array:
        force = to_tensor(X)
        model = self.model.astype(force.dtype)
        columns = X.shape[1]
        total = [p.new_zeros(columns, *p.shape) for p in model.trained.values()]
        for place, batch in self._blocks(columns, force.dtype):
            with differentiable():
                trained = model.leaves()
                outputs = model(trained, batch)
                u = force[place].T.reshape(columns, *outputs.shape)
                parts = torch.autograd.grad(
                    outputs,
                    list(trained.values()),
                    u.squeeze(0),  # of a single column
                    is_grads_batched=columns > 1,
                    materialize_grads=True,
                )
            for sums, part in zip(total, parts, strict=True):
                sums += part
        return vectors(total)

    def _matmat(self, X: Array) -> Array:
        model, tangents = directions(self.model, X)
        out = op_namespace(self).empty((self.shape[0], X.shape[1]), X.dtype)
        for place, batch in self._blocks(X.shape[1], model.dtype):
            with differentiable(), torch.no_grad():
                moved = over_columns(partial(pushed, model, batch), tangents)
            out[place] = to_array(moved.flatten(1)).T
        return out

    def rows(self, index: Index) -> Array:
        k = self.plan.outputs
        which = to_host(op_namespace(self).arange(self.shape[0])[index])
        batch = self.samples.take(self.start + which // k)
        return self._held(batch).rows(np.arange(len(which)) * k + which % k)

    def held(self) -> Iterator[Operator]:
        """Row block by row block, the Jacobian with its factors, for a while."""
        for _, batch in self.samples.blocks(self.start, self.samples.size, self.at_once):
            yield self._held(batch)

    def _held(self, batch: Batch) -> Operator:
        size = length(batch)
        parts = held_jacobians(self.model, self.plan, [(slice(size), batch)], size)
        return HStack(list(parts.values()), symbol="J")


@gram_diagonal.register
def _gram_diagonal(J: RecomputedJacobian, weights: Array | None = None) -> Array:
    return op_namespace(J).concatenate([gram_diagonal(block, weights) for block in J.held()])


@column_squares.register
def _column_squares(J: RecomputedJacobian) -> Array:
    return reduce(add, (column_squares(block) for block in J.held()))
