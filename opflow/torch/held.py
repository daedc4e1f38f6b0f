"""The Jacobian of some samples, held as the shares of all calls; what of them is worth it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from opflow.machine.arrays import module_name
from opflow.operators import HStack, Matrix, Operator, Zero
from opflow.operators.operator import placed
from opflow.operators.rules import add
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.capture import Call, Factors, factors
from opflow.torch.data import Batch, Samples, length, rows_of
from opflow.torch.model import Model, differentiable
from opflow.torch.shares import per_sample, share

#: samples by which the rules are checked against automatic differentiation: a prime, for shapes
#: tell where the samples stand
PROBED = 5


class Plan(NamedTuple):
    """How the shares of a module are held, decided from a few samples."""

    #: of every call, the parameter, and how the samples stand in its tensors; None: not used
    calls: list[tuple[str, int | None]]
    #: and whether its rows are held, which are fewer numbers than the factors
    by_rows: list[bool]
    #: parameters whose rows come from the whole module: there is no rule, or more than the rule
    generic: list[str]
    #: whether torch cannot take their derivatives of all samples at once
    one_by_one: bool
    #: k, and what is held for a sample
    outputs: int
    numbers: int

    def only(self, names: Iterable[str]) -> Plan:
        """The same for fewer parameters."""
        kept = [i for i, (name, _) in enumerate(self.calls) if name in names]
        return self._replace(
            calls=[self.calls[i] for i in kept],
            by_rows=[self.by_rows[i] for i in kept],
            generic=[name for name in self.generic if name in names],
        )


def part_shape(model: Model, call: Call) -> torch.Size:
    """The shape of a parameter, or of the rows of it that a call uses."""
    shape = model.trained[call.name].shape
    return shape if call.rows is None else torch.Size([call.rows[1] - call.rows[0], *shape[1:]])


def make_plan(model: Model, samples: Samples) -> Plan:
    """Decide what is held, and check every rule: with it, Jᵀu is what autograd gives."""
    _, batch = next(samples.blocks(0, samples.size, PROBED))
    found = factors(model, batch)
    size = length(batch)
    with differentiable():
        trained = model.leaves()
        outputs = model(trained, batch)
        with torch.no_grad():
            _check_rows(model, trained, batch, outputs.detach())
        # a force without symmetries: it tells one layout from another
        force = torch.sin(torch.arange(1.0, outputs.numel() + 1, device=model.device)).to(outputs)
        force = force.reshape(outputs.shape)
        exact = torch.autograd.grad(outputs, list(trained.values()), force, allow_unused=True)
    gradients = dict(zip(model.trained, exact, strict=True))
    largest = max((float(g.abs().max()) for g in exact if g is not None), default=0.0)
    sizes = [_sizes(model, f) for f in found]
    calls = [(f.call.name, f.call.layout) for f in found]
    plan = Plan(
        calls,
        [rows <= factors for rows, factors in sizes],
        [],
        False,
        outputs.shape[1],
        0,
    )
    sums = held_jacobians(model, plan, [(slice(0, size), batch)], size)
    used = {name for name, layout in calls if layout is not None}
    generic = []
    for name, gradient in gradients.items():
        if gradient is None:
            continue  # nothing uses it
        if not bool(gradient.isfinite().all()):
            raise ValueError(f"the derivative by parameter {name!r} is not finite")
        op = sums[name]
        if name in used and op.shape[1] == gradient.numel():
            pulled = to_tensor(op.rmatvec(to_array(force.reshape(-1))))
            if _agree(pulled, gradient, largest):
                continue
        generic.append(name)
    numbers = sum(
        min(size) for (name, _), size in zip(calls, sizes, strict=True) if name not in generic
    )
    numbers += outputs.shape[1] * sum(model.trained[name].numel() for name in generic)
    plan = plan._replace(
        calls=[(name, None if name in generic else layout) for name, layout in calls],
        generic=generic,
        numbers=numbers,
    )
    if generic:
        known = {name: g for name, g in gradients.items() if g is not None}
        plan = plan._replace(one_by_one=not _at_once(model, plan, batch, force, known))
        total = numbers * samples.size * model.dtype.itemsize
        warnings.warn(
            f"no rule is known for all uses of {', '.join(map(repr, generic))} in {model.title}: "
            f"the rows of the Jacobian by them come from automatic differentiation, sample by "
            f"sample ({total / 1e6:.3g} MB with the rest)",
            UserWarning,
            stacklevel=4,
        )
    return plan


def _check_rows(
    model: Model, trained: dict[str, torch.Tensor], batch: Batch, outputs: torch.Tensor
) -> None:
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


def _sizes(model: Model, f: Factors) -> tuple[int, int]:
    """The numbers a sample of the rows of a call, and of its factors."""
    if f.call.layout is None:
        return 0, 0
    rows = f.phi.shape[1] * part_shape(model, f.call).numel()
    return rows, sum(part[0].numel() for part in (f.phi, *f.inputs))


def held_jacobians(
    model: Model, plan: Plan, blocks: Iterable[tuple[slice, Batch]], size: int
) -> dict[str, Operator]:
    """The Jacobian of `size` samples by each parameter that has calls or is generic."""
    calls: list[Call] = []
    stored: list[list[torch.Tensor]] = []
    rows: dict[str, torch.Tensor] = {}
    for s, batch in blocks:
        found = factors(model, batch, plan.calls)
        pieces = [_pieces(model, f, by) for f, by in zip(found, plan.by_rows, strict=True)]
        generic = _generic_rows(model, plan, batch)
        if not (calls or rows):
            calls = [f.call._replace(inputs=(), output=torch.empty(0)) for f in found]
            stored = [[_like(part, size) for part in group] for group in pieces]
            rows = {name: _like(part, size) for name, part in generic.items()}
        for group, targets in zip(pieces, stored, strict=True):
            for part, target in zip(group, targets, strict=True):
                if part.shape[1:] != target.shape[1:]:
                    raise ValueError(
                        f"a layer has {tuple(part.shape[1:])} numbers a sample in one batch and "
                        f"{tuple(target.shape[1:])} in another: batches need one shape"
                    )
                target[s] = part
        for name, part in generic.items():
            rows[name][s] = part
        del found, pieces, generic
    terms: dict[str, dict[Any, list[Operator]]] = defaultdict(lambda: defaultdict(list))
    for name, part in rows.items():
        terms[name][None].append(_row_matrix(part.flatten(2)))
    for call, by_rows, held in zip(calls, plan.by_rows, stored, strict=True):
        if call.layout is None:
            continue
        shape = part_shape(model, call)
        op = _row_matrix(held[0]) if by_rows else share(call, shape, tuple(held[1:]), held[0])
        terms[call.name][call.rows].append(op)
    where = module_name(model.like)
    for name, parameter in model.trained.items():
        if name not in terms:  # nothing uses it
            nothing = Zero(size * plan.outputs, parameter.numel(), model.like.dtype)
            terms[name][None].append(placed(nothing, where))
    return {name: _joined(parts) for name, parts in terms.items()}


def stacked(model: Model, plan: Plan, blocks: Iterable[tuple[slice, Batch]], size: int) -> Operator:
    """The Jacobian of `size` samples, the columns in the order of the parameters."""
    found = held_jacobians(model, plan, blocks, size)
    return HStack([found[name] for name in model.trained], symbol="J")


def _joined(parts: dict[tuple[int, int] | None, list[Operator]]) -> Operator:
    """The uses of the same rows of a parameter summed, those of its rows side by side."""
    sums = [add(*parts[place]) for place in sorted(parts, key=lambda place: place or (0, 0))]
    return sums[0] if len(sums) == 1 else HStack(sums)


def _pieces(model: Model, f: Factors, by_rows: bool) -> tuple[torch.Tensor, ...]:
    """What is held of a call: its rows, or φ and its inputs."""
    if f.call.layout is None:
        return ()
    if by_rows:
        return (per_sample(f.call, part_shape(model, f.call), f.inputs, f.phi),)
    return (f.phi, *f.inputs)


def _row_matrix(rows: torch.Tensor) -> Operator:
    return Matrix(to_array(rows.flatten(0, 1)), symbol="∂f")


def _like(part: torch.Tensor, size: int) -> torch.Tensor:
    return part.new_empty((size, *part.shape[1:]))


def _generic_rows(model: Model, plan: Plan, batch: Batch) -> dict[str, torch.Tensor]:
    """The Jacobian (b, k, …) of the outputs of every sample by some parameters."""
    if not plan.generic:
        return {}
    some = {name: model.trained[name] for name in plan.generic}

    def outputs(some: dict[str, torch.Tensor], sample: Batch) -> torch.Tensor:
        return model(model.trained | some, rows_of(sample, None))[0]

    with differentiable():
        if not plan.one_by_one:
            return torch.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))(some, batch)
        leaves = model.only(plan.generic).leaves()
        rows = [
            torch.autograd.grad(f, list(leaves.values()), retain_graph=True, materialize_grads=True)
            for f in model(model.trained | leaves, batch).reshape(-1)
        ]
    shape = (length(batch), plan.outputs)
    parts = (torch.stack(part).unflatten(0, shape) for part in zip(*rows, strict=True))
    return dict(zip(leaves, parts, strict=True))


def _at_once(
    model: Model,
    plan: Plan,
    batch: Batch,
    force: torch.Tensor,
    exact: Mapping[str, torch.Tensor],
) -> bool:
    """Whether torch takes the derivatives of all samples at once, and rightly."""
    largest = max(float(gradient.abs().max()) for gradient in exact.values())
    try:
        rows = _generic_rows(model, plan, batch)
    except (RuntimeError, NotImplementedError):
        return False
    return all(
        _agree(torch.einsum("bk,bk...->...", force, part), exact[name], largest)
        for name, part in rows.items()
    )


def _agree(ours: torch.Tensor, exact: torch.Tensor, largest: float) -> bool:
    """Whether two derivatives are one, to the rounding of these and of the largest of all."""
    error = float((ours.reshape(-1) - exact.reshape(-1)).abs().max())
    size = 1e3 * float(exact.abs().max()) + 30 * largest
    return error <= torch.finfo(exact.dtype).eps * size
