"""The Jacobian held in memory, layer call by layer call, and the plan of what is held."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opflow.machine.arrays import module_name
from opflow.operators import HStack, Matrix, Operator, Zero
from opflow.operators.operator import placed
from opflow.operators.rules import add
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.capture import Call, evaluated, factors
from opflow.torch.data import Batch, Samples, Tensors, length, mapped, rows_of, tensors
from opflow.torch.model import Model, differentiable
from opflow.torch.shares import per_sample, share

#: samples by which the rules are checked against automatic differentiation: a prime, for shapes
#: tell where the samples stand
PROBED = 5


class Plan(NamedTuple):
    """How the shares of a module are held, decided from a few samples."""

    #: all calls, without their tensors
    calls: list[Call]
    #: k
    outputs: int
    #: parameters whose rows come from the whole module: there is no rule, or more than the rule
    generic: Sequence[str] = ()
    #: whether torch cannot take their derivatives of all samples at once
    one_by_one: bool = False
    #: how many are held for a sample
    numbers: int = 0

    def only(self, names: Iterable[str]) -> Plan:
        """The same for fewer parameters."""
        return self._replace(
            calls=[call for call in self.calls if call.name in names],
            generic=[name for name in self.generic if name in names],
        )


def make_plan(model: Model, samples: Samples) -> Plan:
    """Decide what is held, and check every rule: with it, Jᵀu is what autograd gives."""
    _, batch = next(samples.blocks(0, samples.size, PROBED))
    size = length(batch)
    with differentiable():
        trained = model.leaves()
        outputs, found = evaluated(model, trained, batch)
        with torch.no_grad():
            _check_rows(model, trained, batch, outputs.detach())
        # a force without symmetries: it tells one layout from another
        force = torch.sin(torch.arange(1.0, outputs.numel() + 1, device=model.device)).to(outputs)
        force = force.reshape(outputs.shape)
        exact = torch.autograd.grad(outputs, list(trained.values()), force, allow_unused=True)
    # by the parameters that are used
    gradients = {n: g for n, g in zip(trained, exact, strict=True) if g is not None}
    largest = max((float(g.abs().max()) for g in gradients.values()), default=0.0)
    k = outputs.shape[1]
    calls = []
    numbers: dict[str, int] = defaultdict(int)
    for call in found:
        rows = k * call.shape.numel()
        parts = (k * call.output.numel() + sum(part.numel() for part in call.inputs)) // size
        calls.append(call._replace(by_rows=rows <= parts, inputs=(), output=torch.empty(0)))
        if call.layout is not None:
            numbers[call.name] += min(rows, parts)
    plan = Plan(calls, k)
    ours = held_jacobians(model, plan, [(slice(size), batch)], size)
    generic = []
    for name, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise ValueError(f"the derivative by parameter {name!r} is not finite")
        if name in numbers and ours[name].shape[1] == gradient.numel():
            pulled = to_tensor(ours[name].rmatvec(to_array(force.reshape(-1))))
            if _agree(pulled, gradient, largest):
                continue
        generic.append(name)
        numbers[name] = k * gradient.numel()
    plan = plan._replace(
        calls=[call._replace(layout=None) if call.name in generic else call for call in calls],
        generic=generic,
        numbers=sum(numbers.values()),
    )
    if generic:
        plan = plan._replace(one_by_one=not _at_once(model, plan, batch, force, gradients, largest))
        total = plan.numbers * samples.size * model.dtype.itemsize
        warnings.warn(
            f"no rule is known for all uses of {', '.join(map(repr, generic))} in {model.title}: "
            f"the rows of the Jacobian by them come from automatic differentiation, sample by "
            f"sample ({total / 1e6:.3g} MB with the rest)",
            UserWarning,
            stacklevel=4,
        )
    return plan


def _check_rows(model: Model, trained: Tensors, batch: Batch, outputs: Tensor) -> None:
    """Raise if the outputs of a sample depend on the others, or are not one row a sample."""
    if len(outputs) != length(batch):
        raise ValueError(
            f"the module gives {len(outputs)} rows of outputs for {length(batch)} samples"
        )
    if not bool(outputs.isfinite().all()):
        raise ValueError("the outputs of the first samples are not finite")
    alone = model(trained, rows_of(batch, slice(0, 1)))[0]
    bound = 1e4 * torch.finfo(model.dtype).eps * float(outputs.abs().max())
    if not float((alone - outputs[0]).abs().max()) <= bound:
        raise ValueError(
            "the outputs of a sample depend on the others of its batch, or the module is random: "
            "samples must be the first axis (batch_first=True), and draw nothing"
        )


def held_jacobians(
    model: Model, plan: Plan, blocks: Iterable[tuple[slice, Batch]], size: int
) -> dict[str, Operator]:
    """The Jacobian of `size` samples by each trained parameter."""
    stored: Batch = None
    for s, batch in blocks:
        pieces = _pieces(model, plan, batch)
        if stored is None:
            stored = mapped(lambda part: part.new_empty((size, *part.shape[1:])), pieces)
        for part, target in zip(tensors(pieces), tensors(stored), strict=True):
            if part.shape[1:] != target.shape[1:]:
                raise ValueError(
                    f"a layer has {tuple(part.shape[1:])} numbers a sample in one batch and "
                    f"{tuple(target.shape[1:])} in another: batches need one shape"
                )
            target[s] = part
        del pieces
    rows = size * plan.outputs
    used = [call for call in plan.calls if call.layout is not None]
    terms: dict[str, dict[Any, list[Operator]]] = defaultdict(lambda: defaultdict(list))
    for call, parts in zip(used, stored, strict=False):
        op = _row_matrix(parts[0], rows) if call.by_rows else share(call, *parts)
        terms[call.name][call.first, call.shape].append(op)
    for name, parts in zip(plan.generic, stored[len(used) :], strict=True):
        terms[name][()].append(_row_matrix(parts[0], rows))
    for name, parameter in model.trained.items():
        if name not in terms:  # nothing uses it
            nothing = Zero(rows, parameter.numel(), model.like.dtype)
            terms[name][()].append(placed(nothing, module_name(model.like)))
    return {name: _joined(terms[name]) for name in model.trained}


def _pieces(model: Model, plan: Plan, batch: Batch) -> list[tuple[Tensor, ...]]:
    """What is held of a batch: the rows of each call, or φ and its inputs; then generic rows."""
    with differentiable():
        outputs, calls = evaluated(model, model.leaves(), batch)
        if [call.name for call in calls] != [call.name for call in plan.calls]:
            raise ValueError("the module calls its layers otherwise from batch to batch")
        pairs = zip(plan.calls, calls, strict=True)
        calls = [known._replace(inputs=call.inputs, output=call.output) for known, call in pairs]
        found = factors(outputs, calls, length(batch))
    pieces = [(per_sample(call, *parts),) if call.by_rows else parts for call, parts in found]
    return [*pieces, *((rows,) for rows in _generic_rows(model, plan, batch))]


def _row_matrix(part: Tensor, rows: int) -> Operator:
    return Matrix(to_array(part.reshape(rows, -1)), symbol="∂f")


def _joined(parts: dict[Any, list[Operator]]) -> Operator:
    """The uses of the same rows of a parameter summed, those of its rows side by side."""
    sums = [add(*parts[place]) for place in sorted(parts)]
    return sums[0] if len(sums) == 1 else HStack(sums)


def _generic_rows(model: Model, plan: Plan, batch: Batch) -> list[Tensor]:
    """The Jacobian (b, k, …) of the outputs of every sample by each generic parameter."""
    if not plan.generic:
        return []
    some = model.only(plan.generic)

    def outputs(trained: Tensors, sample: Batch) -> Tensor:
        return model(trained, rows_of(sample, None))[0]

    with differentiable():
        if not plan.one_by_one:
            found = torch.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))(some.trained, batch)
            return [found[name] for name in plan.generic]
        leaves = some.leaves()
        rows = [
            torch.autograd.grad(f, list(leaves.values()), retain_graph=True, materialize_grads=True)
            for f in model(leaves, batch).reshape(-1)
        ]
    shape = (length(batch), plan.outputs)
    return [torch.stack(part).unflatten(0, shape) for part in zip(*rows, strict=True)]


def _at_once(
    model: Model,
    plan: Plan,
    batch: Batch,
    force: Tensor,
    exact: Tensors,
    largest: float,
) -> bool:
    """Whether torch takes the derivatives of all samples at once, and rightly."""
    try:
        rows = _generic_rows(model, plan, batch)
    except RuntimeError:
        return False
    return all(
        _agree(torch.einsum("bk,bk...->...", force, part), exact[name], largest)
        for name, part in zip(plan.generic, rows, strict=True)
    )


def _agree(ours: Tensor, exact: Tensor, largest: float) -> bool:
    """Whether two derivatives are one, to the rounding of these and of the largest of all."""
    error = float((ours.reshape(-1) - exact.reshape(-1)).abs().max())
    size = 1e3 * float(exact.abs().max()) + 30 * largest
    return error <= torch.finfo(exact.dtype).eps * size
