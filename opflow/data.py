"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
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
from opflow.standardise import Standardiser
from opflow.tables import Table, read_table, some
from opflow.task import Task

#: different whole numbers that are taken for classes, at most
MOST = 20
#: classes that are told by name, at most
SHOWN = 10
#: tables of text, which may be compressed
TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
TABLES = (*TEXT, ".parquet")


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


#: where there is no choice
DEFAULT = Reading()


class DataSet(NamedTuple):
    """Inputs X (N, d) and targets y (N, k), as a network takes them.

    Attributes
    ----------
    inputs : array, memory map, rows or sparse matrix
    targets : array (N, k) or None
    labels : int array (N,) or None
        Which of the classes each sample is of.
    about : str
        What the targets were taken for, in words.
    task : Task or None
        What made these numbers of the data, and makes answers of outputs.
    notes : tuple of str
        What else was done.
    held_out : DataSet or None
        Samples that are not trained on.
    """

    inputs: Any
    targets: Any
    labels: Any = None
    about: str = ""
    task: Task | None = None
    notes: tuple[str, ...] = ()
    held_out: DataSet | None = None


class _Raw(NamedTuple):
    """What a file holds: numbers, NaN where one is missing, and targets or None."""

    X: Any
    y: Any
    name: str
    #: which column the target is, in words
    told: str = ""
    columns: tuple[str, ...] | None = None
    recipe: Any = None
    notes: tuple[str, ...] = ()
    #: where a row and a column of X, or None for y, are in a table
    place: Callable[[int, int | None], str] | None = None

    def rows(self, chosen: Any) -> _Raw:
        """Some of the samples."""
        return self._replace(X=self.X[chosen], y=None if self.y is None else self.y[chosen])


def reading(values: Mapping[str, Any]) -> Reading:
    """The choices among the options of a command, or of a run's configuration."""
    return Reading(**{name: values[name] for name in Reading._fields if name in values})


def load(
    data: str,
    targets: str | None = None,
    dtype: Any = np.float64,
    how: Reading = DEFAULT,
    *,
    like: Task | None = None,
    ask: bool = True,
    options: tuple[str, str] = ("DATA", "--targets"),
    comm: Any = None,
) -> DataSet:
    """Read a data set.

    Parameters
    ----------
    data : str
        ``"digits"`` (scikit-learn's handwritten digits: pixels / 16, minus the mean image), or a
        file: ``.npz`` with X and y, ``.npy`` with X, ``.h5`` with X and y, a table (``.csv``,
        ``.tsv``, ``.txt``, these with ``.gz``, ``.parquet``, or ``-``, standard input), or a
        SciPy sparse ``.npz``, which stays sparse.
    targets : str, optional
        A ``.npy`` file or a table with y.
    dtype : dtype, default float64
        Real and integer data of any byte order are cast to it.  X of a ``.npy`` or ``.h5`` file
        that has it already stays on disk.
    how : Reading
    like : Task, optional
        That of a training set, whose columns, means and classes are used.
    ask : bool
        Whether targets are needed; if not, those that are missing or strange are left out.
    options : tuple of str
        What `data` and `targets` are called in messages.
    comm : mpi4py.MPI.Comm, optional
        Return the rows of this rank only.  Of ``.npy`` and ``.h5`` files no others are read; the
        rest is read whole first.  Classes and means are those of all samples.

    Returns
    -------
    DataSet
        Of classes, y is one-hot minus its mean over the samples; that of a regression is shifted
        and scaled to mean 0 and standard deviation 1.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        Saying which file or argument is wrong, and how.
    MemoryError
        If X has another dtype and would not fit in memory as `dtype`, or y would not.

    Notes
    -----
    One rule for all files says what one-dimensional targets are.  Words and booleans are classes.
    So are whole numbers, however they are stored, if there are at most 20 different ones and at
    least one occurs twice.  All else is a regression.
    """
    where = targets or data
    if data == "-" and comm is not None:
        raise ValueError("- is the standard input of one process: give several ranks a file")
    raw = _digits() if data == "digits" else _file(located(data), how, like, options[0], targets)
    if how.target is not None and like is None and (raw.place is None or targets is not None):
        raise ValueError(f"--target is for a column of a table, but y is apart, in {where}")
    if targets is not None:
        y, name = _targets(located(targets), options[1])
        raw = raw._replace(y=y, name=name, told="")
    if raw.y is None and ask:
        raise ValueError(f"{data} has no targets: give {options[1]} FILE")
    if len(raw.X.shape) != 2 or 0 in raw.X.shape:
        raise ValueError(f"X in {data} has shape {raw.X.shape}: samples and features are needed")
    features = raw.X.shape[1] if like is None else like.recipe.get("features", raw.X.shape[1])
    if raw.X.shape[1] != features:
        raise ValueError(f"X in {data} has {raw.X.shape[1]} features, the training set {features}")
    if raw.y is not None and raw.y.shape[:1] != raw.X.shape[:1]:
        raise ValueError(f"y in {where} has shape {raw.y.shape} but X has {raw.X.shape[0]} rows")
    raw = _complete(raw, data, where, how.missing, ask)
    parts = [raw] if how.test_fraction is None else _split(raw, data, where, how)
    found = _made(parts[0], data, where, dtype, how, like, ask, comm)
    for part in parts[1:]:
        held_out = _made(part, data, where, dtype, how, found.task, ask, None)
        found = found._replace(held_out=held_out)
    return found


