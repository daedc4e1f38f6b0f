"""Block-diagonal operators: one small matrix a sample, acting on a field sample by sample.

What a sample does to its own units, such as reading its outputs off a hidden field.
"""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import check_real, is_sparse, namespace
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Cost, Operator


class BlockDiagonal(Operator):
    r"""``diag(B_1, …, B_N)``, one dense block a sample.

    Parameters
    ----------
    blocks : array (N, k, n), or (N, n) for one row a block
        float32 or float64; referenced, not copied.
    symbol : str, default "B"

    Notes
    -----
    Maps a field (N, n) to (N, k), both flattened sample-major: :math:`y_{\mu p} = \sum_i
    B_{\mu p i}\, x_{\mu i}`.  With the conjugates as blocks, :math:`\varphi^\ell`, it is the
    derivative of the outputs with respect to the hidden field :math:`h^\ell`, and its adjoint
    spreads a residual over the units.  2·N·k·n flops a column.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> B = of.BlockDiagonal(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> B @ np.ones(4), B.T @ np.array([1.0, -1.0])
    (array([3., 7.]), array([ 1.,  2., -3., -4.]))
    """

    def __init__(self, blocks: Any, *, symbol: str = "B") -> None:
        blocks = check_real(blocks, "blocks")
        if is_sparse(blocks) or blocks.ndim not in (2, 3) or 0 in blocks.shape:
            raise ValueError(
                f"blocks must be a non-empty dense array (N, k, n) or (N, n), not of shape "
                f"{blocks.shape}"
            )
        self.data = blocks[:, None, :] if blocks.ndim == 2 else blocks
        samples, k, n = self.data.shape
        super().__init__(
            (samples * k, samples * n),
            blocks.dtype,
            symbol=symbol,
            dims=(samples, n),
            dimsd=(samples, k) if blocks.ndim == 3 else (samples,),
        )

    def cost(self, columns: int = 1) -> Cost:
        flops = 2.0 * self.data.size * columns
        return Cost(flops, self.data.nbytes + self._vector_bytes(columns))

    def _matmat(self, X: Any) -> Any:
        samples, _, n = self.data.shape
        return (self.data @ X.reshape(samples, n, -1)).reshape(self.shape[0], -1)

    def _rmatmat(self, X: Any) -> Any:
        samples, k, _ = self.data.shape
        X = X.reshape(samples, k, -1)
        # One row a block: an outer product, which a batched GEMM is slow at.
        out = self.data[:, 0, :, None] * X if k == 1 else self.data.transpose(0, 2, 1) @ X
        return out.reshape(self.shape[1], -1)

    def _block(self, rows: Any, cols: Any) -> Any:
        xp, (_, k, n) = namespace(self.data), self.data.shape
        i, j = xp.arange(self.shape[0])[rows], xp.arange(self.shape[1])[cols]
        sample, unit = i[:, None] // k, j // n
        entries = self.data[sample, i[:, None] % k, j % n]
        return entries * (sample == unit)


entries_are_cheap.register(BlockDiagonal, cheap_in_operands)
