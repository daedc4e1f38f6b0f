"""A module as a function of its trained parameters: they and its buffers are held as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from opflow.machine.arrays import Array, check_integer
from opflow.torch.bridge import to_array
from opflow.torch.data import Batch, Samples, Tensors, cast, mapped

#: bytes that the passes of a block of samples save at most
BLOCK = 256e6
#: how the outputs of a sample are taken: as they are, as their sum, or one of them
Outputs = str | int
#: normalisations that average over the batch while they are in training mode
_OVER_BATCH = nn.modules.batchnorm._BatchNorm
_RANDOM = nn.modules.dropout._DropoutNd


class Whole(nn.Module):
    """The module and how a batch is given to it, as one module."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any] | None) -> None:
        super().__init__()
        self.module = module
        self.how = forward

    def forward(self, batch: Batch) -> Any:
        if self.how is not None:
            return self.how(self.module, batch)
        if isinstance(batch, Mapping):
            return self.module(**batch)
        if isinstance(batch, tuple):
            return self.module(*batch)
        return self.module(batch)


class Model:
    """A module as a function of its trained parameters and of a batch."""

    def __init__(
        self,
        module: nn.Module,
        parameters: Iterable[str] | None,
        outputs: Outputs,
        forward: Callable[..., Any] | None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
        _check_evaluation(module)
        if forward is not None and not callable(forward):
            raise TypeError(
                f"forward must be a function of the module and a batch, not {forward!r}"
            )
        module = copy.deepcopy(module)
        self.whole = Whole(module, forward)
        named = dict(module.named_parameters())
        names = _chosen(named, parameters)
        values = dict(module.named_buffers()) | named
        #: all parameters and buffers
        self._values = mapped(lambda tensor: tensor.detach().contiguous(), values)
        #: the trained parameters by their names
        self.trained = {name: self._values[name] for name in names}
        #: for error messages and symbols: the type of the module
        self.title = type(module).__name__
        first = next(iter(self.trained.values()))
        self.device = first.device
        self.dtype = first.dtype
        self._check_parameters()
        self._whole_output = outputs
        #: whether Jᵀu is no transpose of torch's J v: padding of embeddings has no gradient
        self.padded = any(
            part.weight.requires_grad and part.padding_idx is not None
            for part in module.modules()
            if isinstance(part, nn.Embedding | nn.EmbeddingBag)
        )

    def _check_parameters(self) -> None:
        for name, tensor in self.trained.items():
            if tensor.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"parameter {name!r} has dtype {tensor.dtype}: convert the module by .float()"
                )
            if (tensor.dtype, tensor.device) != (self.dtype, self.device):
                raise TypeError(
                    f"parameter {name!r} has dtype {tensor.dtype} on {tensor.device} and others "
                    f"{self.dtype} on {self.device}: one dtype and one device are needed"
                )

    def samples(self, X: Any) -> Samples:
        """The inputs, checked."""
        return Samples(X, self.device, self.dtype, self.whole.how is not None)

    @property
    def parameters(self) -> int:
        """P, the number of trained parameters."""
        return sum(tensor.numel() for tensor in self.trained.values())

    @property
    def like(self) -> Array:
        """An array where the operators are, in their dtype."""
        return to_array(next(iter(self.trained.values())))

    def __call__(self, trained: Tensors, batch: Batch) -> Tensor:
        """The outputs (b, k) that were asked for, with these parameters; others are as held."""
        values = {f"module.{name}": t for name, t in (self._values | trained).items()}
        out = functional_call(self.whole, values, (batch,))
        if not isinstance(out, Tensor) or not out.ndim:
            raise TypeError(
                f"the module must give a tensor of one row a sample, not {type(out).__name__}; "
                "forward=lambda module, batch: ... can pick it"
            )
        out = out.reshape(len(out), -1)
        if self._whole_output == "sum":
            return out.sum(1, keepdim=True)
        if isinstance(self._whole_output, str):
            return out
        p = check_integer(self._whole_output, "outputs", 0, out.shape[1] - 1)
        return out[:, p : p + 1]

    def only(self, names: Iterable[str]) -> Model:
        """The same with fewer trained parameters."""
        other = copy.copy(self)
        other.trained = {name: self._values[name] for name in names}
        return other

    def astype(self, dtype: torch.dtype) -> Model:
        """The same in another precision."""
        if dtype == self.dtype:
            return self
        other = copy.copy(self)
        other.dtype = dtype
        other._values = cast(self._values, dtype)
        return other.only(self.trained)

    def leaves(self) -> Tensors:
        """The trained parameters, as what derivatives are taken by."""
        return mapped(lambda tensor: tensor.detach().requires_grad_(), self.trained)


def block_of(model: Model, samples: Samples) -> tuple[int, int]:
    """Samples of a row block, by what autograd saves for one of them, and k."""
    saved = [0]

    def note(tensor: Tensor) -> Tensor:
        saved[0] += tensor.nbytes
        return tensor

    _, batch = next(samples.blocks(0, samples.size, 1))
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with differentiable(), hooks:
        outputs = model(model.leaves(), batch)
    held = sum(tensor.nbytes for tensor in model.trained.values())
    return max(1, int(BLOCK // max(saved[0] - held, 1))), outputs.shape[1]


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients are recorded, and no fused attention is used: it lacks some derivatives."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _chosen(named: Tensors, wanted: Iterable[str] | None) -> list[str]:
    """Names of trained parameters: those that require gradients, or those that are asked for."""
    if wanted is None:
        names = [name for name, tensor in named.items() if tensor.requires_grad]
        if not names:
            raise ValueError("module has no parameter that requires gradients; give parameters=")
        return names
    if isinstance(wanted, str):
        wanted = [wanted]
    names = []
    for part in wanted:
        found = [name for name in named if name == part or name.startswith(f"{part}.")]
        if not found:
            raise ValueError(f"parameters names {part!r}, but the module has {', '.join(named)}")
        names += found
    if not names:
        raise ValueError("parameters names nothing: leave it out for all that require gradients")
    return [name for name in named if name in names]


def _check_evaluation(module: nn.Module) -> None:
    for name, part in module.named_modules():
        kind = f"{name!r} ({type(part).__name__})"
        over_batch = isinstance(part, _OVER_BATCH)
        if over_batch and part.running_mean is None:
            raise ValueError(f"{kind} averages over the batch: a sample has no output of its own")
        share = part.p if isinstance(part, _RANDOM) else getattr(part, "dropout", 0)
        random = isinstance(share, int | float) and share > 0
        if part.training and (over_batch or random):
            raise ValueError(f"{kind} is in training mode: call module.eval() first")
