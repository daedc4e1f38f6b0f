"""Checkpoints of a run: when they are saved, which are kept, and of which run they are.

A kill, a crash or a full disk at any moment leaves the state before or the new one.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import re
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opflow._version import __version__
from opflow.data.paths import located
from opflow.dynamics.storage.state_file import SCHEMA, Blocks, is_storable, read, write
from opflow.machine.arrays import Array, check_integer, to_host
from opflow.machine.files import CHECKPOINT, FilePath, temporary
from opflow.machine.ranks import LOCAL, RowDistribution
from opflow.machine.workspace import row_slices

#: arrays that the file has of its own
RESERVED = {"metadata", "checksum"}
#: what is said of a state of another run, by the part of the identity that differs
DIFFERENCES = {
    "network": "it began from another network",
    "inputs": "its data set has another X",
    "targets": "its data set has another y",
    "gram": "its kernel is another",
    "measurement": "its measurement= is another",
}


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often :func:`opflow.train` saves its state.

    Parameters
    ----------
    path : str or path
        The file of the newest state, in a folder that exists; ``~`` is the home folder.
    steps : int, optional
        Save after so many steps since the last save.
    seconds : float, optional
        Save after so many seconds since the last save, 600 by default; whichever of the two
        comes first.  With neither, a run saves when it ends or is stopped.
    keep : int, default 2
        States to keep: ``path``, and the ones before as ``path.1``, ``path.2``, ….

    See Also
    --------
    opflow.train : Takes one as `checkpoint`, and resumes from it.
    opflow.Trajectory.save : Writes the result of a run.

    Notes
    -----
    A save writes the state once, and the disk holds up to ``keep + 1`` of them while it does.

    Examples
    --------
    >>> import opflow as of
    >>> of.Checkpoint("run.ckpt.npz", steps=100)
    Checkpoint(path='run.ckpt.npz', steps=100, seconds=600.0, keep=2)
    >>> of.Checkpoint("run.ckpt.npz", keep=0)
    Traceback (most recent call last):
    ValueError: keep must be at least 1, not 0
    """

    path: FilePath
    steps: int | None = None
    seconds: float | None = 600.0
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path must be a string or a path, not {self.path!r}")
        if re.search(r"^$|\.\d+$", Path(self.path).name):
            raise ValueError(
                f"path must name a file and not end in a number, a suffix that is used for older "
                f"checkpoints, not {os.fspath(self.path)!r}"
            )
        if self.steps is not None:
            check_integer(self.steps, "steps", 1)
        check_integer(self.keep, "keep", 1)
        if self.seconds is not None:
            if not isinstance(self.seconds, numbers.Real) or isinstance(self.seconds, bool):
                raise TypeError(f"seconds must be a number, not {self.seconds!r}")
            if not 0 < self.seconds < math.inf:
                raise ValueError(f"seconds must be positive and finite, not {self.seconds!r}")


