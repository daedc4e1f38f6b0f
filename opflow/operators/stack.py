"""Operators side by side, and block-diagonal operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.machine.arrays import check_real, is_sparse, namespace
from opflow.operators.algebra import Composite, unify
from opflow.operators.operator import Cost, Operator


class HStack(Composite):
    """Operators side by side, ``[A₁ A₂ …]``: the Jacobian of several layers.

    Parameters
    ----------
    operators : sequence of Operator
        With one number of rows.
    """

    def __init__(self, operators: Sequence[Operator], *, symbol: str | None = None) -> None:
        heights = {op.shape[0] for op in operators}
        if len(heights) != 1:
            raise ValueError(f"operators side by side need one height, not {sorted(heights)}")
        operators = unify(operators)
        self.edges = np.cumsum([0, *(op.shape[1] for op in operators)]).tolist()
        super().__init__(
            operators,
            (heights.pop(), self.edges[-1]),
            np.result_type(*(op.dtype for op in operators)),
            symbol=symbol,
        )

    @property
    def symbol(self) -> str:
        return self._symbol or f"[{' '.join(op.symbol for op in self.operands)}]"

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        return all(op.row_access for op in self.operands)

    def _spans(self) -> list[tuple[Operator, slice]]:
        return [
            (op, slice(a, b))
            for op, a, b in zip(self.operands, self.edges[:-1], self.edges[1:], strict=True)
        ]

    def _matmat(self, X: Any) -> Any:
        (op, span), *others = self._spans()
        out = op.matmat(X[span])
        for op, span in others:
            out = out + op.matmat(X[span])
        return out

    def _rmatmat(self, X: Any) -> Any:
        return namespace(X).concatenate([op.rmatmat(X) for op in self.operands])

    def rows(self, index: Any) -> Any:
        parts = [op.rows(index) for op in self.operands]
        return namespace(*parts).concatenate(parts, axis=1)

    def _gram_block(self, rows: Any, cols: Any, weights: Any) -> Any:
        return sum(
            op._gram_block(rows, cols, None if weights is None else weights[span])
            for op, span in self._spans()
        )

    def _gram_diagonal(self, weights: Any) -> Any:
        return sum(
            op._gram_diagonal(None if weights is None else weights[span])
            for op, span in self._spans()
        )

    def _cross_block(self, other: Operator, rows: Any, cols: Any) -> Any:
        if not isinstance(other, HStack) or self.edges != other.edges:
            return super()._cross_block(other, rows, cols)
        pairs = zip(self.operands, other.operands, strict=True)
        return sum(left._cross_block(right, rows, cols) for left, right in pairs)

    def _column_squares(self) -> Any:
        parts = [op._column_squares() for op in self.operands]
        return namespace(*parts).concatenate(parts)


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
