"""What the layers were called with and put out, from hooks, and φ from backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F

from opflow.torch.data import Batch, length
from opflow.torch.layers import known_rule
from opflow.torch.model import Model, differentiable

#: layers that treat every axis but the last, or all of them, as positions
_ANYWHERE = nn.Linear | nn.LayerNorm | nn.Embedding


class Call(NamedTuple):
    """A use of a parameter: the layer, what it was called with and what it put out."""

    #: the parameter, as the module names it
    name: str
    #: its rows that were used, of how many; None for all
    rows: tuple[int, int] | None
    layer: nn.Module
    #: as the layer names it
    local: str
    inputs: tuple[torch.Tensor, ...]
    output: torch.Tensor
    #: how the samples stand in these tensors, see :func:`samples_first`; None if it is not used
    layout: int | None


def samples_first(tensor: torch.Tensor, layout: int, samples: int) -> torch.Tensor:
    """A tensor with the samples as its first axis.

    They are the first axis (0) or the second (1), or one axis holds the positions of a sample after
    another (2), or the samples of a position after another (3).
    """
    if layout == 2:
        return tensor.unflatten(0, (samples, -1))
    if layout == 3:
        tensor = tensor.unflatten(0, (-1, samples))
    return tensor.transpose(0, 1) if layout else tensor


def _layout(layer: nn.Module, tensor: torch.Tensor, samples: int) -> int | None:
    """How the samples stand in a tensor, as far as its shape tells; None if it has not all."""
    if not tensor.ndim or len(tensor) == samples:
        return 0 if tensor.ndim else None
    if not isinstance(layer, _ANYWHERE):
        return None
    if tensor.ndim > 2 and tensor.shape[1] == samples:
        return 1
    return None if len(tensor) % samples else 2


@contextmanager
def recorded(
    model: Model, trained: Mapping[str, torch.Tensor], samples: int
) -> Iterator[list[Call]]:
    """The calls of layers of known rules, while the model is evaluated with these parameters."""
    calls: list[Call] = []
    names = {id(tensor): name for name, tensor in trained.items()}

    def note(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> torch.Tensor | None:
        inputs = tuple(part for part in arguments if part is not None)
        if not inputs or not all(isinstance(part, torch.Tensor) for part in (output, *inputs)):
            return None
        inputs = tuple(part.detach() for part in inputs)
        layout = _layout(layer, output, samples)
        before = len(calls)
        for local, tensor in layer.named_parameters(recurse=False):
            name = names.get(id(tensor))
            if name is not None and known_rule(layer, local, *inputs) is not None:
                calls.append(Call(name, None, layer, local, inputs, output, layout))
        return None if len(calls) == before else output.clone()  # for what changes it in place

    def multiply(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A multiplication inside of an attention layer, whose axes are (positions, samples)."""
        output = plain(x, weight, bias)
        for local, tensor in (("weight", weight), ("bias", bias)):
            base = tensor if tensor is None or tensor._base is None else tensor._base
            if tensor is not None and id(base) in names:
                first = tensor.storage_offset() // max(tensor.stride(0), 1)
                rows = None if base is tensor else (first, first + len(tensor))
                layout = 3 if x.ndim == 2 else 1
                name = names[id(base)]
                calls.append(Call(name, rows, _LINEAR, local, (x.detach(),), output, layout))
        return output

    plain = F.linear
    with ExitStack() as stack:
        for layer in model.whole.modules():
            if isinstance(layer, nn.MultiheadAttention):
                attend = partial(_attend, layer.forward, multiply)
                stack.enter_context(patch.object(layer, "forward", attend))
            elif next(layer.parameters(recurse=False), None) is not None:
                handle = layer.register_forward_hook(note)
                stack.callback(handle.remove)
        yield calls


#: what stands for the multiplications of attention layers
_LINEAR = nn.Linear(1, 1, device="meta")


def _attend(
    forward: Callable[..., Any], multiply: Callable[..., Any], *args: Any, **kw: Any
) -> Any:
    with patch.object(F, "linear", multiply):
        return forward(*args, **kw)


class Factors(NamedTuple):
    """A call, with its inputs and φ = ∂f/∂(its output), (b, k, …), the samples first."""

    call: Call
    inputs: tuple[torch.Tensor, ...]
    phi: torch.Tensor


def factors(
    model: Model, batch: Batch, calls_before: list[tuple[str, int | None]] | None = None
) -> list[Factors]:
    """Those of every call of a batch, by k backward passes; none of calls that are not used.

    `calls_before` are the parameters and layouts of all calls, as an earlier batch had them.
    """
    samples = length(batch)
    with differentiable():
        trained = model.leaves()
        with recorded(model, trained, samples) as calls:
            outputs = model(trained, batch)
        if calls_before is not None:
            if [call.name for call in calls] != [name for name, _ in calls_before]:
                raise ValueError("the module calls its layers otherwise from batch to batch")
            pairs = zip(calls, calls_before, strict=True)
            calls = [call._replace(layout=layout) for call, (_, layout) in pairs]
        used = [call.output for call in calls if call.layout is not None]
        passes = [
            torch.autograd.grad(
                outputs[:, p].sum(), used, retain_graph=True, materialize_grads=True
            )
            for p in range(outputs.shape[1] if used else 0)
        ]
    gradients = zip(*passes, strict=True)
    empty = outputs.new_empty(0)
    return [
        Factors(call, (), empty)
        if call.layout is None
        else _factors(call, next(gradients), samples)
        for call in calls
    ]


def _factors(call: Call, gradients: tuple[torch.Tensor, ...], samples: int) -> Factors:
    layout = call.layout or 0
    phi = [samples_first(gradient, layout, samples) for gradient in gradients]
    inputs = tuple(samples_first(part, layout, samples) for part in call.inputs)
    return Factors(call, inputs, torch.stack(phi, dim=1))
