"""Gates with a number for each unit: what the conjugates of a top layer with one output are."""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import check_real
from opflow.operators.gates import PackedGates
from opflow.operators.operator import Cost, Operator


class ScaledGates(Operator):
    r"""The matrix ``Θ diag(v)`` (N × n), its gates stored at one bit each.

    Parameters
    ----------
    gates : bool array of shape (N, n), or PackedGates
    scale : array of shape (n,)
        v; its dtype is the operator's.
    symbol : str, optional

    Notes
    -----
    With one output the conjugates of the top layer, :math:`\varphi_{\mu i} = v_i \theta_i^\mu`,
    are of this form.  A product is one with the gates, 2·N·n flops a column; in
    ``KhatriRao(ScaledGates(...), X)`` both halves of a product are products of gates with X.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.ScaledGates(np.array([[True, False], [True, True]]), np.array([2.0, 3.0])).todense()
    array([[2., 0.],
           [2., 3.]])
    """

    row_access = True

    def __init__(self, gates: Any, scale: Any, *, symbol: str = "θ diag(v)") -> None:
        gates = gates if isinstance(gates, PackedGates) else PackedGates(gates)
        scale = check_real(scale, "scale")
        if scale.shape != gates.shape[1:]:
            raise ValueError(f"scale has shape {scale.shape} but there are {gates.shape[1]} gates")
        self.gates, self.scale, self.data = gates.astype(scale.dtype), scale, gates.data
        super().__init__(gates.shape, scale.dtype, symbol=symbol)

    def cost(self, columns: int = 1) -> Cost:
        return self.gates.cost(columns)

    def rows(self, index: Any) -> Any:
        rows = self.gates.rows(index)
        rows *= self.scale
        return rows

    def _matmat(self, X: Any) -> Any:
        return self.gates.astype(X.dtype)._matmat(self.scale[:, None] * X)

    def _rmatmat(self, X: Any) -> Any:
        out = self.gates.astype(X.dtype)._rmatmat(X)
        out *= self.scale[:, None]
        return out
