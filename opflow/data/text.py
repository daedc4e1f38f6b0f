"""Tables in text, CSV for one: how cells are separated, if there is a header, what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from opflow.data.tables import MISSING, Table, is_number, reads, typed

#: separators, the most telling first: a comma may be part of a number where there is another
SEPARATORS = "\t;|,"
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")


def read_text(path: Path) -> Table:
    """Read a table in UTF-8 text, also compressed (``.gz``) or from standard input (``-``).

    Cells are separated by commas, semicolons, tabs, bars or blanks.

    Blank lines and lines that begin with ``#`` are passed over.  The first row is a header if
    every cell has a letter and is neither a number nor a mark of a missing value; its first cell
    may be empty.  What mixes numbers and words, has rows of several lengths, or a first row that
    may be a header or a sample, is a ``ValueError``.  Commas are decimal where another mark
    separates the cells, no number has a point, and not all may be of thousands.
    """
    try:
        with _opened(path) as file:
            layout = _Layout.of(file)
            return _quick(file, layout) or _cells(file, layout)
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"its quotes or separators are wrong: {error}") from error


def _opened(path: Path) -> IO[str]:
    if str(path) == "-":
        return io.StringIO(sys.stdin.read().removeprefix("\ufeff"))
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


class _Layout(NamedTuple):
    """How a text is read: lines before the samples, the first row and its line, the header."""

    separator: str
    skipped: int = 0
    top: int = 0
    head: list[str] = []  # noqa: RUF012
    names: list[str] | None = None

    def rows(self, file: IO[str]) -> Iterator[tuple[int, list[str]]]:
        """The rows from the beginning of the file, with their numbers."""
        file.seek(0)
        # blanks around a line mean nothing, tabs may be empty cells; a comment is a blank line
        reader = csv.reader(
            (re.sub(r"^\s*#.*", "", line).strip(" ") for line in file),
            delimiter=self.separator,
            skipinitialspace=True,
            strict=True,
        )
        return ((reader.line_num, [c.strip() for c in cells]) for cells in reader if cells)

    @classmethod
    def of(cls, file: IO[str]) -> _Layout:
        """The layout that the first two rows of a text show."""
        marked = ((i, re.sub(r'"[^"]*"', "x", line.strip(" \r\n"))) for i, line in enumerate(file))
        full = ((i, line) for i, line in marked if line and not line.lstrip().startswith("#"))
        first = [*itertools.islice(full, 2)]
        if not first:
            raise ValueError("it holds no rows")
        before, line = first[0]
        separator = next((mark for mark in SEPARATORS if mark in line), ",")
        same = len({len(line.split()) for _, line in first}) == 1
        if separator not in line and " " in line and same:
            separator = " "
        top, head = next(cls(separator).rows(file))
        counted = [str(i) for i in range(len(head))]
        if len(head) > 1 and (head == counted or (head[1:] == counted[:-1] and not head[0])):
            raise ValueError(
                f"row {top} counts the columns, 0 to {head[-1]}: remove it if it is a header, "
                "write it with decimal points if it is a sample"
            )
        if _is_header(head):
            return cls(separator, top, top, head, head)
        return cls(separator, before, top, head)


def _quick(file: IO[str], layout: _Layout) -> Table | None:
    """A table of numbers alone, by pandas; None in any doubt, or without pandas."""
    try:
        import pandas
    except ImportError:
        return None
    exact = {}
    if pandas.__version__.startswith("2."):
        exact["float_precision"] = "round_trip"
    file.seek(0)
    try:
        frame = pandas.read_csv(
            file,
            sep=layout.separator,
            header=None,
            skipinitialspace=True,
            skiprows=layout.skipped,
            low_memory=False,
            **exact,
        )
    except ValueError:  # the slow way says what is wrong, and where
        return None
    if len(layout.head) != frame.shape[1] or not {t.kind for t in frame.dtypes} <= {"i", "f"}:
        return None
    values = frame.to_numpy(np.float64)
    if not values.size or not np.isfinite(values).all():
        return None
    return Table(layout.names, [*values.T], range(1, len(values) + 1))


def _cells(file: IO[str], layout: _Layout) -> Table:
    """A table of any text, cell by cell."""
    found = []
    for row, cells in layout.rows(file):
        if len(cells) != len(layout.head):
            raise ValueError(
                f"row {row} has {len(cells)} cells, row {layout.top} has {len(layout.head)}"
            )
        found.append((row, cells))
    header = layout.names is not None
    numbers, rows = zip(*found, strict=True)
    if len(rows) == header:
        raise ValueError("it holds a header and no rows")
    columns = [list(column) for column in zip(*rows[header:], strict=True)]
    if layout.separator != ",":
        columns = _with_points(columns)
    table = typed(layout.names, columns, numbers[header:])
    # a header names words that are not among them; a sample repeats one
    words = [
        (head, values.tolist())
        for head, values in zip(rows[0], table.columns, strict=True)
        if values.dtype == object
    ]
    again = [head for head, values in words if head and head in values[not header :]]
    unsure = again
    also = "a"
    if not header:
        unsure = [head for head, _ in words if not again]
        also = "no"
    if unsure and len(rows) > 1:
        cell = f"its cell {unsure[0]!r} is in {also} row below"
        raise ValueError(f"row {layout.top} may be a header or a sample: {cell}")
    return table


def _with_points(columns: list[list[str]]) -> list[list[str]]:
    """Cells with decimal points for decimal commas, if these can be nothing else."""
    commas = [c for column in columns for c in column if DECIMAL_COMMA.fullmatch(c)]
    pointed = any("." in c and is_number(c) for column in columns for c in column)
    if pointed or all(THOUSANDS.fullmatch(c) for c in commas):
        return columns
    for column in columns:
        for i, cell in enumerate(column):
            if DECIMAL_COMMA.fullmatch(cell):
                column[i] = cell.replace(",", ".")
    return columns


def _is_header(cells: list[str]) -> bool:
    named = [
        any(letter.isalpha() for letter in cell) and cell not in MISSING and not reads(cell)
        for cell in cells
    ]
    return all(named[1:]) and (named[0] or (cells[0] == "" and len(cells) > 1))
