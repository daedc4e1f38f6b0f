"""The page of the results: tables in Markdown, from the JSON file and nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.suite import measures as m

HEAD = """# Benchmarks

*Written by `python -m benchmarks.suite --report` from `benchmarks/results.json`.*

Products with the tangent kernel, training steps and dense kernels, timed in opflow and in the
libraries that compute the same: torch.func, JAX, neural-tangents, curvlinops and NNGeometry.
"""
METHOD = """## How the times were measured

All contenders do the same work on the same data, each in a process of its own.  Results are first
compared with opflow's, to {f32:g} relative in float32 and {f64:g} in float64; a contender that
differs is not timed.  In float32, samples with a field within rounding of zero are resampled, so
that all libraries see the same activation pattern.  Rounds alternate between contenders, each
after a pause of {pause:.0f} ms, because idle BLAS threads spin and would take a core from the next
contender.  Times are medians.  Set-up is timed apart, the second time, so that compilation does not
count; a total is set-up plus so many times a product.  Weights, gates and linear maps are cached
wherever a library can cache them.  The *bare GEMMs* are the two matrix products per layer of a
factored product, on preallocated arrays, and nothing else.

Ratios are a contender's time over opflow's: below 1, in bold, opflow is slower.
"""


def page(results: dict[str, Any], gpu: dict[str, Any] | None = None) -> str:
    """The whole page; `gpu` are the results of ``.ci/gpu``."""
    from benchmarks.suite.report_gpu import section as gpu_section
    from benchmarks.suite.run import TOLERANCE
    from benchmarks.suite.worker import PAUSE

    cells = results["cells"]
    if not cells:
        return HEAD + "\nNothing has been measured yet.\n"
    method = METHOD.format(f32=TOLERANCE["float32"], f64=TOLERANCE["float64"], pause=1e3 * PAUSE)
    parts = [HEAD, "\n".join(_in_short(results)), method, "\n".join(_about(results))]
    sections = (_products, _steps, _dense, _scaling, _start, _not_timed)
    parts += ["\n".join(lines) for section in sections if (lines := list(section(cells)))]
    if "modules" in results:
        from benchmarks.suite.report_modules import section

        parts.append("\n".join(section(results["modules"])))
    parts.append("\n".join(gpu_section(gpu)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def publish(results: dict[str, Any], path: Path, gpu: dict[str, Any] | None = None) -> None:
    """Write the page, and beside it ``figures/``; show the run on a GPU in ``devices.md`` there."""
    from benchmarks.suite.report_gpu import shown

    path.write_text(page(results, gpu))
    devices = path.with_name("devices.md")
    if devices.exists():
        devices.write_text(shown(devices.read_text(), gpu))
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


def _in_short(results: dict[str, Any]) -> Iterator[str]:
    """The range of the ratios, task by task, and every comparison that opflow loses."""
    found = list(m.comparisons(results))
    yield "## Where a peer is faster\n"
    lost = [(what, cell, peer, verdict(ratio)) for what, cell, peer, ratio in found if ratio < 1]
    yield f"opflow is slower than the fastest peer in {len(lost)} of {len(found)} comparisons.\n"
    yield from table(("", "", "fastest peer", "peer / opflow"), lost)
    yield "\n## All comparisons\n"
    groups: dict[str, list[float]] = {}
    for what, *_, ratio in found:
        groups.setdefault(what, []).append(ratio)
    rows = [(what, str(len(r)), verdict(min(r)), short(statistics.median(r)), short(max(r)))
            for what, r in groups.items()]  # fmt: skip
    yield from table(("fastest peer / opflow", "comparisons", "least", "median", "largest"), rows)


def _products(cells: m.Cells) -> Iterator[str]:
    found = sorted(m.cells_of(cells, "products"), key=_order)
    if not found:
        return
    yield "## Products with K"
    yield "\n![Best peer over opflow](figures/benchmarks_ratio.png)"
    yield "\n![Share of the speed of bare GEMMs](figures/benchmarks_share.png)"
    for (columns, dtype, threads), group in groupby(found, key=_kind):
        block = list(group)
        yield f"\n### {_vectors(columns)}, {dtype}, {_threads(threads)}\n"
        yield "`K @ r`, after set-up:\n"
        yield from table(
            ("", "bare GEMMs, ms", "opflow, ms", "GEMMs / opflow", "best peer", "ms",
             "best peer / opflow"), map(_product_row, block)
        )  # fmt: skip
        yield "\nAll contenders, in multiples of opflow's time:\n"
        yield from _multiples(block)
        yield "\nSet-up and 1, 20 and 200 products, in the form that the cost model chose:\n"
        yield from table(
            ("", "products", "form chosen", "opflow, ms", "chosen / fastest form", "best peer",
             "ms", "best peer / opflow"), (row for cell in block for row in _total_rows(cell))
        )  # fmt: skip


def _product_row(cell: Any) -> tuple[str, ...]:
    times, best = cell["median"], m.best_peer(cell)
    gemms = times.get("bare GEMMs")
    return (cell["workload"], ms(gemms), ms(times["opflow"]), verdict(m.against_gemms(cell)),
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
    yield "## Full-batch steps of gradient descent"
    yield "\nOne step of `of.train`, on the route that it plans, with its loss, after set-up."
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
    yield "## The dense kernel"
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
    yield "## Cost against N"
    yield "\n![Cost against N](figures/benchmarks_scaling.png)"
    yield (f"\nOne product, d = {first['d']}, widths {first['widths']}, {first['dtype']}, "
           f"{_threads(first['threads'])}.  Memory is the peak beyond libraries and data; one "
           "field of all samples holds N times the width numbers.\n")  # fmt: skip
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
    fitted = [f"{name} {fit:.3f}" for name, fit in fits.items() if fit is not None]
    yield f"\nFitted exponents from N = {m.FROM:,} on: {', '.join(fitted) or 'too few points'}."


def _start(cells: m.Cells) -> Iterator[str]:
    for cell in m.cells_of(cells, "start"):
        yield "## Import and first product"
        yield (f"\nFresh processes; {cell['shape']}.  The first product includes set-up and "
               "compilation.  opflow imports PyLops, which imports torch and JAX where they are "
               "installed.\n")  # fmt: skip
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
    return f"**{short(ratio)}**" if ratio is not None and ratio < 1 else short(ratio)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _vectors(count: int) -> str:
    return "One vector" if count == 1 else f"{count} vectors"
