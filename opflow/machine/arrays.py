"""Arrays of NumPy or CuPy: which module one belongs to, checks of dtype and entries, and moves.

Mixing host and device arrays is an error: only :func:`to_host`, :func:`to_device` and
:func:`to_device_of` move data.  Code for data of either takes its module from :func:`namespace`.
"""

from __future__ import annotations

import math
import sys
import warnings
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from opflow.interface.extras import install

#: a dense array of NumPy or CuPy
Array = NDArray[Any]
#: what constructors take: an array, a sparse matrix, rows on disk, or an operator
Data: TypeAlias = Any
#: rows or columns: a slice, or an array of integers
Index: TypeAlias = Any
#: dtypes that networks and operators have
REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def module_name(array: Data) -> str:
    """``"numpy"`` or ``"cupy"``: the module of an array, or of the data of an operator."""
    if type(array) is np.ndarray:
        return "numpy"
    where = getattr(array, "_where", None)  # an operator that knows; of pandas it is a method
    if isinstance(where, str):
        return where
    if _package(array) == "cupyx" or (is_array(array) and not isinstance(array, np.ndarray)):
        return "cupy"
    return "numpy"  # rows on disk come out as NumPy arrays


def _package(x: object) -> str:
    return type(x).__module__.partition(".")[0]


def namespace(*arrays: Data) -> ModuleType:
    """The module (``numpy`` or ``cupy``) of arrays and sparse matrices; None counts as neither.

    >>> namespace(np.ones(3), None).__name__
    'numpy'
    """
    names = {module_name(a) for a in arrays if a is not None} or {"numpy"}
    if len(names) > 1:
        raise TypeError(mixed(*arrays))
    return sys.modules[names.pop()]


def mixed(*arrays: Data) -> str:
    """The error text for arrays or operators on host and device, with the remedy."""
    place = {"numpy": "on the host (numpy)", "cupy": "on the device (cupy)"}
    places = dict.fromkeys(
        f"{type(a).__name__} of shape {tuple(a.shape)} is {place[module_name(a)]}"
        for a in arrays
        if a is not None
    )
    return (
        f"host and device operands do not mix: {', '.join(places)}; move one of "
        "them, with network.to('gpu') or network.to('cpu'), cupy.asarray(x) or x.get()"
    )


def is_sparse(x: Data) -> bool:
    """Whether `x` is a SciPy or CuPy sparse matrix."""
    return hasattr(x, "tocsr")


def values_of(x: Data) -> Array:
    """The stored entries of an array or sparse matrix."""
    return x.data if is_sparse(x) else x


def is_array(x: Data) -> bool:
    """Whether `x` is a NumPy or CuPy array (not a scalar, not sparse)."""
    return isinstance(x, np.ndarray) or (_package(x) == "cupy" and hasattr(x, "ndim"))


def is_arraylike(x: Data) -> bool:
    """Whether `x` is an array, or what NumPy makes one of (of pandas, PyTorch, JAX, a number)."""
    return is_array(x) or hasattr(x, "__array__")


def multiplies(x: Data) -> bool:
    """Whether `x` is a linear operator, of any library."""
    return hasattr(x, "matvec")


def is_sliced(x: Data) -> bool:
    """Whether `x` has rows that can be sliced; an operator, which gives entries too, does not."""
    return hasattr(x, "shape") and hasattr(x, "__getitem__") and not multiplies(x)


def is_rows(x: Data) -> bool:
    """Whether `x` is read by rows: it has `shape`, `dtype` and slicing, and is not in memory.

    A memory map in the other byte order is one: the bytes of its rows are swapped when read.
    """
    if isinstance(x, np.ndarray):
        return isinstance(x, np.memmap) and x.ndim > 1 and not x.dtype.isnative
    return (
        is_sliced(x)
        and isinstance(getattr(x, "dtype", None), np.dtype)
        and len(x.shape) > 1
        and not (is_array(x) or is_sparse(x) or hasattr(x, "__dlpack__"))  # those are in memory
    )


def as_array(x: Data, name: str) -> Any:
    """`x` as an array to compute with, whatever kind of array it is.

    NumPy and CuPy arrays, sparse matrices and operators are returned as they are, in the machine's
    byte order.  Sequences and arrays of pandas, PyTorch or JAX become NumPy arrays, without a copy
    if that is possible.  `name` is that of the caller's argument.

    >>> as_array(np.ma.masked_invalid([1.0, 2.0]), "x")
    array([1., 2.])
    """
    if type(x) is np.ndarray and x.dtype.isnative:
        return x
    if isinstance(x, np.ma.MaskedArray):
        if np.ma.is_masked(x):
            raise ValueError(
                f"{name} has masked entries, which have no value: drop these samples, or give "
                f"them one with {name}.filled(value)"
            )
        x = x.data
    if multiplies(x):
        return x
    elsewhere = is_array(x) and not isinstance(x, np.ndarray)
    if not (elsewhere or is_sparse(x) or isinstance(x, np.memmap)):
        try:
            x = np.asarray(x.detach() if hasattr(x, "detach") else x)  # PyTorch keeps gradients
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"{name} cannot be read as a NumPy array: {error}") from error
    if x.dtype.isnative:
        return x
    return x.astype(x.dtype.newbyteorder("="))


def as_samples(X: Data, name: str) -> Any:
    """`X` itself if it is read by rows, else ``as_array(X, name)``."""
    return X if is_rows(X) else as_array(X, name)


def read_only(x: Data) -> Data:
    """A read-only view of `x`; a device array, which has no such view, itself."""
    return locked(x.view()) if isinstance(x, np.ndarray) else x


