"""The log of a run: one line of JSON per record, complete while the run goes on."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from opflow.machine.files import FilePath

#: entries up to which an array is written out
LIMIT = 64


class Log:
    """Appends lines ``{"step": …, "time": …, "loss": …, name: …}`` to a file.

    An observation called "loss" replaces the run's own, and may be in other units.  NaN and
    infinity become null, arrays of more than 64 entries ``{"shape": […]}``, and other objects the
    name of their type.  Of a run that is `resumed` from a step, the lines of the file up to it
    stay; the others are dropped.
    """

    def __init__(self, path: FilePath, resumed: int | None = None) -> None:
        self.path = path
        self._warned = False
        # Unbuffered, in append mode: a line is in the file or not, whatever happens next.
        self._file = open(os.path.expanduser(path), "a+b", buffering=0)  # noqa: SIM115
        self._end = 0  # bytes of whole lines
        if resumed is not None:
            self._file.seek(0)
            for line in self._file:
                if not _is_before(line, resumed):
                    break
                self._end += len(line)
        if os.fstat(self._file.fileno()).st_size > self._end:  # never so of a terminal or a pipe
            self._file.truncate(self._end)

    def write(self, step: int, time: float, loss: float, observed: Mapping[str, Any]) -> None:
        """Append one line; if that fails, warn the first time, and go on."""
        fixed = {"step": step, "time": time}  # first in the line, whatever is observed
        line = json.dumps(_plain({**fixed, "loss": loss, **observed, **fixed}), allow_nan=False)
        data = f"{line}\n".encode()
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError("no space left for a line")
        except OSError as error:
            with suppress(OSError):  # no half a line before the next one
                self._file.truncate(self._end)
            if not self._warned:
                self._warned = True
                reason = error.strerror or error
                warnings.warn(
                    f"the log {self.path} cannot be written: {reason}; the run goes on",
                    RuntimeWarning,
                    stacklevel=2,
                )
        else:
            self._end += len(data)

    def close(self) -> None:
        """Close the file; every line is in it already."""
        self._file.close()


def _is_before(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):  # not a line of this class, or half of one
        return False


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays and their scalars, of the host or the device
        if value.size > LIMIT:
            return {"shape": list(value.shape)}
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > LIMIT:
            return {"shape": [len(value)]}
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int | float | str | None):
        return value
    return type(value).__name__
