"""The section of the page on PyTorch modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.suite import measures as m
from benchmarks.suite.report import measured, ms, short, table, verdict

MODULES = """## Kernels of PyTorch modules

*Measured by `python -m benchmarks.torch_kernels`.*

{about}

Results are compared and rounds alternate as above; two threads.  A product is `K @ r` after set-up,
with all k outputs.  The product with the Gauss–Newton matrix (GGN) is that of the cross-entropy.
Dense kernels and spectra (the 20 largest eigenvalues) start from the module and its inputs.
`torch jvp∘vjp` is a backward and a tangent pass of torch.func in row blocks; `torch.func` forms the
Jacobians of all samples and multiplies them.  neural-tangents takes structured derivatives of the
same network written in JAX; its set-up includes compilation.  Peaks are those of the process beyond
libraries and data.  Other work ran on the machine, except during the ResNet's only round: compare
ratios, not times.
"""


def section(results: dict[str, Any]) -> Iterator[str]:
    cells = results["cells"]
    yield MODULES.format(about=measured(results))
    rows = [
        (what.split(",")[0], cell["shape"], cell["dtype"], name, ms(cell["set_up"][name]),
         ms(seconds), verdict(seconds / cell["median"]["opflow"]),
         f"{m.memory(cell, name) / 2**20:,.0f}", f"{cell['error'][name]:.0e}",
         str(len(cell["times"][name])))
        for what, cell in sorted(cells.items()) for name, seconds in cell["median"].items()
    ]  # fmt: skip
    yield from table(("", "", "dtype", "", "set-up, ms", "ms", "× opflow", "peak, MiB",
                       "differs by", "rounds"), rows)  # fmt: skip
    yield from _resnet(cells)
    for what, cell in sorted(cells.items()):
        for name, reason in cell["skipped"].items():
            yield f"\nNot timed: {name} in {what}: {reason}."


def _resnet(cells: m.Cells) -> Iterator[str]:
    """The largest module, in words."""
    cell = cells.get("products, ResNet-18")
    if not cell or not (best := m.best_peer(cell)):
        return
    peaks = {name: short(cell["peak"][name] / 2**30) for name in ("opflow", best[0])}
    yield (f"\nOnly part of the ResNet's factors fits in memory.  {best[0]} takes "
           f"{short(m.lead(cell))} times as long as opflow; set-up costs opflow "
           f"{short(cell['set_up']['opflow'] / cell['median']['opflow'])} products.  opflow's "
           f"process peaks at {peaks['opflow']} GiB in all, that of {best[0]} at "
           f"{peaks[best[0]]} GiB.")  # fmt: skip
