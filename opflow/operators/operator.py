"""The base class of every operator: its products, its entries, its cost in flops and bytes.

A subclass states its shape, dtype and tags in ``__init__`` and implements `_matmat` and
`_rmatmat` on real two-dimensional arrays.  The base classes bring the rest: ``products.py`` has
vectors, complex vectors and all checks, ``arithmetic.py`` operator algebra, ``interop.py``
conversions.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from opflow.machine.arrays import Array, Index, namespace
from opflow.machine.cost import Cost
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.threads import cached_property
from opflow.machine.workspace import block_module, operator_module, row_slices, selector
from opflow.operators import rules
from opflow.operators.arithmetic import Arithmetic
from opflow.operators.describe import Description, describe, tags
from opflow.operators.indexing import checked_block, entries


class Operator(Arithmetic):
    r"""A lazy linear operator with native block products.

    Subclasses implement ``_matmat(X)`` and ``_rmatmat(X)``, which always get a real array of
    two dimensions whose dtype is at least the operator's own.

    Parameters
    ----------
    shape : tuple of int
        (rows, columns).
    dtype : dtype
        float32 or float64 (complex only for wrapped operators of other libraries).
    symmetric, psd : bool
        What is *known*: `psd` implies `symmetric`; ``False`` means not known to hold.
    symbol : str, optional
        How :func:`describe` writes this operator.
    dims, dimsd : tuple of int, optional
        Shapes of input and output fields, as in PyLops.

    See Also
    --------
    opflow.as_operator : An operator from an array, or of PyLops or SciPy.
    opflow.describe : The expression tree.
    opflow.materialise : The same operator in its fastest form.
    opflow.spectral.eigsh : Eigenvalues from products.

    Notes
    -----
    Operators are immutable after construction and can be shared between threads (the product
    counters inherited from PyLops are then approximate) and pickled.

    Real operators applied to complex vectors act on the real and the imaginary part; integer
    vectors are cast to the operator's dtype.  A float32 operator applied to a float64 vector
    computes in float64.

    A vector gives a vector and a block of shape (n, columns) a block; an array of shape `dims`
    that is neither is a field and gives a field of shape `dimsd`.

    With an opflow operator on the left, or a NumPy, SciPy-sparse or SciPy operator on the other
    side of ``+``, the result is an opflow operator.  Python gives ``pylops_op @ op`` to PyLops,
    which returns a PyLops operator that still uses our block products; wrap the left side with
    :func:`as_operator` to get an opflow operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> K = of.Gram(np.array([[1.0, 0.0], [1.0, 1.0]])) + 0.5 * of.Identity(2)
    >>> K @ np.array([1.0, 1.0])
    array([2.5, 3.5])
    >>> K.psd, (-K).psd
    (True, False)
    """

    #: rows can be read at the cost of the memory they occupy
    row_access: bool = False
    #: whether rows are read of stored data, so that several threads may ask for them
    rows_stored: bool = True
    #: stored as a sparse matrix
    sparse: bool = False
    #: the dtype is a choice, not a property of stored data (identity, gates)
    dtype_free: bool = False
    #: stored data, if the operator has any of its own
    data: Any = None
    #: functions that build other forms of this very operator, by name
    _alternatives: Mapping[str, Callable[[], Operator]] = {}

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: DTypeLike,
        *,
        symmetric: bool = False,
        psd: bool = False,
        symbol: str | None = None,
        dims: tuple[int, ...] | None = None,
        dimsd: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(dtype=check_dtype(dtype), shape=shape, dims=dims, dimsd=dimsd)
        self.psd = bool(psd)
        self.symmetric = bool(symmetric or psd)
        self._symbol = symbol

    # -- what a subclass says about itself ------------------------------------------------

    @property
    def operands(self) -> tuple[Operator, ...]:
        """The operators this one is made of."""
        return ()

    @cached_property
    def space(self) -> RowDistribution:
        """How the rows of a product are held: here, or a part by every rank."""
        return agreed_space(op.space for op in self.operands)

    @cached_property
    def domain(self) -> RowDistribution:
        """How the rows of the vectors that it multiplies are held."""
        return agreed_space(op.domain for op in self.operands)

    @property
    def symbol(self) -> str:
        """How this operator is written in a formula."""
        return self._symbol or self._formula()

    def _formula(self) -> str:
        """The symbol of an operator that was given none."""
        return type(self).__name__

    @property
    def _factor_symbol(self) -> str:
        """The symbol as a factor of a product: a sum in brackets."""
        return self.symbol

    def cost(self, columns: int = 1) -> Cost:
        """Flops and bytes of one product with `columns` vectors.

        Returns
        -------
        Cost
            ``(flops, bytes)``; the bytes are those moved between memory and processor if each
            operand is read once.
        """
        return Cost(2.0 * self.shape[0] * self.shape[1] * columns, self._vector_bytes(columns))

    def _vector_bytes(self, columns: int) -> float:
        return float(sum(self.shape)) * columns * self.dtype.itemsize

    def alternatives(self) -> dict[str, Operator]:
        """Other forms of this operator that :func:`materialise` may choose, by name."""
        return {name: build() for name, build in self._alternatives.items()}

    def with_alternatives(self, **forms: Callable[[], Operator]) -> Operator:
        """The same operator, with functions that build other forms of it, by name."""
        return self._changed(_alternatives=forms)

    def describe(self) -> Description:
        """The expression tree; see :func:`opflow.describe`."""
        return describe(self)

    def __repr__(self) -> str:
        m, n = self.shape
        words = (f"{m}x{n}", type(self).__name__, self.symbol, str(self.dtype), tags(self))
        return f"<{' '.join(words).rstrip()}>"

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    # -- entries --------------------------------------------------------------------------

    def rows(self, index: Index) -> Array:
        """Dense rows, shape (b, columns); `index` is a slice or an integer array.

        Costs b products with the adjoint unless `row_access` is true.  Rows of stored data are
        views of it, which cannot be written through on the host: :meth:`Operator.block` copies.
        """
        return self.rmatmat(selector(self, index, self.shape[0])).T.conj()

    def block(self, rows: Index, cols: Index) -> Array:
        """The exact dense sub-block ``A[rows][:, cols]``.

        Parameters
        ----------
        rows, cols : slice, int array or boolean array

        Returns
        -------
        array of shape (len(rows), len(cols))

        Notes
        -----
        Cheap where the structure allows it (matrices, Grams, Hadamard products and what is
        built of them by sums and multiples): flops and bytes of the block alone.  Otherwise it
        costs one product a row.

        Examples
        --------
        >>> import numpy as np, opflow as of
        >>> of.Gram(np.array([[1.0, 2.0], [3.0, 4.0]])).block([1], slice(None))
        array([[11., 25.]])
        """
        (rows, cols), where = checked_block(self, rows, cols)
        block = placed(self, where)._block(rows, cols)
        return block if block.flags.owndata else block.copy()  # for the caller to write to

    def __getitem__(self, key: Index) -> Array:
        """Exact entries, as indexing the dense matrix gives them, for the price of :meth:`block`.

        Raises ``MemoryError`` if what has to be formed does not fit in half of the free memory.
        """
        return entries(self, key)

    def _block(self, rows: Index, cols: Index) -> Array:
        return self.rows(rows)[:, cols]

    def diagonal(self) -> Array:
        """The exact diagonal of a square operator, shape (n,).

        Costs O(n · width) where the structure gives it, n products where it does not.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"diagonal needs a square operator, this one has shape {self.shape}")
        return self._diagonal()

    def _diagonal(self) -> Array:
        row = 3 * self.shape[1] * self.dtype.itemsize
        slices = row_slices(self.shape[0], row, where=block_module(self))
        parts = [self._block(s, s).diagonal().copy() for s in slices]  # a view keeps the block
        return namespace(*parts).concatenate(parts)

    def trace(
        self,
        neval: int | None = None,
        method: str | None = None,
        backend: str = "numpy",
        **options: Any,
    ) -> np.floating[Any]:
        """The exact trace; a named `method` asks PyLops for one of its estimators instead."""
        if method is None and neval is None:
            return self.space.total(self.diagonal().sum())
        return super().trace(neval=neval, method=method, backend=backend, **options)

    # -- copies ---------------------------------------------------------------------------

    def astype(self, dtype: DTypeLike) -> Operator:
        """This operator declared (and computed) in a wider dtype.

        Raises
        ------
        TypeError
            If the promotion is not exact (float64 to float32).
        """
        if self.dtype == np.dtype(dtype):
            return self
        if not self.dtype_free:
            return rules.cast(self, dtype)
        return self._changed(lambda part: part.astype(dtype), dtype=check_dtype(dtype))

    def _changed(
        self, change: Callable[[Operator], Operator] | None = None, **attributes: object
    ) -> Operator:
        """A copy with other attributes, and with `change` applied to the operators it holds."""
        other = copy.copy(self)
        if change is not None:
            change = functools.cache(change)  # one copy of what is held twice
            for name, part in vars(self).items():
                if isinstance(part, Operator):
                    vars(other)[name] = change(part)
                elif isinstance(part, tuple) and part and isinstance(part[0], Operator):
                    vars(other)[name] = tuple(map(change, part))
        vars(other).update(attributes)
        return other


def placed(op: Operator, where: str | None) -> Operator:
    """`op`; if it has no data, a copy that makes its entries in the array module `where`."""
    if where is None or operator_module(op) is not None:
        return op
    return op._changed(lambda part: placed(part, where), _where=where)


def agreed_space(spaces: Iterable[RowDistribution]) -> RowDistribution:
    """The one of the spaces that is sharded, if one is."""
    return next((space for space in spaces if space.sharded), LOCAL)


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """`dtype` as NumPy's, if products can be computed in it; else ``TypeError``."""
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.float32, np.float64, np.complex64, np.complex128):
        raise TypeError(f"dtype must be float32 or float64, not {dtype}")
    return dtype
