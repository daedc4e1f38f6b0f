"""A run's state on disk: complete, or not there.

A save is one ``.npz`` that is written beside the old one, forced to the disk and renamed over
it, so that a kill, a crash or a full disk at any moment leaves the old state or the new one.  A
load checks the size of every array before it is allocated and a SHA-256 of everything before
anything is returned.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import re
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from opflow.dynamics.storage import shards
from opflow.machine.arrays import check_integer, to_host
from opflow.machine.files import CHECKPOINT, checksum, temporary, write_npz
from opflow.machine.ranks import LOCAL, RowDistribution, Sharded

SCHEMA = 1
#: what numpy.savez or the file itself calls by these names
RESERVED = {"file", "allow_pickle", "metadata", "checksum"}


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

    path: str | os.PathLike[str]
    steps: int | None = None
    seconds: float | None = 600.0
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path must be a string or a path, not {self.path!r}")
        if not Path(self.path).name or re.search(r"\.\d+$", Path(self.path).name):
            raise ValueError(
                f"path must name a file and not end in a number, which is how the older states "
                f"are called, not {os.fspath(self.path)!r}"
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
    """Saves the states of one run.

    Parameters
    ----------
    checkpoint : Checkpoint
    identity : dict of str to str
        What the run is of (network, inputs, targets: fingerprints; method: a text); a load with
        another identity is refused.
    step : int
        Where the run starts or is resumed.
    space : Space, optional
        Of a run on many ranks: every method is collective, and the state goes into a shard a
        rank, with `path` their manifest.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        identity: Mapping[str, str],
        step: int = 0,
        space: RowDistribution = LOCAL,
    ) -> None:
        self.checkpoint, self.identity, self.space = checkpoint, dict(identity), space
        self.path = _file(checkpoint)
        self._step, self._time = step, time.monotonic()

    def prepare(self) -> None:
        """Find out, before any work, whether states can be written; clear what a kill left.

        Raises
        ------
        OSError
            Naming the folder and the reason.
        """
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
            shards.prune(self.path, (self.path, *_states(self.path)))
        except OSError as error:
            reason = f"checkpoints cannot be written in {self.path.parent}: {error.strerror}"
            raise OSError(error.errno, reason) from error

    def due(self, step: int) -> bool:
        """Whether so many steps or seconds have passed since the last save."""
        steps, seconds = self.checkpoint.steps, self.checkpoint.seconds
        return (steps is not None and step - self._step >= steps) or (
            seconds is not None and time.monotonic() - self._time >= seconds
        )

    def save(
        self,
        step: int,
        arrays: Mapping[str, Any],
        meta: Mapping[str, Any],
        by_sample: Collection[str] = (),
    ) -> OSError | None:
        """Save one state.

        Parameters
        ----------
        step : int
        arrays : dict of str to array
            On the host or a device; numbers, booleans or text.  Loaded on the host, with the same
            dtype, shape and memory order.
        meta : dict
            What JSON can hold.
        by_sample : collection of str
            Which arrays have a row for every sample or output, of which each rank has its own.

        Returns
        -------
        OSError or None
            Why nothing could be saved (a full disk, say); the states before are then as they
            were, and the next try is due when the next save would be.

        Raises
        ------
        TypeError, ValueError
            If an array or a name is of a kind that cannot be saved.
        """
        from opflow import __version__  # the package imports this module

        held = {name: to_host(array) for name, array in arrays.items()}
        for name, array in held.items():
            if not _plain(array.dtype):
                raise TypeError(f"{name} has dtype {array.dtype}, which a checkpoint cannot hold")
            if name in RESERVED or not name.isprintable():
                raise ValueError(f"{name!r} cannot be the name of an array in a checkpoint")
        head = {
            "format": CHECKPOINT,
            "schema": SCHEMA,
            "version": __version__,
            "identity": self.identity,
            "meta": {**meta, "step": step},
            "by_sample": sorted(by_sample),
        }
        self._step = step
        error, space = None, self.space
        try:
            if isinstance(space, Sharded):
                shard = shards.write(self.path, step, held, sorted(by_sample), space)
                held = {}
        except OSError as caught:
            error = caught
        error = space.first(error)
        if error is None and isinstance(space, Sharded):
            head["shards"] = space.comm.gather(shard)
        try:
            if error is None and space.leads:
                held["metadata"] = np.array(json.dumps(head))
                held["checksum"] = np.array(checksum(held))
                write_npz(self.path, held, keep=self.checkpoint.keep)
                if space.sharded:
                    shards.prune(self.path, (self.path, *_states(self.path)))
        except OSError as caught:
            error = caught
        self._time = time.monotonic()
        return space.first(error)


