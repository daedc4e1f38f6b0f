"""``add``, ``compose``, ``scale``, ``adjoint``, …: functions into which classes register rules.

The base class calls these functions and knows no other class.  ``algebra.py``, ``convert.py`` and
``diagonal.py`` register what the functions do for the classes defined there.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
import pylops
import scipy.sparse.linalg as spla
from numpy.typing import DTypeLike

from opflow.machine.arrays import Data, is_array, is_sparse

if TYPE_CHECKING:
    from opflow.operators.operator import Operator
_OPERATORS = (pylops.LinearOperator, spla.LinearOperator)


def is_operator(x: object) -> bool:
    """Whether `x` is a linear operator of opflow, PyLops or SciPy."""
    return isinstance(x, _OPERATORS)


def as_operator(x: Data, *, symbol: str | None = None) -> Operator:
    """Make an opflow operator of an array, a sparse matrix or any PyLops or SciPy operator.

    Parameters
    ----------
    x : operator, array of shape (m, n), or sparse matrix
        Arrays of float32 or float64 are referenced, other numbers converted.
    symbol : str, optional
        How :func:`describe` writes it.

    Returns
    -------
    Operator
        `x` itself if it is an opflow operator.

    See Also
    --------
    opflow.Matrix : What it makes of an array.
    opflow.RowMatrix : What it makes of rows on disk.
    opflow.External : What it makes of an operator of another library.

    Examples
    --------
    >>> import numpy as np, pylops, opflow as of
    >>> D = of.as_operator(pylops.FirstDerivative(4, dtype="float64"))
    >>> (D.T @ of.Identity(4) @ D).psd
    True
    """
    # not called through its wrapper: a warning about `x` belongs to the line that gave it
    return converted.dispatch(type(x))(x, symbol)


@singledispatch
def converted(x: Data, symbol: str | None) -> Operator:
    """:func:`as_operator`, class by class."""
    raise NotImplementedError


def as_term(x: Data) -> Operator | None:
    """`x` as an operator that can be added to another; None if it is not one."""
    foreign = hasattr(x, "__array__") and not isinstance(x, np.ndarray | np.generic)
    if is_operator(x) or is_sparse(x) or foreign or (is_array(x) and x.ndim > 0):
        return as_operator(x)
    return None


@singledispatch
def add(first: pylops.LinearOperator, *others: Operator) -> Operator:
    """The lazy sum of operators of one shape."""
    raise NotImplementedError


@singledispatch
def compose(first: pylops.LinearOperator, *others: Operator) -> Operator:
    """The lazy product of operators, left to right as written."""
    raise NotImplementedError


def scale(scalar: Any, op: pylops.LinearOperator) -> Operator:
    """The lazy multiple of an operator by a real number."""
    if isinstance(scalar, complex | np.complexfloating):
        raise TypeError("an operator is scaled by a real number, not by a complex one")
    return multiple(op, float(scalar))


@singledispatch
def multiple(op: Operator, scalar: float) -> Operator:
    """:func:`scale`, class by class."""
    raise NotImplementedError


@singledispatch
def adjoint(op: pylops.LinearOperator) -> Operator:
    """The lazy adjoint; a symmetric operator is its own."""
    raise NotImplementedError


@singledispatch
def cast(op: Operator, dtype: DTypeLike) -> Operator:
    """The operator, computed in a wider dtype."""
    raise NotImplementedError


@singledispatch
def identity(like: Operator) -> Operator:
    """The identity of the order and dtype of a square operator."""
    raise NotImplementedError
