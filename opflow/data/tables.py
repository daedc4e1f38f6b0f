"""Tables: columns of numbers and words, with names or without, from text or parquet.

No row is dropped and none invented.  What could be read in two ways is refused, and what is
refused is told by the row of the file, as an editor or a spreadsheet counts it, and the column.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from opflow.interface.extras import install

#: what stands for a missing value
MISSING = {
    *("", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "NULL", "null"),
    *("None", "none", "missing", "?"),
}
#: separators, the most telling first: a comma may be part of a number where there is another
SEPARATORS = "\t;|,"
#: what an index without a name is called
UNNAMED = ("", "Unnamed: 0", "__index_level_0__")
#: what a person means as a number, whether or not it is one here
LIKE_A_NUMBER = re.compile(r"[-+]?[\d.,_']*\d[\d.,_']*([eE][-+]?\d+)?[%$€]?")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
#: different words that are categories however few rows there are, and names told in a message
FEW = 20


class Table(NamedTuple):
    """Columns of equal length."""

    #: of the columns, if the file has them
    names: list[str] | None
    #: float64 with NaN for what is missing, or objects: words or booleans, and None
    columns: list[Any]
    #: which row of the file each is, as a person counts them
    rows: Any

    def place(self, row: int, column: int) -> str:
        """Where a cell is in the file."""
        return f"row {self.rows[row]}, {self.title(column)}"

    def title(self, column: int) -> str:
        """What a column is called in a message."""
        name = self.names[column] if self.names else ""
        return f"column {column + 1}" + (f" ({name})" if name else "")

    def row_names(self) -> int | None:
        """The column that is no feature but counts or names the rows: the first one, or none."""
        first = self.columns[0]
        if first.dtype == object or len(self.columns) < 3:
            return None
        if self.names is None:
            return 0 if len(first) > 2 and (first == np.arange(len(first))).all() else None
        different = len(np.unique(first)) == len(first) and (first == np.round(first)).all()
        return 0 if different and self.names[0] in UNNAMED else None

    def find(self, wanted: str) -> int:
        """The column of a name, or of an index as Python counts."""
        names = self.names or []
        width = len(self.columns)
        if names.count(wanted) == 1:
            return names.index(wanted)
        if wanted in names:
            raise ValueError(f"{wanted!r} is the name of several columns: give the index of one")
        if re.fullmatch(r"-?\d+", wanted) and -width <= int(wanted) < width:
            return int(wanted) % width
        raise ValueError(
            f"there is no column {wanted!r}: the columns are {some([*names, f'0 to {width - 1}'])}"
        )

    def numbers(
        self, column: int, known: Any = None, encode: bool | None = None
    ) -> tuple[Any, Any]:
        """A column as float64 (N, 1), NaN where missing; of words (N, c), and the categories.

        These are `known` if a training set has words here, or found if `encode` allows it; None:
        a training set has numbers.
        """
        values = self.columns[column]
        if known is None and (values.dtype != object or {*values} <= {True, False, None}):
            return values.astype(np.float64)[:, None], None
        there = np.array([value is not None and value == value for value in values.tolist()])
        words = values[there].astype(str)
        if values.dtype != object and len(words):
            raise ValueError(
                f"{self.title(column)} holds numbers, where the training set has the "
                f"categories {some(known)}"
            )
        if known is None and not encode:
            where = self.place(int(there.argmax()), column)
            remedy = "; --encode onehot makes columns of 0 and 1 of the words"
            if encode is None:
                remedy = ", as the training set has here"
            raise ValueError(f"{where}: {str(words[0])!r:.40} is no number{remedy}")
        if known is None:
            known = np.unique(words).tolist()
            if len(known) > max(FEW, len(words) / 2):
                raise ValueError(
                    f"{self.title(column)} has {len(known):,} different words in "
                    f"{len(words):,} rows, which are no categories"
                )
        block = np.array(values[:, None].astype(str) == np.array(known), dtype=np.float64)
        strange = there & ~block.any(axis=1)
        if strange.any():
            row = int(strange.argmax())
            raise ValueError(
                f"{self.place(row, column)}: {str(values[row])!r:.40} is none of the "
                f"categories of the training set: {some(known)}"
            )
        block[~there] = np.nan
        return block, known


def some(names: Any) -> str:
    """Names, or the first and the last of them."""
    names = [str(name) for name in names]
    return ", ".join(names if len(names) <= FEW else [*names[: FEW - 1], "…", names[-1]])


def read_table(path: Path) -> Table:
    """Read a table: ``.parquet``, or text in UTF-8, also compressed (``.gz``) or stdin (``-``).

    Cells of a text are separated by commas, semicolons, tabs, bars or blanks.

    Blank lines and lines that begin with ``#`` are passed over.  The first row is a header if
    every cell has a letter and is neither a number nor a mark of a missing value; its first cell
    may be empty.  What mixes numbers and words, has rows of several lengths, or a first row that
    may be a header or a sample, is a ``ValueError``.  Commas are decimal where another mark
    separates the cells, no number has a point, and not all may be of thousands.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    piped = sys.stdin.read().removeprefix("\ufeff") if str(path) == "-" else None

    def text() -> IO[str]:
        if piped is not None:
            return io.StringIO(piped)
        opened = gzip.open if path.suffix.lower() == ".gz" else open
        return opened(path, "rt", encoding="utf-8-sig")

    try:
        with text() as file:
            layout = _Layout.of(file)
        with text() as file:
            columns = _quick(file, layout)
        if columns is not None:
            return Table(layout.names, columns, range(1, len(columns[0]) + 1))
        with text() as file:
            return _cells(file, layout)
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"its quotes or separators are wrong: {error}") from error


