"""Which array module an array belongs to, and whether it is fit to be computed with.

Code in opflow never names NumPy for data it was given: it asks :func:`namespace` and uses what
it gets.  Mixing host and device arrays is an error; only :func:`to_host`, :func:`to_device` and
:func:`to_device_of` move data, where they are called by name.
"""

from __future__ import annotations

import math
import sys
import warnings
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from opflow.interface.extras import install

#: a dense array of NumPy or CuPy
Array = NDArray[Any]
#: what constructors take: an array, a sparse matrix, rows on disk, or an operator
Data: TypeAlias = Any
#: rows or columns: a slice, or an array of integers
Index: TypeAlias = Any
REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def module_name(array: Any) -> str:
    """``"numpy"`` or ``"cupy"``: where an array, or the data of an operator, is."""
    if type(array) is np.ndarray:
        return "numpy"
    where = getattr(array, "_where", None)  # an operator that knows; of pandas it is a method
    if isinstance(where, str):
        return where
    if isinstance(array, np.ndarray | np.generic) or sp.issparse(array):
        return "numpy"
    name = type(array).__module__.partition(".")[0]
    if name == "cupyx":
        return "cupy"
    return name if is_array(array) else "numpy"  # rows on disk come out as NumPy arrays


def namespace(*arrays: Any) -> ModuleType:
    """The module (``numpy`` or ``cupy``) that the arrays belong to.

    Parameters
    ----------
    *arrays : array or sparse matrix
        ``None`` is passed over.

    Returns
    -------
    module

    Examples
    --------
    >>> import numpy as np
    >>> namespace(np.ones(3), None).__name__
    'numpy'
    """
    names = {module_name(a) for a in arrays if a is not None}
    if len(names) > 1:
        raise TypeError(mixed(*arrays))
    return sys.modules[names.pop()] if names else np


def mixed(*arrays: Any) -> str:
    """Which of the arrays or operators is where, and what to do about it."""
    places = [f"{_described(a)} is {_PLACE[module_name(a)]}" for a in arrays if a is not None]
    return (
        f"host and device operands do not mix: {', '.join(dict.fromkeys(places))}; move one of "
        "them, with network.to('gpu') or network.to('cpu'), cupy.asarray(x) or x.get()"
    )


_PLACE = {"numpy": "on the host (numpy)", "cupy": "on the device (cupy)"}


def _described(x: Any) -> str:
    return f"{type(x).__name__} of shape {tuple(x.shape)}"


def is_sparse(x: Any) -> bool:
    """Whether `x` is a SciPy or CuPy sparse matrix."""
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


def is_array(x: Any) -> bool:
    """Whether `x` is a NumPy or CuPy array (not a scalar, not sparse)."""
    return isinstance(x, np.ndarray) or (
        type(x).__module__.partition(".")[0] == "cupy" and hasattr(x, "ndim")
    )


def is_rows(x: Any) -> bool:
    """Whether `x` is read by rows: it has `shape`, `dtype` and slicing, and is no array we know.

    A memory map in the other byte order is: its rows are turned as they are read.
    """
    if isinstance(x, np.memmap):
        return x.ndim > 1 and not x.dtype.isnative
    return (
        hasattr(x, "shape")
        and hasattr(x, "__getitem__")
        and not hasattr(x, "matvec")  # an operator gives entries too
        and isinstance(getattr(x, "dtype", None), np.dtype)
        and len(x.shape) > 1
        and not (is_array(x) or is_sparse(x) or hasattr(x, "__dlpack__"))  # those are in memory
    )


