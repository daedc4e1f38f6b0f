"""Files of samples, as they are on disk: tables, .npz, .npy, HDF5, SciPy's sparse matrices."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp

from opflow.data.numbers import RowRange
from opflow.data.paths import absent, located
from opflow.data.tables import Table, read_parquet, some
from opflow.data.task import Task
from opflow.data.text import read_text
from opflow.interface.extras import install
from opflow.machine.arrays import Array, Data, Index, is_rows

#: tables of text, which may be compressed
TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
TABLES = (*TEXT, ".parquet")

_Found = TypeVar("_Found")


class Reading(NamedTuple):
    """How data are read where they leave a choice; the defaults are those of the command line."""

    #: name or index of the target column of a table; None: the last one
    target: str | None = None
    #: "regression", "classification" or "auto", which looks at the targets
    task: str = "auto"
    #: "mean" fills missing features by means, "drop" leaves samples out; None: refused
    missing: str | None = None
    #: "onehot": words become columns of 0 and 1; None: refused
    encode: str | None = None
    #: whether features are shifted and scaled; None: those of tables are
    standardise: bool | None = None
    #: share of the samples that is held out, drawn by `seed`
    test_fraction: float | None = None
    seed: int = 0


class Raw(NamedTuple):
    """What a file holds: numbers, NaN where one is missing, and targets or None."""

    X: Data
    y: Any
    #: of the target
    name: str
    #: which column the target is, in words
    column: str = ""
    #: names of the features
    columns: tuple[str, ...] | None = None
    #: how numbers were made of the columns
    recipe: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    #: where a row and a column of X, or −1 for y, are in a table
    place: Callable[[int, int], str] | None = None
    #: which row of the file each sample is; None: they are all there, in order
    origin: Any = None
    #: the file of X
    data: str = ""
    #: the file of y
    where: str = ""

    def rows(self, chosen: Index) -> Raw:
        """Some of the samples; neighbouring ones stay on the disk if they are read by rows."""
        X = RowRange(self.X, chosen) if is_rows(self.X) else self.X[chosen]
        y = self.y
        if y is not None:
            y = y[chosen]
        return self._replace(X=X, y=y, origin=self.numbers()[chosen])

    def numbers(self) -> Array:
        """Which row of the file each sample is, counted from 0."""
        return np.arange(self.X.shape[0]) if self.origin is None else self.origin

    def spot(self, sample: int, column: int = -1) -> str:
        """Where a feature of a sample, or its target, is in the file."""
        row = int(self.numbers()[sample])
        return f"y[{row}]" if self.place is None else self.place(row, column)


def read_data(data: str, targets: str | None, how: Reading, like: Task | None, option: str) -> Raw:
    """What ``"digits"``, a file or a table on standard input (``"-"``) holds."""
    if data == "digits":
        return _digits()
    path = located(data)
    kind = path.suffix.lower()
    if path.name.lower().endswith(TABLES) or data == "-":
        return _open(
            path, lambda path: _of_table(_read_table(path), how, like, targets is not None)
        )
    if kind in (".npz", ".h5", ".hdf5"):
        arrays = _open(path, _read_npz if kind == ".npz" else _read_h5)
        if "X" not in arrays:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        return Raw(arrays["X"], arrays.get("y"), "y")
    if kind == ".npy":
        return Raw(_open(path, _read_npy), None, "y")
    if not path.exists():
        raise absent(path)
    raise ValueError(f"{option} {path} must be .npz, .h5, .npy, {', '.join(TEXT[:4])} or .parquet")


def read_targets(targets: str, option: str) -> tuple[Array, str]:
    """The targets of a file of their own, and their name."""
    path = located(targets)
    if path.suffix.lower() == ".npy":
        return _open(path, _read_npy), path.name
    if not path.name.lower().endswith(TABLES):
        raise ValueError(f"{option} {path} must be .npy, or a table: {', '.join(TABLES)}")
    table = _open(path, _read_table)
    if len(table.columns) == 1:
        return table.columns[0], (table.names or [path.name])[0]
    numbers = [table.numbers(i, None, False)[0] for i in range(len(table.columns))]
    return np.hstack(numbers), path.name


def _read_table(path: Path) -> Table:
    if path.suffix.lower() == ".parquet":
        return read_parquet(path)
    return read_text(path)


def _of_table(table: Table, how: Reading, like: Task | None, apart: bool) -> Raw:
    """Features and target of a table, whose targets may be `apart`, in another file."""
    width = len(table.columns)
    notes: tuple[str, ...] = ()
    known = None
    target: int | None = None
    encode: bool | None = None
    if like is not None:
        picked, target = _as_before(table, like)
        known = like.recipe.get("categories")
    else:
        encode = how.encode == "onehot"
        if not apart:
            target = width - 1
            if how.target is not None:
                target = table.find(how.target)
        picked = [i for i in range(width) if i != target]
        if target != 0 and table.counts_rows():
            notes = (f"{table.title(0)} counts the rows and is left out",)
            picked.remove(0)
    if not picked:
        raise ValueError("it needs at least one feature column and a target column")
    blocks = []
    categories = []
    origin: list[int | None] = []  # of the columns of X, and the target
    for i, words in zip(picked, known or [None] * len(picked), strict=True):
        block, words = table.numbers(i, words, encode)
        blocks.append(block)
        categories.append(words)
        origin += [i] * block.shape[1]
    origin.append(target)

    def place(row: int, column: int) -> str:
        at = origin[column]
        return f"target {row + 1}" if at is None else table.place(row, at)

    y = columns = None
    name = "target"
    column = ""
    if table.names is not None:
        columns = tuple(table.names[i] for i in picked)
    if target is not None:
        y = table.columns[target]
        column = f", column {target + 1}, no header"
        if table.names is not None:
            name = table.names[target]
            column = ", the last column" * (like is None and how.target is None)
    recipe = {"categories": categories, "width": width, "target": target, "picked": picked}
    return Raw(np.hstack(blocks), y, name, column, columns, recipe, notes, place)


def _as_before(table: Table, like: Task) -> tuple[list[int], int | None]:
    """Which columns are the features of a training set, and which is its target, if one is."""
    width = len(table.columns)
    if like.columns is not None:
        if table.names is None:
            raise ValueError(f"it has no header, but the training set: {some(like.columns)}")
        left: list[Any] = [*table.names]
        found = {}
        for i, name in enumerate((*like.columns, like.name)):
            if name in left:  # it may be that of several columns
                found[i] = left.index(name)
                left[found[i]] = None
        target = found.pop(len(like.columns), None)
        lacking = [name for i, name in enumerate(like.columns) if i not in found]
        if lacking:
            raise ValueError(f"it lacks the columns {some(lacking)} of the training set")
        return [*found.values()], target
    if like.recipe.get("width") == width:
        return like.recipe["picked"], like.recipe["target"]
    features = len(like.recipe.get("picked", ())) or like.recipe.get("features", width)
    if features != width:
        raise ValueError(f"it has {width} columns, the training set {features} features")
    return [*range(width)], None


def _digits() -> Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn: {install('demo')}") from error
    digits = load_digits()
    X = digits.data / 16.0
    return Raw(X - X.mean(axis=0), digits.target, "digit")


def _read_h5(path: Path) -> dict[str, Data]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} needs h5py: {install('hdf5')}") from error
    file = h5py.File(path)  # open as long as its data sets are in use
    found = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    for name in found.keys() & {"X", "y"}:
        if found[name].shape is None:
            raise ValueError(f"its {name} is empty")
        if h5py.check_string_dtype(found[name].dtype) is not None:
            found[name] = np.array(found[name].asstr()[...], dtype=str)
    return found


def _read_npz(path: Path) -> dict[str, Data]:
    with open(path, "rb") as raw:
        file = np.load(raw, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array and not several: call it .npy")
        if "X" not in file.files and {"format", "shape", "data"} <= set(file.files):
            raw.seek(0)
            return {"X": sp.csr_array(sp.load_npz(raw))}
        return {name: file[name] for name in file.files}


def _read_npy(path: Path) -> Array:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays: call it .npz")
    return array


def _open(path: Path, read: Callable[[Path], _Found]) -> _Found:
    """What `read` finds in a file, or an error that names the file."""
    try:
        return read(path)
    except FileNotFoundError:
        raise absent(path) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
