"""Data sets for the command line: the digits, or a file, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike

from opflow.data.files import Raw, Reading, read_data, read_targets
from opflow.data.numbers import in_memory, on_disk, real
from opflow.data.standardise import Standardiser
from opflow.data.task import Task
from opflow.interface.words import counted
from opflow.machine.arrays import Array, Data
from opflow.machine.communicator import rows_of_rank
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded
from opflow.machine.workspace import free_memory
from opflow.operators.describe import human

#: different whole numbers that are taken for classes, at most
MOST = 20
DEFAULT = Reading()


class DataSet(NamedTuple):
    """Inputs X (N, d) and targets y (N, k), as a network takes them."""

    #: array, memory map, rows or sparse matrix
    inputs: Data
    #: array, or None if the data have none
    targets: Any
    #: int array (N,): the class of each sample, if there are classes
    labels: Any = None
    #: what the targets were taken for, in words
    about: str = ""
    #: what made these numbers of the data, and makes answers of outputs
    task: Task | None = None
    #: what else was done
    notes: tuple[str, ...] = ()
    #: samples that are not trained on
    held_out: DataSet | None = None


def reading(values: Mapping[str, Any]) -> Reading:
    """The choices among the options of a command, or of a run's configuration."""
    return Reading(**{name: values[name] for name in Reading._fields if name in values})


def load(
    data: str,
    targets: str | None = None,
    dtype: DTypeLike = np.float64,
    how: Reading = DEFAULT,
    *,
    like: Task | None = None,
    ask: bool = True,
    options: tuple[str, str] = ("DATA", "--targets"),
    comm: Any = None,
) -> DataSet:
    """The data set of ``"digits"`` or a file, of `dtype`; X that has it already stays on disk.

    `targets` is a file with y, and `like` the task of a training set, whose columns, means and
    classes are used.  Without `ask`, targets that are missing or strange are left out.  `options`
    are the names of `data` and `targets` in messages.  With `comm` the rows are those of this
    rank, classes and means those of all samples.

    One rule for all files says what one-dimensional targets are.  Words and booleans are classes.
    So are whole numbers, however they are stored, if there are at most 20 different ones and at
    least one occurs twice.  All else is a regression.  Of classes, y is one-hot minus its mean over
    the samples; that of a regression is shifted and scaled to mean 0 and standard deviation 1.
    """
    where = targets or data
    if data == "-" and comm is not None:
        raise ValueError("- is the standard input of one process: give several ranks a file")
    raw = read_data(data, targets, how, like, options[0])
    if how.target is not None and like is None and (raw.place is None or targets is not None):
        raise ValueError(f"--target is for a column of a table, but y is apart, in {where}")
    if targets is not None:
        y, name = read_targets(targets, options[1])
        raw = raw._replace(y=y, name=name, column="")
    shape = raw.X.shape
    if raw.y is None and ask:
        raise ValueError(f"{data} has no targets: give {options[1]} FILE")
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"X in {data} has shape {shape}: samples and features are needed")
    features = like.recipe.get("features", shape[1]) if like else shape[1]
    if shape[1] != features:
        raise ValueError(f"X in {data} has {shape[1]} features, the training set {features}")
    if raw.y is not None:
        if raw.y.shape[:1] != shape[:1]:
            raise ValueError(f"y in {where} has shape {raw.y.shape} but X has {shape[0]} rows")
        raw = raw._replace(y=_read(raw.y))
    raw = raw._replace(data=data, where=where)
    raw = _complete(raw, how.missing, ask)
    if how.test_fraction is None:
        return _made(raw, dtype, how, like, ask, comm)
    raw, test = _split(raw, how)
    found = _made(raw, dtype, how, like, ask, comm)
    return found._replace(held_out=_made(test, dtype, how, found.task, ask, None))


def _read(y: Data) -> Array:
    """Targets in memory, which every step needs; one column as a vector, bytes as text."""
    y = np.array(y[...])
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8")
    return y


def _complete(raw: Raw, missing: str | None, ask: bool) -> Raw:
    """Data without the samples that miss a value, or an error that says where one is missing."""
    if missing is None and raw.place is None:
        return raw  # what is not finite is refused later
    if sp.issparse(raw.X):
        raise ValueError(f"--missing is not for sparse data, as X in {raw.data}")
    X = in_memory(raw.X, f"X in {raw.data}")
    holes = X != X
    gaps = holes.any(axis=1)
    if missing == "drop":
        gaps |= _gone(raw.y, len(X))
        if gaps.all():
            raise ValueError(f"every row of {raw.data} misses a value: --missing drop leaves none")
        if gaps.any():
            note = f"{counted(gaps.sum(), 'row')} with missing values left out"
            raw = raw._replace(notes=(*raw.notes, note))
        return raw._replace(X=X).rows(~gaps)
    if missing is None and gaps.any():
        row = int(gaps.argmax())
        place = raw.spot(row, int(holes[row].argmax()))
        remedy = "the run was trained without --missing mean, and cannot fill it"
        if ask:
            remedy = "--missing mean fills in the mean of its column, "
            remedy += "--missing drop leaves the row out"
        raise ValueError(f"{raw.data}: {place}: the value is missing; {remedy}")
    return raw._replace(X=X)


def _gone(y: Array | None, count: int) -> Array:
    """Which targets are missing."""
    if y is None:
        return np.zeros(count, bool)
    gone = (y != y) | (y == None)  # noqa: E711
    return gone.reshape(count, -1).any(axis=1)