def locked(x: Data) -> Data:
    """`x` itself, made read-only if it is on the host."""
    if isinstance(x, np.ndarray):
        np.ndarray.setflags(x, write=False)
    return x


def check_real_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Raise ``TypeError`` if `dtype`, in any byte order, is not float32 or float64."""
    if dtype.newbyteorder("=") not in REAL_DTYPES:
        hint = _HINTS.get(dtype.kind, "")
        raise TypeError(f"{name} must be float32 or float64, not {dtype}{hint}")


_HINTS = {
    "f": ": BLAS has no other precision",
    "c": ": complex data has no meaning for a ReLU gate",
    "O": ": it holds text, missing values or rows of different lengths",
    "U": ": text has to be made numbers first",
    "M": ": dates have to be made numbers first",
}
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


def in_dtype(x: Data, name: str, dtype: DTypeLike | None = None) -> Any:
    """An array or sparse matrix in `dtype`, by default the float type that holds its numbers.

    Rounding warns; entries that are no real numbers or out of range, and rows on disk are refused.
    """
    given = x.dtype
    if given == dtype or (dtype is None and given in REAL_DTYPES):
        return x
    if given.kind == "O" and not is_sparse(x) and all(isinstance(n, _NUMBERS) for n in x.flat):
        given = np.dtype(np.float64)  # of pandas: columns of booleans and of numbers
    if given.kind not in "biuf" or given.itemsize > 8:
        check_real_dtype(given, name)
    dtype = np.dtype(dtype or (np.float32 if given == np.float16 else np.float64))
    if isinstance(x, np.memmap) and x.ndim > 1 and x.filename is not None:
        check_on_disk(x, name, dtype)
    with np.errstate(over="ignore"):
        out = x.astype(dtype)
    before = values_of(x)
    after = values_of(out)
    rounded = False
    if given.kind in "iu" and before.size:
        largest = max(int(before.max()), -int(before.min()))
        rounded = largest > 2 ** (np.finfo(dtype).nmant + 1)
    elif x.dtype.kind == "O" or not np.can_cast(given, dtype):
        rounded = ((after != before) & (before == before)).any()
    if rounded:
        if (np.isinf(after) & (abs(before) < np.inf)).any():
            raise ValueError(f"{name} has numbers beyond the range of {dtype}")
        depth = 1
        while sys._getframe(depth).f_globals.get("__name__", "").startswith("opflow."):
            depth += 1
        warnings.warn(
            f"{name} is {x.dtype} and is rounded to the {dtype} of what it meets: make that "
            f"float64 to keep all digits, or give {name} in {dtype}",
            RuntimeWarning,
            stacklevel=depth + 1,
        )
    return out


def check_on_disk(x: Data, name: str, dtype: DTypeLike | None = None) -> None:
    """Raise ``TypeError`` unless `x`, which is read by rows, has the dtype that is needed."""
    given = x.dtype.newbyteorder("=")
    if given == dtype or (dtype is None and given in REAL_DTYPES):
        return
    if given.kind not in "biuf":
        check_real_dtype(given, name)
    wanted = np.dtype(dtype or np.float64)
    raise TypeError(
        f"{name} is {given}, read by rows, where {wanted} is needed: it is not converted whole "
        f"unasked, so store it as {wanted}, or load it, numpy.asarray({name}[:], dtype='{wanted}')"
    )


def check_real(x: Data, name: str, *, dtype: DTypeLike | None = None, finite: bool = False) -> Any:
    """``in_dtype(as_array(x))``: an array or sparse matrix of `dtype`, or of float32 or float64.

    `finite` also refuses NaN and infinity (one pass for the minimum, one for the maximum; no copy).
    """
    x = in_dtype(as_array(x, name), name, dtype)
    if finite:
        values = values_of(x)
        if values.size and not np.all(np.isfinite([float(values.min()), float(values.max())])):
            raise ValueError(f"{name} contains NaN or infinity")
    return x


def check_gates(gates: Data, name: str = "gates") -> Any:
    """Return `gates` if it is a boolean array, else raise ``TypeError``."""
    gates = as_array(gates, name)
    if gates.dtype != np.bool_:
        raise TypeError(f"{name} must be boolean, not {gates.dtype}: compare first, as in h > 0")
    return gates


def check_integer(value: object, name: str, low: int, high: float = math.inf) -> int:
    """Return `value` if it is an integer from `low` to `high`, else raise an error."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be {limits}, not {value}")
    return int(value)


def to_host(x: Data) -> Data:
    """`x` as a NumPy array: itself, or a copy of a device array."""
    return x.get() if module_name(x) == "cupy" else np.asarray(x)


def to_device(x: Data, device: str) -> Any:
    """An array or sparse matrix on ``"cpu"`` or ``"gpu"``: itself if it is there, else a copy."""
    if device not in ("cpu", "gpu"):
        raise ValueError(f"device must be 'cpu' or 'gpu', not {device!r}")
    if (device == "gpu") == (module_name(x) == "cupy"):
        return x
    if device == "cpu":
        return x.get()
    xp = cupy_module()
    if not is_sparse(x):
        return xp.asarray(x)
    from cupyx.scipy import sparse

    return getattr(sparse, f"{x.format}_matrix")(x)


def cupy_module() -> ModuleType:
    """CuPy if it is installed and finds a device, else an ``ImportError`` with the remedy."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise ImportError(f"device 'gpu' needs CuPy: {install('gpu')}") from error
    if not cupy.cuda.is_available():
        raise ImportError("device 'gpu' needs a CUDA device, and CuPy finds none")
    return cupy


def to_device_of(x: Data, like: Data) -> Any:
    """`x` on the host or device that holds `like`; for arrays of files and random generators."""
    xp = namespace(like)
    return to_host(x) if xp is np else xp.asarray(x)
