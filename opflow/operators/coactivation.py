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
    symbol : str, optional

    See Also
    --------
    opflow.PackedGates : The gates, the factor of this Gram.
    opflow.Gram : The Gram of any factor.
    opflow.Hadamard : Makes a kernel of this and the Gram of the inputs.
    opflow.collective_kernel : The kernel of a network of any depth.

    Notes
    -----
    The kernel of one hidden layer is ``Hadamard(Gram(X), CoActivation(gates, v**2))`` [1]_.

    :math:`C_{\mu\nu} = \sum_i w_i\, s_i^\mu s_i^\nu` with :math:`s = \alpha + (1 - \alpha)
    \theta`, the gates themselves for α = 0; gates are unpacked in row blocks
    inside a product, which costs 4·N·n flops a column and reads N·n/8 bytes twice.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

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
