"""Tables: columns of numbers and words, with names or without; those of pandas too.

No row is dropped and none invented.  What could be read in two ways is refused, and the message
names the row of the file, as an editor or a spreadsheet counts it, and the column.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opflow.interface.extras import install
from opflow.machine.arrays import Array

#: what stands for a missing value
MISSING = {
    *("", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "NAN", "NULL", "null"),
    *("None", "none", "missing", "?"),
}
#: what an index without a name is called
UNNAMED = ("", "Unnamed: 0", "__index_level_0__")
#: what a person means as a number, whether or not it is one here
LIKE_A_NUMBER = re.compile(r"[-+]?[\d.,_']*\d[\d.,_']*([eE][-+]?\d+)?[%$€]?")
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
        title = f"column {column + 1}"
        if self.names and self.names[column]:
            title += f" ({self.names[column]})"
        return title

    def counts_rows(self) -> bool:
        """Whether the first column is no feature, but counts or names the rows."""
        first = self.columns[0]
        if first.dtype == object or len(self.columns) < 3:
            return False
        if self.names is None:
            return len(first) > 2 and (first == np.arange(len(first))).all()
        whole = len(np.unique(first)) == len(first) and (first == np.round(first)).all()
        return whole and self.names[0] in UNNAMED

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
        self, column: int, known: list[str] | None = None, encode: bool | None = None
    ) -> tuple[Array, list[str] | None]:
        """A column as float64 (N, 1), NaN where missing; of words (N, c), and the categories.

        These are `known` if a training set has words here, or found if `encode` allows it; None:
        a training set has numbers.
        """
        values = self.columns[column]
        if known is None and (values.dtype != object or {*values} <= {True, False, None}):
            return values.astype(np.float64)[:, None], None
        there = np.array([value is not None and value == value for value in values.tolist()])
        words = values[there].astype(str)
        if known is None:
            known = self._categories(column, words, int(there.argmax()), encode)
        elif values.dtype != object and len(words):
            held = f"{self.title(column)} holds numbers, where the training set has the categories"
            raise ValueError(f"{held} {some(known)}")
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

    def _categories(self, column: int, words: Array, row: int, encode: bool | None) -> list[str]:
        """The different words of a column; `row` has the first one."""
        if not encode:
            remedy = "; --encode onehot makes columns of 0 and 1 of the words"
            if encode is None:
                remedy = ", as the training set has here"
            where = self.place(row, column)
            raise ValueError(f"{where}: {str(words[0])!r:.40} is no number{remedy}")
        known = np.unique(words).tolist()
        if len(known) > max(FEW, len(words) / 2):
            raise ValueError(
                f"{self.title(column)} has {len(known):,} different words in "
                f"{len(words):,} rows, which are no categories"
            )
        return known


def some(names: Iterable[object]) -> str:
    """Names, or the first and the last of them."""
    words = [str(name) for name in names]
    if len(words) > FEW:
        words = [*words[: FEW - 1], "…", words[-1]]
    return ", ".join(words)


def typed(
    names: list[str] | None, columns: Sequence[Array | list[str]], rows: Sequence[int]
) -> Table:
    """A table of columns that are arrays, or cells of which numbers or words are to be made."""
    table = Table(names, [], rows)
    wrong = []
    for i, column in enumerate(columns):
        if isinstance(column, list):
            column, faults = _column(column)
            wrong += [(row, -i, reason) for row, reason in faults]
        table.columns.append(column)
    if wrong:  # the first row, and there the last column
        row, at, reason = min(wrong)
        raise ValueError(f"{table.place(row, -at)}: {reason}")
    return table


def is_number(cell: str) -> bool:
    return reads(cell) and "_" not in cell and math.isfinite(float(cell))


def reads(cell: str) -> bool:
    """Whether Python reads a number, NaN and infinity too."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(cells: list[str]) -> tuple[Array, list[tuple[int, str]]]:
    """The values of a column, and which cell does not fit and why, if one does not."""
    with contextlib.suppress(ValueError):
        values = np.array([*map(float, cells)])
        if np.isfinite(values).all() and "_" not in "".join(cells):
            return values, []
    there = [i for i, cell in enumerate(cells) if cell not in MISSING]
    words = [i for i in there if not is_number(cells[i])]
    if not words:
        return np.array([math.nan if c in MISSING else float(c) for c in cells]), []
    numbers = sorted({*there} - {*words})
    like = [i for i in words if reads(cells[i]) or LIKE_A_NUMBER.fullmatch(cells[i])]
    objects: list[Any] = [None if cell in MISSING else cell for cell in cells]
    if {cells[i].lower() for i in there} <= {"true", "false"}:
        objects = [value and value.lower() == "true" for value in objects]
    bad = []
    if like or (numbers and numbers[0] == there[0]):
        i = (like or words)[0]
        reason = "no number"
        if reads(cells[i]) and "_" not in cells[i]:
            reason = "not finite"
        bad = [(i, f"{cells[i]!r:.40} is {reason}")]
    elif numbers:
        i = numbers[0]
        bad = [(i, f"{cells[i]!r} is a number, but the cells above are words")]
    return np.array(objects, object), bad


def read_parquet(path: Path) -> Table:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{path} needs pandas and pyarrow: {install('tables')}") from error
    with open(path, "rb") as file:
        return of_frame(pandas.read_parquet(file))


def of_frame(frame: Any) -> Table:
    """The table that a pandas table is."""
    from pandas.api.types import is_float_dtype, is_integer_dtype

    if frame.empty:
        raise ValueError("it holds no rows")
    columns: list[Any] = []
    for i in range(frame.shape[1]):
        column = frame.iloc[:, i]
        values: Any = None
        if is_float_dtype(column) or is_integer_dtype(column):
            values = column.to_numpy(np.float64, na_value=math.nan)
        if values is None or np.isinf(values).any():  # as the cells of a text
            values = column.astype(object).where(column.notna(), "").map(str).tolist()
        columns.append(values)
    return typed([str(name) for name in frame.columns], columns, range(1, len(frame) + 1))
