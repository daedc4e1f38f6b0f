"""Arguments of pictures: results or plain arrays, one or several by label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from opflow.dynamics.storage.trajectory import Trajectory
from opflow.machine.arrays import Array, Data, as_array, to_host
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator
from opflow.plot.axes import Axes, axes, coloured, finish, logarithmic, number, styled
from opflow.relu.fields import Fields
from opflow.relu.kernels import collective_kernel


def by_label(found: Data, name: str, take: Callable[[Any], Any]) -> dict[str, Any]:
    """What `take` makes of each entry of a mapping, or of a single thing, whose label is empty."""
    many = found if isinstance(found, Mapping) else {"": found}
    if not many:
        raise ValueError(f"{name} holds nothing to draw")
    return {str(label): take(value) for label, value in many.items()}


def numbers(value: Data, name: str, what: str, ndim: tuple[int, ...] = (1,)) -> Any:
    """`value` as a float64 array on the host, or one sentence that says `what` it must be."""
    try:
        array = np.asarray(to_host(as_array(value, name)))
    except TypeError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be {what}, not {type(value).__name__}")
    if array.ndim not in ndim or not array.size:
        raise ValueError(f"{name} must be {what}, not of shape {array.shape}")
    return array.astype(np.float64)


def kernel_of(found: Data) -> Operator:
    """The kernel of fields, or the operator that is given."""
    return collective_kernel(found) if isinstance(found, Fields) else as_operator(found)


def observed(run: Trajectory, name: str, observer: str) -> Any:
    """What an observer saw, or what to ask of the next run."""
    if name not in run.observations:
        raise ValueError(f"the run has not observed {name!r}: train(..., observe=[{observer}])")
    return numbers(run.observations[name], name, "numbers of each moment", (1, 2))


def moments(times: Data, count: int) -> Any:
    """The times of a run, or those given, or the numbers of moments."""
    if times is None:
        return np.arange(count)
    at = times.times if isinstance(times, Trajectory) else times
    at = numbers(at, "times", "a Trajectory, or an array (T,)")
    if len(at) != count:
        raise ValueError(f"the values have shape ({count}, …), but there are {len(at)} times")
    return at


def name_moments(ax: Axes, times: Data) -> None:
    """The words of an axis of moments, with the steps of a run on top."""
    ax.set_xlabel("moment" if times is None else "time")
    if not isinstance(times, Trajectory) or times.steps is None or len(times.steps) < 2:
        return
    at = np.asarray(times.times, dtype=float)
    steps = np.asarray(times.steps, dtype=float)
    # adaptive methods have no step of their own, and a descent may have made it smaller
    if np.allclose(at, times.step * steps):
        ax.set_xlabel(f"time = step × steps, step = {number(times.step)}")
    if min(np.diff(at).min(), np.diff(steps).min()) <= 0:
        return
    at = _stretched(at)
    steps = _stretched(steps)
    forth = partial(np.interp, xp=at, fp=steps)
    back = partial(np.interp, xp=steps, fp=at)
    top = ax.secondary_xaxis("top", functions=(forth, back))
    top.set_xlabel("steps", fontsize=8)
    top.tick_params(labelsize=8)
    if ax.get_xscale() == "linear":
        top.xaxis.get_major_locator().set_params(integer=True)


def _stretched(x: Array) -> Array:
    """As far again on both sides, for the margins."""
    return np.r_[2 * x[0] - x[-1], x, 2 * x[-1] - x[0]]


def over_time(
    lines: Mapping[str, tuple[Any, Any]],
    ax: Axes,
    style: Mapping[str, Any],
    title: str,
    y: str,
    *,
    role: str = "",
    log: bool = False,
    legend: Mapping[str, Any] | None = None,
) -> Any:
    """Lines over moments: (run, times or None, and values) by label; `role` colours one without."""
    clocks = {label: moments(run, len(values)) for label, (run, values) in lines.items()}
    ax = axes(ax)
    for label, (_, values), colour in coloured(lines, role):
        dash = "--" if label in ("held out", "2/step") else "-"
        own = {} if label == "2/step" else style
        ax.plot(
            clocks[label], values, **styled(own, label, color=colour, linewidth=1.8, linestyle=dash)
        )
    first, *others = (run for run, _ in lines.values())
    alike = all(run is first for run in others)
    name_moments(ax, first if alike else ())
    if log and all((values > 0).all() for _, values in lines.values()):
        logarithmic(ax.yaxis)
    return finish(ax, title, "", y, legend)
