"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from opflow.arrays import REAL_DTYPES, is_rows
from opflow.extras import install
from opflow.folder import located
from opflow.operators.describe import human
from opflow.operators.rows import free_memory
from opflow.operators.space import LOCAL, Sharded, Space, rows_of_rank
from opflow.tables import read_csv

#: different whole numbers that are taken for classes, at most
MOST = 20
#: classes that are told by name, at most
SHOWN = 10


class DataSet(NamedTuple):
    """Inputs X (N, d), targets y (N, k) and, for a classification, its classes.

    Attributes
    ----------
    inputs : array, memory map, h5py data set or sparse matrix
    targets : array (N, k)
    labels : int array (N,) or None
        Which of `classes` each sample is of.
    classes : array or None
    mean : array (k,) or None
        Mean over the samples of the one-hot vectors, which the targets are centred by.
    about : str
        What the targets were taken for, in words.
    """

    inputs: Any
    targets: Any
    labels: Any = None
    classes: Any = None
    mean: Any = None
    about: str = ""


def load(
    data: str,
    targets: str | None = None,
    dtype: Any = np.float64,
    *,
    like: DataSet | None = None,
    options: tuple[str, str] = ("DATA", "--targets"),
    comm: Any = None,
) -> DataSet:
    """Read a data set.

    Parameters
    ----------
    data : str
        ``"digits"`` (scikit-learn's handwritten digits: pixels / 16, minus the mean image), or a
        file: ``.npz`` with X and y, ``.npy`` with X, ``.h5`` with X and y, ``.csv`` (its last
        column is the target unless `targets` is given; one header line is allowed), a SciPy
        sparse ``.npz``, which stays sparse.
    targets : str, optional
        A ``.npy`` or ``.csv`` file with y.
    dtype : dtype, default float64
        Real and integer data of any byte order are cast to it.  X of a ``.npy`` or ``.h5`` file
        that has it already stays on disk.
    like : DataSet, optional
        The training set that this is held-out data of: its features, classes and mean are used.
    options : tuple of str
        What `data` and `targets` are called in messages.
    comm : mpi4py.MPI.Comm, optional
        Return the rows of this rank only.  Of ``.npy`` and ``.h5`` files no others are read; the
        rest is read whole first.  Classes and mean are those of all samples.

    Returns
    -------
    DataSet
        Of classes, y is one-hot minus its mean over the samples.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        Saying which file or argument is wrong, and how.
    MemoryError
        If X has another dtype and would not fit in memory as `dtype`, or y would not.

    Notes
    -----
    One rule for all files says what one-dimensional targets are.  Words and booleans are classes.
    Integers are classes if there are at most 20 different ones and at least one occurs twice.
    All else is a regression, floating-point numbers that happen to be whole too; in a ``.csv``
    these are what is written with a decimal point or an exponent.
    """
    if data == "digits":
        X, y, name = _digits()
        if targets is not None:
            y, name = _targets(located(targets), options[1])
    else:
        X, y, name = _file(located(data), targets, options)
    if len(X.shape) != 2 or 0 in X.shape:
        raise ValueError(f"X in {data} has shape {X.shape}: samples and features are needed")
    where = targets or data
    if y.shape[:1] != X.shape[:1]:
        raise ValueError(f"y in {where} has shape {y.shape} but X has {X.shape[0]} rows")
    X, y, space = _mine(X, y, comm)
    X = _real(X, f"X in {data}", dtype)
    if like is not None and X.shape[1] != like.inputs.shape[1]:
        raise ValueError(f"X in {data} has {X.shape[1]} features, the training set "
                         f"{like.inputs.shape[1]}")  # fmt: skip
    y = np.array(y[...])  # in memory: every step wants it
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8")
    labels = None
    classes = None
    mean = None
    kind = "regression"
    if like is not None:
        classes = like.classes
    elif y.ndim == 1 and y.dtype.kind in "iubU":
        classes, kind = _classes(y, f"y in {where}", space)
    if classes is not None and y.ndim == 1 and y.dtype.kind in "iubU":
        labels = _known(y, classes, f"y in {where}")
        y = _one_hot(labels, len(classes), f"y in {where}")
        mean = space.total(y.sum(axis=0)) / space.total(len(y)) if like is None else like.mean
        y = y - mean
    y = _real(y, f"y in {where}", dtype)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"y in {where} has shape {y.shape} but X has {X.shape[0]} rows")
    if like is not None and y.shape[1] != like.targets.shape[1]:
        raise ValueError(f"y in {where} has {y.shape[1]} columns, the training set "
                         f"{like.targets.shape[1]}")  # fmt: skip
    if classes is None and y.shape[1] > 1:
        kind = f"regression, {y.shape[1]} columns"
    return DataSet(X, y, labels, classes, mean, f"{name} ({kind})")


def _classes(y: Any, name: str, space: Space) -> tuple[Any, str]:
    """The classes of a vector of integers, booleans or words, if it is one, and what it is."""
    found = np.unique(space.everywhere(np.unique(y)))
    count = len(found)
    samples = int(space.total(len(y)))
    whole = y.dtype.kind in "iu"
    if whole and count == samples:
        return None, "regression, no whole number twice"
    if whole and count > MOST:
        return None, f"regression, {count:,} different whole numbers"
    if count == 1:
        hint = "; write numbers with a decimal point for a regression" if whole else ""
        raise ValueError(f"{name} has one class only, {found[0]}, and two are needed{hint}")
    if y.dtype.kind == "U" and count == samples:
        raise ValueError(f"{name} has {count:,} different words for as many samples: no classes")
    shown = [str(value) for value in found[:SHOWN].tolist()]
    return found, f"{count} classes: {', '.join(shown)}{', …' if count > SHOWN else ''}"