class Saver:
    """Saves the states of one run, which starts or is resumed at `step`.

    `identity` holds fingerprints of network, inputs and targets, and the method as text; a load
    with another identity is refused.  All ranks of `space` call :meth:`save`; the first one writes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        identity: Mapping[str, str],
        step: int = 0,
        space: RowDistribution = LOCAL,
    ) -> None:
        self.checkpoint = checkpoint
        self.identity = dict(identity)
        self.space = space
        self.path = located(checkpoint.path)
        #: of the last save
        self._step = step
        self._time = time.monotonic()

    def prepare(self) -> None:
        """Find out, before any work, whether states can be written; clear what a kill left."""
        if not self.space.leads:
            return
        if self.path.is_dir():
            raise IsADirectoryError(f"the checkpoint {self.path} is a folder")
        try:
            empty, trial = temporary(self.path)  # the only test that binds root as well
            empty.close()
            trial.unlink()
            leftover = re.compile(re.escape(f".{self.path.name}.") + r"[a-z0-9_]{8}\.tmp")
            for file in self.path.parent.iterdir():
                if leftover.fullmatch(file.name):
                    file.unlink()
        except OSError as error:
            reason = f"checkpoints cannot be written in {self.path.parent}: {error.strerror}"
            raise OSError(error.errno, reason) from error

    def due(self, step: int) -> bool:
        """Whether so many steps or seconds have passed since the last save."""
        steps = self.checkpoint.steps or math.inf
        seconds = self.checkpoint.seconds or math.inf
        return step - self._step >= steps or time.monotonic() - self._time >= seconds

    def save(
        self,
        step: int,
        arrays: Mapping[str, Any],
        meta: Mapping[str, Any],
        by_sample: Collection[str] = (),
    ) -> OSError | None:
        """Save one state, or return why nothing could be saved (a full disk, say).

        The states before are then as they were, and the next try is due when the next save would
        be.  `arrays`, on the host or a device, are numbers, booleans or text, and are loaded on the
        host with the same dtype, shape and memory order; each rank has its own rows of those
        `by_sample`.  `meta` is what JSON can hold.
        """
        held: dict[str, Any] = {name: to_host(array) for name, array in arrays.items()}
        for name, array in held.items():
            if not is_storable(array.dtype):
                raise TypeError(f"{name} has dtype {array.dtype}, which a checkpoint cannot hold")
            if name in RESERVED or not name.isprintable():
                raise ValueError(f"{name!r} cannot be the name of an array in a checkpoint")
        spread = sorted(by_sample)
        head = {
            "format": CHECKPOINT,
            "schema": SCHEMA,
            "version": __version__,
            "identity": self.identity,
            "meta": {**meta, "step": step},
            "by_sample": spread,
        }
        held["metadata"] = np.array(json.dumps(head))
        blocks: dict[str, Blocks] = {}
        if self.space.sharded:
            blocks = {name: _rows_of_all(held[name], self.space) for name in spread}
        error: OSError | None = None
        if self.space.leads:
            try:
                write(self.path, held | blocks, keep=self.checkpoint.keep)
            except OSError as caught:
                error = caught
        for array in blocks.values():  # other ranks send their rows, and the first what it left
            deque(array.blocks, maxlen=0)
        self._step = step
        self._time = time.monotonic()
        return self.space.agreed(error)


def _rows_of_all(array: Array, space: RowDistribution) -> Blocks:
    """The rows of all ranks, in blocks for the first rank; the others take part in each block."""
    rows = int(space.total(len(array)))
    width = array.dtype.itemsize * math.prod(array.shape[1:])
    blocks = (space.joined(array[space.part(s, rows)].tobytes()) for s in row_slices(rows, width))
    return Blocks(array.dtype, (rows, *array.shape[1:]), blocks)


def load(
    file: FilePath,
    identity: Mapping[str, str],
    space: RowDistribution = LOCAL,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata that :meth:`Saver.save` was given, ``"step"`` among the latter.

    A file that is no checkpoint, is truncated or corrupt, has another schema, or is of another run
    is a ``ValueError``, which names the reason and the newest state that is good, if one is; one
    that does not exist or cannot be opened is an ``OSError``.
    """
    path = located(file)
    try:
        return _read(path, identity, space)
    except (ValueError, FileNotFoundError) as error:
        for other in _states(path):
            try:
                step = _read(other, identity, space)[1]["step"]
            except (ValueError, OSError):
                continue
            hint = f"; {other} is good, of step {step}: go on from it with resume={str(other)!r}"
            raise type(error)(f"{error}{hint}") from error
        raise


def exists(file: FilePath) -> bool:
    """Whether there is any state of a run, good or not."""
    path = located(file)
    return any(state.exists() for state in (path, *_states(path)))


def _states(path: Path) -> Iterator[Path]:
    """The other states of the run, newest first."""
    base = path.with_name(re.sub(r"\.\d+$", "", path.name))
    numbered = re.compile(re.escape(base.name) + r"\.(\d+)")
    found = [(0, base)]
    if base.parent.is_dir():
        matches = ((numbered.fullmatch(file.name), file) for file in base.parent.iterdir())
        found += [(int(match[1]), file) for match, file in matches if match]
    return (file for _, file in sorted(found) if file != path)


def _read(
    path: Path, identity: Mapping[str, str], space: RowDistribution
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with open(path, "rb") as file:
        try:
            arrays, head = read(file)
        except Exception as error:
            # Damage shows as anything that zipfile, json, NumPy and ast can raise.
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be resumed from: {reason}") from error
    saved = head["identity"]
    differing = [
        DIFFERENCES.get(
            name, f"its {name} is {saved.get(name) or 'none'}, not {identity.get(name) or 'none'}"
        )
        for name in {**saved, **identity}
        if saved.get(name) != identity.get(name)
    ]
    if differing:
        raise ValueError(f"{path} is a checkpoint of another run: {'; '.join(differing)}")
    for name in head["by_sample"]:
        arrays[name] = arrays[name][space.span(len(arrays[name]))]
    return arrays, head["meta"]