def as_array(x: Any, name: str) -> Any:
    """`x` as an array to compute with: the one door for whatever users call an array.

    Parameters
    ----------
    x : array, sparse matrix, operator, sequence, or an array of pandas, PyTorch or JAX
        NumPy and CuPy arrays, sparse matrices and operators are returned as they are, in the
        machine's byte order; whatever else is on the host becomes a NumPy array, without a copy
        if that is possible.
    name : str
        What the caller's argument is called.

    Examples
    --------
    >>> import numpy as np
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
    if hasattr(x, "matvec"):  # an operator
        return x
    elsewhere = is_array(x) and not isinstance(x, np.ndarray)
    if not (elsewhere or is_sparse(x) or isinstance(x, np.memmap)):
        try:
            x = np.asarray(x.detach() if hasattr(x, "detach") else x)  # PyTorch keeps gradients
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"{name} cannot be read as a NumPy array: {error}") from error
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def as_samples(X: Any, name: str) -> Any:
    """`X` as it is, if it is read by rows, else as :func:`as_array` has it."""
    return X if is_rows(X) else as_array(X, name)


def read_only(x: Any) -> Any:
    """A view of `x` that cannot be written through; a device array, which has none, itself."""
    return locked(x.view()) if isinstance(x, np.ndarray) else x


def locked(x: Any) -> Any:
    """`x`, an array of our own that nobody is to write to any more (on a device it could be)."""
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


def in_dtype(x: Any, name: str, dtype: Any = None) -> Any:
    """An array or sparse matrix in `dtype`, by default the float type that holds its numbers.

    What is rounded is said in a ``RuntimeWarning``; what is no real number, beyond the range or
    on disk is refused.
    """
    given = x.dtype
    if given == dtype or (dtype is None and given in REAL_DTYPES):
        return x
    mixed_columns = given.kind == "O" and not is_sparse(x)  # pandas, of booleans and numbers
    if mixed_columns and all(isinstance(n, _NUMBERS) for n in x.flat):
        given = np.dtype(np.float64)
    if given.kind not in "biuf" or given.itemsize > 8:
        check_real_dtype(given, name)
    dtype = np.dtype(dtype or (np.float32 if given == np.float16 else np.float64))
    if isinstance(x, np.memmap) and x.ndim > 1 and x.filename is not None:
        check_on_disk(x, name, dtype)
    with np.errstate(over="ignore"):
        out = x.astype(dtype)
    before, after = (x.data, out.data) if is_sparse(x) else (x, out)
    rounded = False
    if given.kind in "iu" and before.size:
        largest = max(int(before.max()), -int(before.min()))
        rounded = largest > 2 ** (np.finfo(dtype).nmant + 1)
    elif x.dtype.kind == "O" or not np.can_cast(given, dtype):
        rounded = bool(((after != before) & (before == before)).any())
    if rounded:
        if bool((np.isinf(after) & (abs(before) < np.inf)).any()):
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


def check_on_disk(x: Any, name: str, dtype: Any = None) -> None:
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


def check_real(x: Any, name: str, *, dtype: Any = None, finite: bool = False) -> Any:
    """Return `x` as an array of `dtype`, by default float32 or float64.

    Parameters
    ----------
    x : array, sparse matrix or sequence of numbers
        As :func:`as_array` and :func:`in_dtype` have it: itself, where nothing is wrong with it.
    name : str
        What the caller's argument is called.
    dtype : dtype, optional
    finite : bool
        Also refuse NaN and infinity (one pass for the minimum, one for the maximum; no copy).
    """
    x = in_dtype(as_array(x, name), name, dtype)
    if finite:
        values = x.data if is_sparse(x) else x
        if values.size and not np.all(np.isfinite([float(values.min()), float(values.max())])):
            raise ValueError(f"{name} contains NaN or infinity")
    return x


def check_gates(gates: Any, name: str = "gates") -> Any:
    """Return `gates` if it is a boolean array, else raise ``TypeError``."""
    gates = as_array(gates, name)
    if gates.dtype != np.bool_:
        raise TypeError(f"{name} must be boolean, not {gates.dtype}: compare first, as in h > 0")
    return gates


def check_integer(value: Any, name: str, low: int, high: float = math.inf) -> int:
    """Return `value` if it is an integer from `low` to `high`, else say what is wrong with it."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be {limits}, not {value}")
    return int(value)


def to_host(x: Any) -> Any:
    """`x` as a NumPy array: itself, or an explicit copy of what is on a device.

    Examples
    --------
    >>> import numpy as np
    >>> to_host(np.ones(2))
    array([1., 1.])
    """
    return x.get() if module_name(x) == "cupy" else np.asarray(x)


def to_device(x: Any, device: str) -> Any:
    """An array or sparse matrix on ``"cpu"`` or ``"gpu"``: itself if it is there, else a copy.

    Raises
    ------
    ValueError
        For another device.
    ImportError
        If CuPy is not installed, or finds no CUDA device.
    """
    if device not in ("cpu", "gpu"):
        raise ValueError(f"device must be 'cpu' or 'gpu', not {device!r}")
    if device == "cpu":
        return x.get() if module_name(x) == "cupy" else x
    xp = cupy_module()
    if module_name(x) == "cupy":
        return x
    if not is_sparse(x):
        return xp.asarray(x)
    from cupyx.scipy import sparse

    return getattr(sparse, f"{x.format}_matrix")(x)


def cupy_module() -> ModuleType:
    """CuPy, where it is installed and finds a device; else ``ImportError`` with the remedy."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        raise ImportError(f"device 'gpu' needs CuPy: {install('gpu')}") from error
    if not cupy.cuda.is_available():
        raise ImportError("device 'gpu' needs a CUDA device, and CuPy finds none")
    return cupy


def to_device_of(x: Any, like: Any) -> Any:
    """`x` where `like` is; for what comes from a file or a random generator.

    Examples
    --------
    >>> import numpy as np
    >>> to_device_of([1.0, 2.0], np.ones(2))
    array([1., 2.])
    """
    xp = namespace(like)
    return to_host(x) if xp is np else xp.asarray(x)
