"""Which array module an array belongs to, and whether it is fit to be computed with.

Code in opflow never names NumPy for data it was given: it asks :func:`namespace` and uses what
it gets.  Mixing host and device arrays is an error; only :func:`to_host`, :func:`to_device` and
:func:`beside` move data, where they are called by name.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp

REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def module_name(array: Any) -> str:
    """``"numpy"`` or ``"cupy"``: where an array, or the data of an operator, is."""
    where = getattr(array, "_where", None)  # an operator that knows
    if where is not None:
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

    Raises
    ------
    TypeError
        If host and device arrays are mixed.

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


def check_real(x: Any, name: str, *, finite: bool = False) -> Any:
    """Return `x` if its dtype is float32 or float64, else say what is wrong with it.

    Parameters
    ----------
    x : array, sparse matrix or sequence of floats
        Sequences become NumPy arrays; arrays are returned as they are.
    name : str
        What the caller's argument is called.
    finite : bool
        Also refuse NaN and infinity (one pass for the minimum, one for the maximum; no copy).

    Raises
    ------
    TypeError
        If the dtype is not float32 or float64.
    ValueError
        If `finite` and an entry is not.
    """
    if not hasattr(x, "dtype"):
        x = np.asarray(x)
    if not isinstance(x.dtype, np.dtype):
        raise TypeError(
            f"{name} must be a NumPy or CuPy array or SciPy sparse matrix, not {type(x).__name__}"
        )
    if x.dtype not in REAL_DTYPES:
        hint = {
            "i": "convert integers with .astype(float)",
            "u": "convert integers with .astype(float)",
            "b": "convert booleans with .astype(float)",
            "f": "half and extended precision are not supported by BLAS",
            "c": "complex data has no meaning for a ReLU gate",
        }.get(x.dtype.kind, "numbers are needed")
        raise TypeError(f"{name} must be float32 or float64, not {x.dtype}: {hint}")
    if finite:
        values = x.data if is_sparse(x) else x
        if values.size and not np.all(np.isfinite([float(values.min()), float(values.max())])):
            raise ValueError(f"{name} contains NaN or infinity")
    return x


def check_gates(gates: Any, name: str = "gates") -> Any:
    """Return `gates` if it is a boolean array, else raise ``TypeError``."""
    if not hasattr(gates, "dtype"):
        gates = np.asarray(gates)
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
        raise ImportError("device 'gpu' needs CuPy: pip install 'opflow[gpu]'") from error
    if not cupy.cuda.is_available():
        raise ImportError("device 'gpu' needs a CUDA device, and CuPy finds none")
    return cupy


def beside(x: Any, like: Any) -> Any:
    """`x` where `like` is; for what comes from a file or a random generator.

    Examples
    --------
    >>> import numpy as np
    >>> beside([1.0, 2.0], np.ones(2))
    array([1., 2.])
    """
    xp = namespace(like)
    return to_host(x) if xp is np else xp.asarray(x)
