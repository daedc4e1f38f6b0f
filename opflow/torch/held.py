"""The Jacobian of some samples, held as the shares of all calls; what of them is worth it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from opflow.operators import HStack, Matrix, Operator
from opflow.operators.rules import add
from opflow.torch.bridge import to_array, to_tensor
from opflow.torch.capture import Call, Factors, factors
from opflow.torch.data import Batch, Samples, length, rows_of
from opflow.torch.model import Model, differentiable
from opflow.torch.shares import per_sample, share

#: samples by which the rules are checked against automatic differentiation
PROBED = 4


class Plan(NamedTuple):
    """How the shares of a module are held, decided from a few samples."""

    #: of every call, the parameter
    names: list[str]
    #: and how the samples stand in its tensors
    layouts: list[int]
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
        kept = [i for i, name in enumerate(self.names) if name in names]
        return self._replace(
            names=[self.names[i] for i in kept],
            layouts=[self.layouts[i] for i in kept],
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
        exact = torch.autograd.grad(outputs, list(trained.values()), force, materialize_grads=True)
    plan = Plan(
        [f.call.name for f in found],
        [f.call.layout for f in found],
        [_rows_are_fewer(model, f) for f in found],
        [],
        False,
        outputs.shape[1],
        0,
    )
    sums = held_jacobians(model, plan, [(slice(0, size), batch)], size)
    scales: dict[str, float] = defaultdict(float)
    for f in found:  # of what is summed: a bias before a normalisation has no gradient but rounding
        largest = float(f.phi.abs().max()) * min(1.0, *(float(a.abs().max()) for a in f.inputs))
        scales[f.call.name] = max(scales[f.call.name], largest)
    generic = []
    for name, gradient in zip(model.trained, exact, strict=True):
        if not bool(gradient.isfinite().all()):
            raise ValueError(f"the derivative by parameter {name!r} is not finite")
        op = sums.get(name)
        if (
            op is None
            or op.shape[1] != gradient.numel()
            or not _agree(
                to_tensor(op.rmatvec(to_array(force.reshape(-1)))), gradient, scales[name]
            )
        ):
            generic.append(name)
    plan = plan._replace(generic=generic)
    if generic:
        plan = plan._replace(one_by_one=not _at_once(model, plan, batch, force, exact))
    numbers = sum(
        _numbers(f, by_rows, model)
        for f, by_rows in zip(found, plan.by_rows, strict=True)
        if f.call.name not in generic
    )
    numbers //= size
    numbers += outputs.shape[1] * sum(model.trained[name].numel() for name in generic)
    if generic:
        total = numbers * samples.size * model.dtype.itemsize
        warnings.warn(
            f"no rule is known for all uses of {', '.join(map(repr, generic))} in {model.title}: "
            f"the rows of the Jacobian by them come from automatic differentiation, sample by "
            f"sample ({total / 1e6:.3g} MB with the rest)",
            UserWarning,
            stacklevel=4,
        )
    return plan._replace(numbers=numbers)


def _check_rows(
    model: Model, trained: dict[str, torch.Tensor], batch: Batch, outputs: torch.Tensor
) -> None:
    """Raise if the outputs of a sample depend on the others, or are not one row a sample."""
    if len(outputs) != length(batch):
        raise ValueError(
            f"the module gives {len(outputs)} rows of outputs for {length(batch)} samples"
        )
    alone = model(trained, rows_of(batch, slice(0, 1)))[0]
    bound = 1e4 * torch.finfo(model.dtype).eps * float(outputs.abs().max())
    if not float((alone - outputs[0]).abs().max()) <= bound:
        raise ValueError(
            "the outputs of a sample depend on the others of its batch, or are not finite, or the "
            "module is random: there is no Jacobian sample by sample"
        )


def _rows_are_fewer(model: Model, f: Factors) -> bool:
    rows = f.phi.shape[1] * part_shape(model, f.call).numel() * len(f.phi)
    return rows <= f.phi.numel() + sum(part.numel() for part in f.inputs)


def _numbers(f: Factors, by_rows: bool, model: Model) -> int:
    if by_rows:
        return len(f.phi) * f.phi.shape[1] * part_shape(model, f.call).numel()
    return f.phi.numel() + sum(part.numel() for part in f.inputs)


def held_jacobians(
    model: Model, plan: Plan, blocks: Iterable[tuple[slice, Batch]], size: int
) -> dict[str, Operator]:
    """The Jacobian of `size` samples by each parameter that has calls or is generic."""
    calls: list[Call] = []
    stored: list[tuple[torch.Tensor, ...]] = []
    rows = {
        name: _empty(model, size, (plan.outputs, *model.trained[name].shape))
        for name in plan.generic
    }
    for s, batch in blocks:
        found = factors(model, batch, plan.layouts)
        pieces = [
            _pieces(model, f, by) if f.call.name not in plan.generic else ()
            for f, by in zip(found, plan.by_rows, strict=True)
        ]
        if not calls:
            calls = [f.call._replace(inputs=(), output=None) for f in found]
            stored = [tuple(_like(part, size) for part in group) for group in pieces]
        for group, targets in zip(pieces, stored, strict=True):
            for part, target in zip(group, targets, strict=True):
                target[s] = part
        for name, part in _generic_rows(model, plan, batch).items():
            rows[name][s] = part
        del found, pieces
    terms: dict[str, dict[tuple[int, int] | None, list[Operator]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for name, part in rows.items():
        terms[name][None].append(_row_matrix(part.flatten(2)))
    for call, by_rows, group in zip(calls, plan.by_rows, stored, strict=True):
        if not group:
            continue
        if by_rows:
            op: Operator = _row_matrix(group[0])
        else:
            op = share(call, part_shape(model, call), group[1:], group[0])
        terms[call.name][call.rows].append(op)
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
    if by_rows:
        return (per_sample(f.call, part_shape(model, f.call), f.inputs, f.phi),)
    return (f.phi, *f.inputs)


def _row_matrix(rows: torch.Tensor) -> Operator:
    return Matrix(to_array(rows.flatten(0, 1)), symbol="∂f")


def _empty(model: Model, size: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty((size, *shape), dtype=model.dtype, device=model.device)


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
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in some.items()}
        rows = [
            torch.autograd.grad(f, list(leaves.values()), retain_graph=True, materialize_grads=True)
            for f in model(model.trained | leaves, batch).reshape(-1)
        ]
    shape = (length(batch), plan.outputs)
    parts = (torch.stack(part).unflatten(0, shape) for part in zip(*rows, strict=True))
    return dict(zip(leaves, parts, strict=True))


def _at_once(
    model: Model, plan: Plan, batch: Batch, force: torch.Tensor, exact: Sequence[torch.Tensor]
) -> bool:
    """Whether torch takes the derivatives of all samples at once, and rightly."""
    gradients = dict(zip(model.trained, exact, strict=True))
    try:
        rows = _generic_rows(model, plan, batch)
    except (RuntimeError, NotImplementedError):
        return False
    return all(
        _agree(torch.einsum("bk,bk...->...", force, part), gradients[name])
        for name, part in rows.items()
    )


def _agree(ours: torch.Tensor, exact: torch.Tensor, scale: float = 0.0) -> bool:
    scale = max(scale, float(exact.abs().max())) or 1.0
    error = float((ours.reshape(-1) - exact.reshape(-1)).abs().max())
    return error <= 1e3 * torch.finfo(exact.dtype).eps * scale
