"""Paths that a person wrote: with ``~``, or of a file that does not exist."""

from __future__ import annotations

import os
from pathlib import Path

from opflow.interface.words import near


def located(text: str | os.PathLike[str]) -> Path:
    """The path of a file or folder, of which ``~`` is the home folder."""
    return Path(os.path.expanduser(text))


def absent(path: Path) -> FileNotFoundError:
    """The error of a file or folder that does not exist; it names one whose name is nearly so."""
    there = [other.name for other in path.parent.glob("*")]
    return FileNotFoundError(f"{path} does not exist{near(path.name, ['digits', *there])}")
