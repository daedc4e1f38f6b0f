"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from opflow.cli.folder import absent, located
from opflow.data.standardise import Standardiser
from opflow.data.tables import Table, read_table, some
from opflow.data.task import Task
from opflow.interface.extras import install
from opflow.machine.arrays import REAL_DTYPES, is_rows
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded, rows_of_rank
from opflow.machine.workspace import free_memory
from opflow.operators.describe import human

#: different whole numbers that are taken for classes, at most
MOST = 20
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


DEFAULT = Reading()


class DataSet(NamedTuple):
    """Inputs X (N, d) and targets y (N, k), as a network takes them."""

    #: array, memory map, rows or sparse matrix
    inputs: Any
    #: array, or None if the data have none
    targets: Any
    #: int array (N,): which of the classes each sample is of, if there are classes
    labels: Any = None
    #: what the targets were taken for, in words
    about: str = ""
    #: what made these numbers of the data, and makes answers of outputs
    task: Task | None = None
    #: what else was done
    notes: tuple[str, ...] = ()
    #: samples that are not trained on
    held_out: DataSet | None = None


class _Raw(NamedTuple):
    """What a file holds: numbers, NaN where one is missing, and targets or None."""

    X: Any
    y: Any
    #: of the target, and which column it is, in words
    name: str
    told: str = ""
    columns: tuple[str, ...] | None = None
    recipe: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    #: where a row and a column of X, or None for y, are in a table
    place: Callable[[int, int | None], str] | None = None
    #: the files of X and of y
    data: str = ""
    where: str = ""

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
    """The data set of ``"digits"`` or a file, of `dtype`; X that has it already stays on disk.

    `targets` is a file with y, and `like` the task of a training set, whose columns, means and
    classes are used.  Where none are asked for, targets that are missing or strange are left out.
    `options` are what `data` and `targets` are called in messages.  With `comm` the rows are those
    of this rank, classes and means those of all samples.

    One rule for all files says what one-dimensional targets are.  Words and booleans are classes.
    So are whole numbers, however they are stored, if there are at most 20 different ones and at
    least one occurs twice.  All else is a regression.  Of classes, y is one-hot minus its mean over
    the samples; that of a regression is shifted and scaled to mean 0 and standard deviation 1.
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
    X = raw.X
    y = raw.y
    if y is None and ask:
        raise ValueError(f"{data} has no targets: give {options[1]} FILE")
    if len(X.shape) != 2 or 0 in X.shape:
        raise ValueError(f"X in {data} has shape {X.shape}: samples and features are needed")
    features = X.shape[1] if like is None else like.recipe.get("features", X.shape[1])
    if X.shape[1] != features:
        raise ValueError(f"X in {data} has {X.shape[1]} features, the training set {features}")
    if y is not None:
        if y.shape[:1] != X.shape[:1]:
            raise ValueError(f"y in {where} has shape {y.shape} but X has {X.shape[0]} rows")
        y = np.array(y[...])  # in memory: every step wants it
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    raw = _complete(raw._replace(y=y, data=data, where=where), how.missing, ask)
    if how.test_fraction is None:
        return _made(raw, dtype, how, like, ask, comm)
    raw, test = _split(raw, how)
    found = _made(raw, dtype, how, like, ask, comm)
    return found._replace(held_out=_made(test, dtype, how, found.task, ask, None))


def _complete(raw: _Raw, missing: str | None, ask: bool) -> _Raw:
    """Data without the samples that miss a value, or an error that says where one is missing."""
    if missing is None and raw.place is None:
        return raw  # what is not finite is told later
    if sp.issparse(raw.X):
        raise ValueError(f"--missing is not for sparse data, as X in {raw.data}")
    X = _in_memory(raw.X, f"X in {raw.data}")
    holes = X != X
    gaps = holes.any(axis=1)
    if missing == "drop":
        gaps |= _gone(raw.y, len(X))
        notes = [f"{counted(gaps.sum(), 'row')} with missing values left out"] * bool(gaps.any())
        if gaps.all():
            raise ValueError(f"every row of {raw.data} misses a value: --missing drop leaves none")
        return raw._replace(X=X, notes=(*raw.notes, *notes)).rows(~gaps)
    if missing is None and gaps.any():
        row = int(gaps.argmax())
        assert raw.place is not None
        remedy = "--missing mean fills in the mean of its column, --missing drop leaves the row out"
        if not ask:
            remedy = "the run was trained without --missing mean, and cannot fill it"
        place = raw.place(row, int(holes[row].argmax()))
        raise ValueError(f"{raw.data}: {place}: the value is missing; {remedy}")
    return raw._replace(X=X)


def _gone(y: Any, count: int) -> Any:
    """Which targets are missing."""
    if y is None:
        return np.zeros(count, bool)
    gone = (y != y) | (y == None)  # noqa: E711
    return gone.reshape(count, -1).any(axis=1)


def _split(raw: _Raw, how: Reading) -> tuple[_Raw, _Raw]:
    """The samples to train on, and those that are held out: of each class its share."""
    raw = raw._replace(X=_in_memory(raw.X, f"X in {raw.data}"))
    count = raw.X.shape[0]
    labels = np.zeros(count)
    if _classes(raw, LOCAL, how.task)[0] is not None:
        labels = np.unique(raw.y.astype(str), return_inverse=True)[1]
    order = np.random.default_rng(how.seed).permutation(count)
    order = order[np.argsort(labels[order], kind="stable")]
    shares = np.floor((how.test_fraction or 0.0) * np.arange(count + 1) + 1e-9)
    held = np.zeros(count, bool)
    held[order] = np.diff(shares) > 0
    # each class has a sample to learn from
    held[order[np.unique(labels[order], return_index=True)[1]]] = False
    if not held.any():
        raise ValueError(f"--test-fraction {how.test_fraction} of {count} samples leaves none")
    return raw.rows(~held), raw.rows(held)


def _made(raw: _Raw, dtype: Any, how: Reading, like: Task | None, ask: bool, comm: Any) -> DataSet:
    """The numbers that a network takes, and the task that makes them."""
    notes = [*raw.notes]
    recipe = {**raw.recipe, "features": raw.X.shape[1]} if like is None else like.recipe
    if how.missing == "mean":
        holes = np.isnan(raw.X)
        if like is None:
            if (empty := holes.all(axis=0)).any():
                raise ValueError(f"feature {empty.argmax()} of {raw.data} has no values at all")
            recipe["fill"] = np.nanmean(raw.X, axis=0).tolist()
        if holes.any():
            notes.append(f"means fill what is missing in {counted(holes.any(axis=1).sum(), 'row')}")
            raw = raw._replace(X=np.where(holes, recipe["fill"], raw.X))
    X, y, space = _mine(raw.X, raw.y, comm)
    raw = raw._replace(y=y)
    standardise = raw.place is not None if how.standardise is None else how.standardise
    if like is not None:
        standardise = like.inputs is not None
    # means are taken before numbers are rounded to `dtype`
    in_memory = not (is_rows(X) or isinstance(X, np.memmap))
    X = _real(X, f"X in {raw.data}", np.float64 if standardise and in_memory else dtype)
    why = ""
    try:
        if (gone := _gone(y, X.shape[0])).any():
            place = raw.place(int(gone.argmax()), None) if raw.place else f"y[{gone.argmax()}]"
            remedy = "; --missing drop leaves the row out" * ask  # who predicts has no such option
            raise ValueError(f"{place}: the target is missing{remedy}")
        if like is None:
            classes, why, note = _classes(raw, space, how.task)
            notes += [note] * bool(note)
            inputs = Standardiser.fit(X, dtype=dtype, space=space) if standardise else None
            targets = _fitted(raw, classes, dtype, space)
            like = Task(targets, classes, inputs, raw.columns, recipe, raw.name)
        if y is not None:
            y = like.encode(y if like.classes is not None else _real(y, "y", np.float64))
    except ValueError as error:
        if ask:
            raise ValueError(f"{raw.where}: {error}") from error
        notes.append(f"answers are not compared: {error}")
        y = None
    assert like is not None
    labels = None
    if y is not None and like.classes is not None:
        labels = like.targets.inverse(y).argmax(axis=1)
    kind = f"regression{why}"
    if like.classes is not None:
        kind = f"{len(like.classes)} classes: {like.known()}"
    elif len(like.targets.mean) > 1:
        kind = f"regression, {len(like.targets.mean)} columns"
    about = f"{raw.name}{raw.told} ({kind})"
    return DataSet(like.prepare(X), y, labels, about, like, tuple(notes))


def _fitted(raw: _Raw, classes: Any, dtype: Any, space: RowDistribution) -> Standardiser:
    """The mean of one-hot vectors, or mean and scale of a regression's targets."""
    y = raw.y
    if classes is None:
        y = _real(y, "y", np.float64)
        return Standardiser.fit(y[:, None] if y.ndim == 1 else y, dtype=dtype, space=space)
    need = 8.0 * len(y) * len(classes)
    if need > 0.5 * free_memory():
        size = human(need, "B", 1024)
        raise MemoryError(f"y in {raw.where} has {len(classes):,} classes: {size} as 0 and 1")
    counts = (y[:, None] == classes).sum(axis=0, dtype=np.float64)
    return Standardiser(space.total(counts) / space.total(len(y)), np.ones(len(classes)), dtype)


