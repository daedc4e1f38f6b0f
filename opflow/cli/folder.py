"""The folders of runs and spectra: what is written there, what comes back after a failure.

A run owns the names below and nothing else in its folder.  While it goes on, the folder holds its
configuration, its log and its checkpoints; the results come when it ends or is stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from opflow.machine.files import atomic

#: what a JSON file holds, by name
Numbers: TypeAlias = dict[str, Any]
#: what a ``.npz`` file holds, by name
Arrays: TypeAlias = dict[str, Any]

CONFIG = "config.json"
LOG = "log.jsonl"
CHECKPOINT = "checkpoint.npz"
OLDER = "checkpoint.npz.1"
RESULTS = (
    "trajectory.npz",
    "summary.json",
    "summary.txt",
    "loss.png",
    "eigenvalues.png",
    "layer_shares.png",
    "held_out.png",
    "accuracy.png",
    "predicted.png",
    "residuals.png",
    "confusion.png",
)
FILES = (CONFIG, LOG, CHECKPOINT, OLDER, *RESULTS)
#: what an analysis of the spectrum leaves
SPECTRUM = (
    "spectrum.npz",
    "spectrum.json",
    "spectrum.txt",
    "eigenvalues.png",
    "density.png",
    "cumulative.png",
    "layer_shares.png",
    "mode_shares.png",
    "projections.png",
    "heat_map.png",
)
#: options that a run which goes on must have in common with its beginning
FIXED = (
    *("widths", "scaling", "seed", "dtype", "method", "step", "momentum", "batch", "weight_decay"),
    *("tol", "eliminate", "target", "task", "missing", "encode", "standardise", "test_fraction"),
    "test_data",
)
#: where the files of an earlier run wait for the one that replaces it to succeed
ASIDE = ".replaced"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically; an error says that ``--out`` named it."""
    try:
        with atomic(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error.strerror}") from error


def write_json(path: Path, values: Numbers) -> None:
    """Write what JSON can hold, and paths as text."""
    write_text(path, json.dumps(values, indent=2, default=str) + "\n")


def read_json(path: Path) -> Numbers:
    """What :func:`write_json` wrote."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


class ResultFolder:
    """A folder for the files `names`; those it replaces come back if the ``with`` block fails."""

    #: results, which are not replaced unasked
    names: Sequence[str] = SPECTRUM
    #: all that a command may write here
    files: Sequence[str] = SPECTRUM
    #: whether an earlier run goes on
    resumed = False

    def __init__(self, path: Path, overwrite: bool, hint: str = "") -> None:
        self.path = path
        there = [name for name in self.names if (path / name).exists()]
        if there and not (overwrite or self.resumed):
            held = ", ".join(there)
            raise ValueError(f"--out {path} already holds {held}; --overwrite replaces{hint}")
        self._made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ValueError(f"--out {path} cannot be written: {error.strerror}") from error
        if overwrite and there:
            shutil.rmtree(path / ASIDE, ignore_errors=True)
            _move(path, path / ASIDE, self.files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.done()
        else:
            self.restore()

    def done(self) -> None:
        """The results are there: what they replace goes."""
        shutil.rmtree(self.path / ASIDE, ignore_errors=True)

    def restore(self, kept: Sequence[str] = ()) -> None:
        """Remove what was written but for the files `kept`, and bring back what it replaces."""
        for name in set(self.files) - set(kept):
            (self.path / name).unlink(missing_ok=True)
        if (self.path / ASIDE).exists():
            _move(self.path / ASIDE, self.path, self.files)
            (self.path / ASIDE).rmdir()
        if self._made and not any(self.path.iterdir()):
            self.path.rmdir()


class RunFolder(ResultFolder):
    """The folder of a run: it may go on from a checkpoint, and fail in a way that leaves one."""

    # A configuration and a log alone are of a run that reached no state: nothing is lost.
    names = (CHECKPOINT, OLDER, *RESULTS)
    files = FILES

    def __init__(self, path: Path, overwrite: bool, resume: bool) -> None:
        self.path = path
        self.checkpoint = path / CHECKPOINT
        self.log = path / LOG
        self.resumed = resume and self.has_checkpoint
        hint = ", --resume goes on" * self.has_checkpoint
        super().__init__(path, overwrite, hint)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state to go on from."""
        return any((self.path / name).exists() for name in (CHECKPOINT, OLDER))

    def configure(self, config: Numbers) -> None:
        """Write the configuration, if it agrees with that of the run that goes on."""
        file = self.path / CONFIG
        if self.resumed and file.exists():
            before = read_json(file)
            for name in FIXED:
                now = config[name]
                then = before.get(name)
                if now != then:
                    told = f"--{name.replace('_', '-')} is {json.dumps(now)}"
                    other = f"the run in {self.path} has {json.dumps(then)}"
                    raise ValueError(f"--resume: {told} but {other}")
        write_json(file, config)

    def failed(self, hopeless: bool) -> bool:
        """Leave nothing that blocks the next run; whether there is a state to go on from.

        A run that is hopeless would fail again: its states go, its log stays to be looked at.
        """
        if self.resumed or (self.has_checkpoint and not hopeless):
            return self.has_checkpoint
        looked_at = hopeless and not (self.path / ASIDE).exists()
        self.restore(kept=(CONFIG, LOG) * looked_at)
        return False


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(exist_ok=True)
    for name in names:
        if (source / name).exists():
            os.replace(source / name, target / name)