def load(
    checkpoint: Checkpoint | str | os.PathLike[str],
    identity: Mapping[str, str],
    space: RowDistribution = LOCAL,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata that :meth:`Saver.save` was given, ``"step"`` among the latter.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a checkpoint, is truncated or corrupt, has another schema, or is of another
        run; names the file, the reason, and the newest state that is good, if one is.
    OSError
        If it cannot be opened.
    """
    path = _file(checkpoint)
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


def exists(checkpoint: Checkpoint) -> bool:
    """Whether there is any state of a run, good or not."""
    path = _file(checkpoint)
    return any(file.exists() for file in (path, *_states(path)))


def _file(checkpoint: Checkpoint | str | os.PathLike[str]) -> Path:
    path = checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint
    return Path(os.path.expanduser(path))


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
            arrays, head = _parse(file)
        except Exception as error:
            # Damage shows as anything that zipfile, json, NumPy and ast can raise.
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be resumed from: {reason}") from error
    differing = [
        _difference(name, head["identity"].get(name), identity.get(name))
        for name in {**head["identity"], **identity}
        if head["identity"].get(name) != identity.get(name)
    ]
    if differing:
        raise ValueError(f"{path} is a checkpoint of another run: {'; '.join(differing)}")
    if "shards" in head:
        try:
            return shards.read(path, head["shards"], space), head["meta"]
        except ValueError as error:
            raise ValueError(f"{path} cannot be resumed from: {error}") from error
    return arrays | {
        name: arrays[name][space.span(len(arrays[name]))] for name in head["by_sample"]
    }, head["meta"]


def _difference(name: str, saved: str | None, wanted: str | None) -> str:
    words = {
        "network": "it began from another network",
        "inputs": "its data set has another X",
        "targets": "its data set has another y",
        "gram": "its kernel is another",
    }
    return words.get(name, f"its {name} is {saved or 'none'}, not {wanted or 'none'}")


def _parse(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    magic = file.read(4)
    if magic != b"PK\x03\x04":
        raise ValueError("it is not a checkpoint" if magic else "it is empty")
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError("it is truncated or corrupt") from error
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    size = os.fstat(file.fileno()).st_size
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError("it is corrupt: it states more data than it has")
    if "metadata" not in members:
        raise ValueError("it is not a checkpoint")
    metadata = member(archive, members["metadata"])
    head = json.loads(str(metadata))
    if head.get("format") != CHECKPOINT:
        raise ValueError("it is not a checkpoint")
    if head["schema"] != SCHEMA:
        raise ValueError(
            f"it has schema {head['schema']}, written by opflow {head.get('version')}; "
            f"this version reads schema {SCHEMA}"
        )
    arrays = {name: member(archive, info) for name, info in members.items()}
    if str(arrays.pop("checksum")) != checksum(arrays):
        raise ValueError("it is corrupt: its checksum does not match")
    del arrays["metadata"]
    return arrays, head


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive, if it is one that can be held and of the size that it states."""
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"it is corrupt: {info.filename} has an unknown header")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        stated = file.tell() + math.prod(shape) * dtype.itemsize
        if not _plain(dtype) or stated != info.file_size:
            raise ValueError(f"it is corrupt: {info.filename} is not what its header states")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _plain(dtype: np.dtype) -> bool:
    return dtype.kind in "biufcU" and dtype.itemsize > 0