def _complete(raw: _Raw, data: str, where: str, missing: str | None, ask: bool) -> _Raw:
    """Samples without what is missing, or an error that says where it is."""
    X = raw.X
    y = raw.y
    if y is not None:
        y = np.array(y[...])  # in memory: every step wants it
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    if missing is not None:
        if sp.issparse(X):
            raise ValueError(f"--missing is not for sparse data, as X in {data}")
        X = _in_memory(X, f"X in {data}")
    elif raw.place is None and (y is None or y.dtype != object):
        return raw._replace(y=y)  # what is not finite is told later
    holes = np.isnan(X) if X.dtype.kind == "f" else np.zeros(X.shape, bool)
    gaps = holes.any(axis=1)
    gone = np.zeros(len(X), bool)
    if y is not None:
        gone = y == None if y.dtype == object else y != y  # noqa: E711
        gone = gone.reshape(len(X), -1).astype(bool).any(axis=1)
    notes = list(raw.notes)
    if gone.any() and not ask:
        notes.append(f"answers are not compared: {_count(gone.sum(), 'target')} missing")
        y = None
    elif missing == "drop" and (gaps | gone).any():
        kept = ~(gaps | gone)
        if not kept.any():
            raise ValueError(f"every row of {data} misses a value: --missing drop leaves none")
        notes.append(f"{_count((~kept).sum(), 'row')} with missing values left out")
        X = X[kept]
        y = None if y is None else y[kept]
    elif gone.any() or (missing is None and gaps.any()):
        wrong = gone | (gaps if missing is None else gone)
        row = int(wrong.argmax())
        column = None if gone[row] else int(holes[row].argmax())
        place = raw.place(row, column) if raw.place else f"row {row}, counted from 0"
        remedy = "--missing drop leaves such rows out"
        if column is not None:
            remedy += ", --missing mean fills in the means of the columns"
        if column is not None and not ask:
            remedy = "the run was trained without --missing mean, and cannot fill it"
        raise ValueError(f"{where}: {place}: the value is missing; {remedy}")
    if y is not None and y.dtype == object:
        y = np.array(y.tolist())
    return raw._replace(X=X, y=y, notes=tuple(notes))