def counted(number: Any, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _classes(raw: _Raw, space: RowDistribution, task: str) -> tuple[Any, str, str]:
    """The classes of targets, if they are some; why if they are none, and what to know of that."""
    y = np.array(raw.y.tolist()) if raw.y.dtype == object else raw.y
    kind = y.dtype.kind
    whole = kind in "iubU" and y.ndim == 1
    if kind == "f" and y.ndim == 1:
        whole = not space.either(not ((y == np.round(y)) & (abs(y) < 2**53)).all())[0]
        y = y.astype(np.int64) if whole else y
    if task == "regression" or not whole:
        if task == "classification" or (kind == "U" and y.ndim == 1):
            raise ValueError(f"--task {task} is not for {raw.name}: it holds {y.flat[0]}")
        return None, "", ""
    found = np.unique(np.concatenate(space.all_of(np.unique(y))))
    count = len(found)
    samples = int(space.total(len(y)))
    guessed = kind in "iuf" and task == "auto"
    told = "--task chooses whether whole numbers are classes or a regression" * guessed
    if guessed and count == samples:
        return None, ", no whole number twice", told
    if guessed and count > MOST:
        return None, f", {count:,} different whole numbers", told
    if count == 1:
        raise ValueError(f"{raw.name} has one class only, {found[0]}, and two are needed")
    if count == samples and kind != "b":
        raise ValueError(f"{raw.name} has {count:,} different values, all once: no classes")
    return found, "", told


def _in_memory(X: Any, name: str) -> Any:
    """X, read from the disk if it fits."""
    if not (isinstance(X, np.memmap) or is_rows(X)):
        return X
    need = float(math.prod(X.shape) * X.dtype.itemsize)
    if need > 0.5 * free_memory():
        options = "--missing and --test-fraction are for data in memory"
        raise MemoryError(f"{name} takes {human(need, 'B', 1024)} and stays on disk: {options}")
    return np.array(X[...])


def _file(path: Path, how: Reading, like: Task | None, option: str, targets: str | None) -> _Raw:
    kind = path.suffix.lower()
    if path.name.lower().endswith(TABLES) or str(path) == "-":
        return _open(path, lambda path: _of_table(read_table(path), how, like, targets is not None))
    if kind in (".npz", ".h5", ".hdf5"):
        arrays = _open(path, _read_npz if kind == ".npz" else _read_h5)
        if "X" not in arrays:
            raise ValueError(f"{path} holds {sorted(arrays)} but no X")
        return _Raw(arrays["X"], arrays.get("y"), "y")
    if kind == ".npy":
        return _Raw(_open(path, _read_npy), None, "y")
    if not path.exists():
        raise absent(path)
    raise ValueError(f"{option} {path} must be .npz, .h5, .npy, {', '.join(TEXT[:4])} or .parquet")


def _of_table(table: Table, how: Reading, like: Task | None, apart: bool) -> _Raw:
    """Features and target of a table."""
    width = len(table.columns)
    index = None
    if like is not None:
        picked, target = _as_before(table, like)
        known = like.recipe.get("categories")
    else:
        target = None if apart else width - 1
        if how.target is not None and not apart:
            target = table.find(how.target)
        index = table.row_names()
        index = None if index == target else index
        picked = [i for i in range(width) if i not in (target, index)]
        known = None
    if not picked:
        raise ValueError("it needs at least one feature column and a target column")
    blocks = []
    categories = []
    origin = []
    for i, words in zip(picked, known or [None] * len(picked), strict=True):
        encode = None if like is not None and words is None else how.encode == "onehot"
        block, words = table.numbers(i, words, encode)
        blocks.append(block)
        categories.append(words)
        origin += [i] * block.shape[1]

    def place(row: int, column: int | None) -> str:
        at = target if column is None else origin[column]
        return f"target {row + 1}" if at is None else table.place(row, at)

    name = "target"
    told = "" if target is None else f", column {target + 1}, no header"
    if table.names is not None and target is not None:
        name = table.names[target]
        told = ", the last column" if like is None and how.target is None else ""
    columns = None if table.names is None else tuple(table.names[i] for i in picked)
    recipe = {"categories": categories, "width": width, "target": target, "picked": picked}
    notes = () if index is None else (f"{table.title(0)} counts the rows and is left out",)
    y = None if target is None else table.columns[target]
    return _Raw(np.hstack(blocks), y, name, told, columns, recipe, notes, place)


def _as_before(table: Table, like: Task) -> tuple[list[int], int | None]:
    """Which columns are the features of a training set, and which is its target, if one is."""
    width = len(table.columns)
    if like.columns is not None:
        if table.names is None:
            raise ValueError(f"it has no header, but the training set: {some(like.columns)}")
        places = {
            name: iter([i for i, other in enumerate(table.names) if other == name])
            for name in (*like.columns, like.name)
        }
        found = [next(places[name], None) for name in like.columns]
        lacking = [name for name, i in zip(like.columns, found, strict=True) if i is None]
        if lacking:
            raise ValueError(f"it lacks the columns {some(lacking)} of the training set")
        return [i for i in found if i is not None], next(places[like.name], None)
    if like.recipe.get("width") == width:
        return like.recipe["picked"], like.recipe["target"]
    features = len(like.recipe.get("picked", ())) or like.recipe.get("features", width)
    if features != width:
        raise ValueError(f"it has {width} columns, the training set {features} features")
    return [*range(width)], None


def _targets(path: Path, option: str) -> tuple[Any, str]:
    """The targets of a file of their own, and what they are called."""
    if path.suffix.lower() == ".npy":
        return _open(path, _read_npy), path.name
    if not path.name.lower().endswith(TABLES):
        raise ValueError(f"{option} {path} must be .npy, or a table: {', '.join(TABLES)}")
    table: Table = _open(path, read_table)
    if len(table.columns) == 1:
        return table.columns[0], table.names[0] if table.names else path.name
    numbers = [table.numbers(i, None, False)[0] for i in range(len(table.columns))]
    return np.hstack(numbers), path.name


def _digits() -> _Raw:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn: {install('demo')}") from error
    digits = load_digits()
    X = digits.data / 16.0
    return _Raw(X - X.mean(axis=0), digits.target, "digit")


def _mine(X: Any, y: Any, comm: Any) -> tuple[Any, Any, RowDistribution]:
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
        raise absent(path) from None
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
