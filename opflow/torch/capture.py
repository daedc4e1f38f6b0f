"""What each call of a layer took and gave, by hooks; φ = ∂f/∂(its output), by backward passes."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opflow.torch.data import Batch, Tensors, length
from opflow.torch.layers import known_rule
from opflow.torch.model import Model

#: layers that treat every axis but the last, or all of them, as positions
_ANYWHERE = nn.Linear | nn.LayerNorm | nn.Embedding
#: what stands for the multiplications of attention layers
_LINEAR = nn.Linear(1, 1, device="meta")


class Call(NamedTuple):
    """A use of a parameter: the layer, what it was called with and what it put out."""

    #: the parameter, as the module names it
    name: str
    #: the first of its rows that are used, and their shape
    first: int
    shape: torch.Size
    layer: nn.Module
    #: as the layer names it
    local: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    #: how the samples stand in these tensors, see :func:`samples_first`; None if it is not used
    layout: int | None
    #: whether the rows of the Jacobian are held, which are fewer numbers than the factors
    by_rows: bool = False


def samples_first(tensor: Tensor, layout: int | None, samples: int) -> Tensor:
    """A tensor with the samples as its first axis.

    They are the first axis (0) or the second (1), or one axis holds the positions of a sample after
    another (2), or the samples of a position after another (3).
    """
    if layout == 2:
        return tensor.unflatten(0, (samples, -1))
    if layout == 3:
        tensor = tensor.unflatten(0, (-1, samples))
    return tensor.transpose(0, 1) if layout else tensor


def _layout(layer: nn.Module, shape: torch.Size, samples: int) -> int | None:
    """How the samples stand in a tensor, as far as its shape tells; None if it has not all."""
    if shape[:1] == (samples,):
        return 0
    if shape and isinstance(layer, _ANYWHERE):
        if len(shape) > 2 and shape[1] == samples:
            return 1
        if shape[0] % samples == 0:
            return 2
    return None


def evaluated(model: Model, trained: Tensors, batch: Batch) -> tuple[Tensor, list[Call]]:
    """The outputs of a batch with these parameters, and the calls of layers of known rules."""
    calls: list[Call] = []
    names = {id(tensor): name for name, tensor in trained.items()}
    samples = length(batch)

    def note(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Tensor | None:
        inputs = tuple(part for part in arguments if part is not None)
        if not inputs or not all(isinstance(part, Tensor) for part in (output, *inputs)):
            return None
        inputs = tuple(part.detach() for part in inputs)
        layout = _layout(layer, output.shape, samples)
        found = [
            Call(names[id(tensor)], 0, tensor.shape, layer, local, inputs, output, layout)
            for local, tensor in layer.named_parameters(recurse=False)
            if id(tensor) in names and known_rule(layer, local, *inputs)
        ]
        calls.extend(found)
        return output.clone() if found else None  # for what changes it in place

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A multiplication inside of an attention layer, whose axes are (positions, samples)."""
        output = plain(x, weight, bias)
        layout = 3 if x.ndim == 2 else 1
        for local, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None:
                continue
            name = names.get(id(tensor)) or names.get(id(tensor._base))
            if name:
                ahead = tensor.storage_offset() - trained[name].storage_offset()
                first = ahead // max(tensor.stride(0), 1)
                used = (x.detach(),)
                calls.append(Call(name, first, tensor.shape, _LINEAR, local, used, output, layout))
        return output

    plain = F.linear
    with ExitStack() as stack:
        for layer in model.whole.modules():
            if isinstance(layer, nn.MultiheadAttention):
                attend = patch.object(F, "linear", multiply)(layer.forward)
                stack.enter_context(patch.object(layer, "forward", attend))
            elif next(layer.parameters(recurse=False), None) is not None:
                stack.callback(layer.register_forward_hook(note).remove)
        return model(trained, batch), calls


def factors(
    outputs: Tensor, calls: list[Call], samples: int
) -> list[tuple[Call, tuple[Tensor, ...]]]:
    """Every call that is used, and its φ = ∂f/∂(its output), (b, k, …), and inputs (b, …)."""
    used = [call for call in calls if call.layout is not None]
    if not used:
        return []
    tensors = [call.output for call in used]
    passes = [
        torch.autograd.grad(f, tensors, retain_graph=True, materialize_grads=True)
        for f in outputs.sum(0)
    ]
    found = []
    for call, *gradients in zip(used, *passes, strict=True):
        first = partial(samples_first, layout=call.layout, samples=samples)
        phi = torch.stack([first(part) for part in gradients], dim=1)
        found.append((call, (phi, *map(first, call.inputs))))
    return found
