"""The table and the pictures of ``opflow spectrum``, from what its analysis found."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from opflow import plot
from opflow.cli.run_report import Pictures, used
from opflow.plot.kernel import show_means
from opflow.spectral import Density, Estimate

#: what numbers of a kernel are called, in the order of the table
NAMES = {
    "norm": "‖K‖",
    "trace": "tr K",
    "frobenius_norm": "‖K‖_F",
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
}


def table(s: Mapping[str, Any]) -> str:
    """The numbers for people, a column a moment."""
    moments = list(s["moments"].values())
    network = f"{'-'.join(map(str, s['widths']))}-{s['outputs']}, {s['dtype']}"
    lines = [f"{'network':24}{network}", f"{'samples':24}{s['samples']:,}"]
    if s.get("target"):
        lines.append(f"{'target':24}{s['target']}")

    def row(name: str, cells: Sequence[str | None]) -> None:
        if any(cells):
            lines.append(f"{name:24}" + "".join(f"{cell or '':34}" for cell in cells).rstrip())

    if len(moments) > 1:
        row("", [f"{when}" for when in s["moments"]])
    row("λ_max(K)", [_first(m.get("eigenvalues")) for m in moments])
    if s["step"] is not None:
        row("2/step", [f"{2 / s['step']:.5g}" for _ in moments])
    for name, label in NAMES.items():
        row(label, [_bars(m.get(name)) for m in moments])
    order = s["samples"] * s["outputs"]
    row("zero eigenvalues", [_zeros(m.get("null"), order, m.get("probes")) for m in moments])
    row("power law", [_law(m.get("power_law")) for m in moments])
    row("alignment of K with y", [_bars(m.get("alignment", [None])[0]) for m in moments])
    for i in range(len(s["widths"]) - 1):
        shares = [f"{100 * m['layer_shares'][i]:.3g} %" for m in moments]
        row(f"layer {i + 1}: share of tr K", shares)
        aligned = [m.get("alignment") for m in moments]
        row("   alignment with y", [_bars(found and found[i + 1]) for found in aligned])
    row("‖r‖² in the top modes", [_within(m) for m in moments])
    row("‖K u − λ u‖ at most", [_pairs(m) for m in moments])
    if "drift" in s:
        drift = s["drift"]
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


def _first(values: list[float] | None) -> str | None:
    return f"{values[0]:.5g}" if values else None


def _bars(value: Mapping[str, Any] | None) -> str | None:
    """A number, with its interval if it is not exact."""
    if value is None or value["value"] is None:
        return None
    text = f"{value['value']:.5g}"
    if value["how"] == "exact":
        return text
    ends = ["∞" if end is None else f"{end:.5g}" for end in (value["low"], value["high"])]
    return text if {text} == set(ends) else f"{text} [{', '.join(ends)}]"


def _zeros(null: Mapping[str, Any] | None, order: int, probes: int | None) -> str | None:
    """How many there are, if that is known to one in twenty of all."""
    if null is None or null["how"] == "exact":
        return _bars(null)
    if null["high"] - null["low"] <= order / 20:
        return f"{_bars(null)}, {probes} probes"
    return f"open ({probes} probes): more --steps"


def _law(found: list[float] | None) -> str | None:
    if not found:
        return None
    return f"rank^{found[0]:.2f}, {found[2]} to {found[3]}, R² {found[4]:.3f}"


def _within(moment: Mapping[str, Any]) -> str | None:
    if "residual_in_top" not in moment:
        return None
    return f"{100 * moment['residual_in_top']:.3g} % in {len(moment['eigenvalues'])}"


def _pairs(moment: Mapping[str, Any]) -> str | None:
    if "largest_residual" not in moment:
        return None
    state = "" if moment["converged"] else "NOT CONVERGED, "
    return f"{moment['largest_residual']:.1e} ({state}{moment['products']:,} products)"


def pictures(arrays: Mapping[str, Any], outputs: int) -> Pictures:
    """What draws the pictures that the arrays give, by file name."""

    def every(name: str) -> dict[str, Any]:
        """The arrays of that name by moment."""
        return {
            key.removesuffix(f"_{name}"): value
            for key, value in arrays.items()
            if key.endswith(f"_{name}")
        }

    found: Pictures = {"layer_shares.png": partial(plot.layer_shares, every("layer_shares"))}
    if values := every("eigenvalues"):
        found["eigenvalues.png"] = partial(plot.eigenvalues, values, fit="auto")
        found["projections.png"] = partial(plot.projections, every("projections"))
        last = list(every("mode_shares").values())[-1]
        found["mode_shares.png"] = partial(plot.mode_shares, last)
    densities = {when: Saved(arrays, when) for when in every("grid")}
    if densities:
        one = next(iter(densities.values())) if len(densities) == 1 else densities
        found["density.png"] = partial(plot.density, one)
        found["cumulative.png"] = partial(plot.density, one, cumulative=True)
    if "heat_map" in arrays:
        labels = arrays.get("heat_map_labels")
        words = "samples, " + ("clustered" if labels is None else "class by class")
        shown = arrays["heat_map"], len(arrays["heat_map_order"]), words
        found["heat_map.png"] = partial(show_means, *shown, labels=labels, outputs=outputs)
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
    """A density on the grid that it was kept on."""

    log = True

    def __init__(self, arrays: Mapping[str, Any], when: str) -> None:
        self._of = lambda name: arrays[f"{when}_{name}"]
        value, low, high, order, *width = (float(x) for x in self._of("null"))
        how = "exact" if low == high else "estimated"
        self.null, self.order = Estimate(value, low, high, how=how), int(order)
        self.width = width[0] if width else 0.05  # of files of an older version the least

    def grid(self, points: int = 0) -> Any:
        """Its grid, the only one."""
        return self._of("grid")

    def __call__(self, grid: Any) -> Any:
        return self._of("density")

    def band(self, grid: Any) -> tuple[Any, Any]:
        """The 95 % band of the density."""
        return self._of("density_low"), self._of("density_high")

    def cdf(self, grid: Any) -> Any:
        """The share of eigenvalues up to the grid."""
        return self._of("cdf")

    def cdf_band(self, grid: Any) -> tuple[Any, Any]:
        """Its 95 % band."""
        return self._of("cdf_low"), self._of("cdf_high")
