"""Tensors as arrays of the same memory and back: NumPy on the host, CuPy on a CUDA device."""

from __future__ import annotations

import numpy as np
import torch

from opflow.machine.arrays import Array, cupy_module


def to_array(tensor: torch.Tensor) -> Array:
    """The array of a tensor's memory, by DLPack on a device."""
    tensor = tensor.detach()
    if tensor.is_cuda:
        return cupy_module().from_dlpack(tensor)
    return tensor.numpy()


def to_tensor(array: Array) -> torch.Tensor:
    """The tensor of an array's memory; of a copy, where tensors cannot have that memory."""
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(array)
