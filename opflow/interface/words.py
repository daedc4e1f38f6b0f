"""Suggestions for a misspelled word: ``did you mean …?``."""

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
