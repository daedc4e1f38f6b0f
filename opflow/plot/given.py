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
from opflow.spectral.eigen.eigsh import eigsh
from opflow.spectral.eigen.results import Eigenpairs

#: eigenvalues computed of an operator, at most
TOP = 20
#: dashes of the lines that are not solid, by label
DASHES = {"held out": "--", "2/step": "--"}


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


def top_pairs(found: Data) -> Eigenpairs:
    """The largest eigenpairs of an operator, or of the kernel of fields."""
    K = kernel_of(found)
    return eigsh(K, min(TOP, K.shape[0]), tol=1e-6)


def observed(run: Trajectory, name: str, observer: str) -> Any:
    """What an observer saw, or what to ask of the next run."""
    if name not in run.observations:
        raise ValueError(f"the run has not observed {name!r}: train(..., observe=[{observer}])")
    return numbers(run.observations[name], name, "numbers of each moment", (1, 2))


def moments(times: Data, count: int) -> Any:
    """The times of a run, or those given, or the numbers of moments."""
    if times is None:
        return np.arange(count)
    if isinstance(times, Trajectory):
        times = times.times
    at = numbers(times, "times", "a Trajectory, or an array (T,)")
    if len(at) != count:
        raise ValueError(f"the values have shape ({count}, …), but there are {len(at)} times")
    return at


def name_moments(ax: Axes, times: Data) -> None:
    """The words of an axis of moments, with the steps of a run on top."""
    ax.set_xlabel("moment" if times is None else "time")
    if not isinstance(times, Trajectory) or times.steps is None or len(times.steps) < 2:
        return
    both = np.array([times.times, times.steps], dtype=float)
    at, steps = both
    # adaptive methods have no step of their own, and a descent may have made it smaller
    if np.allclose(at, times.step * steps):
        ax.set_xlabel(f"time = step × steps, step = {number(times.step)}")
    if np.diff(both).min() <= 0:
        return
    first = both[:, :1]
    last = both[:, -1:]
    at, steps = np.hstack([2 * first - last, both, 2 * last - first])  # with room for the margins
    forth = partial(np.interp, xp=at, fp=steps)
    back = partial(np.interp, xp=steps, fp=at)
    top = ax.secondary_xaxis("top", functions=(forth, back))
    top.set_xlabel("steps", fontsize=8)
    top.tick_params(labelsize=8)
    if ax.get_xscale() == "linear":
        top.xaxis.get_major_locator().set_params(integer=True)


def over_time(
    lines: Mapping[str, Array],
    times: Mapping[str, Data],
    ax: Axes,
    style: Mapping[str, Any],
    title: str,
    y: str,
    *,
    role: str = "",
    log: bool = False,
    legend: Mapping[str, Any] = {},
) -> Any:
    """Lines over their times, see :func:`moments`; `role` colours one without a label."""
    at = {label: moments(times[label], len(values)) for label, values in lines.items()}
    ax = axes(ax)
    for label, values, colour in coloured(lines, role):
        ours = {"color": colour, "linewidth": 1.8, "linestyle": DASHES.get(label, "-")}
        own = {} if label == "2/step" else style
        ax.plot(at[label], values, **styled(own, label, **ours))
    first, *others = times.values()
    name_moments(ax, first if all(run is first for run in others) else ())
    if log and all((values > 0).all() for values in lines.values()):
        logarithmic(ax.yaxis)
    return finish(ax, title, "", y, legend)