def _split(raw: _Raw, data: str, where: str, how: Reading) -> list[_Raw]:
    """The samples to train on, and those that are held out: of each class its share."""
    raw = raw._replace(X=_in_memory(raw.X, f"X in {data}"))
    count = raw.X.shape[0]
    labels = np.zeros(count)
    if _classes(raw.y, f"y in {where}", LOCAL, how.task)[0] is not None:
        labels = np.unique(raw.y, return_inverse=True)[1]
    order = np.random.default_rng(how.seed).permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    held = np.zeros(count, bool)
    shares = np.floor((how.test_fraction or 0.0) * np.arange(count + 1) + 1e-9)
    held[order] = np.diff(shares) > 0
    # each class has a sample to learn from
    held[order[np.unique(labels[order], return_index=True)[1]]] = False
    if not held.any():
        raise ValueError(f"--test-fraction {how.test_fraction} of {count} samples leaves none")
    return [raw.rows(~held), raw.rows(held)]


def _made(
    raw: _Raw,
    data: str,
    where: str,
    dtype: Any,
    how: Reading,
    like: Task | None,
    ask: bool,
    comm: Any,
) -> DataSet:
    """The numbers that a network takes, and the task that makes them."""
    name = f"y in {where}"
    notes = list(raw.notes)
    recipe = {} if like is None else like.recipe
    if like is None:
        recipe = {**(raw.recipe or {}), "features": raw.X.shape[1]}
    if like is None and how.missing == "mean":
        if (empty := np.flatnonzero(np.isnan(raw.X).all(axis=0))).size:
            raise ValueError(f"feature {empty[0]} of {data}, counted from 0, has no values at all")
        recipe["fill"] = np.nanmean(raw.X, axis=0).tolist()
    if "fill" in recipe and raw.X.dtype.kind == "f" and np.isnan(raw.X).any():
        holes = np.isnan(raw.X)
        notes.append(f"{_count(holes.sum(), 'missing value')} filled by means")
        raw = raw._replace(X=np.where(holes, recipe["fill"], raw.X))
    X, y, space = _mine(raw.X, raw.y, comm)
    table = raw.place is not None
    standardise = table if how.standardise is None else how.standardise
    if like is not None:
        standardise = like.inputs is not None
    # means are taken before numbers are rounded to `dtype`
    on_disk = is_rows(X) or isinstance(X, np.memmap)
    X = _real(X, f"X in {data}", np.float64 if standardise and not on_disk else dtype)
    if like is not None:
        task = like
        kind = _kind(task)
    else:
        classes, kind, note = _classes(y, name, space, how.task)
        notes += [note] * bool(note)
        inputs = Standardiser.fit(X, dtype=dtype, space=space) if standardise else None
        targets = _targets_of(y, classes, name, dtype, space)
        task = Task(targets, classes, inputs, raw.columns, recipe, raw.name)
    labels = None
    try:
        y = (
            None
            if y is None
            else task.encode(y if task.classes is not None else _real(y, name, np.float64))
        )
    except ValueError as error:
        if ask:
            raise ValueError(f"{where}: {error}") from error
        notes.append(f"answers are not compared: {error}")
        y = None
    if y is not None and task.classes is not None:
        labels = task.targets.inverse(y).argmax(axis=1)
    about = f"{raw.name}{raw.told} ({kind})"
    return DataSet(task.prepare(X), y, labels, about, task, tuple(notes))


def _targets_of(y: Any, classes: Any, name: str, dtype: Any, space: Space) -> Standardiser:
    """The mean of one-hot vectors, or mean and scale of a regression's targets."""
    if classes is not None:
        need = 8.0 * len(y) * len(classes)
        if need > 0.5 * free_memory():
            raise MemoryError(f"{name} has {len(classes):,} classes, as one-hot vectors of "
                              f"{human(need, 'B', 1024)}")  # fmt: skip
        counts = np.bincount(np.searchsorted(classes, y), minlength=len(classes))
        mean = space.total(counts) / space.total(len(y))
        return Standardiser(mean, np.ones(len(mean)), dtype)
    y = _real(y, name, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] == 0:
        raise ValueError(f"{name} has shape {y.shape}: (N,) or (N, k) is needed")
    return Standardiser.fit(y, dtype=dtype, space=space)


