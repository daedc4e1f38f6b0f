"""The arrays of a ``torch.nn.Sequential`` of ``Linear`` and ``ReLU``."""

from __future__ import annotations

from typing import Any

from opflow.interface.extras import install
from opflow.machine.arrays import Array


def torch_arrays(module: object) -> tuple[list[Array], Array, list[Array | None]]:
    """Copies of weights, readout and biases in host memory."""
    try:
        from torch import nn
    except ImportError as error:
        raise ImportError(f"from_torch needs torch: {install('torch')}") from error
    if not isinstance(module, nn.Sequential):
        raise TypeError(f"module must be a torch.nn.Sequential, not {type(module).__name__}")
    parts: list[Any] = list(module)
    if len(parts) < 3 or len(parts) % 2 == 0:
        raise TypeError(
            f"module must alternate Linear and ReLU and end with a Linear readout; "
            f"it has {len(parts)} parts"
        )
    for i, part in enumerate(parts):
        wanted = nn.ReLU if i % 2 else nn.Linear
        if type(part) is not wanted:
            raise TypeError(f"module[{i}] must be {wanted.__name__}, not {type(part).__name__}")
    if parts[-1].bias is not None:
        raise TypeError(
            "the readout (the last Linear) must have bias=False: subtract a constant from "
            "the targets instead"
        )
    hidden = parts[:-1:2]
    weights = [_array(layer.weight) for layer in hidden]
    biases = [None if layer.bias is None else _array(layer.bias) for layer in hidden]
    return weights, _array(parts[-1].weight), biases


def _array(parameter: Any) -> Array:
    return parameter.detach().cpu().numpy().copy()