def _one_hot(labels: Any, count: int, name: str) -> Any:
    need = 8.0 * len(labels) * count
    if need > 0.5 * free_memory():
        raise MemoryError(f"{name} has {count:,} classes, as one-hot vectors of "
                          f"{human(need, 'B', 1024)}")  # fmt: skip
    y = np.zeros((len(labels), count))
    y[np.arange(len(labels)), labels] = 1.0
    return y


def _mine(X: Any, y: Any, comm: Any) -> tuple[Any, Any, Space]:
    """The rows of this rank, which stay on the disk if they are there."""
    if comm is None:
        return X, y, LOCAL
    mine = rows_of_rank(X.shape[0], comm)
    X = _Between(X, mine) if is_rows(X) else X[mine]
    return X, y[mine], Sharded(comm, mine.stop - mine.start)


class _Between:
    """Some neighbouring rows of what is read by rows."""

    def __init__(self, X: Any, rows: slice) -> None:
        self._X, self._start = X, rows.start
        self.shape, self.dtype = (rows.stop - rows.start, X.shape[1]), X.dtype

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self._X[np.asarray(index) + self._start]
        start, stop, step = index.indices(self.shape[0])
        return self._X[self._start + start : self._start + stop : step]


def _known(y: Any, classes: Any, name: str) -> Any:
    """Which of the classes each target is of."""
    if (y.dtype.kind == "U") != (classes.dtype.kind == "U"):  # words and numbers
        labels = np.zeros(len(y), int)
        strange = np.ones(len(y), bool)
    else:
        labels = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        strange = classes[labels] != y
    if strange.any():
        raise ValueError(f"{name} has the class {y[strange][0]}, which the training set has not")
    return labels


def _digits() -> tuple[Any, Any, str]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn: {install('demo')}") from error
    digits = load_digits()
    X = digits.data / 16.0
    return X - X.mean(axis=0), digits.target, "digit"


def _file(path: Path, targets: str | None, options: tuple[str, str]) -> tuple[Any, Any, str]:
    """X, y, and what the targets are called."""
    y = None
    name = "y"
    kind = path.suffix.lower()
    if kind in (".npz", ".h5", ".hdf5"):
        arrays = _open(path, _read_npz if kind == ".npz" else _read_h5)
        X = arrays.get("X")
        if X is None:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        y = arrays.get("y")
    elif kind == ".npy":
        X = _open(path, _read_npy)
    elif kind == ".csv" and targets is None:
        table = _open(path, lambda path: read_csv(path, words=True))
        X = table.numbers
        y = table.last
        if X.shape[1] == 0:
            raise ValueError(f"{path} needs at least one feature column and a target column")
        name = table.names[-1] if table.names else "last column, no header"
    elif kind == ".csv":
        X = _open(path, read_csv).numbers
    else:
        raise ValueError(f"{options[0]} {path} must be .npz, .h5, .npy or .csv")
    if targets is not None:
        y, name = _targets(located(targets), options[1])
    if y is None:
        raise ValueError(f"{path} has no targets: give {options[1]} FILE")
    return X, y, name


def _targets(path: Path, option: str) -> tuple[Any, str]:
    """The targets of a file of their own, and what they are called."""
    if path.suffix.lower() == ".npy":
        return _open(path, _read_npy), path.name
    if path.suffix.lower() != ".csv":
        raise ValueError(f"{option} {path} must be .npy or .csv")
    table = _open(path, lambda path: read_csv(path, words=True))
    if table.numbers.shape[1] == 0:
        return table.last, table.names[0] if table.names else path.name
    return _open(path, read_csv).numbers, path.name


def _read_h5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} needs h5py: {install('hdf5')}") from error
    if not path.exists():
        raise FileNotFoundError
    file = h5py.File(path)  # open as long as its data sets are in use
    found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    for name in found.keys() & {"X", "y"}:
        if found[name].shape is None:
            raise ValueError(f"its {name} is empty")
        if h5py.check_string_dtype(found[name].dtype) is not None:
            found[name] = np.array(found[name].asstr()[...], dtype=str)
    return found


def _read_npz(path: Path) -> dict[str, Any]:
    with open(path, "rb") as raw:
        file = np.load(raw, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array and not several: call it .npy")
        if "X" not in file.files and {"format", "shape", "data"} <= set(file.files):
            raw.seek(0)
            return {"X": sp.csr_array(sp.load_npz(raw))}
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> Any:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays: call it .npz")
    return array


def _open(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _real(array: Any, name: str, dtype: Any) -> Any:
    kind = array.dtype.newbyteorder("=")
    if kind.kind not in "iub" and kind not in REAL_DTYPES:
        raise TypeError(f"{name} is {kind}: real float32, float64 or integer is needed")
    if isinstance(array, np.memmap) or is_rows(array):
        if array.dtype.newbyteorder("=") == dtype:
            return array  # train reads it for what is not finite
        need = math.prod(array.shape) * np.dtype(dtype).itemsize
        if need > 0.5 * free_memory():
            advice = f"save it as {np.dtype(dtype)} of this machine's byte order"
            if kind == array.dtype and kind.kind == "f":
                advice = f"give --dtype {kind}, or save it as {np.dtype(dtype)}"
            raise MemoryError(
                f"{name} is {array.dtype} on disk; as {np.dtype(dtype)} it would take "
                f"{human(need, 'B', 1024)} of memory: {advice}"
            )
        array = np.array(array[...])
    array = array.astype(dtype, copy=False)
    values = array.data if sp.issparse(array) else array
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array
