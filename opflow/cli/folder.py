"""The folder of a run: what may be written there, what a failed run leaves, what goes on.

A run owns the names below and nothing else in its folder.  While it goes on there are its
configuration, its log and its checkpoints; the results come when it ends or is stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opflow.interface.words import near

CONFIG, LOG, CHECKPOINT, OLDER = "config.json", "log.jsonl", "checkpoint.npz", "checkpoint.npz.1"
SHARDS = "checkpoint.npz.shards"  #: a folder, of a run on many ranks
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
FILES = (CONFIG, LOG, CHECKPOINT, OLDER, SHARDS, *RESULTS)
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
#: where results wait for the others of them
UNFINISHED = ".unfinished"
#: where the files of an earlier run wait for the one that replaces it to succeed
ASIDE = ".replaced"


def located(text: str | os.PathLike[str]) -> Path:
    """The path of a file or folder, of which ``~`` is the home folder."""
    return Path(os.path.expanduser(text))


def absent(path: Path) -> FileNotFoundError:
    """The error of a file or folder that does not exist; it names one whose name is nearly so."""
    there = os.listdir(path.parent) if path.parent.is_dir() else []
    return FileNotFoundError(f"{path} does not exist{near(path.name, ['digits', *there])}")


def make_writable(path: Path) -> bool:
    """Make a folder and see that it can be written; whether it was not there before."""
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written: {error.strerror}") from error
    return made


def write_pictures(folder: Path, pictures: Mapping[str, Callable[[], Any]]) -> dict[str, str]:
    """Write pictures, each atomically; why others could not be, whose older ones are removed.

    Results must not depend on pictures: no error goes further but that there is no matplotlib.
    """
    failed = {}
    for name, draw in pictures.items():
        temporary = folder / f".{name}"
        try:
            draw().figure.savefig(temporary, format="png")
            os.replace(temporary, folder / name)
        except ImportError:
            raise
        except Exception as error:
            failed[name] = " ".join(str(error).split()) or type(error).__name__
            for left in (temporary, folder / name):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
    return failed


class ResultFolder:
    """A folder whose results come together at the end of a ``with`` block, or not at all.

    The block writes to `staging`; `names` is what an earlier analysis may have left in the folder.
    """

    def __init__(self, path: Path, names: Sequence[str], overwrite: bool) -> None:
        self.path, self.names, self.staging = path, names, path / UNFINISHED
        there = [name for name in names if (path / name).exists()]
        if there and not overwrite:
            raise ValueError(f"--out {path} already holds {', '.join(there)}; --overwrite replaces")
        self._made = make_writable(path)

    def __enter__(self) -> ResultFolder:
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            written = sorted(file.name for file in self.staging.iterdir())
            for name in written:
                os.replace(self.staging / name, self.path / name)
            for name in set(self.names) - set(written):
                (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.staging, ignore_errors=True)
        if self._made and not any(self.path.iterdir()):
            self.path.rmdir()


class RunFolder:
    """A folder that a run may write to; what it overwrites comes back if the run fails."""

    def __init__(self, path: Path, overwrite: bool, resume: bool) -> None:
        self.path, self._made = path, make_writable(path)
        self.checkpoint, self.log = path / CHECKPOINT, path / LOG
        self.resumed = resume and self.has_checkpoint
        # A configuration and a log alone are of a run that got nowhere: nothing is lost.
        there = [name for name in (CHECKPOINT, OLDER, *RESULTS) if (path / name).exists()]
        if there and not overwrite and not self.resumed:
            more = ", --resume goes on" * self.has_checkpoint
            held = ", ".join(there)
            raise ValueError(f"--out {path} already holds {held}; --overwrite replaces{more}")
        if overwrite:
            self._move(path, path / ASIDE)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state to go on from."""
        return any((self.path / name).exists() for name in (CHECKPOINT, OLDER))

    def configure(self, config: Mapping[str, Any], fixed: Mapping[str, str]) -> None:
        """Write the configuration, or compare it with that of the run that goes on.

        `fixed` are the entries in which the two must agree, and the options they come from.
        """
        file = self.path / CONFIG
        if self.resumed and file.exists():
            try:
                before = dict(json.loads(file.read_text(encoding="utf-8")))
            except ValueError as error:
                raise ValueError(f"{file} cannot be read: {error}") from error
            for name, option in fixed.items():
                if before.get(name) != config[name]:
                    now, then = (json.dumps(c.get(name)) for c in (config, before))
                    raise ValueError(
                        f"--resume: {option} is {now} but the run in {self.path} has {then}"
                    )
        self.write(CONFIG, json.dumps(config, indent=2) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write one file atomically."""
        temporary = self.path / f".{name}"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path / name)
        except OSError:  # a full disk: half a file is of no use
            temporary.unlink(missing_ok=True)
            raise

    def done(self) -> None:
        """The results are there: what they replace goes."""
        shutil.rmtree(self.path / ASIDE, ignore_errors=True)

    def failed(self, *, hopeless: bool) -> bool:
        """Leave nothing that blocks the next run; whether there is a state to go on from.

        A run that is hopeless would fail again: its states go, its log stays to be looked at.
        """
        if self.resumed or (self.has_checkpoint and not hopeless):
            return self.has_checkpoint
        replaces = (self.path / ASIDE).exists()
        kept = (CONFIG, LOG) if hopeless and not replaces else ()
        shutil.rmtree(self.path / SHARDS, ignore_errors=True)
        for name in FILES:
            if name not in kept:
                (self.path / name).unlink(missing_ok=True)
        self._move(self.path / ASIDE, self.path)
        if self._made and not any(self.path.iterdir()):
            self.path.rmdir()
        return False

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        if target.name == ASIDE:
            shutil.rmtree(target, ignore_errors=True)
        for file in [source / name for name in FILES if (source / name).exists()]:
            target.mkdir(exist_ok=True)
            os.replace(file, target / file.name)
        if source.name == ASIDE and source.exists():
            source.rmdir()
