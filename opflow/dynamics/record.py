"""What a run has recorded: steps, times, losses, and what its observers gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from opflow.dynamics.observe.chosen import Snapshots
from opflow.dynamics.observe.moment import Moment
from opflow.dynamics.timetable import Timetable
from opflow.machine.arrays import Array, module_name, to_host
from opflow.machine.files import prefixed, under
from opflow.machine.ranks import RowDistribution

Observer = Callable[[Moment], Any]
#: a checkpoint holds what the observer of this name gave
OBSERVED = "observed_"


@runtime_checkable
class Remembers(Protocol):
    """An observer that remembers earlier moments."""

    def state(self) -> dict[str, Array]: ...
    def restore(self, arrays: Mapping[str, Array]) -> None: ...


class Record:
    """What a run has recorded, with the observers that are asked at every moment."""

    def __init__(self, observers: dict[str, Observer], space: RowDistribution) -> None:
        self.observers = observers
        self.space = space
        self.steps: list[int] = []
        self.times: list[float] = []
        #: the last to grow: there are as many moments as losses
        self.losses: list[float] = []
        self.seen: dict[str, list[Any]] = {name: [] for name in observers}
        #: of an observer on this rank, until all ranks know
        self.failure: Exception | None = None

    def ask(self, moment: Moment) -> dict[str, Any]:
        """What the observers give at a moment, by name."""
        values = {}
        for name, observer in self.observers.items():
            try:
                value = observer(moment)
                if module_name(value) != "numpy":
                    value = to_host(value)
                if self.losses:  # here, where it costs a step, and not when all is put together
                    self._check(name, value, moment.step)
            except Exception as error:
                if not self.space.sharded:
                    raise
                # Other ranks may be in the next collective call: ask all observers before raising.
                self.failure = self.failure or error
            else:
                if value is not None:  # it prints or draws, and records nothing
                    values[name] = value
        return values

    def _check(self, name: str, value: Any, step: int) -> None:
        """Raise unless `value` is like what the observer gave at the start."""
        now = _kind(value)
        before = _kind(next(iter(self.seen[name]), None))
        if now != before:
            raise ValueError(
                f"observe[{name!r}] gave {now} at step {step} but {before} at the start"
            )

    def append(self, step: int, time: float, loss: float, values: Mapping[str, Any]) -> None:
        """Record a moment."""
        for name, value in values.items():
            self.seen[name].append(value)
        self.steps.append(step)
        self.times.append(time)
        self.losses.append(loss)

    def agree(self) -> None:
        """Raise on all ranks if an observer has failed on any."""
        if self.observers:
            self.space.together(self._raise)

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def complete(self) -> dict[str, Any]:
        """The moments that are recorded whole, as a trajectory keeps them."""
        done = len(self.losses)
        observations: dict[str, Any] = {
            name: np.array(values[:done])
            for name, values in self.seen.items()
            if values or not done  # an observer that returns None has recorded nothing
        }
        for name, observer in self.observers.items():
            if isinstance(observer, Snapshots):
                kept = observer.networks.items()
                observations[name] = {step: n for step, n in kept if step in self.steps[:done]}
        return self._moments() | {"observations": observations}

    def _moments(self) -> dict[str, Array]:
        done = len(self.losses)
        return {
            "times": np.array(self.times[:done]),
            "losses": np.array(self.losses),
            "steps": np.array(self.steps[:done], dtype=np.int64),
        }

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint holds: the record, and what the observers remember."""
        arrays = self._moments()
        arrays |= {OBSERVED + name: np.array(values) for name, values in self.seen.items()}
        for mark, observer in self._marked():
            if self.losses and isinstance(observer, Remembers):
                arrays |= prefixed(mark, observer.state())
        return arrays

    def by_sample(self) -> list[str]:
        """Which of :meth:`arrays` have a row for every sample, if they are there at all."""
        marked = self._marked()
        return [mark + key for mark, o in marked for key in getattr(o, "by_sample", ())]

    def _marked(self) -> list[tuple[str, Observer]]:
        """The observers, each with what the names of its arrays begin with in a checkpoint."""
        # by number, for a name may begin with another
        names = enumerate(sorted(self.observers))
        return [(f"memory_{number}_", self.observers[name]) for number, name in names]

    def restore(
        self, arrays: Mapping[str, Array], step: int, recorded: bool, table: Timetable
    ) -> None:
        """Take up what :meth:`arrays` gave at a step, which was `recorded` or not."""
        held = under(OBSERVED, arrays)
        if set(held) != set(self.observers):
            raise ValueError(
                f"observe must be as in the checkpoint, which has {sorted(held) or 'none'}, "
                f"not {sorted(self.observers) or 'none'}"
            )
        self.seen = {name: list(held[name]) for name in self.observers}
        self.times = arrays["times"].tolist()
        self.losses = arrays["losses"].tolist()
        if "steps" in arrays:
            self.steps = arrays["steps"].tolist()
        else:
            self.steps = _steps_of(len(self.losses), step, recorded, table)
        for mark, observer in self._marked():
            memory = under(mark, arrays)
            if memory:
                observer.restore(memory)  # type: ignore[attr-defined]


def _steps_of(count: int, step: int, recorded: bool, table: Timetable) -> list[int]:
    """The steps of the moments in a checkpoint that does not keep them; −1 where not known."""
    if table.stops is None and count == step // table.every + 1:
        return list(range(0, count * table.every, table.every))
    steps = [0, *[-1] * (count - 1)]
    if recorded:
        steps[-1] = step
    return steps


def _kind(value: Any) -> str:
    return "None" if value is None else f"shape {np.shape(value)}"


def named(observe: Sequence[Observer] | Mapping[str, Observer]) -> dict[str, Observer]:
    """The observers by name: their attribute `name`, or that of the function or the class."""
    if not isinstance(observe, Mapping):
        names = [getattr(o, "name", getattr(o, "__name__", type(o).__name__)) for o in observe]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"observe has two called {twice[0]!r}: name one, or give a mapping")
        observe = dict(zip(names, observe, strict=True))
    for name, observer in observe.items():
        if not isinstance(name, str):
            raise TypeError(f"the names in observe must be strings, not {name!r}")
        if not callable(observer):
            raise TypeError(f"observe[{name!r}] is not callable: {observer!r}")
    return dict(observe)
