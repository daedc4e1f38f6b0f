"""Weight-induced Grams: the products of a weight matrix between the gates of two samples."""

from __future__ import annotations

from opflow.machine.arrays import Array, Data, check_gates
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

    Notes
    -----
    :math:`\sum_i \theta_i^\mu \theta_i^\nu\, w_i w_i^T` over the rows w_i of W: the first
    nontrivial member of the pullback recursion.  Symmetric and PSD for every pair of samples,
    because D_μ D_ν is itself a mask.  A product costs 4·n_out·n_in flops.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.WeightGram(np.array([[1.0, 2.0], [3.0, 4.0]]), [True, False]).todense()
    array([[1., 2.],
           [2., 4.]])
    """

    def __init__(
        self, W: Data, gates: Array, gates2: Array | None = None, *, symbol: str = "WᵀDDW"
    ) -> None:
        W = as_operator(W, symbol="W")
        both = _unit_gates(gates, "gates", W)
        if gates2 is not None:
            both = both & _unit_gates(gates2, "gates2", W)
        super().__init__(W.T, both.astype(W.dtype), symbol=symbol)


def _unit_gates(gates: Array, name: str, W: Operator) -> Array:
    gates = check_gates(gates, name)
    if gates.shape != (W.shape[0],):
        raise ValueError(f"{name} has shape {gates.shape} but W has {W.shape[0]} output units")
    return gates
