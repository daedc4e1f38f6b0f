"""How well outputs fit their targets: loss, residual norm, RMSE and R²."""

from __future__ import annotations

import math

import numpy as np

from opflow.machine.arrays import Array, to_host
from opflow.machine.ranks import LOCAL, RowDistribution


def fit(
    errors: Array, y: Array, scale: float | Array = 1.0, space: RowDistribution = LOCAL
) -> dict[str, float]:
    """Loss ½ Σ e², ‖e‖, RMSE and R² of errors (N, k) of targets y, both divided by `scale`.

    RMSE and R² of several targets are means over the targets, as in scikit-learn.  R² is NaN if a
    target is constant.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([[0.0], [2.0]])
    >>> fit(np.array([[1.0], [0.0]]), y)
    {'loss': 0.5, 'residual_norm': 1.0, 'rmse': 0.7071067811865476, 'r2': 0.5}
    """
    count = float(space.total(len(y)))
    deviations = y - space.total(y.sum(axis=0, dtype=np.float64)) / count
    squares, spread = (
        to_host(space.total((part.astype(np.float64) ** 2).sum(axis=0)))
        for part in (errors, deviations)
    )
    with np.errstate(all="ignore"):
        r2 = np.where(spread > 0, 1 - squares / spread, np.nan).mean()
    total = float((squares * scale**2).sum())
    return {
        "loss": 0.5 * total,
        "residual_norm": math.sqrt(total),
        "rmse": float((np.sqrt(squares / count) * scale).mean()),
        "r2": float(r2),
    }
