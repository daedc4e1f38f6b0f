"""The expression tree of an operator, for people: text in a terminal, a table in a notebook."""

from __future__ import annotations

import html
from typing import Any

from opflow.operators.operator import Operator

_PREFIXES = {
    1000: ("", "k", "M", "G", "T", "P", "E"),
    1024: ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"),
}


def human(number: float, unit: str, base: int = 1000) -> str:
    """A number with a prefix a person reads at a glance.

    Examples
    --------
    >>> human(64.2e9, "flop"), human(2048, "B", 1024)
    ('64.2 Gflop', '2 KiB')
    """
    prefixes = _PREFIXES[base]
    for prefix in prefixes:
        if abs(number) < 999.5 or prefix == prefixes[-1]:
            return f"{number:.3g} {prefix}{unit}"
        number /= base
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Examples
    --------
    >>> duration(276480), duration(5400), duration(0.0021)
    ('3.2 days', '1.5 h', '0.0021 s')
    """
    sizes = {"years": 31557600, "days": 86400, "h": 3600, "min": 60, "s": 1}
    unit = next((unit for unit, size in sizes.items() if seconds >= size), "s")
    number = seconds / sizes[unit]
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.2g} {unit}"


def superscript(number: int) -> str:
    """The number of a layer, as it stands in a symbol: W³."""
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def subscript(number: int) -> str:
    """The number of a sample, as it stands in a symbol: D₁₂."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


class Description(str):
    """A description that prints as a tree and shows as a table in a notebook."""

    rows: list[tuple[int, Operator]]

    def _repr_html_(self) -> str:
        cells = "".join(
            "<tr>"
            + f"<td style='text-align:left;padding-left:{1 + 1.5 * depth}em'>"
            + "</td><td>".join(html.escape(text) for text in _columns(op))
            + "</td></tr>"
            for depth, op in self.rows
        )
        titles = "".join(f"<th>{t}</th>" for t in _TITLES)
        return f"<table><tr>{titles}</tr>{cells}</table>"

    def __repr__(self) -> str:
        return str(self)


_TITLES = ("operator", "formula", "shape", "dtype", "tags", "flops", "bytes")


def _columns(op: Operator) -> tuple[str, ...]:
    cost = op.cost()
    tags = "psd" if op.psd else "symmetric" if op.symmetric else ""
    symbol = op.symbol if len(op.symbol) <= 48 else op.symbol[:45] + "..."
    return (
        type(op).__name__,
        symbol,
        " × ".join(f"{n:,}" for n in op.shape),
        str(op.dtype),
        tags,
        human(cost.flops, "flop"),
        human(cost.bytes, "B", 1024),
    )


def describe(op: Any) -> Description:
    """The expression tree of `op`, with the cost of one product at every node.

    Parameters
    ----------
    op : Operator

    Returns
    -------
    Description
        A string (one operator a line: class, formula, shape, dtype, tags, flops, bytes) that
        notebooks show as a table.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> print(of.describe(of.Gram(np.ones((4, 3))) + of.Identity(4)))
    Sum           M Mᵀ + I  4 × 4  float64  psd  48 flop  368 B
    ├─ Gram       M Mᵀ      4 × 4  float64  psd  48 flop  304 B
    │  └─ Matrix  M         4 × 3  float64       24 flop  152 B
    └─ Identity   I         4 × 4  float64  psd   0 flop   64 B
    """
    if not isinstance(op, Operator):
        raise TypeError(f"describe expects an opflow operator, not {type(op).__name__}")
    lines: list[tuple[str, Operator]] = []
    rows: list[tuple[int, Operator]] = []

    def walk(node: Operator, lead: str, branch: str, depth: int) -> None:
        lines.append((lead + branch, node))
        rows.append((depth, node))
        below = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        for i, child in enumerate(node.operands):
            walk(child, below, "└─ " if i == len(node.operands) - 1 else "├─ ", depth + 1)

    walk(op, "", "", 0)
    table = [(lead + (cells := _columns(node))[0], *cells[1:]) for lead, node in lines]
    widths = [max(len(row[i]) for row in table) for i in range(len(_TITLES))]
    right = (5, 6)
    text = "\n".join(
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
    description = Description(text)
    description.rows = rows
    return description
