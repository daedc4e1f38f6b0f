"""The page of the results: tables in Markdown, from the JSON file and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.suite import measures as m
from benchmarks.suite.targets import targets

HEAD = """# Benchmarks

*Written by `python -m benchmarks.suite --report` from `benchmarks/results.json`; not to be edited.*

opflow and the peers that are installed do the same work on the same data, each in a process of
its own.  Results are compared first, with opflow's: to {f32:g} relative in float32, where samples
with a field within rounding of zero were resampled, so that all have the same gates, and to
{f64:g} in float64; what differs is not timed.  Rounds alternate between contenders, each after a
pause of {pause:.0f} ms, since idle threads of BLAS spin and would take a core from what follows.
Times are medians.  Set-up is timed apart, the second time, so that compilation is not counted
against anyone; totals are set-up and so many times a product.  Weights, gates and linear maps are
cached wherever a library can.  The *bare GEMMs* are the two matrix products a layer that a
factored product takes, on preallocated arrays, and nothing else.
"""
WORDS = {
    "products": "## Products with K",
    "steps": "## Full-batch steps of gradient descent",
    "dense": "## The dense kernel",
    "scaling": "## Cost against N",
    "start": "## Import and first product",
}


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    from benchmarks.suite.run import TOLERANCE
    from benchmarks.suite.worker import PAUSE

    head = HEAD.format(f32=TOLERANCE["float32"], f64=TOLERANCE["float64"], pause=1e3 * PAUSE)
    cells = results["cells"]
    if not cells:
        return head + "\nNothing has been measured yet.\n"
    parts = [head, "\n".join(_about(results)), "\n".join(_reached(cells))]
    sections = (_products, _steps, _dense, _scaling, _start, _not_timed)
    parts += ["\n".join(lines) for section in sections if (lines := list(section(cells)))]
    if "modules" in results:
        from benchmarks.suite.report_modules import section

        parts.append("\n".join(section(results["modules"])))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def publish(results: dict[str, Any], path: Path) -> None:
    """Write the page, and beside it ``figures/``."""
    path.write_text(page(results))
    if results["cells"]:
        from benchmarks.suite.figures import draw

        draw(results["cells"], path.parent / "figures")


def measured(results: dict[str, Any]) -> str:
    machine, dates = results["machine"], sorted({c["date"] for c in results["cells"].values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (f"Measured {when} on {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory']} GiB, {machine['system']}; gate products by "
            f"{machine['gate products']}.  {versions}.")  # fmt: skip


def _about(results: dict[str, Any]) -> Iterator[str]:
    yield measured(results)
    yield ""
    shapes = {c["workload"]: c["shape"] for c in results["cells"].values()
              if c["task"] in ("products", "steps")}  # fmt: skip
    yield from table(("workload", ""), sorted(shapes.items()))


def _reached(cells: m.Cells) -> Iterator[str]:
    found = targets(cells)
    missed = [target for target in found if not target.reached]
    yield "## Targets and results"
    yield ""
    met = len(found) - len(missed)
    yield f"{met} of {len(found)} targets are met; those that are not come first."
    yield ""
    rows = [
        (target.what, target.asked, short(target.measured), "yes" if target.reached else "**no**")
        for target in (*missed, *(target for target in found if target.reached))
    ]
    yield from table(("", "target", "measured", "met"), rows)


def _products(cells: m.Cells) -> Iterator[str]:
    found = sorted(m.cells_of(cells, "products"), key=_order)
    if not found:
        return
    yield WORDS["products"]
    yield "\n![Best peer over opflow](figures/benchmarks_ratio.png)"
    yield "\n![Share of the speed of bare GEMMs](figures/benchmarks_share.png)"
    for (columns, dtype, threads), group in groupby(found, key=_kind):
        block = list(group)
        yield f"\n### {_vectors(columns)}, {dtype}, {_threads(threads)}\n"
        yield "After set-up; the call is `K @ r`.\n"
        yield from table(
            ("", "bare GEMMs, ms", "opflow, ms", "GEMMs / opflow", "best peer", "ms",
             "best peer / opflow"), map(_product_row, block)
        )  # fmt: skip
        yield "\nAll contenders, in multiples of opflow's time:\n"
        yield from _multiples(block)
        yield "\nSet-up and 1, 20 and 200 products, by the way that the cost model chose:\n"
        yield from table(
            ("", "products", "way chosen", "opflow, ms", "chosen / fastest way", "best peer", "ms",
             "best peer / opflow"), (row for cell in block for row in _total_rows(cell))
        )  # fmt: skip


def _product_row(cell: Any) -> tuple[str, ...]:
    times, best = cell["median"], m.best_peer(cell)
    gemms = times.get("bare GEMMs")
    return (cell["workload"], ms(gemms), ms(times["opflow"]), short(m.against_gemms(cell)),
            best[0] if best else "–", ms(best and best[1]), verdict(m.lead(cell)))  # fmt: skip


def _total_rows(cell: Any) -> Iterator[tuple[str, ...]]:
    for count in m.COUNTS:
        name, best = m.chosen(cell, count), m.best_peer_total(cell, count)
        ours = m.total(cell, name, count) if name in cell["median"] else None
        yield (cell["workload"], str(count), cell["choice"][str(count)], ms(ours),
               short(m.choice_against_best(cell, count)), best[0] if best else "–",
               ms(best and best[1]), verdict(m.lead_in_all(cell, count)))  # fmt: skip


def _multiples(block: list[Any]) -> Iterator[str]:
    names = list(dict.fromkeys(name for cell in block for name in cell["median"]))
    rows = (
        (name, *(short(c["median"][name] / c["median"]["opflow"]) if name in c["median"] else "–"
                 for c in block))
        for name in names
    )  # fmt: skip
    yield from table(("", *(cell["workload"] for cell in block)), rows)


def _steps(cells: m.Cells) -> Iterator[str]:
    found = sorted(m.cells_of(cells, "steps"), key=_order)
    if not found:
        return
    yield WORDS["steps"]
    yield "\nA step of `train`, by the route it plans, with its loss; set-up is not counted."
    for (_, dtype, threads), group in groupby(found, key=_kind):
        yield f"\n### {dtype}, {_threads(threads)}\n"
        block = list(group)
        peers = list(dict.fromkeys(n for c in block for n in c["median"] if m.is_peer(n)))
        rows = [
            (c["workload"], *(ms(c["median"].get(name)) for name in ("opflow", *peers)),
             verdict(m.lead(c))) for c in block
        ]  # fmt: skip
        yield from table(
            ("", *(f"{name}, ms" for name in ("opflow", *peers)), "best peer / opflow"), rows
        )


def _dense(cells: m.Cells) -> Iterator[str]:
    found = sorted(m.cells_of(cells, "dense"), key=lambda cell: cell["N"])
    if not found:
        return
    yield WORDS["dense"]
    yield "\nFrom the network and the data to the N × N matrix.\n"
    rows = [
        (cell["shape"], name, ms(seconds), short(seconds / cell["median"]["opflow"]),
         f"{m.memory(cell, name) / 2**20:,.0f}", str(len(cell["times"][name])))
        for cell in found for name, seconds in cell["median"].items()
    ]  # fmt: skip
    yield from table(("", "", "ms", "× opflow", "peak beyond libraries and data, MiB", "rounds"),
                      rows)  # fmt: skip


def _scaling(cells: m.Cells) -> Iterator[str]:
    found = sorted(m.cells_of(cells, "scaling"), key=lambda cell: cell["N"])
    if not found:
        return
    first = found[0]
    yield WORDS["scaling"]
    yield "\n![Cost against N](figures/benchmarks_scaling.png)"
    yield (f"\nOne product, d = {first['d']}, widths {first['widths']}, {first['dtype']}, "
           f"{_threads(first['threads'])}.  Memory is the peak beyond libraries and data; a field "
           "of all samples is N times the width.\n")  # fmt: skip
    names = list(dict.fromkeys(name for cell in found for name in cell["median"]))
    head = [f"{name}, {unit}" for name in names for unit in ("ms", "MiB")]
    rows = []
    for cell in found:
        row = [f"{cell['N']:,}"]
        for name in names:
            held = f"{m.memory(cell, name) / 2**20:,.0f}" if name in cell["median"] else "–"
            row += [ms(cell["median"].get(name)), held]
        rows.append(tuple(row))
    yield from table(("N", *head), rows)
    fits = {name: m.exponent(*m.series(cells, name)) for name in names}
    told = [f"{name} {fit:.3f}" for name, fit in fits.items() if fit is not None]
    yield f"\nFitted exponents from N = {m.FROM:,} on: {', '.join(told) or 'too few points'}."


def _start(cells: m.Cells) -> Iterator[str]:
    for cell in m.cells_of(cells, "start"):
        yield WORDS["start"]
        yield (f"\nFresh processes; {cell['shape']}.  The first product counts set-up and "
               "compilation.  PyLops, which opflow is built on, imports torch and JAX where they "
               "are installed.\n")  # fmt: skip
        rows = [(name, ms(seconds)) for name, seconds in cell["median"].items()]
        yield from table(("", "ms"), rows)


def _not_timed(cells: m.Cells) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for key, cell in sorted(cells.items()):
        for name, reason in cell["skipped"].items():
            reasons.setdefault((name, reason), []).append(key)
    if not reasons:
        return
    yield "## Not timed\n"
    for (name, reason), keys in sorted(reasons.items()):
        where = ", ".join(f"`{key}`" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        yield f"- {name}: {reason} ({where}{more})"


# -- cells of tables --------------------------------------------------------------------------


def _kind(cell: Any) -> tuple[Any, ...]:
    return cell["columns"], cell["dtype"], cell["threads"]


def _order(cell: Any) -> tuple[Any, ...]:
    return (*_kind(cell), cell["workload"])


def table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{short(1e3 * seconds)}"


def short(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def verdict(ratio: float | None) -> str:
    return f"**{short(ratio)}, slower**" if ratio is not None and ratio < 1 else short(ratio)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _vectors(count: int) -> str:
    return "One vector" if count == 1 else f"{count} vectors"
