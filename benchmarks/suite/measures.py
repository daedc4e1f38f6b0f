"""What the page says of cells: ratios, totals, exponents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

COUNTS = (1, 20, 200)
#: samples from which exponents are fitted: below, Python and the caches have their say
FROM = 10_000
Cells = dict[str, Any]
TASKS = {
    "products": "product with K, after set-up",
    "scaling": "product with K, after set-up",
    "steps": "step of gradient descent",
    "dense": "dense K",
    "module products": "PyTorch module: product with K",
    "module GGN": "PyTorch module: product with the GGN",
    "module kernels": "PyTorch module: dense K",
    "module spectra": "PyTorch module: spectrum",
}


def is_peer(name: str) -> bool:
    return not name.startswith("opflow") and name != "bare GEMMs"


def cells_of(cells: Cells, task: str, **wanted: Any) -> list[Any]:
    """The cells of a task with these dtype, threads, columns."""
    return [
        cell
        for cell in cells.values()
        if cell["task"] == task and all(cell[name] == value for name, value in wanted.items())
    ]


def best_peer(cell: Any) -> tuple[str, float] | None:
    """The fastest peer after set-up, and its seconds."""
    peers = {name: s for name, s in cell["median"].items() if is_peer(name)}
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def lead(cell: Any) -> float | None:
    """Seconds of the best peer over those of opflow: above 1, opflow is ahead."""
    best = best_peer(cell)
    return best[1] / cell["median"]["opflow"] if best else None


def against_gemms(cell: Any, name: str = "opflow") -> float | None:
    """Seconds of the bare GEMMs over those of a contender."""
    times = cell["median"]
    return times["bare GEMMs"] / times[name] if {"bare GEMMs", name} <= times.keys() else None


def total(cell: Any, name: str, count: int) -> float:
    """Seconds of set-up and `count` products, each measured on its own."""
    return cell["set_up"][name] + count * cell["median"][name]


def chosen(cell: Any, count: int) -> str:
    """The contender that the cost model chose."""
    how = cell["choice"][str(count)]
    return "opflow" if how == "factored" else f"opflow, {how}"


def choice_against_best(cell: Any, count: int) -> float | None:
    """Seconds of the way chosen over those of the fastest way measured."""
    name = chosen(cell, count)
    ways = [total(cell, n, count) for n in cell["median"] if n.startswith("opflow")]
    return total(cell, name, count) / min(ways) if name in cell["median"] else None


def best_peer_total(cell: Any, count: int) -> tuple[str, float] | None:
    peers = {name: total(cell, name, count) for name in cell["median"] if is_peer(name)}
    return min(peers.items(), key=lambda item: item[1]) if peers else None


def lead_in_all(cell: Any, count: int) -> float | None:
    """Seconds of set-up and products of the best peer over those of the way chosen."""
    best, name = best_peer_total(cell, count), chosen(cell, count)
    return best[1] / total(cell, name, count) if best and name in cell["median"] else None


def comparisons(results: dict[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """What is compared, where, with which fastest peer, and its time over opflow's."""
    modules = results.get("modules", {"cells": {}})["cells"]
    for cell in (*results["cells"].values(), *modules.values()):
        task = cell["task"]
        if "opflow" not in cell["median"]:
            continue
        if best := best_peer(cell):
            yield TASKS.get(task, task), _where(cell), best[0], best[1] / cell["median"]["opflow"]
        for count in COUNTS if task == "products" else ():
            best, ratio = best_peer_total(cell, count), lead_in_all(cell, count)
            if best and ratio:
                what = f"set-up and {count} product{'s' * (count > 1)} with K"
                yield what, _where(cell), best[0], ratio


def _where(cell: Any) -> str:
    if cell["task"].startswith("module"):
        return f"{cell['shape']}, {cell['dtype']}"
    vectors = "" if cell["columns"] == 1 else f", {cell['columns']} vectors"
    plural = "" if cell["threads"] == 1 else "s"
    return f"{cell['workload']}, {cell['dtype']}, {cell['threads']} thread{plural}{vectors}"


def series(cells: Cells, name: str) -> tuple[list[int], list[float]]:
    """Samples and seconds of a product, of one contender."""
    found = sorted(
        (cell["N"], cell["median"][name])
        for cell in cells_of(cells, "scaling")
        if name in cell["median"]
    )
    return [N for N, _ in found], [s for _, s in found]


def exponent(N: list[int], seconds: list[float]) -> float | None:
    """Of the power of N that fits the times from 10,000 samples on, by least squares."""
    points = [(n, s) for n, s in zip(N, seconds, strict=True) if n >= FROM]
    if len(points) < 2:
        return None
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def memory(cell: Any, name: str) -> float:
    """Bytes held at the peak beyond the process with its libraries and data."""
    return max(0.0, cell["peak"][name] - cell["resident"][name])
