"""Files that are complete or not there, and the ``.npz`` files of networks and runs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from opflow.machine.arrays import to_host

#: where a file is
FilePath: TypeAlias = str | os.PathLike[str]

SCHEMA = 1
#: what the file of a run's state says that it is
CHECKPOINT = "opflow checkpoint"


def save_arrays(path: FilePath, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write arrays of numbers or text, and what JSON can hold, with a checksum of the arrays."""
    arrays = {name: np.ascontiguousarray(to_host(value)) for name, value in arrays.items()}
    for name, array in arrays.items():
        if array.dtype == object:
            what = name.replace("observation_", "observations ")
            raise TypeError(f"the {what} cannot be saved: they are neither numbers nor text")
    meta = {"schema": SCHEMA, **meta, "checksum": checksum(arrays)}
    write_npz(path, arrays | {"metadata": np.array(json.dumps(meta))})


def write_npz(path: FilePath, arrays: Mapping[str, Any]) -> None:
    """``numpy.savez`` to a file that is complete or not there."""
    with atomic(os.path.expanduser(path)) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(
    path: FilePath, what: str, needed: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What :func:`save_arrays` was given for a file of the kind `what`, which has `needed`."""
    try:
        with open(os.path.expanduser(path), "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = dict(json.loads(str(arrays.pop("metadata"))))
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a {what}, or is corrupt: {error}") from error
    if meta.get("format") == CHECKPOINT:
        raise ValueError(
            f"{path} is a checkpoint, not a {what}: train(resume=...) goes on from it; in a run "
            "folder the trajectory is trajectory.npz"
        )
    if "checksum" not in meta or needed not in arrays:
        raise ValueError(f"{path} is not a {what}")
    if meta.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {meta.get('schema')}; this version reads {SCHEMA}")
    if meta["checksum"] != checksum(arrays):
        raise ValueError(f"{path} is corrupt: its checksum does not match")
    return arrays, meta


def under(mark: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with `mark`, by the rest of their names."""
    return {name.removeprefix(mark): a for name, a in arrays.items() if name.startswith(mark)}


def prefixed(mark: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with `mark` before their names: :func:`under` gives them back."""
    return {mark + name: a for name, a in arrays.items()}


def checksum(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over the names, dtypes, shapes and values of NumPy arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(label(name, array.dtype, array.shape))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def label(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What a checksum says of an array before its values."""
    return f"{name} {dtype.str} {shape}".encode()


@contextmanager
def atomic(path: FilePath) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes the file at `path` when the block ends.

    It is on the disk by then.  After an error, or a kill at any moment, `path` is as it was.
    """
    path = Path(path)
    file, name = temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        name.unlink(missing_ok=True)
    if os.name == "nt":  # Windows has no folders to be opened
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary(path: Path) -> tuple[BinaryIO, Path]:
    """A new file beside another, open, with the permissions of any new file, and its path."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    return open(name, "xb"), name
