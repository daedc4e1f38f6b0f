"""CSV files: rows of numbers, below a line of names or not.  No row is dropped and none invented.

What could be read in two ways is refused, and what is refused is told by the row of the file, as
an editor or a spreadsheet counts it, and the column.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: what stands for a missing value, beside an empty cell
MISSING = {
    *("NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "NULL", "null"),
    *("None", "none", "missing", "?"),
}
#: separators, the most telling first: a comma may be part of a number where there is another
SEPARATORS = "\t;,"


class Table(NamedTuple):
    """A CSV file.

    Attributes
    ----------
    names : list of str or None
        Of the columns, if the file has a header.
    numbers : array (N, c), float64
    last : array (N,) or None
        The last column, where it may be words: float64, int64 if all are written as integers, or
        text.  It is not among `numbers` then.
    """

    names: list[str] | None
    numbers: Any
    last: Any = None


def read_csv(path: Path, words: bool = False) -> Table:
    """Read a file of cells separated by commas, semicolons or tabs, in UTF-8.

    Parameters
    ----------
    path : Path
    words : bool
        Whether the last column may hold words, and comes by itself.

    Raises
    ------
    ValueError
        For a cell that is no finite number, a row of another length, or a first row that may be a
        header or a sample.

    Notes
    -----
    Blank lines and lines that begin with ``#`` are passed over.  The first row is a header if
    every cell has a letter and is neither a number nor a mark of a missing value; its first cell
    may be empty.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            return _parse(file, words)
        except UnicodeDecodeError as error:
            raise ValueError("it is not text in UTF-8") from error
        except csv.Error as error:
            raise ValueError(f"its quotes or separators are wrong: {error}") from error


def _parse(file: Iterable[str], words: bool) -> Table:
    lines = ("\n" if line.lstrip().startswith("#") else line for line in file)
    for before, first in enumerate(lines):  # noqa: B007
        if first.strip(" \n"):
            break
    else:
        raise ValueError("it holds no rows")
    reader = csv.reader(
        itertools.chain([first], (line.strip(" ") for line in lines)),
        delimiter=_separator(first),
        skipinitialspace=True,
        strict=True,
    )
    rows = ((before + reader.line_num, [c.strip() for c in cells]) for cells in reader if cells)
    top, head = next(rows)
    width = len(head)
    names = head if _is_header(head) else None
    if width > 1 and head == [str(i) for i in range(width)]:
        raise ValueError(
            f"row {top} counts the columns, 0 to {width - 1}: remove it if it is a header, "
            "write it with decimal points if it is a sample"
        )

    def place(row: int, column: int) -> str:
        return f"row {row}, column {column + 1}" + (f" ({names[column]})" if names else "")

    numbers = array("d")
    last: list[str] = []
    count = 0
    for row, cells in rows if names else itertools.chain([(top, head)], rows):
        if len(cells) != width:
            raise ValueError(f"row {row} has {len(cells)} cells, row {top} has {width}")
        if words:
            *cells, target = cells
            if problem := _problem(target, last):
                raise ValueError(f"{place(row, width - 1)}: {problem}")
            last.append(target)
        try:
            numbers.extend(map(_number, cells))
        except ValueError:
            column, cell = next((i, c) for i, c in enumerate(cells) if not _is_number(c))
            raise ValueError(f"{place(row, column)}: {_reason(cell)}") from None
        count += 1
    if not count:
        raise ValueError("it holds a header and no rows")
    if names and last and names[-1] in last:
        raise ValueError(
            f"row {top} may be a header or a sample: its last cell, {names[-1]!r}, is a target too"
        )
    values = np.array(numbers).reshape(count, width - words)
    return Table(names, values, _column(last) if words else None)


def _separator(line: str) -> str:
    bare = re.sub(r'"[^"]*"', "", line)
    return next((mark for mark in SEPARATORS if mark in bare), ",")


def _is_header(cells: list[str]) -> bool:
    named = [
        any(letter.isalpha() for letter in cell) and cell not in MISSING and not _reads(cell)
        for cell in cells
    ]
    return all(named[1:]) and (named[0] or (cells[0] == "" and len(cells) > 1))


def _number(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value) or "_" in cell:
        raise ValueError
    return value


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _reads(cell: str) -> bool:
    """Whether Python reads a number, NaN and infinity too."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _reason(cell: str) -> str:
    if not cell:
        return "the cell is empty"
    return f"{cell!r} is " + ("not finite" if _reads(cell) and "_" not in cell else "no number")


def _problem(target: str, above: list[str]) -> str:
    """What is wrong with a target, which must be a number or a word as those above it are."""
    if _is_number(target):
        if above and not _is_number(above[0]):
            return f"{target!r} is a number, but the targets above are words"
        return ""
    if target in MISSING or not target or _reads(target) or (above and _is_number(above[0])):
        return _reason(target)
    return ""


def _column(cells: list[str]) -> Any:
    if not _is_number(cells[0]):
        return np.array(cells)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", cell) for cell in cells):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    return np.array([float(cell) for cell in cells])
