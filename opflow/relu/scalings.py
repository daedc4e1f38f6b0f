"""Random networks: how weights and readout are drawn, and which rates go with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import check_integer, check_real_dtype
from opflow.relu.parameters import checked_slopes

SCALINGS = ("standard", "ntk", "mean-field")


def draw(
    widths: Sequence[int],
    outputs: int,
    scaling: str,
    bias: bool,
    slope: float | Sequence[float],
    readout_rate: float | str | None,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> dict[str, Any]:
    """Draw the arguments of a network; the numbers are the same for both dtypes, to rounding."""
    widths = [_count(n, f"widths[{i}]") for i, n in enumerate(widths)]
    if len(widths) < 2:
        raise ValueError(f"widths must be [d, n_1, ...], not {widths}")
    outputs = _count(outputs, "outputs")
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, not {scaling!r}")
    dtype = np.dtype(dtype)
    check_real_dtype(dtype, "dtype")
    slopes = checked_slopes(slope, len(widths) - 1)
    variances = [2 / (1 + a**2) / m for a, m in zip(slopes, widths, strict=False)]
    weights = [
        (math.sqrt(variance) * rng.standard_normal((n, m))).astype(dtype)
        for variance, (m, n) in zip(variances, itertools.pairwise(widths), strict=True)
    ]
    last = widths[-1]
    # the deviation of the readout, the rates, and the automatic rate of the readout
    std, rates, automatic = {
        "standard": (1 / math.sqrt(last), None, 1.0),
        "ntk": (1 / math.sqrt(last), variances, 1 / last),
        "mean-field": (1 / last, [float(last)] * len(weights), 1 / last),
    }[scaling]
    if readout_rate == "auto":
        readout_rate = automatic
    elif isinstance(readout_rate, str):
        raise ValueError(f"readout_rate must be a number, 'auto' or None, not {readout_rate!r}")
    return {
        "weights": weights,
        "readout": (std * rng.standard_normal((outputs, last))).astype(dtype),
        "biases": [np.zeros(n, dtype=dtype) for n in widths[1:]] if bias else None,
        "rates": rates,
        "slope": slopes,
        "readout_rate": readout_rate,
    }


def _count(value: int, name: str) -> int:
    # a whole float is a number of units too
    if isinstance(value, bool) or int(value) != value:
        raise TypeError(f"{name} must be an integer, not {value!r}")
    return check_integer(int(value), name, 1)
