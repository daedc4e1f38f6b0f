"""A state that many ranks hold, on disk: a shard a rank, and a list of them in the manifest.

An array with a row for every sample is in the shards as the ranks held it; one that all ranks
hold is in one of them.  The manifest is the checkpoint itself, written when all shards are on the
disk; it states every array of every shard with its rows and its checksum, so that a state can be
read by any number of ranks, each reading the rows that it needs.
"""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from opflow.machine.files import checksum, write_npz
from opflow.machine.ranks import RowDistribution, Sharded


def folder(path: Path) -> Path:
    """Where the shards of a checkpoint are."""
    return path.with_name(f"{path.name}.shards")


def write(
    path: Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    by_sample: Collection[str],
    space: Sharded,
) -> dict[str, Any]:
    """Write the shard of this rank; what the manifest says of it.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    mark = space.agreed(secrets.token_hex(4))  # a save never writes over another's shards
    shared = sorted(set(arrays) - set(by_sample))
    mine = {name: arrays[name] for name in [*by_sample, *shared[space.rank :: space.ranks]]}
    file = folder(path) / f"step-{step}.{mark}.rank-{space.rank}-of-{space.ranks}.npz"
    file.parent.mkdir(exist_ok=True)
    write_npz(file, mine)
    return {
        "file": file.name,
        "arrays": {
            name: {
                "rows": len(array) if name in by_sample else None,
                "checksum": checksum({name: array}),
            }
            for name, array in mine.items()
        },
    }


def read(
    path: Path, shards: Iterable[Mapping[str, Any]], space: RowDistribution
) -> dict[str, np.ndarray]:
    """The arrays of a state, of those by sample the rows that are held here.

    Raises
    ------
    ValueError
        Naming the shard that is missing, damaged or of another save.
    """
    whole: dict[str, np.ndarray] = {}
    parts: dict[str, list[tuple[str, str, int]]] = {}
    for shard in shards:
        for name, said in shard["arrays"].items():
            if said["rows"] is None:
                whole[name] = _array(path, shard["file"], name, said["checksum"])
            else:
                entry = (shard["file"], said["checksum"], int(said["rows"]))
                parts.setdefault(name, []).append(entry)
    return whole | {name: _rows(path, name, of, space) for name, of in parts.items()}


def _rows(
    path: Path, name: str, parts: list[tuple[str, str, int]], space: RowDistribution
) -> np.ndarray:
    """The rows held here of an array that is spread over the shards `parts`."""
    span, start = space.span(sum(rows for *_, rows in parts)), 0
    found: list[np.ndarray] = []
    for file, digest, rows in parts:
        low, high = max(span.start - start, 0), min(span.stop - start, rows)
        if low < high or not found:  # one at least, for the shape
            found.append(_array(path, file, name, digest)[low : max(low, high)])
        start += rows
    return np.concatenate(found)


def _array(path: Path, file: str, name: str, digest: str) -> np.ndarray:
    from opflow.dynamics.storage.checkpoint import member

    place = folder(path_of_run(path)) / file
    try:
        with zipfile.ZipFile(place) as archive:
            array = member(archive, archive.getinfo(f"{name}.npy"))
    except FileNotFoundError:
        raise ValueError(f"its shard {place} is missing") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"its shard {place} is damaged: {error}") from error
    if checksum({name: array}) != digest:
        raise ValueError(f"its shard {place} is damaged or of another save: {name} differs")
    return array


def path_of_run(path: Path) -> Path:
    """The newest state's path, for ``run.npz`` and for ``run.npz.1``."""
    return path.with_name(path.stem) if path.suffix[1:].isdigit() else path


def prune(path: Path, manifests: Iterable[Path]) -> None:
    """Remove the shards that no manifest names."""
    place = folder(path)
    if not place.is_dir():
        return
    named = {file for manifest in manifests for file in _named(manifest)}
    for file in place.iterdir():
        if file.name not in named:
            file.unlink()
    if not any(place.iterdir()):
        place.rmdir()


def _named(manifest: Path) -> Iterator[str]:
    try:
        with np.load(manifest, allow_pickle=False) as archive:
            shards = json.loads(str(archive["metadata"])).get("shards", ())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return
    yield from (shard["file"] for shard in shards)
