"""The base class of operators made of others, and multiples, adjoints and casts of one operator.

``simplify.py`` builds them.  A multiple is PSD for a scalar >= 0, if the operator is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Index, mixed, module_name
from opflow.machine.workspace import operator_module
from opflow.operators.entries import cheap_in_operands, entries_are_cheap
from opflow.operators.operator import Cost, Operator, placed


def unify(operators: Sequence[Operator]) -> list[Operator]:
    """The operators in one dtype and place: those without data adopt the dtype of the others.

    If any is complex, all become complex: `_matmat` then sees vectors of its operator's own kind.
    """
    dtypes = {op.dtype for op in operators if not op.dtype_free}
    if len({dtype for dtype in dtypes if dtype.kind != "c"}) > 1:
        raise TypeError(
            f"operands have dtypes {', '.join(sorted(map(str, dtypes)))}; ask for the promotion "
            "with .astype(), or build them from data of one dtype"
        )
    target = np.result_type(*(dtypes or {op.dtype for op in operators}))
    held = [op for op in operators if operator_module(op) is not None]
    where = {module_name(op) for op in held}
    if len(where) > 1:
        raise TypeError(mixed(*held))
    if where - {"numpy"}:  # operators without data are on the host
        operators = [placed(op, *where) for op in operators]
    return [op.astype(target) for op in operators]


class Composite(Operator):
    """An operator made of others."""

    def __init__(
        self, operands: Sequence[Operator], shape: tuple[int, int], dtype: DTypeLike, **known: Any
    ) -> None:
        self.parts = tuple(operands)
        super().__init__(shape, dtype, **known)

    @property
    def operands(self) -> tuple[Operator, ...]:
        return self.parts

    @property
    def row_access(self) -> bool:  # type: ignore[override]
        """Whether rows can be read at the cost of the memory they occupy."""
        return all(part.row_access for part in self.parts)

    def cost(self, columns: int = 1) -> Cost:
        return sum((part.cost(columns) for part in self.parts), Cost(0.0, 0.0))


entries_are_cheap.register(Composite, cheap_in_operands)


def common_tags(operators: Sequence[Operator]) -> dict[str, bool]:
    """The tags that all the operators have."""
    return {
        "psd": all(op.psd for op in operators),
        "symmetric": all(op.symmetric for op in operators),
    }


class Scaled(Composite):
    """The lazy multiple ``c A``, made by ``*``; PSD if A is and c >= 0.

    Parameters
    ----------
    scalar : float
    op : Operator

    See Also
    --------
    opflow.Sum : Lazy sum.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> 2 * of.Gram(np.eye(2))
    <2x2 Scaled 2 M Mᵀ float64 psd>
    """

    def __init__(self, scalar: float, op: Operator) -> None:
        if not math.isfinite(scalar):
            raise ValueError(f"an operator cannot be scaled by {scalar}")
        self.scalar = scalar
        self.dtype_free = op.dtype_free
        super().__init__(
            [op],
            op.shape,
            op.dtype,
            psd=op.psd and scalar >= 0,
            symmetric=op.symmetric,
            dims=op.dims,
            dimsd=op.dimsd,
        )

    def _formula(self) -> str:
        inner = self.parts[0]._factor_symbol
        return f"-{inner}" if self.scalar == -1 else f"{self.scalar:.4g} {inner}"

    def _matmat(self, X: Array) -> Array:
        return self.scalar * self.parts[0]._matmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.scalar * self.parts[0]._rmatmat(X)

    def rows(self, index: Index) -> Array:
        return self.scalar * self.parts[0].rows(index)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.scalar * self.parts[0]._block(rows, cols)

    def _diagonal(self) -> Array:
        return self.scalar * self.parts[0]._diagonal()


class Adjoint(Composite):
    """The lazy adjoint of an operator that has no rule of its own, made by ``.T`` or ``.H``.

    Parameters
    ----------
    op : Operator

    See Also
    --------
    opflow.Product : Lazy product.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Weight(np.ones((2, 3))).T
    <3x2 Adjoint Wᵀ float64>
    """

    row_access = False

    def __init__(self, op: Operator) -> None:
        self.dtype_free = op.dtype_free
        super().__init__([op], op.shape[::-1], op.dtype, dims=op.dimsd, dimsd=op.dims)
        self.space = op.domain
        self.domain = op.space

    def _formula(self) -> str:
        return f"{self.parts[0].symbol}ᵀ"

    def _matmat(self, X: Array) -> Array:
        return self.parts[0]._rmatmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.parts[0]._matmat(X)

    def rows(self, index: Index) -> Array:
        if not self.parts[0].row_access:
            return super().rows(index)
        return self._block(index, slice(0, self.shape[1]))

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.parts[0]._block(cols, rows).T.conj()

    def _diagonal(self) -> Array:
        return self.parts[0]._diagonal().conj()


class Cast(Composite):
    """An operator computed in a wider dtype, made by :meth:`Operator.astype`.

    Parameters
    ----------
    op : Operator
    dtype : dtype

    See Also
    --------
    opflow.as_operator : Operators from arrays, of the dtype these have.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.Matrix(np.eye(2, dtype="float32")).astype("float64")
    <2x2 Cast M float64>
    """

    def __init__(self, op: Operator, dtype: DTypeLike) -> None:
        if not np.can_cast(op.dtype, dtype, "safe"):
            raise TypeError(f"{op.dtype} to {np.dtype(dtype)} is not an exact promotion")
        super().__init__(
            [op], op.shape, dtype, psd=op.psd, symmetric=op.symmetric, dims=op.dims, dimsd=op.dimsd
        )

    def _formula(self) -> str:
        return self.parts[0].symbol

    # Vectors may be complex where the operator is real: its own products take care of that.

    def _matmat(self, X: Array) -> Array:
        return self.parts[0].matmat(X)

    def _rmatmat(self, X: Array) -> Array:
        return self.parts[0].rmatmat(X)

    def rows(self, index: Index) -> Array:
        if not self.row_access:
            return super().rows(index)
        return self.parts[0].rows(index).astype(self.dtype)
