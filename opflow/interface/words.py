"""Words of messages: ``did you mean …?`` after a misspelled one, numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: object, words: Iterable[object]) -> str:
    """``"; did you mean …?"`` if one of the words is like it.

    Examples
    --------
    >>> near("--stpes", ["--step", "--steps", "--seed"])
    '; did you mean --steps?'
    """
    found = difflib.get_close_matches(str(word), map(str, words), 1)
    return f"; did you mean {found[0]}?" if found else ""


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'s' * bool(number != 1)}"  # NumPy's booleans repeat no text