def _count(number: Any, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _kind(task: Task) -> str:
    if task.classes is None:
        return "regression" + f", {len(task.targets.mean)} columns" * (len(task.targets.mean) > 1)
    return _named(task.classes)


def _named(classes: Any) -> str:
    shown = ", ".join(map(str, classes[:SHOWN].tolist()))
    return f"{len(classes)} classes: {shown}{', …' if len(classes) > SHOWN else ''}"


def _classes(y: Any, name: str, space: Space, task: str) -> tuple[Any, str, str]:
    """The classes of targets, if they are some; what they are, and what to know of that."""
    kind = y.dtype.kind
    if y.ndim > 1 or task == "regression" or kind not in "iubfU":
        if task == "classification" or (kind == "U" and y.ndim == 1):
            raise ValueError(
                f"--task {task}: {name} is {y.dtype} of shape {y.shape}, as {y.flat[0]}"
            )
        return None, "regression" + (f", {y.shape[1]} columns" if y.ndim > 1 else ""), ""
    if kind == "f":
        whole = np.isfinite(y) & (y == np.round(y)) & (np.abs(y) < 2**53)
        if space.either(not whole.all())[0]:
            if task == "classification":
                raise ValueError(f"{name} is not of classes, which are words, booleans or whole "
                                 f"numbers: it holds {y[~whole][:1]}")  # fmt: skip
            return None, "regression", ""
        y = y.astype(np.int64)
    found = np.unique(space.everywhere(np.unique(y)))
    count = len(found)
    samples = int(space.total(len(y)))
    if kind in "iuf" and task == "auto":
        if count == samples:
            return None, "regression, no whole number twice", ""
        if count > MOST:
            other = "--task classification takes whole numbers for classes"
            return None, f"regression, {count:,} different whole numbers", other
    if count == 1:
        raise ValueError(f"{name} has one class only, {found[0]}, and two are needed")
    if count == samples and kind != "b":
        what = "words" if kind == "U" else "numbers"
        raise ValueError(f"{name} has {count:,} different {what} for as many samples: no classes")
    guess = kind in "iuf" and task == "auto"
    told = "whole numbers are taken for classes: --task regression takes them for numbers"
    return found, _named(found), told * guess


def _in_memory(X: Any, name: str) -> Any:
    """X, read from the disk if it fits."""
    if not (isinstance(X, np.memmap) or is_rows(X)):
        return X
    need = float(math.prod(X.shape) * X.dtype.itemsize)
    if need > 0.5 * free_memory():
        raise MemoryError(f"{name} stays on disk, as it takes {human(need, 'B', 1024)}: --missing "
                          "and --test-fraction are for data in memory")  # fmt: skip
    return np.array(X[...])


def _file(path: Path, how: Reading, like: Task | None, option: str, targets: str | None) -> _Raw:
    kind = _suffix(path)
    if kind in TABLES or str(path) == "-":
        return _open(path, lambda path: _of_table(read_table(path), how, like, targets is not None))
    if kind in (".npz", ".h5", ".hdf5"):
        arrays = _open(path, _read_npz if kind == ".npz" else _read_h5)
        if "X" not in arrays:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        return _Raw(arrays["X"], arrays.get("y"), "y")
    if kind == ".npy":
        return _Raw(_open(path, _read_npy), None, "y")
    raise ValueError(f"{option} {path} must be .npz, .h5, .npy, {', '.join(TEXT[:4])} or .parquet")


def _suffix(path: Path) -> str:
    """The kind of a file: the end of its name, of a compressed one the two ends."""
    ends = [end.lower() for end in path.suffixes]
    return "".join(ends[-2:] if ends[-1:] == [".gz"] else ends[-1:])


def _of_table(table: Table, how: Reading, like: Task | None, apart: bool) -> _Raw:
    """Features and target of a table."""
    width = len(table.columns)
    index = table.row_names()
    target = None if apart else width - 1
    if like is not None:
        picked, target = _as_before(table, like)
        index = None
    else:
        if how.target is not None and not apart:
            target = table.find(how.target)
        index = None if index == target else index
        picked = [i for i in range(width) if i not in (target, index)]
    if not picked:
        raise ValueError("it needs at least one feature column and a target column")
    known = [None] * len(picked) if like is None else like.recipe.get("categories")
    blocks, categories = zip(
        *(table.numbers(i, words, how.encode == "onehot" or words is not None)
          for i, words in zip(picked, known or [None] * len(picked), strict=True)),
        strict=True,
    )  # fmt: skip
    origin = [i for i, block in zip(picked, blocks, strict=True) for _ in range(block.shape[1])]

    def place(row: int, column: int | None) -> str:
        at = target if column is None else origin[column]
        return f"row {table.rows[row]}, {table.title(at)}" if at is not None else f"row {row}"

    told = ""
    name = "y" if target is None else "target"
    if target is not None and table.names is None:
        told = f", column {target + 1}, no header"
    elif target is not None and table.names is not None:
        name = table.names[target]
        told = ", the last column" if like is None and how.target is None else ""
    columns = None if table.names is None else tuple(table.names[i] for i in picked)
    recipe = {"categories": categories, "width": width, "target": target, "index": index}
    notes = () if index is None else (f"{table.title(0)} counts the rows and is left out",)
    y = None if target is None else table.columns[target]
    return _Raw(np.hstack(blocks), y, name, told, columns, recipe, notes, place)


def _as_before(table: Table, like: Task) -> tuple[list[int], int | None]:
    """Which columns are the features of a training set, and which is its target, if one is."""
    width = len(table.columns)
    if like.columns is not None:
        if table.names is None:
            raise ValueError(f"it has no header, but the training set: {some(like.columns)}")
        places = {name: iter([i for i, other in enumerate(table.names) if other == name])
                  for name in (*like.columns, like.name)}  # fmt: skip
        found = [next(places[name], None) for name in like.columns]
        lacking = [name for name, i in zip(like.columns, found, strict=True) if i is None]
        if lacking:
            raise ValueError(f"it lacks the columns {some(lacking)} of the training set")
        return [i for i in found if i is not None], next(places[like.name], None)
    recipe = like.recipe
    target = recipe.get("target")
    left_out = recipe.get("index")
    if recipe.get("width") != width:
        left_out = table.row_names()
        target = None
    features = len(recipe.get("categories", ())) or recipe.get("features")
    for picked in (
        [i for i in range(width) if i not in (target, left_out)],
        [i for i in range(width) if i != target],
    ):
        if len(picked) == features:
            return picked, target
        if len(picked) - 1 == features:
            return picked[:-1], picked[-1]
    raise ValueError(f"it has {width} columns, the training set {features} features")


def _targets(path: Path, option: str) -> tuple[Any, str]:
    """The targets of a file of their own, and what they are called."""
    kind = _suffix(path)
    if kind == ".npy":
        return _open(path, _read_npy), path.name
    if kind not in TABLES:
        raise ValueError(f"{option} {path} must be .npy, or a table: {', '.join(TABLES)}")
    table: Table = _open(path, read_table)
    if len(table.columns) == 1:
        return table.columns[0], table.names[0] if table.names else path.name
    return _open(path, lambda _: np.hstack(
        [table.numbers(i, None, False)[0] for i in range(len(table.columns))]
    )), path.name  # fmt: skip


def _digits() -> _Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn: {install('demo')}") from error
    digits = load_digits()
    X = digits.data / 16.0
    return _Raw(X - X.mean(axis=0), digits.target, "digit")


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
