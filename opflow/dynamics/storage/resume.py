"""``resume=`` checked: the state that a run goes on from, and what saves the next ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from opflow.dynamics.storage.checkpoint import Checkpoint, Saver, exists, load
from opflow.machine.arrays import Array
from opflow.machine.files import FilePath
from opflow.machine.ranks import RowDistribution


def resumed(
    checkpoint: Checkpoint | FilePath | None,
    resume: bool | FilePath | None,
    identity: Callable[[], dict[str, str]],
    space: RowDistribution,
) -> tuple[Saver | None, dict[str, Array], dict[str, Any]]:
    """What saves the run, and the arrays and the metadata of its state, if it goes on from one.

    `checkpoint` and `resume` are those of :func:`opflow.train`.
    """
    source: FilePath | None = None
    if isinstance(resume, str | os.PathLike):
        source = resume
        if not os.fspath(source):
            raise ValueError("resume must be True, False or the path of a state, not an empty text")
    elif not isinstance(resume, bool | np.bool_ | None):
        raise TypeError(f"resume must be True, False or the path of a state, not {resume!r}")
    if checkpoint is None and source is None:
        if resume:
            raise ValueError("resume=True needs checkpoint= to say which run goes on")
        return None, {}, {}
    if not isinstance(checkpoint, Checkpoint | None):
        checkpoint = Checkpoint(checkpoint)
    known = identity()
    if checkpoint is not None and source is None and space.agreed(exists(checkpoint.path)):
        if not resume:
            raise ValueError(
                f"{checkpoint.path} holds a run already: resume=True goes on from it; remove it, "
                "or give another path, to begin anew"
            )
        source = checkpoint.path
    arrays: dict[str, Array] = {}
    meta: dict[str, Any] = {}
    if source is not None:
        arrays, meta = space.together(partial(load, source, known, space))
    if checkpoint is None:
        return None, arrays, meta
    saver = Saver(checkpoint, known, meta.get("number", 0), space)
    space.together(saver.prepare)
    return saver, arrays, meta
