"""Inputs in blocks of samples: slices of tensors, or the batches of an iterable of fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opflow.torch.bridge import to_tensor

#: a tensor whose first axis is the samples, or a dict or a tuple of them
Batch = Any
#: tensors by the names of parameters
Tensors = dict[str, Tensor]


def mapped(function: Callable[..., Any], *batches: Batch) -> Batch:
    """`function` of every tensor of a batch, or of the tensors in the same place of several."""
    first = batches[0]
    if isinstance(first, Mapping):
        return {name: mapped(function, *(batch[name] for batch in batches)) for name in first}
    if isinstance(first, tuple | list):
        return tuple(mapped(function, *parts) for parts in zip(*batches, strict=True))
    return function(*batches)


def tensors(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch."""
    found: list[Tensor] = []
    mapped(found.append, batch)
    return found


def rows_of(batch: Batch, index: Any) -> Batch:
    """Some samples of a batch."""
    return mapped(lambda tensor: tensor[index], batch)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch in another precision; whole numbers stay."""
    return mapped(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)


def length(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(tensors(batch)[0])


def over_columns(function: Callable[..., Any], *columns: Batch) -> Batch:
    """`function` of every column of its arguments, all at once."""
    if length(columns) > 1:
        return torch.vmap(function)(*columns)
    return mapped(lambda tensor: tensor[None], function(*rows_of(columns, 0)))


class Samples:
    """The inputs of a module, block by block; `X` as in :func:`opflow.torch.jacobian`."""

    def __init__(self, X: Any, device: torch.device, dtype: torch.dtype, whole: bool) -> None:
        self.device = device
        self.dtype = dtype
        #: whether a batch of an iterable is handed on whole, not its first part alone
        self.whole = whole
        held = isinstance(X, Tensor | np.ndarray | Mapping | tuple)
        if not held and not isinstance(X, Iterable):
            raise TypeError(
                f"X must be a tensor, an array, a dict or tuple of them, or an iterable of batches,"
                f" not {type(X).__name__}"
            )
        if isinstance(X, Iterator):
            raise TypeError("X is an iterator, which is read once only: give a list of its batches")
        loader = isinstance(X, torch.utils.data.DataLoader)
        if loader and isinstance(X.sampler, torch.utils.data.RandomSampler):
            raise ValueError("X shuffles its samples on every reading: give shuffle=False")
        self.batches: Iterable[Batch] = X
        if held:
            self.batches = [X]
            self.batches = [batch for _, batch in self._read()]
        self.size = sum(length(batch) for _, batch in self._read())
        if not self.size:
            raise ValueError("X has no samples")

    def _read(self) -> Iterator[tuple[int, Batch]]:
        """The number of the first sample of every batch, and the batch."""
        place = 0
        for batch in self.batches:
            if isinstance(batch, list) and not self.whole:
                batch = batch[0]  # what a DataLoader of inputs and targets gives
            checked = mapped(self._checked, batch)
            if len({len(tensor) for tensor in tensors(checked)}) != 1:
                raise ValueError("the tensors of X must have the same samples as their first axis")
            yield place, checked
            place += length(checked)

    def _checked(self, part: Any) -> Tensor:
        tensor = to_tensor(part) if isinstance(part, np.ndarray) else part
        if not isinstance(tensor, Tensor) or not tensor.ndim:
            raise TypeError(f"X must hold tensors of samples, not {type(part).__name__}")
        if tensor.device != self.device:
            raise ValueError(f"X is on {tensor.device} but the module is on {self.device}")
        if tensor.is_floating_point() and tensor.dtype != self.dtype:
            raise TypeError(
                f"X has dtype {tensor.dtype} but the parameters have {self.dtype}: convert one"
            )
        if tensor.is_inference():
            return tensor.clone()
        return tensor.detach()

    def blocks(self, start: int, stop: int, rows: int) -> Iterator[tuple[slice, Batch]]:
        """The samples from `start` to `stop`, at most `rows` at a time, and where they stand."""
        for place, batch in self._read():
            end = place + length(batch)
            for first in range(max(start, place), min(stop, end), rows):
                s = slice(first, min(first + rows, stop, end))
                yield s, rows_of(batch, slice(s.start - place, s.stop - place))

    def take(self, index: np.ndarray) -> Batch:
        """The samples of these numbers, in their order."""
        parts = []
        found = []
        for place, batch in self._read():
            here = np.flatnonzero((index >= place) & (index < place + length(batch)))
            if here.size:
                where = torch.as_tensor(index[here] - place, device=self.device)
                parts.append(rows_of(batch, where))
                found.append(here)
        order = torch.as_tensor(np.argsort(np.concatenate(found)), device=self.device)
        return mapped(lambda *pieces: torch.cat(pieces)[order], *parts)
