"""The file of a checkpoint, one ``.npz``: written in blocks of rows, checked before it is used.

The file is complete or not there, whatever happens while it is written.  Reading checks the size
of every array before it is allocated, and a SHA-256 of everything before anything is returned.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from opflow.machine.arrays import Array
from opflow.machine.files import CHECKPOINT, atomic, checksum, label

SCHEMA = 1


class Blocks(NamedTuple):
    """An array in C order, block by block."""

    dtype: np.dtype
    shape: tuple[int, ...]
    blocks: Iterator[bytes]


def write(path: Path, arrays: Mapping[str, Array | Blocks], *, keep: int) -> None:
    """Write a state to `path`; `keep` − 1 older ones become ``path.1``, ``path.2``, …."""
    states = [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, keep))]
    previous = path.with_name(f".{path.name}.previous.tmp")
    rotate = keep > 1 and path.exists()
    try:
        with atomic(path) as file:
            _write(file, arrays)
            if rotate:
                _link(path, previous)
        # Only now, with the new state in place: the one before may be the bad one of two.
        if rotate:
            for i in range(keep - 1, 1, -1):
                if states[i - 1].exists():
                    os.replace(states[i - 1], states[i])
            os.replace(previous, states[1])
    finally:
        previous.unlink(missing_ok=True)


def _write(file: BinaryIO, arrays: Mapping[str, Array | Blocks]) -> None:
    """As ``numpy.savez``, in the order of the names, with the checksum of all as the last array."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(arrays):
            array = arrays[name]
            digest.update(label(name, array.dtype, array.shape))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, Blocks):
                    descr = np.lib.format.dtype_to_descr(array.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": array.shape}
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in array.blocks:
                        digest.update(block)
                        member.write(block)
                else:
                    digest.update(np.ascontiguousarray(array).data)
                    np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open("checksum.npy", "w") as member:
            np.lib.format.write_array(member, np.array(digest.hexdigest()))


def _link(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copyfile(path, target)


def read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a state, and what its metadata say.

    What is no checkpoint, is damaged, or is in a form that is not read any more is a
    ``ValueError``; zipfile, json, NumPy and ast raise other errors of damage.
    """
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
        raise ValueError("it is corrupt: its header declares more data than the file contains")
    head: dict[str, Any] = {}
    if "metadata" in members:
        head = json.loads(str(_member(archive, members["metadata"])))
    if head.get("format") != CHECKPOINT:
        raise ValueError("it is not a checkpoint")
    writer = f"written by opflow {head.get('version')}"
    if head["schema"] != SCHEMA:
        raise ValueError(
            f"it has schema {head['schema']}, {writer}; this version reads schema {SCHEMA}"
        )
    if "shards" in head:
        raise ValueError(
            f"its arrays are in the files of {len(head['shards'])} ranks, {writer}: this version "
            "reads one file, so finish that run with the version that began it"
        )
    arrays = {name: _member(archive, info) for name, info in members.items()}
    if str(arrays.pop("checksum")) != checksum(arrays):
        raise ValueError("it is corrupt: its checksum does not match")
    del arrays["metadata"]
    return arrays, head


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive, if it can be stored and has the size that its header states."""
    with archive.open(info) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"it is corrupt: {info.filename} has an unknown header")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        stated = file.tell() + math.prod(shape) * dtype.itemsize
        if not is_storable(dtype) or stated != info.file_size:
            raise ValueError(f"it is corrupt: {info.filename} is not what its header states")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def is_storable(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype are numbers, booleans or text."""
    return dtype.kind in "biufcU" and dtype.itemsize > 0
