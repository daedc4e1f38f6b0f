"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class DataSet(NamedTuple):
    """Inputs X (N, d), targets y (N, k) and, for a classification, integer labels (N,)."""

    inputs: Any
    targets: Any
    labels: Any


def load(data: str, targets: str | None = None, dtype: Any = np.float64) -> DataSet:
    """Read a data set.

    Parameters
    ----------
    data : str
        ``"digits"`` (scikit-learn's handwritten digits: pixels / 16, minus the mean image), or a
        file: ``.npz`` with X and y, ``.npy`` with X, ``.csv`` (its last column is the target
        unless `targets` is given; one header line is allowed), a SciPy sparse ``.npz``.
    targets : str, optional
        A ``.npy`` or ``.csv`` file with y.
    dtype : dtype, default float64
        Real and integer data are cast to it.

    Returns
    -------
    DataSet
        Integer one-dimensional targets are class labels: y is then one-hot minus its mean over
        the samples.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        Saying which file or argument is wrong, and how.
    """
    if data == "digits":
        X, y = _digits()
        if targets is not None:
            y = _table(Path(targets), "--targets")
    else:
        X, y = _file(Path(data), targets)
    X = _real(X, f"X in {data}", dtype)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(f"X in {data} has shape {X.shape}: samples and features are needed")
    labels = None
    where = targets or data
    if y.dtype.kind in "iub":
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim == 1:
            classes, labels = np.unique(y, return_inverse=True)
            y = np.eye(len(classes))[labels]
            y = y - y.mean(axis=0)
    y = _real(y, f"y in {where}", dtype)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or len(y) != X.shape[0] or y.shape[1] == 0:
        raise ValueError(f"y in {where} has shape {y.shape} but X has {X.shape[0]} rows")
    return DataSet(X, y, labels)


def _digits() -> tuple[Any, Any]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'opflow[demo]'") from error
    digits = load_digits()
    X = digits.data / 16.0
    return X - X.mean(axis=0), digits.target


def _file(path: Path, targets: str | None) -> tuple[Any, Any]:
    if path.suffix == ".npz":
        arrays = _open(path, lambda: _read_npz(path))
        X = arrays.get("X")
        if X is None:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        y = arrays.get("y")
    else:
        X, y = _table(path, "DATA"), None
        if path.suffix == ".csv" and targets is None:
            if X.ndim != 2 or X.shape[1] < 2:
                raise ValueError(f"{path} needs at least one feature column and a target column")
            X, y = X[:, :-1], X[:, -1]
            if np.isfinite(y).all() and (y == np.round(y)).all():
                y = y.astype(np.int64)
    if targets is not None:
        y = _table(Path(targets), "--targets")
    if y is None:
        raise ValueError(f"{path} has no targets: give --targets FILE")
    return X, y


def _read_npz(path: Path) -> dict[str, Any]:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        if "format" in file.files and "shape" in file.files:
            raw.seek(0)
            return {"X": sp.csr_array(sp.load_npz(raw))}
        return {name: file[name] for name in file.files}


def _table(path: Path, argument: str) -> Any:
    if path.suffix == ".npy":

        def read() -> Any:
            with open(path, "rb") as file:
                return np.load(file, allow_pickle=False)

        return _open(path, read)
    if path.suffix == ".csv":
        table = _open(path, lambda: _read_csv(path))
        if argument == "--targets" and table.shape[1] == 1:
            table = table[:, 0]
            if np.isfinite(table).all() and (table == np.round(table)).all():
                table = table.astype(np.int64)
        return table
    raise ValueError(f"{argument} {path} must be .npz, .npy or .csv")


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
    if array.dtype.kind not in "iub" and array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {array.dtype}: real float32, float64 or integer is needed")
    array = array.astype(dtype)
    values = array.data if sp.issparse(array) else array
    if not np.isfinite(values).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array
