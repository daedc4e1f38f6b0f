"""Rules of layers: how the outputs depend on a parameter of the layer, where that is linear."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: the outputs (b, …) of a layer, given one of its parameters
Rule = Callable[[Tensor], Tensor]


@singledispatch
def linear_in(module: nn.Module, name: str, *inputs: Tensor) -> Rule | None:
    """Return the rule of how a layer's outputs depend on its parameter `name`; register others.

    The rule leaves out what does not depend on the parameter.  A rule for a layer of one's own is
    registered by its class.  Every parameter of a layer without a rule takes the way of any
    function: the rows of its Jacobian, sample by sample.

    Parameters
    ----------
    module : torch.nn.Module
        The layer.
    name : str
        The parameter, as the layer calls it.
    *inputs : tensor (b, …)
        What the layer was called with, the samples first.

    Returns
    -------
    function or None
        Linear: from a tensor like the parameter to one like the outputs.  None: no rule is known.

    See Also
    --------
    opflow.torch.jacobian : Uses the rules.
    opflow.torch.kernel : The kernel that follows.

    Examples
    --------
    >>> import torch, opflow as of
    >>> class Scaled(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.randn(4, 3))
    ...     def forward(self, x):
    ...         return x @ self.weight.T / 3**0.5
    >>> @of.torch.linear_in.register
    ... def scaled(module: Scaled, name, x):
    ...     return lambda weight: x @ weight.T / 3**0.5
    >>> of.torch.kernel(Scaled(), torch.randn(5, 3)).shape
    (20, 20)
    """
    return None


def known_rule(layer: nn.Module, name: str, *inputs: Tensor) -> Rule | None:
    """The rule of a layer; none where a class inherits it but computes in a way of its own."""
    kind: Any = next(kind for kind in type(layer).__mro__ if kind in linear_in.registry)
    rule = linear_in.registry[kind]
    own = kind is not object and getattr(layer.forward, "__func__", None) is not kind.forward
    if own or (rule.__module__ == __name__ and name not in ("weight", "bias")):
        return None
    return rule(layer, name, *inputs)


@linear_in.register
def _linear(module: nn.Linear, name: str, x: Tensor) -> Rule:
    if name == "bias":
        return lambda bias: bias.expand(*x.shape[:-1], len(bias))
    return lambda weight: F.linear(x, weight)


@linear_in.register(nn.Conv1d)
@linear_in.register(nn.Conv2d)
@linear_in.register(nn.Conv3d)
def _convolution(module: nn.Conv2d, name: str, x: Tensor) -> Rule:
    if name == "weight":
        return lambda weight: module._conv_forward(x, weight, None)
    sizes = (torch.empty(t.shape, device="meta") for t in (x, module.weight))
    return _by_channel(name, module._conv_forward(*sizes, None))


@linear_in.register
def _prelu(module: nn.PReLU, name: str, x: Tensor) -> Rule:
    return _by_channel("weight", x.clamp(max=0))


@linear_in.register
def _embedding(module: nn.Embedding, name: str, ids: Tensor) -> Rule | None:
    if module.max_norm is not None:  # the rows that are read change
        return None
    return lambda weight: _looked_up(weight, ids, module.padding_idx)


@linear_in.register
def _bag(
    module: nn.EmbeddingBag,
    name: str,
    ids: Tensor,
    offsets: Tensor | None = None,
    weights: Tensor | None = None,
) -> Rule | None:
    if offsets is not None or ids.ndim != 2 or module.mode == "max" or module.max_norm is not None:
        return None
    each: Any = 1
    if module.mode == "mean":
        padding = -1 if module.padding_idx is None else module.padding_idx
        each = (ids != padding).sum(1, keepdim=True).clamp(min=1)

    def bag(weight: Tensor) -> Tensor:
        rows = _looked_up(weight, ids, module.padding_idx)
        if weights is not None:
            rows = rows * weights[..., None]
        return rows.sum(1) / each

    return bag


def _looked_up(weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
    """Rows of an embedding; none of the padding, which is not trained."""
    rows = F.embedding(ids, weight)
    return rows if padding is None else rows * (ids != padding)[..., None]


@linear_in.register
def _layer_norm(module: nn.LayerNorm, name: str, x: Tensor) -> Rule:
    return _affine(name, F.layer_norm(x, module.normalized_shape, eps=module.eps))


@linear_in.register
def _group_norm(module: nn.GroupNorm, name: str, x: Tensor) -> Rule:
    return _by_channel(name, F.group_norm(x, module.num_groups, eps=module.eps))


@linear_in.register(nn.BatchNorm1d)
@linear_in.register(nn.BatchNorm2d)
@linear_in.register(nn.BatchNorm3d)
def _batch_norm(module: nn.BatchNorm2d, name: str, x: Tensor) -> Rule:
    normalised = F.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)
    return _by_channel(name, normalised)


def _by_channel(name: str, x: Tensor) -> Rule:
    """Scale and shift of the channels, the second axis."""
    ends = [1] * (x.ndim - 2)
    rule = _affine(name, x)
    return lambda parameter: rule(parameter.view(-1, *ends))


def _affine(name: str, x: Tensor) -> Rule:
    """Scale and shift of x."""
    if name == "bias":
        return lambda bias: bias.expand(x.shape)
    return lambda weight: x * weight
