"""Operators side by side, and block-diagonal operators: one small matrix a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add

import numpy as np

from opflow.machine.arrays import Array, Data, Index, check_real, is_sparse, namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.composite import Composite, unify
from opflow.operators.diagonal import entry_indices
from opflow.operators.entries import (
    cheap_in_operands,
    column_squares,
    cross_block,
    entries_are_cheap,
    gram_block,
    gram_diagonal,
)
from opflow.operators.operator import Cost, Operator
from opflow.operators.prices import gram_of_parts, gram_work


class _Stack(Composite):
    """Operators one after another along an axis of the matrix."""

    #: 0 for rows, 1 for columns
    _axis: int
    #: how an error says what is wrong, and what a formula has between the operators
    _needs: str
    _between: str

    def __init__(self, operators: Sequence[Operator], *, symbol: str | None = None) -> None:
        across = {op.shape[1 - self._axis] for op in operators}
        if len(across) != 1:
            raise ValueError(f"operators {self._needs}, not {sorted(across)}")
        operators = unify(operators)
        self.edges = np.cumsum([0, *(op.shape[self._axis] for op in operators)]).tolist()
        shape = list(operators[0].shape)
        shape[self._axis] = self.edges[-1]
        super().__init__(operators, (shape[0], shape[1]), operators[0].dtype, symbol=symbol)

    def _formula(self) -> str:
        return f"[{self._between.join(op.symbol for op in self.parts)}]"

    def spans(self) -> list[tuple[Operator, slice]]:
        """Each operator, and which of the rows or columns are its."""
        edges = map(slice, self.edges[:-1], self.edges[1:])
        return list(zip(self.parts, edges, strict=True))


class HStack(_Stack):
    """The lazy row ``[A₁ A₂ …]`` of operators side by side: the Jacobian of several layers.

    Parameters
    ----------
    operators : sequence of Operator
        With one number of rows.
    symbol : str, optional

    See Also
    --------
    opflow.VStack : Operators one upon another.
    opflow.BlockDiagonal : One dense block per sample.
    opflow.jacobian : The Jacobian of a network, of this form.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.HStack([of.Identity(2), of.Matrix(np.ones((2, 1)))]).todense()
    array([[1., 0., 1.],
           [0., 1., 1.]])
    """

    _axis = 1
    _needs = "side by side need one height"
    _between = " "

    def _matmat(self, X: Array) -> Array:
        return reduce(add, (op._matmat(X[span]) for op, span in self.spans()))

    def _rmatmat(self, X: Array) -> Array:
        return namespace(X).concatenate([op._rmatmat(X) for op in self.parts])

    def rows(self, index: Index) -> Array:
        parts = [op.rows(index) for op in self.parts]
        return namespace(*parts).concatenate(parts, axis=1)


gram_work.register(HStack, gram_of_parts)


def _weighted(F: HStack, weights: Array | None) -> Iterator[tuple[Operator, Array | None]]:
    """Each operator, and the weights of its columns."""
    for op, span in F.spans():
        yield op, None if weights is None else weights[span]


@gram_block.register
def _stack_gram_block(F: HStack, rows: Index, cols: Index, weights: Array | None = None) -> Array:
    return reduce(add, (gram_block(op, rows, cols, part) for op, part in _weighted(F, weights)))


@gram_diagonal.register
def _stack_gram_diagonal(F: HStack, weights: Array | None = None) -> Array:
    return reduce(add, (gram_diagonal(op, part) for op, part in _weighted(F, weights)))


@column_squares.register
def _stack_column_squares(F: HStack) -> Array:
    parts = [column_squares(op) for op in F.parts]
    return namespace(*parts).concatenate(parts)


@cross_block.register
def _stack_cross_block(F: HStack, G: Operator, rows: Index, cols: Index) -> Array:
    if not isinstance(G, HStack) or F.edges != G.edges:
        return NotImplemented
    pairs = zip(F.parts, G.parts, strict=True)
    return reduce(add, (cross_block(f, g, rows, cols) for f, g in pairs))


class VStack(_Stack):
    """The lazy column of operators one upon another: the Jacobian of several sets of samples.

    Parameters
    ----------
    operators : sequence of Operator
        With one number of columns.
    symbol : str, optional

    See Also
    --------
    opflow.HStack : Operators side by side.
    opflow.BlockDiagonal : One dense block per sample.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.VStack([of.Identity(2), of.Matrix(np.ones((1, 2)))]).todense()
    array([[1., 0.],
           [0., 1.],
           [1., 1.]])
    """

    _axis = 0
    _needs = "one upon another need one width"
    _between = "; "

    def _matmat(self, X: Array) -> Array:
        return namespace(X).concatenate([op._matmat(X) for op in self.parts])

    def _rmatmat(self, X: Array) -> Array:
        return reduce(add, (op._rmatmat(X[span]) for op, span in self.spans()))

    def rows(self, index: Index) -> Array:
        xp = op_namespace(self)
        wanted = xp.arange(self.shape[0])[index]
        out = xp.empty((len(wanted), self.shape[1]), dtype=self.dtype)
        for op, span in self.spans():
            here = xp.flatnonzero((wanted >= span.start) & (wanted < span.stop))
            if here.size:
                out[here] = op.rows(wanted[here] - span.start)
        return out


@gram_diagonal.register
def _upright_gram_diagonal(F: VStack, weights: Array | None = None) -> Array:
    parts = [gram_diagonal(op, weights) for op in F.parts]
    return namespace(*parts).concatenate(parts)


@column_squares.register
def _upright_column_squares(F: VStack) -> Array:
    return reduce(add, (column_squares(op) for op in F.parts))


class BlockDiagonal(Operator):
    r"""The block-diagonal operator ``diag(B_1, …, B_N)``, one dense block per sample.

    Parameters
    ----------
    blocks : array (N, k, n), or (N, n) for one row a block
        float32 or float64; referenced, not copied.
    symbol : str, default "B"

    See Also
    --------
    opflow.SampleLift : The same block for every sample.
    opflow.Kronecker : Block-diagonal operators of Kronecker products.

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

    def __init__(self, blocks: Data, *, symbol: str = "B") -> None:
        blocks = check_real(blocks, "blocks")
        if is_sparse(blocks) or blocks.ndim not in (2, 3) or 0 in blocks.shape:
            raise ValueError(
                f"blocks must be a non-empty dense array (N, k, n) or (N, n), not of shape "
                f"{blocks.shape}"
            )
        self.data = blocks.reshape(len(blocks), -1, blocks.shape[-1])
        samples, k, n = self.data.shape
        super().__init__(
            (samples * k, samples * n),
            blocks.dtype,
            symbol=symbol,
            dims=(samples, n),
            dimsd=blocks.shape[:-1],
        )

    def cost(self, columns: int = 1) -> Cost:
        flops = 2.0 * self.data.size * columns
        return Cost(flops, self.data.nbytes + self._vector_bytes(columns))

    def _matmat(self, X: Array) -> Array:
        samples, _, n = self.data.shape
        return (self.data @ X.reshape(samples, n, -1)).reshape(self.shape[0], -1)

    def _rmatmat(self, X: Array) -> Array:
        samples, k, _ = self.data.shape
        X = X.reshape(samples, k, -1)
        # One row a block: an outer product, which a batched GEMM is slow at.
        out = self.data[:, 0, :, None] * X if k == 1 else self.data.transpose(0, 2, 1) @ X
        return out.reshape(self.shape[1], -1)

    def _block(self, rows: Index, cols: Index) -> Array:
        _, k, n = self.data.shape
        i, j = entry_indices(self, rows, cols)
        return self.data[i // k, i % k, j % n] * (i // k == j // n)


entries_are_cheap.register(BlockDiagonal, cheap_in_operands)
