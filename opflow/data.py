"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from opflow.arrays import REAL_DTYPES, is_rows
from opflow.operators.describe import human
from opflow.operators.rows import free_memory
from opflow.operators.space import LOCAL, Sharded, Space, rows_of_rank


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
    """

    inputs: Any
    targets: Any
    labels: Any = None
    classes: Any = None
    mean: Any = None


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
        Real and integer data are cast to it.  X of a ``.npy`` or ``.h5`` file that has it already
        stays on disk.
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
        Integer one-dimensional targets are class labels: y is then one-hot minus its mean over
        the samples.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        Saying which file or argument is wrong, and how.
    MemoryError
        If X has another dtype and would not fit in memory as `dtype`.
    """
    if data == "digits":
        X, y = _digits()
        if targets is not None:
            y = _table(Path(targets), options[1])
    else:
        X, y = _file(Path(data), targets, options)
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
    labels, classes, mean = None, None, None
    if y.dtype.kind in "iub" and (like is None or like.labels is not None):
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim == 1:
            if like is None:
                classes = np.unique(space.everywhere(np.unique(y)))
                labels = np.searchsorted(classes, y)
            else:
                classes, labels = like.classes, _known(y, like.classes, f"y in {where}")
            y = np.eye(len(classes))[labels]
            mean = space.total(y.sum(axis=0)) / space.total(len(y)) if like is None else like.mean
            y = y - mean
    y = _real(y, f"y in {where}", dtype)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"y in {where} has shape {y.shape} but X has {X.shape[0]} rows")
    if like is not None and y.shape[1] != like.targets.shape[1]:
        raise ValueError(f"y in {where} has {y.shape[1]} columns, the training set "
                         f"{like.targets.shape[1]}")  # fmt: skip
    return DataSet(X, y, labels, classes, mean)


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
    labels = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    if (strange := classes[labels] != y).any():
        raise ValueError(f"{name} has the class {y[strange][0]}, which the training set has not")
    return labels


def _digits() -> tuple[Any, Any]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'opflow[demo]'") from error
    digits = load_digits()
    X = digits.data / 16.0
    return X - X.mean(axis=0), digits.target


def _file(path: Path, targets: str | None, options: tuple[str, str]) -> tuple[Any, Any]:
    if path.suffix in (".npz", ".h5", ".hdf5"):
        arrays = _open(path, lambda: (_read_npz if path.suffix == ".npz" else _read_h5)(path))
        X = arrays.get("X")
        if X is None:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        y = arrays.get("y")
    else:
        X, y = _table(path, options[0]), None
        if path.suffix == ".csv" and targets is None:
            if X.ndim != 2 or X.shape[1] < 2:
                raise ValueError(f"{path} needs at least one feature column and a target column")
            X, y = X[:, :-1], X[:, -1]
            if np.isfinite(y).all() and (y == np.round(y)).all():
                y = y.astype(np.int64)
    if targets is not None:
        y = _table(Path(targets), options[1])
    if y is None:
        raise ValueError(f"{path} has no targets: give {options[1]} FILE")
    return X, y


def _read_h5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} needs h5py: pip install 'opflow[hdf5]'") from error
    if not path.exists():
        raise FileNotFoundError
    file = h5py.File(path)  # open as long as its data sets are in use
    return {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}


def _read_npz(path: Path) -> dict[str, Any]:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        if "format" in file.files and "shape" in file.files:
            raw.seek(0)
            return {"X": sp.csr_array(sp.load_npz(raw))}
        return {name: file[name] for name in file.files}


def _table(path: Path, argument: str) -> Any:
    if path.suffix == ".npy":
        return _open(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    if path.suffix == ".csv":
        table = _open(path, lambda: _read_csv(path))
        if argument.endswith("targets") and table.shape[1] == 1:
            table = table[:, 0]
            if np.isfinite(table).all() and (table == np.round(table)).all():
                table = table.astype(np.int64)
        return table
    more = "" if argument.endswith("targets") else ".npz, .h5, "
    raise ValueError(f"{argument} {path} must be {more}.npy or .csv")


def _read_csv(path: Path) -> Any:
    text = path.read_text()
    first = text.partition("\n")[0]
    try:
        [float(cell) for cell in first.split(",")]
        skip = 0
    except ValueError:
        skip = 1
    rows = [line for line in text.splitlines()[skip:] if line.strip()]
    if not rows:
        raise ValueError("it holds no rows")
    return np.loadtxt(rows, delimiter=",", ndmin=2)


def _open(path: Path, read: Any) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _real(array: Any, name: str, dtype: Any) -> Any:
    if array.dtype.kind not in "iub" and array.dtype.newbyteorder("=") not in REAL_DTYPES:
        raise TypeError(f"{name} is {array.dtype}: real float32, float64 or integer is needed")
    if isinstance(array, np.memmap) or is_rows(array):
        if array.dtype.newbyteorder("=") == dtype:
            return array  # train reads it for what is not finite
        need = math.prod(array.shape) * np.dtype(dtype).itemsize
        if need > 0.5 * free_memory():
            raise MemoryError(
                f"{name} is {array.dtype} on disk; as {np.dtype(dtype)} it would take "
                f"{human(need, 'B', 1024)} of memory: give --dtype {array.dtype}, or save it as "
                f"{np.dtype(dtype)}"
            )
        array = np.array(array[...])
    array = array.astype(dtype, copy=False)
    values = array.data if sp.issparse(array) else array
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array
