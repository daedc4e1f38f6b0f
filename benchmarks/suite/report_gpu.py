"""What the pages say of a run of ``.ci/gpu``: in the benchmarks, and in ``devices.md``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.suite import measures as m
from benchmarks.suite.report import ms, table, verdict

#: between these, ``docs/devices.md`` shows the run
START, END = "<!-- gpu -->", "<!-- /gpu -->"
TASKS = {
    "products": "Products with K",
    "steps": "Steps of gradient descent",
    "dense": "The dense kernel",
    "eigenpairs": "The eight largest eigenpairs, from the network and the data",
}


def load(path: Path) -> Any:
    """The results of a GPU; None if there are none, or only a rehearsal's."""
    gpu = json.loads(path.read_text()) if path.exists() else None
    return None if gpu is None or gpu["rehearsal"] else gpu


def section(gpu: Any) -> Iterator[str]:
    """Of the benchmarks."""
    yield "## On a GPU\n"
    if gpu is None:
        yield "Not yet run on a GPU."
        return
    yield (f"Measured {gpu['date']} by `.ci/gpu` on {_device(gpu)}, {_versions(gpu)}.  Data and "
           "results stay on the GPU; times are between CUDA events, in JAX the host's until the "
           "result is there.  TF32 is off.  Memory is the peak beyond the data that the library's "
           "memory pool held, in MiB.")  # fmt: skip
    for task, title in TASKS.items():
        for dtype in ("float32", "float64"):
            found = [cell for cell in m.cells_of(gpu["cells"], task, dtype=dtype) if cell["median"]]
            if not found:
                continue
            found.sort(key=lambda cell: ("×" in cell["workload"], cell["workload"]))
            names = list(dict.fromkeys(name for cell in found for name in cell["median"]))
            yield f"\n### {title} on a GPU, {dtype}\n"
            yield from table(
                ("", *(f"{name}, {unit}" for name in names for unit in ("ms", "MiB")),
                 "best peer / opflow"), (_row(cell, names) for cell in found)
            )  # fmt: skip
    skipped = sorted({(name, reason) for cell in gpu["cells"].values()
                      for name, reason in cell["skipped"].items()})  # fmt: skip
    if skipped:
        yield "\n### Not timed on a GPU\n"
        yield from (f"- {name}: {reason}" for name, reason in skipped)


def _row(cell: Any, names: list[str]) -> tuple[str, ...]:
    row = [f"{cell['workload']}, N = {cell['N']:,}"]
    for name in names:
        peak = cell["peak"].get(name)
        row += [ms(cell["median"].get(name)), "–" if peak is None else f"{peak / 2**20:,.0f}"]
    return (*row, verdict(m.lead(cell) if "opflow" in cell["median"] else None))


def block(gpu: Any) -> str:
    """The part of ``docs/devices.md`` between its marks."""
    if gpu is None:
        return "Not yet run on a GPU."
    lines = [f"Run {gpu['date']} on {_device(gpu)}, {_versions(gpu)}:", ""]
    for name, counts in gpu.get("tests", {}).items():
        what = "the device suite" if name == "device_suite" else "tests marked `gpu`"
        if "skip" in counts:
            lines.append(f"- {what}: {counts['skip']}.")
            continue
        bad = counts["failures"] + counts["errors"]
        passed = counts["tests"] - bad - counts["skipped"]
        lines.append(f"- {what}: {passed} passed, {bad} failed, {counts['skipped']} skipped.")
        lines += [f"  - failed: `{test}`" for test in counts["failed"]]
    streamed = gpu["streamed"]
    if "skip" in streamed:
        lines.append(f"- streaming: {streamed['skip']}.")
    else:
        times = {key: streamed[key] for key in ("on device", "bus", "to page-locked")}
        lines.append(
            f"- A step on a streamed X of {streamed['bytes'] / 2**20:,.0f} MiB takes "
            f"{ms(streamed['streamed'])} ms with a memory pool of at most "
            f"{streamed['limit'] / 2**20:,.0f} MiB. The step on an X on the device takes "
            f"{ms(times['on device'])} ms, copying X to page-locked memory "
            f"{ms(times['to page-locked'])} ms, and moving it to the device {ms(times['bus'])} ms: "
            f"the streamed step takes {streamed['streamed'] / max(times.values()):.2f} times the "
            f"slowest of the three and {streamed['streamed'] / sum(times.values()):.2f} times "
            "their sum."
        )
    return "\n".join([*lines, "- Times: [benchmarks](benchmarks.md#on-a-gpu)."])


def shown(page: str, gpu: Any) -> str:
    """``docs/devices.md`` with the part that shows the run."""
    before, rest = page.split(START)
    return f"{before}{START}\n{block(gpu)}\n{END}{rest.split(END)[1]}"


def _device(gpu: Any) -> str:
    device = gpu["libraries"]["opflow"]
    if "skip" in device:
        return "a GPU that CuPy did not open"
    return f"{device['name']} with {device['memory'] / 2**30:.0f} GiB, CUDA {device['runtime']}"


def _versions(gpu: Any) -> str:
    names = {"opflow": "CuPy"}
    return ", ".join(f"{names.get(name, name)} {about['version']}"
                     for name, about in gpu["libraries"].items() if "version" in about)  # fmt: skip