def _split(raw: Raw, how: Reading) -> tuple[Raw, Raw]:
    """The samples to train on, and those that are held out: of each class its share."""
    raw = raw._replace(X=in_memory(raw.X, f"X in {raw.data}"))
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


def _made(
    raw: Raw, dtype: DTypeLike, how: Reading, like: Task | None, ask: bool, comm: Any
) -> DataSet:
    """The numbers that a network takes, and the task that makes them."""
    notes = [*raw.notes]
    recipe = like.recipe if like else {**raw.recipe, "features": raw.X.shape[1]}
    if how.missing == "mean":
        raw = _filled(raw, recipe, notes, like is None)
    space = LOCAL
    if comm is not None:
        mine = rows_of_rank(raw.X.shape[0], comm)
        raw = raw.rows(mine)
        space = Sharded(comm, mine.stop - mine.start)
    standardise = how.standardise
    if like is not None:
        standardise = like.inputs is not None
    elif standardise is None:
        standardise = raw.place is not None
    precision = dtype
    if standardise and not on_disk(raw.X):
        precision = np.float64  # means are taken before numbers are rounded to `dtype`
    X = real(raw.X, f"X in {raw.data}", precision)
    y = raw.y
    why = ""
    try:
        if (gone := _gone(y, X.shape[0])).any():
            place = raw.spot(int(gone.argmax()))
            remedy = "; --missing drop leaves the row out" * ask  # predict has no such option
            raise ValueError(f"{place}: the target is missing{remedy}")
        if like is None:
            classes, why, note = _classes(raw, space, how.task)
            notes += [note] * bool(note)
            inputs = Standardiser.fit(X, dtype=dtype, space=space) if standardise else None
            targets = _fitted(raw, classes, dtype, space)
            like = Task(targets, classes, inputs, raw.columns, recipe, raw.name)
        if y is not None:
            if like.classes is None:
                y = real(y, "y", np.float64)
            y = like.encode(y)
    except ValueError as error:
        if ask:
            raise ValueError(f"{raw.where}: {error}") from error
        notes.append(f"answers are not compared: {error}")
        y = None
    assert like is not None
    labels = None
    kind = f"regression{why}"
    if like.classes is not None:
        kind = f"{len(like.classes)} classes: {like.known()}"
        if y is not None:
            labels = like.targets.inverse(y).argmax(axis=1)
    elif len(like.targets.mean) > 1:
        kind = f"regression, {len(like.targets.mean)} columns"
    about = f"{raw.name}{raw.column} ({kind})"
    return DataSet(like.prepare(X), y, labels, about, like, tuple(notes))


def _filled(raw: Raw, recipe: dict[str, Any], notes: list[str], first: bool) -> Raw:
    """Data with means in the place of missing values; the `first` data give the means."""
    holes = np.isnan(raw.X)
    if first:
        if (empty := holes.all(axis=0)).any():
            raise ValueError(f"feature {empty.argmax()} of {raw.data} has no values at all")
        recipe["fill"] = np.nanmean(raw.X, axis=0).tolist()
    if not holes.any():
        return raw
    notes.append(f"means fill what is missing in {counted(holes.any(axis=1).sum(), 'row')}")
    return raw._replace(X=np.where(holes, recipe["fill"], raw.X))


def _fitted(
    raw: Raw, classes: Array | None, dtype: DTypeLike, space: RowDistribution
) -> Standardiser:
    """The mean of one-hot vectors, or mean and scale of a regression's targets."""
    y = raw.y
    if classes is None:
        y = real(y, "y", np.float64)
        return Standardiser.fit(y.reshape(len(y), -1), dtype=dtype, space=space)
    need = 8.0 * len(y) * len(classes)
    if need > 0.5 * free_memory():
        size = human(need, "B", 1024)
        raise MemoryError(f"y in {raw.where} has {len(classes):,} classes: {size} as 0 and 1")
    counts = (y[:, None] == classes).sum(axis=0, dtype=np.float64)
    return Standardiser(space.total(counts) / space.total(len(y)), np.ones(len(classes)), dtype)


def _classes(raw: Raw, space: RowDistribution, task: str) -> tuple[Array | None, str, str]:
    """The classes of targets, if they are some; why if they are none, and what to know of that."""
    y = raw.y
    if y.dtype == object:
        y = np.array(y.tolist())
    kind = y.dtype.kind
    whole = kind in "iubU" and y.ndim == 1
    if kind == "f" and y.ndim == 1:
        whole = not space.either(not ((y == np.round(y)) & (abs(y) < 2**53)).all())[0]
        if whole:
            y = y.astype(np.int64)
    if task == "regression" or not whole:
        if task == "classification" or (kind == "U" and y.ndim == 1):
            raise ValueError(f"--task {task} is not for {raw.name}: it holds {y.flat[0]}")
        return None, "", ""
    found = np.unique(np.concatenate(space.all_of(np.unique(y))))
    count = len(found)
    samples = int(space.total(len(y)))
    guessed = kind in "iuf" and task == "auto"
    note = "--task chooses whether whole numbers are classes or a regression" * guessed
    if guessed and count == samples:
        return None, ", no whole number twice", note
    if guessed and count > MOST:
        return None, f", {count:,} different whole numbers", note
    if count == 1:
        raise ValueError(f"{raw.name} has one class only, {found[0]}, and two are needed")
    if count == samples and kind != "b":
        raise ValueError(f"{raw.name} has {count:,} different values, all once: no classes")
    return found, "", note
