"""What every picture shares: where it is drawn, its colours, and how its axes look.

matplotlib is imported when something is drawn: ``pip install '.[plot]'``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from opflow.extras import install

#: Okabe–Ito, told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "<", ">")
#: colour maps that keep their order without colour vision: of values of one sign, and of both
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"


def axes(ax: Any = None, size: tuple[float, float] = (6.0, 4.0)) -> Any:
    """`ax`, or the axes of a new figure of `size` inches that no window knows of."""
    if ax is not None:
        return ax
    return _figure_class()(figsize=size, dpi=120, layout="constrained").add_subplot()


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


def tidy(ax: Any) -> Any:
    """The axes without what distracts."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", alpha=0.25, linewidth=0.6)
    return ax


def plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as 60 rather than 6 × 10¹, more of them on a short one."""
    ends = axis.get_view_interval()
    if min(ends) < 1e-4 or max(ends) > 1e4:
        return
    low, high = np.log10(ends)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")
    if high - low < 2:
        from matplotlib.ticker import LogLocator

        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0) if high - low > 0.7 else range(2, 10)))
        axis.set_minor_formatter("{x:g}")


def line_colours(count: int) -> Sequence[Any]:
    """`count` colours that are told apart, in an order that can be seen if there are many."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    return shades(count)


def shades(count: int) -> Sequence[Any]:
    """`count` colours from dark to light, none too light for a line."""
    from matplotlib import colormaps

    return list(colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, max(count, 1))))


def number(value: float) -> str:
    """Three digits, without an exponent where there is no need of one."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return np.format_float_positional(value, 3, fractional=False, trim="-")


def one_line_each(values: Any, name: str, length: int) -> dict[str, Any]:
    """The mapping of labels to arrays whose first axis has `length`, checked."""
    arrays = {str(label): np.asarray(numbers, dtype=float) for label, numbers in values.items()}
    if not arrays:
        raise ValueError(f"{name} holds nothing to draw")
    for label, numbers in arrays.items():
        if numbers.shape != (length,):
            raise ValueError(f"{name}[{label!r}] has shape {numbers.shape}, not ({length},)")
    return arrays
