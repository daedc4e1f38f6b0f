"""Co-activation matrices: Grams of gates."""

from __future__ import annotations

from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Data
from opflow.operators.gates import PackedGates, checked_slope
from opflow.operators.gram import Gram


class CoActivation(Gram):
    r"""The co-activation matrix of a layer, from gates kept at one bit each.

    Parameters
    ----------
    gates : bool array of shape (N, n), or PackedGates
    weights : array of shape (n,), optional
        Weight of each unit: ``v**2`` for a readout v.
    dtype : dtype, optional
        Of products; that of `weights` if given, else float64.
    slope : float, optional
        α, what a closed gate counts as: that of `gates` if they are packed, else 0, for ReLU units.

    Notes
    -----
    :math:`C_{\mu\nu} = \sum_i w_i\, s_i^\mu s_i^\nu` with :math:`s = \alpha + (1 - \alpha)
    \theta`, the gates themselves for α = 0; gates are unpacked in row blocks
    inside a product, which costs 4·N·n flops a column and reads N·n/8 bytes twice.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.CoActivation(np.array([[True, True], [False, True]])).todense()
    array([[2., 1.],
           [1., 1.]])
    """

    def __init__(
        self,
        gates: Data,
        weights: Array | None = None,
        *,
        dtype: DTypeLike | None = None,
        slope: float | None = None,
        symbol: str | None = None,
    ) -> None:
        if not isinstance(gates, PackedGates):
            gates = PackedGates(gates, slope=slope or 0.0)
        elif slope is not None:
            gates = gates._changed(slope=checked_slope(slope))
        if dtype is not None:
            gates = gates.astype(dtype)
        super().__init__(gates, weights, symbol=symbol)
