"""The axes of a picture, its colours and its words: what all pictures share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any, TypeAlias, TypeVar

import numpy as np

from opflow.interface.extras import install

T = TypeVar("T")
#: the axes of a matplotlib figure, which is not imported before something is drawn
Axes: TypeAlias = Any

#: Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "<", ">")
#: what a colour means, in all pictures of a run; layers have shades of their own
ROLES = {
    "start": COLOURS[0],
    "end": COLOURS[1],
    "trained": COLOURS[1],
    "training set": COLOURS[2],
    "held out": COLOURS[4],
    "K": COLOURS[6],
    "λ_max(K)": COLOURS[6],
    "2/step": COLOURS[3],
    "predicted": "#595959",
}
#: colour maps that keep their order without colour vision: of values of one sign
SEQUENTIAL = "cividis"
#: and of both signs
DIVERGING = "RdBu_r"
#: values below this share of the largest are rounding and are not drawn
NOTHING = 1e-12
#: options of a legend to the right of the axes, where it has no room inside
BESIDE = {"fontsize": 8, "loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def axes(ax: Axes = None, size: tuple[float, float] = (6.0, 4.0)) -> Axes:
    """`ax`, or the axes of a new figure of `size` inches that no window knows of."""
    if ax is None:
        return _figure_class()(figsize=size, dpi=120, layout="constrained").add_subplot()
    if not hasattr(ax, "add_line"):
        raise TypeError(f"ax must be the axes of a matplotlib figure, not {type(ax).__name__}")
    return ax


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib: {install('plot')}") from error
    except ValueError:
        # MPLBACKEND names a backend that is not installed.  No figure of ours has a window.
        backend = os.environ.pop("MPLBACKEND", None)
        if backend is None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half imported
        try:
            from matplotlib.figure import Figure
        finally:
            os.environ["MPLBACKEND"] = backend
    return Figure


def styled(style: Mapping[str, Any], label: str = "", **ours: Any) -> dict[str, Any]:
    """The keywords of an artist: the caller's, by whichever alias, and ours for the rest."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    if label:
        ours["label"] = label
    return ours | normalize_kwargs(dict(style), Line2D)


def finish(
    ax: Axes,
    title: str,
    x: str,
    y: str,
    legend: Mapping[str, Any] = {},
    grid: str = "both",
) -> Axes:
    """The axes with its words and a legend of what is labelled, without what distracts."""
    ax.set(title=title, xlabel=x or ax.get_xlabel(), ylabel=y)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, **legend)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, which="major", alpha=0.25, linewidth=0.6)
    return ax


def logarithmic(axis: Axes) -> None:
    """A logarithmic axis with ticks as 60 rather than 6 × 10¹, more of them on a short one."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = np.log10(axis.get_view_interval())
    if low < -4 or high > 4:
        return
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
    if high - low < 2:
        from matplotlib.ticker import LogLocator

        marked = range(2, 10) if high - low <= 0.7 else (2.0, 5.0)
        axis.set_minor_locator(LogLocator(subs=marked))
        axis.set_minor_formatter("{x:g}")


def colours(labels: Iterable[str]) -> list[Any]:
    """The colour of each label: that of its role or layer; the others share what is left."""
    labels = list(labels)
    found = {label: ROLES[label] for label in labels if label in ROLES}
    free = [colour for colour in COLOURS if colour not in found.values()]
    layers = [label for label in labels if label.startswith("layer ")]
    found |= zip(layers, shades(len(layers), "RdPu_r", 0.7), strict=True)
    others = [label for label in labels if label not in found]
    if len(others) > len(free):
        free = shades(len(others))
    found |= zip(others, free, strict=False)
    return [found[label] for label in labels]


def layer_names(count: int) -> list[str]:
    """The labels of layers 1 to `count`."""
    return [f"layer {i}" for i in range(1, count + 1)]


def coloured(sets: Mapping[str, T], role: str = "") -> Iterator[tuple[str, T, Any]]:
    """Label, value and colour of each set; `role` colours one without a label."""
    tints = colours(label or role for label in sets)
    yield from zip(sets, sets.values(), tints, strict=True)


def marked(sets: Mapping[str, T]) -> Iterator[tuple[str, T, dict[str, Any]]]:
    """Label, value, and the colour and marker of each set."""
    for (label, value, colour), marker in zip(coloured(sets), cycle(MARKERS), strict=False):
        yield label, value, {"color": colour, "marker": marker}


def shades(count: int, name: str = SEQUENTIAL, lightest: float = 0.85) -> list[Any]:
    """`count` colours from dark to light, none too light for a line."""
    _figure_class()  # the first import of matplotlib, whatever backend is asked for
    from matplotlib import colormaps

    return list(colormaps[name](np.linspace(0.0, lightest, count)))


def number(value: float) -> str:
    """Three digits, without an exponent where there is no need of one."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return np.format_float_positional(value, 3, fractional=False, trim="-")
