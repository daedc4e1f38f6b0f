"""What the library set out to reach, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.suite.measures import (
    COUNTS,
    Cells,
    against_gemms,
    cells_of,
    choice_against_best,
    exponent,
    lead,
    lead_in_all,
    memory,
    series,
)

GEMMS = {"W1": 1.8, "W2": 1.8, "W3": 0.95, "W4": 0.95, "W5": 0.9}
PEERS = {"W1": 1.8, "W2": 1.8, "W3": 1.3, "W4": 1.3, "W5": 1.3}
MANY = {"W1": 5.0, "W3": 2.0, "W4": 2.0}
CHOICE, SLOWER, THIRD = 1.25, 1.1, 0.333


class Target(NamedTuple):
    """A figure and the interval it should be in."""

    what: str
    least: float
    most: float
    measured: float

    @property
    def reached(self) -> bool:
        return self.least <= self.measured <= self.most

    @property
    def asked(self) -> str:
        if self.most == float("inf"):
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if self.least == 0 else f"{self.least:g} to {self.most:g}"


def targets(cells: Cells) -> list[Target]:
    """Those of which something was measured."""
    return [
        Target(what, least, most, measured)
        for what, least, most, measured in _all(cells)
        if measured is not None
    ]


def _all(cells: Cells) -> Iterator[tuple[str, float, float, float | None]]:
    infinite = float("inf")
    products = sorted(
        cells_of(cells, "products"),
        key=lambda c: (c["columns"], c["dtype"], c["threads"], c["workload"]),
    )
    for cell in products:
        name, where = cell["workload"], _where(cell)
        if cell["columns"] == 1:
            if cell["dtype"] == "float32" and name in GEMMS:
                yield f"{where}: bare GEMMs / opflow", GEMMS[name], infinite, against_gemms(cell)
            least = PEERS.get(name, 1.0) if cell["dtype"] == "float32" else 1.0
            yield f"{where}: best peer / opflow", least, infinite, lead(cell)
        if name in MANY and cell["dtype"] == "float32":
            count = 200 if cell["columns"] == 1 else 1
            what = f"{where}, {count} in all: best peer / opflow"
            yield what, MANY[name], infinite, lead_in_all(cell, count)
    for cell in products:
        found = [choice_against_best(cell, count) for count in COUNTS]
        worst = None if None in found else max(found)  # type: ignore[type-var]
        yield f"{_where(cell)}: way chosen / fastest way", 0.0, CHOICE, worst
    for cell in cells_of(cells, "dense"):
        times = cell["median"]
        for peer, least in (("neural-tangents", 2.0), ("torch.func", 300.0)):
            if peer in times:
                what = f"dense K, N = {cell['N']:,}: {peer} / opflow"
                yield what, least, infinite, times[peer] / times["opflow"]
                what = f"dense K, N = {cell['N']:,}: memory of opflow / {peer}"
                yield what, 0.0, THIRD, memory(cell, "opflow") / memory(cell, peer)
    yield "cost against N: exponent", 0.95, 1.05, exponent(*series(cells, "opflow"))
    for cell in cells_of(cells, "steps"):
        least = 100.0 if cell["workload"] == "wide" else 1.0
        if cell["workload"] != "tall":
            yield f"step, {_where(cell)}: best peer / opflow", least, infinite, lead(cell)
    for cell in cells_of(cells, "start"):
        times = cell["median"]
        for what, ours, theirs in (
            ("import opflow / import pylops", "import opflow", "import pylops"),
            ("first product / the same through BLAS", "first product, opflow",
             "first product, opflow, BLAS"),
        ):  # fmt: skip
            if {ours, theirs} <= times.keys():
                yield what, 0.0, SLOWER, times[ours] / times[theirs]


def _where(cell: Any) -> str:
    vectors = "" if cell["columns"] == 1 else f", {cell['columns']} vectors"
    plural = "" if cell["threads"] == 1 else "s"
    return f"{cell['workload']}, {cell['dtype']}, {cell['threads']} thread{plural}{vectors}"
