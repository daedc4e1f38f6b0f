"""The pictures of the page: leads over the best peer, shares of the GEMMs, cost against N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import measures as m


def draw(cells: m.Cells, folder: Path) -> list[Path]:
    """All that the cells suffice for, as PNG files; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    single = m.cells_of(cells, "products", columns=1) or m.cells_of(cells, "products")
    made = {}
    if single:
        made["ratio"] = _bars(
            single, m.lead, "best peer / opflow", "One product after set-up: above 1, opflow leads"
        )
        made["share"] = _bars(
            single, m.against_gemms, "bare GEMMs / opflow", "Against the two GEMMs per layer"
        )
    if m.cells_of(cells, "scaling"):
        made["scaling"] = _scaling(cells)
    paths = []
    for name, figure in made.items():
        paths.append(folder / f"benchmarks_{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _bars(cells: list[Any], value: Any, label: str, title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.add_subplot()
    kinds = sorted({(cell["dtype"], cell["threads"]) for cell in cells})
    names = sorted({cell["workload"] for cell in cells})
    width = 0.8 / len(kinds)
    for i, (dtype, threads) in enumerate(kinds):
        found = {
            c["workload"]: value(c) for c in cells if (c["dtype"], c["threads"]) == (dtype, threads)
        }
        at = [j for j, name in enumerate(names) if found.get(name) is not None]
        bars = ax.bar(
            [j + (i - (len(kinds) - 1) / 2) * width for j in at],
            [found[names[j]] - 1 for j in at],
            width,
            bottom=1,
            label=f"{dtype}, {threads} thread{'' if threads == 1 else 's'}",
        )
        ax.bar_label(bars, [f"{found[names[j]]:.2f}" for j in at], fontsize=7, padding=1)
    ax.axhline(1, color="black", lw=0.8)
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names)
    ax.set(ylabel=label, title=title)
    ax.margins(y=0.15)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.legend(fontsize=7)
    return figure


def _scaling(cells: m.Cells) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    time, held = figure.subplots(1, 2)
    found = sorted(m.cells_of(cells, "scaling"), key=lambda cell: cell["N"])
    for name in dict.fromkeys(name for cell in found for name in cell["median"]):
        N, seconds = m.series(cells, name)
        fit = m.exponent(N, seconds)
        label = name if fit is None else f"{name}, N to the {fit:.2f}"
        (line,) = time.loglog(N, seconds, "o", label=label)
        if fit is not None:
            late = np.array([n for n in N if n >= m.FROM], dtype=float)
            logs = np.log([s for n, s in zip(N, seconds, strict=True) if n >= m.FROM])
            level = np.exp(np.mean(logs - fit * np.log(late)))
            time.loglog(late, level * late**fit, color=line.get_color(), lw=1)
        bytes_held = [m.memory(cell, name) / 2**20 for cell in found if name in cell["median"]]
        held.loglog(N, np.maximum(bytes_held, 0.1), "o-", lw=1, label=name)
    time.set(xlabel="N", ylabel="seconds of one product", title="Time, and its fit")
    held.set(xlabel="N", ylabel="MiB", title="Peak beyond libraries and data")
    time.legend(fontsize=8)
    held.legend(fontsize=8)
    return figure
