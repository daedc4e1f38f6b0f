"""The table and the pictures of ``opflow spectrum``, from what its analysis found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from opflow import plot
from opflow.cli.clock import used
from opflow.cli.folder import Arrays, Numbers
from opflow.cli.run_report import Pictures
from opflow.machine.arrays import Array
from opflow.machine.files import under
from opflow.plot.kernel import show_means
from opflow.spectral import Density, Estimate

#: the label of each number of a kernel, in the order of the table
NAMES = {
    "norm": "‖K‖",
    "trace": "tr K",
    "frobenius_norm": "‖K‖_F",
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
}


def table(s: Numbers) -> str:
    """The numbers for people, a column per moment."""
    moments = list(s["moments"].values())
    widths = "-".join(map(str, [*s["widths"], s["outputs"]]))
    lines = [f"{'network':24}{widths}, {s['dtype']}", f"{'samples':24}{s['samples']:,}"]
    if s.get("target"):
        lines.append(f"{'target':24}{s['target']}")

    def row(name: str, cells: Iterable[str]) -> None:
        text = "".join(f"{cell:34}" for cell in cells).rstrip()
        if text:
            lines.append(f"{name:24}{text}")

    def known(name: str, key: str, cell: Callable[[Numbers], str]) -> None:
        """A row of the moments that have a number of that key."""
        row(name, (cell(m) if key in m else "" for m in moments))

    if len(moments) > 1:
        row("", s["moments"])
    known("λ_max(K)", "eigenvalues", lambda m: f"{m['eigenvalues'][0]:.5g}")
    if s["step"] is not None:
        row("2/step", [f"{2 / s['step']:.5g}"] * len(moments))
    for name, label in NAMES.items():
        row(label, (_bars(m.get(name)) for m in moments))
    order = s["samples"] * s["outputs"]
    known("zero eigenvalues", "null", lambda m: _zeros(m["null"], order, m["probes"]))
    known("power law", "power_law", _law)
    none = [None] * len(s["widths"])
    alignments = [m.get("alignment", none) for m in moments]
    row("alignment of K with y", (_bars(found[0]) for found in alignments))
    for i in range(len(s["widths"]) - 1):
        row(
            f"layer {i + 1}: share of tr K",
            (f"{100 * m['layer_shares'][i]:.3g} %" for m in moments),
        )
        row("   alignment with y", (_bars(found[i + 1]) for found in alignments))
    known("‖r‖² in the top modes", "residual_in_top", _within)
    known("‖K u − λ u‖ at most", "largest_residual", _pairs)
    drift = s.get("drift", {})
    row("‖K(t) − K(0)‖/‖K(0)‖", [_bars(drift.get("kernel_distance"))])
    row("alignment K(t), K(0)", [_bars(drift.get("kernel_alignment"))])
    if "largest_angle" in drift:
        lines.append(
            f"{'eigenvectors turned by':24}{drift['median_angle']:.3g}° (median), "
            f"{drift['largest_angle']:.3g}° (largest principal angle)"
        )
    for when, m in s["moments"].items():
        for name, why in m["skipped"].items():
            label = f"{NAMES.get(name, name.replace('_', ' '))}, {when}"
            lines.append(f"{label:23} not computed: {why}")
    lines += [f"{'note':24}{note}" for note in s["notes"]]
    if "seconds" in s:
        lines.append(f"{'time, memory':24}{used(s)}")
    return "\n".join(lines)


def _bars(value: Numbers | None) -> str:
    """A number, with its interval if it is not exact."""
    if value is None or value["value"] is None:
        return ""
    text = f"{value['value']:.5g}"
    ends = ["∞" if end is None else f"{end:.5g}" for end in (value["low"], value["high"])]
    if value["how"] == "exact" or {text} == set(ends):
        return text
    return f"{text} [{', '.join(ends)}]"


def _zeros(null: Numbers, order: int, probes: int) -> str:
    """How many eigenvalues are zero, if that is known to one in twenty of all."""
    if null["how"] == "exact":
        return _bars(null)
    if null["high"] - null["low"] <= order / 20:
        return f"{_bars(null)}, {probes} probes"
    return f"open ({probes} probes): more --steps"


def _law(moment: Numbers) -> str:
    if moment["power_law"] is None:
        return ""
    exponent, _, first, last, r2 = moment["power_law"]
    return f"rank^{exponent:.2f}, {first} to {last}, R² {r2:.3f}"


def _within(moment: Numbers) -> str:
    return f"{100 * moment['residual_in_top']:.3g} % in {len(moment['eigenvalues'])}"


def _pairs(moment: Numbers) -> str:
    state = "NOT CONVERGED, " * (not moment["converged"])
    return f"{moment['largest_residual']:.1e} ({state}{moment['products']:,} products)"


def pictures(arrays: Arrays, outputs: int) -> Pictures:
    """What draws the pictures that the arrays give, by file name."""

    def every(name: str) -> Arrays:
        """The arrays of that name by moment."""
        end = f"_{name}"
        return {key.removesuffix(end): a for key, a in arrays.items() if key.endswith(end)}

    found: Pictures = {"layer_shares.png": partial(plot.layer_shares, every("layer_shares"))}
    if values := every("eigenvalues"):
        found["eigenvalues.png"] = partial(plot.eigenvalues, values, fit="auto")
        found["projections.png"] = partial(plot.projections, every("projections"))
        last = list(every("mode_shares").values())[-1]
        found["mode_shares.png"] = partial(plot.mode_shares, last)
    if densities := {when: Saved(arrays, when) for when in every("grid")}:
        shown: Any = densities
        if len(densities) == 1:
            (shown,) = densities.values()
        found["density.png"] = partial(plot.density, shown)
        found["cumulative.png"] = partial(plot.density, shown, cumulative=True)
    if "heat_map" in arrays:
        labels = arrays.get("heat_map_labels")
        words = "samples, clustered"
        if labels is not None:
            words = "samples, class by class"
        means = (arrays["heat_map"], len(arrays["heat_map_order"]), words)
        found["heat_map.png"] = partial(show_means, *means, labels=labels, outputs=outputs)
    return found


def saved(folder: Path) -> Pictures:
    """The pictures of the spectrum in a folder, if there is one."""
    if not (folder / "spectrum.npz").exists():
        return {}
    try:
        with np.load(folder / "spectrum.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        outputs = int(json.loads((folder / "spectrum.json").read_text("utf-8"))["outputs"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder}: the spectrum cannot be read: {error}") from error
    return pictures(arrays, outputs)


class Saved(Density):
    """A density on the grid that it was kept on, the only one that it knows."""

    log = True

    def __init__(self, arrays: Arrays, when: str) -> None:
        self._kept = under(f"{when}_", arrays)
        value, low, high, order, *width = map(float, self._kept["null"])
        self.null = Estimate(value, low, high, how="exact" if low == high else "estimated")
        self.order = int(order)
        self.width = (*width, 0.05)[0]  # the least, for files of an older version

    def grid(self, points: int = 0) -> Array:
        return self._kept["grid"]

    def __call__(self, grid: object) -> Array:
        return self._kept["density"]

    def band(self, grid: object) -> tuple[Array, Array]:
        return self._kept["density_low"], self._kept["density_high"]

    def cdf(self, grid: object) -> Array:
        return self._kept["cdf"]

    def cdf_band(self, grid: object) -> tuple[Array, Array]:
        return self._kept["cdf_low"], self._kept["cdf_high"]
