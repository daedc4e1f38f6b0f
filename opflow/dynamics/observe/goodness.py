"""How good predictions are: loss, RMSE and R², of a run, of held-out data and in pictures."""

from __future__ import annotations

import math

import numpy as np

from opflow.machine.arrays import Array, to_host
from opflow.machine.ranks import LOCAL, RowDistribution


def fit(
    errors: Array, y: Array, scale: Array | float = 1.0, space: RowDistribution = LOCAL
) -> dict[str, float]:
    """Loss ½ Σ e², ‖e‖, RMSE and R² of errors (N, k) of targets y, both divided by `scale`.

    Of several targets the last two are means over these, as scikit-learn's.
    """
    count = float(space.total(len(y)))
    mean = space.total(y.sum(axis=0, dtype=np.float64)) / count
    squares = to_host(space.total((errors.astype(np.float64) ** 2).sum(axis=0)))
    spread = to_host(space.total(((y - mean).astype(np.float64) ** 2).sum(axis=0)))
    with np.errstate(all="ignore"):
        r2 = np.where(spread > 0, 1 - squares / spread, np.nan).mean()
    total = float((squares * scale**2).sum())
    return {
        "loss": 0.5 * total,
        "residual_norm": math.sqrt(total),
        "rmse": float((np.sqrt(squares / count) * scale).mean()),
        "r2": float(r2),
    }