class _Layout(NamedTuple):
    """How a text is read: its first row, the lines before it and with it, and whether it names."""

    separator: str
    before: int = 0
    top: int = 0
    head: list[str] = []  # noqa: RUF012
    names: list[str] | None = None

    def rows(self, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """The rows, with their numbers."""
        lines = ("\n" if line.lstrip().startswith("#") else line for line in file)
        # blanks around a line mean nothing, tabs may be empty cells
        reader = csv.reader(
            (line.strip(" ") for line in lines),
            delimiter=self.separator,
            skipinitialspace=True,
            strict=True,
        )
        return ((reader.line_num, [c.strip() for c in cells]) for cells in reader if cells)

    @classmethod
    def of(cls, file: IO[str]) -> _Layout:
        marked = ((i, re.sub(r'"[^"]*"', "x", line.strip(" \r\n"))) for i, line in enumerate(file))
        full = ((i, line) for i, line in marked if line and not line.lstrip().startswith("#"))
        first = [*itertools.islice(full, 2)]
        if not first:
            raise ValueError("it holds no rows")
        blanks = " " in first[0][1] and len({len(line.split()) for _, line in first}) == 1
        found = (mark for mark in SEPARATORS if mark in first[0][1])
        separator = next(found, " " if blanks else ",")
        file.seek(0)
        top, head = next(cls(separator).rows(file))
        counted = [str(i) for i in range(len(head))]
        if len(head) > 1 and (head == counted or (head[1:] == counted[:-1] and not head[0])):
            raise ValueError(
                f"row {top} counts the columns, 0 to {head[-1]}: remove it if it is a header, "
                "write it with decimal points if it is a sample"
            )
        return cls(separator, first[0][0], top, head, head if _is_header(head) else None)


def _quick(file: IO[str], layout: _Layout) -> list[Any] | None:
    """The columns of a text of numbers alone, by pandas; None in any doubt, or without pandas."""
    try:
        import pandas
    except ImportError:
        return None
    exact = {"float_precision": "round_trip"} if pandas.__version__.startswith("2.") else {}
    try:
        frame = pandas.read_csv(
            file,
            sep=layout.separator,
            header=None,
            skipinitialspace=True,
            skiprows=layout.top if layout.names else layout.before,
            low_memory=False,
            **exact,
        )
    except ValueError:  # the slow way says what is wrong, and where
        return None
    if len(layout.head) != frame.shape[1] or not {t.kind for t in frame.dtypes} <= {"i", "f"}:
        return None
    values = frame.to_numpy(np.float64)
    return [*values.T] if values.size and np.isfinite(values).all() else None


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
    table = _typed(layout.names, columns, numbers[header:])
    words = [
        (head, values.tolist())
        for head, values in zip(rows[0], table.columns, strict=True)
        if values.dtype == object
    ]
    again = [head for head, values in words if head and head in values[not header :]]
    if (again if header else words and not again) and len(rows) > 1:
        cell = again[0] if header else words[0][0]
        also = "a" if header else "no"
        raise ValueError(
            f"row {layout.top} may be a header or a sample: its cell {cell!r} is in "
            f"{also} row below"
        )
    return table


def _typed(names: list[str] | None, columns: list[Any], rows: Any) -> Table:
    """A table of columns that are arrays, or cells of which numbers or words are to be made."""
    typed = [(c, None) if isinstance(c, np.ndarray) else _column(c) for c in columns]
    table = Table(names, [values for values, _ in typed], rows)
    wrong = [(bad[0], -i, bad[1]) for i, (_, bad) in enumerate(typed) if bad]
    for row, column, reason in sorted(wrong)[:1]:
        raise ValueError(f"{table.place(row, -column)}: {reason}")
    return table


def _with_points(columns: list[list[str]]) -> list[list[str]]:
    """Cells with decimal points for decimal commas, if these can be nothing else."""
    commas = [c for column in columns for c in column if DECIMAL_COMMA.fullmatch(c)]
    pointed = any("." in c and _is_number(c) for column in columns for c in column)
    if pointed or all(THOUSANDS.fullmatch(c) for c in commas):
        return columns
    return [
        [c.replace(",", ".") if DECIMAL_COMMA.fullmatch(c) else c for c in column]
        for column in columns
    ]


def _is_header(cells: list[str]) -> bool:
    named = [
        any(letter.isalpha() for letter in cell) and cell not in MISSING and not _reads(cell)
        for cell in cells
    ]
    return all(named[1:]) and (named[0] or (cells[0] == "" and len(cells) > 1))


def _is_number(cell: str) -> bool:
    return _reads(cell) and "_" not in cell and math.isfinite(float(cell))


def _reads(cell: str) -> bool:
    """Whether Python reads a number, NaN and infinity too."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(cells: list[str]) -> tuple[Any, tuple[int, str] | None]:
    """The values of a column, and which cell does not fit, and why, if one does not."""
    with contextlib.suppress(ValueError):
        values = np.array([*map(float, cells)])
        if np.isfinite(values).all() and "_" not in "".join(cells):
            return values, None
    there = [i for i, cell in enumerate(cells) if cell not in MISSING]
    words = [i for i in there if not _is_number(cells[i])]
    if not words:
        return np.array([math.nan if c in MISSING else float(c) for c in cells]), None
    numbers = sorted({*there} - {*words})
    like = [i for i in words if _reads(cells[i]) or LIKE_A_NUMBER.fullmatch(cells[i])]
    bad = None
    if like or (numbers and numbers[0] == there[0]):
        i = (like or words)[0]
        finite = "_" in cells[i] or not _reads(cells[i])
        bad = i, f"{cells[i]!r:.40} is " + ("no number" if finite else "not finite")
    elif numbers:
        bad = numbers[0], f"{cells[numbers[0]]!r} is a number, but the cells above are words"
    objects: list[Any] = [None if cell in MISSING else cell for cell in cells]
    if {cells[i].lower() for i in there} <= {"true", "false"}:
        objects = [value and value.lower() == "true" for value in objects]
    return np.array(objects, object), bad


def _parquet(path: Path) -> Table:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} needs pandas and pyarrow: {install('tables')}") from error
    with open(path, "rb") as file:
        frame = pandas.read_parquet(file)
    return of_frame(frame)


def of_frame(frame: Any) -> Table:
    """The table that a pandas table is."""
    from pandas.api.types import is_float_dtype, is_integer_dtype

    if frame.empty:
        raise ValueError("it holds no rows")
    columns: list[Any] = []
    for i in range(frame.shape[1]):
        column = frame.iloc[:, i]
        if is_float_dtype(column) or is_integer_dtype(column):
            values = column.to_numpy(np.float64, na_value=math.nan)
            columns.append([*map(str, values)] if np.isinf(values).any() else values)
        else:  # as the cells of a text
            columns.append(column.astype(object).where(column.notna(), "").map(str).tolist())
    return _typed([str(name) for name in frame.columns], columns, range(1, len(frame) + 1))
