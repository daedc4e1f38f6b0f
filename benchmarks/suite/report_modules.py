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
of all k outputs; that of the Gauss–Newton matrix (GGN) is of the cross-entropy.  A dense kernel and
a spectrum, the 20 largest eigenvalues, start from the module and its inputs.  torch jvp∘vjp is a
backward and a tangent pass of torch.func in row blocks; torch.func forms the Jacobians of all
samples and multiplies them.  neural-tangents takes structured derivatives of a twin in JAX, and its
compilation is in its set-up.  Peaks are those of the process beyond libraries and data.  Other work
ran on the machine, but for the ResNet's only round: trust ratios, not times.
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
    """What was asked of the ResNet: 1.5 times the peer's speed in 4 GiB."""
    cell = cells.get("products, ResNet-18")
    ratio = cell and m.lead(cell)
    if not cell or ratio is None:
        return
    peer = m.best_peer(cell)[0]  # type: ignore[index]
    peaks = {name: cell["peak"][name] / 2**30 for name in ("opflow", peer)}
    met = ratio >= 1.5 and peaks["opflow"] <= 4
    yield (f"\nOn the ResNet, of which not all factors fit, {peer} takes {short(ratio)} times as "
           f"long as opflow, whose process peaks at {short(peaks['opflow'])} GiB in all, that of "
           f"{peer} at {short(peaks[peer])} GiB.  The target, 1.5 times within 4 GiB, is "
           f"{'met' if met else '**not** met'}; set-up costs opflow "
           f"{short(cell['set_up']['opflow'] / cell['median']['opflow'])} products.")  # fmt: skip
