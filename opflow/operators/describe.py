"""The expression tree of an operator, for people: text in a terminal, a table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

_PREFIXES = {1000: ["", *"kMGTPE"], 1024: ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]}


def human(number: float, unit: str, base: int = 1000) -> str:
    """A number with a prefix a person reads at a glance.

    Examples
    --------
    >>> human(64.2e9, "flop"), human(2048, "B", 1024)
    ('64.2 Gflop', '2 KiB')
    """
    prefix, *larger = _PREFIXES[base]
    while larger and not abs(number) < 999.5:
        prefix, *larger = larger
        number /= base
    return f"{number:.3g} {prefix}{unit}"


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


@runtime_checkable
class Node(Protocol):
    """What a description reads of an operator."""

    psd: bool
    symmetric: bool
    shape: tuple[int, int]
    dtype: np.dtype

    @property
    def symbol(self) -> str: ...
    @property
    def operands(self) -> Sequence[Node]: ...
    def cost(self, columns: int = 1) -> tuple[float, ...]: ...


class Description(str):
    """A description that prints as a tree and shows as a table in a notebook."""

    #: the depth of every operator in the tree, and its cells
    rows: list[tuple[int, list[str]]]

    def _repr_html_(self) -> str:
        titles = "".join(f"<th>{title}</th>" for title in TITLES)
        lines = [f"<table><tr>{titles}</tr>"]
        for depth, cells in self.rows:
            left = f"<td style='text-align:left;padding-left:{1 + 1.5 * depth}em'>"
            lines.append(f"<tr>{left}{'</td><td>'.join(map(html.escape, cells))}</td></tr>")
        return "".join(lines) + "</table>"

    def __repr__(self) -> str:
        return str(self)


TITLES = ("operator", "formula", "shape", "dtype", "tags", "flops", "bytes")


def tags(op: Node) -> str:
    """What is known of an operator, in a word."""
    if op.psd:
        return "psd"
    return "symmetric" * op.symmetric


def bracketed(op: Node) -> str:
    """The symbol of `op` where it has to be one thing."""
    return f"({op.symbol})" if " " in op.symbol else op.symbol


def describe(op: object) -> Description:
    """Show the expression tree of `op`, with the cost of one product at every node.

    Parameters
    ----------
    op : Operator

    Returns
    -------
    Description
        A string (one operator a line: class, formula, shape, dtype, tags, flops, bytes) that
        notebooks show as a table.

    See Also
    --------
    opflow.Operator.cost : Flops and bytes of one product.
    opflow.candidates : Ways to evaluate an operator and their times.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> print(of.describe(of.Gram(np.ones((4, 3))) + of.Identity(4)))
    Sum           M Mᵀ + I  4 × 4  float64  psd  48 flop  368 B
    ├─ Gram       M Mᵀ      4 × 4  float64  psd  48 flop  304 B
    │  └─ Matrix  M         4 × 3  float64       24 flop  152 B
    └─ Identity   I         4 × 4  float64  psd   0 flop   64 B
    """
    if not isinstance(op, Node):
        raise TypeError(f"describe expects an opflow operator, not {type(op).__name__}")
    rows: list[tuple[int, list[str]]] = []
    lines: list[list[str]] = []

    def walk(node: Node, lead: str, below: str, depth: int) -> None:
        cells = _cells(node)
        rows.append((depth, cells))
        lines.append([lead + cells[0], *cells[1:]])
        for i, child in enumerate(node.operands, 1):
            if i < len(node.operands):
                walk(child, below + "├─ ", below + "│  ", depth + 1)
            else:
                walk(child, below + "└─ ", below + "   ", depth + 1)

    walk(op, "", "", 0)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # text to the left, the two costs to the right
    shape = "  ".join(f"{{:{'<<<<<>>'[i]}{width}}}" for i, width in enumerate(widths))
    description = Description("\n".join(shape.format(*line).rstrip() for line in lines))
    description.rows = rows
    return description


def _cells(op: Node) -> list[str]:
    cost = op.cost()
    symbol = op.symbol if len(op.symbol) <= 48 else op.symbol[:45] + "..."
    return [
        type(op).__name__,
        symbol,
        " × ".join(f"{n:,}" for n in op.shape),
        str(op.dtype),
        tags(op),
        human(cost[0], "flop"),
        human(cost[1], "B", 1024),
    ]
