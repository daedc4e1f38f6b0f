"""What Python's signs mean between operators: ``@ * + - / **``, conjugates and transposes."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from opflow.machine.arrays import Array, Data, as_array, is_array, is_arraylike, is_sparse
from opflow.operators import rules
from opflow.operators.products import Products

if TYPE_CHECKING:
    from opflow.operators.operator import Operator

_NUMBERS = (numbers.Number, np.generic)


def is_scalar(x: object) -> bool:
    """Whether `x` is a number, or an array of no dimension."""
    return x.ndim == 0 if is_array(x) else isinstance(x, _NUMBERS)  # type: ignore[attr-defined]


def _as_ours(name: str) -> Callable[..., Operator]:
    """A method of PyLops that gives an operator, which becomes one of ours."""

    def method(self: Arithmetic, *args: object, **options: object) -> Operator:
        return rules.as_operator(getattr(super(Arithmetic, self), name)(*args, **options))

    return method


class Arithmetic(Products):
    """The signs of an operator; :mod:`~opflow.operators.rules` says what they build."""

    def dot(self, x: Data) -> Any:
        """Product with an operator (lazy), a scalar (lazy) or an array."""
        if rules.is_operator(x) or is_sparse(x):
            return rules.compose(self, rules.as_operator(x))
        if is_scalar(x):
            return rules.scale(x, self)
        x = self._operand(x)
        if x.ndim == 1:
            return self.matvec(x)
        # A block gives a block, whatever `dims` and `dimsd` are; only what can be none is a field.
        block = x.ndim == 2 and x.shape[0] == self.shape[1]
        if not block and self.dims in (x.shape, x.shape[:-1]):
            return super().dot(x)
        return self.matmat(x)

    @overload
    def __matmul__(self, other: Operator) -> Operator: ...

    @overload
    def __matmul__(self, other: Data) -> Array: ...

    def __matmul__(self, other: Data) -> Any:
        if type(other) is np.ndarray and other.ndim == 1:  # nothing else that it could be
            return self.matvec(other)
        if is_scalar(other):
            raise ValueError("a scalar is not allowed with @, use * instead")
        return self.dot(other)

    def __mul__(self, other: Data) -> Any:
        return self.dot(other)

    def __rmul__(self, other: Data) -> Operator:
        if is_scalar(other):
            return self.dot(other)
        return self.__rmatmul__(other)

    def __rmatmul__(self, other: Data) -> Any:
        if rules.is_operator(other) or is_sparse(other):
            return rules.as_operator(other) @ rules.as_operator(self)
        if is_arraylike(other):
            other = as_array(other, "the operand")
            if other.ndim in (1, 2):
                return self.T.dot(other.T).T
        return NotImplemented

    def __add__(self, other: Data) -> Operator:
        if is_scalar(other) and other == 0:  # what sum() starts from
            return rules.as_operator(self)
        term = rules.as_term(other)
        if term is None:
            return NotImplemented
        return rules.add(self, term)

    def __radd__(self, other: Data) -> Operator:
        return self.__add__(other)

    def __neg__(self) -> Operator:
        return rules.scale(-1, self)

    def __sub__(self, other: Data) -> Operator:
        term = rules.as_term(other)
        if term is not None:  # -1 times an operator of SciPy is float64, whatever that is
            other = rules.scale(-1, term)
        return self.__add__(other)

    def __rsub__(self, other: Data) -> Operator:
        return (-self).__add__(other)

    def __truediv__(self, other: Data, *args: object, **options: object) -> Any:
        """``self / scalar``, or the least-squares solution of ``self x = other`` of PyLops."""
        if is_scalar(other):
            return self.dot(1.0 / other)
        return super().__truediv__(self._operand(other), *args, **options)

    def __pow__(self, power: int) -> Operator:
        if not isinstance(power, numbers.Integral) or power < 0:
            raise ValueError(f"power must be a non-negative integer, not {power!r}")
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"power needs a square operator, this one has shape {self.shape}")
        if power == 0:
            return rules.identity(self)
        return rules.compose(*[self] * int(power))

    def conj(self) -> Operator:
        """The complex conjugate: a real operator itself."""
        if self.dtype.kind == "c":
            return rules.as_operator(super().conj())
        return rules.as_operator(self)

    apply_columns, toimag, toreal = map(_as_ours, ("apply_columns", "toimag", "toreal"))

    def _adjoint(self) -> Operator:
        return rules.adjoint(self)

    def _transpose(self) -> Operator:
        if self.dtype.kind == "c":
            return rules.as_operator(super()._transpose())
        return rules.adjoint(self)
