"""Weight-induced Grams: the products of a weight matrix between the gates of two samples."""

from __future__ import annotations

from opflow.machine.arrays import Array, Data, check_gates
from opflow.operators.gates import checked_slope, slope_values
from opflow.operators.gram import Gram
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator


class WeightGram(Gram):
    r"""The weight-induced Gram operator ``Wᵀ D_μ D_ν W`` of two samples.

    Parameters
    ----------
    W : array of shape (n_out, n_in)
    gates : bool array of shape (n_out,)
        Gates θ_μ of one sample.
    gates2 : bool array of shape (n_out,), optional
        Gates θ_ν of the other; `gates` by default.
    slope : float, default 0
        α of the units: D has it where a gate is closed.
    symbol : str, optional

    See Also
    --------
    opflow.hierarchy.pullback : All members of the recursion.
    opflow.pullback : One step of it, for any operators.
    opflow.Weight : The weight matrix.

    Notes
    -----
    :math:`\sum_i \theta_i^\mu \theta_i^\nu\, w_i w_i^T` over the rows w_i of W: the first
    nontrivial member of the pullback recursion [1]_.  Symmetric, and PSD for every pair of samples
    where α >= 0, because D_μ D_ν is a mask then too.  A product costs 4·n_out·n_in flops.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.WeightGram(np.array([[1.0, 2.0], [3.0, 4.0]]), [True, False]).todense()
    array([[1., 2.],
           [2., 4.]])
    """

    def __init__(
        self,
        W: Data,
        gates: Array,
        gates2: Array | None = None,
        *,
        slope: float = 0.0,
        symbol: str = "WᵀDDW",
    ) -> None:
        W = as_operator(W, symbol="W")
        first = _diagonal(gates, "gates", W, slope)
        second = first
        if gates2 is not None:
            second = _diagonal(gates2, "gates2", W, slope)
        super().__init__(W.T, first * second, symbol=symbol)


def _diagonal(gates: Array, name: str, W: Operator, slope: float) -> Array:
    """The diagonal of D."""
    gates = check_gates(gates, name)
    if gates.shape != (W.shape[0],):
        raise ValueError(f"{name} has shape {gates.shape} but W has {W.shape[0]} output units")
    return slope_values(gates, checked_slope(slope), W.dtype)
