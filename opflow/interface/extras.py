"""The command that installs a missing extra, for error messages."""

from __future__ import annotations

#: what pip is given: the folder of the sources until ``opflow-ntk`` is published, that name then
PACKAGE = "."


def install(extra: str) -> str:
    """The command that installs an extra.

    Examples
    --------
    >>> install("plot")
    "pip install '.[plot]'"
    """
    return f"pip install '{PACKAGE}[{extra}]'"
