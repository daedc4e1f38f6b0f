"""What a run would take: memory and flops from shapes alone, before anything is allocated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.operators.describe import human
from opflow.operators.rows import WORKSPACE


def estimate(
    samples: int, widths: Sequence[int], outputs: int, dtype: Any, steps: int
) -> dict[str, dict[str, float]]:
    """Bytes and flops of a run.

    Parameters
    ----------
    samples : int
        N.
    widths : sequence of int
        [d, n_1, …, n_L].
    outputs : int
        k.
    dtype : dtype
    steps : int

    Returns
    -------
    dict
        ``{"bytes": {...}, "flops": {...}}``.

    Examples
    --------
    >>> estimate(10**9, [784, 512], 1, "float32", 10)["bytes"]["X"]
    3136000000000.0
    """
    item = np.dtype(dtype).itemsize
    sizes = [m * n for m, n in itertools.pairwise(widths)]
    n, units, parameters = float(samples), sum(widths[1:]), float(sum(sizes))
    weights = parameters * item
    residual = n * outputs * item
    forward = 2 * n * (parameters + outputs * widths[-1])
    step = 2 * n * (3 * parameters - sizes[0] + 2 * outputs * widths[-1])
    product = 4 * n * (parameters + outputs * units)
    return {
        "bytes": {
            "X": n * widths[0] * item,
            "y and residuals": 3 * residual,
            "weights": weights,
            "training beyond X and y": 2 * residual + 3 * weights + 2 * WORKSPACE,
            "step auto: activations": n * units * item,
            "fields with conjugates": n * units * (1 + outputs) * item,
            "one product beyond the fields": residual + 3 * weights + 2 * WORKSPACE,
            "dense K (never formed unasked)": (n * outputs) ** 2 * item,
        },
        "flops": {
            "forward pass": forward,
            "one step": step,
            "one product with K": product,
            f"run of {steps:,} steps": steps * step + forward,
        },
    }


def report(numbers: dict[str, dict[str, float]]) -> str:
    """The estimate as a table for people."""
    lines = []
    for title, unit, base in (("memory", "B", 1024), ("work", "flop", 1000)):
        lines.append(title)
        rows = numbers["bytes" if title == "memory" else "flops"]
        lines += [f"  {name:32} {human(v, unit, base):>12}" for name, v in rows.items()]
    return "\n".join(lines)
