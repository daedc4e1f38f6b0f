"""The loop of a run: moments recorded, states saved, and where it ends."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from opflow.dynamics.methods.method import Integrator
from opflow.dynamics.observe import Moment
from opflow.dynamics.storage.checkpoint import Saver
from opflow.dynamics.storage.log import Log
from opflow.dynamics.storage.signals import Signals
from opflow.dynamics.storage.trajectory import Trajectory
from opflow.interface.progress import Bar
from opflow.machine.arrays import module_name, namespace, to_host
from opflow.spectral.krylov.lanczos import largest_eigenvalue

Observer = Callable[[Moment], Any]


class DivergenceError(ArithmeticError):
    """The loss became infinite, NaN, or far larger than at the start.

    Attributes
    ----------
    trajectory : Trajectory
        The run up to the last moment before.
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


class Loop:
    """One run.

    Parameters
    ----------
    name : str
        Of the method, for messages.
    integrator : Integrator
    share : float
    observers : dict of str to Observer
    every : int
        Steps between moments.
    diverge : float
        A loss this many times the first one ends it.
    limit, end : float
        Steps and time at which it ends, infinite where not given.
    stops : list of float, optional
        The only times to record.
    saver : Saver, optional
    meta : dict
        Kept in every checkpoint.
    """

    def __init__(
        self,
        name: str,
        integrator: Integrator,
        share: float,
        observers: dict[str, Observer],
        every: int,
        diverge: float,
        limit: float,
        end: float,
        stops: list[float] | None,
        saver: Saver | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.integrator, self.share = name, integrator, share
        self.observers, self.every = observers, every
        self.diverge = diverge
        self.limit, self.end, self.stops = limit, end, stops
        self.saver, self.meta = saver, dict(meta or {})
        self.log: Log | None = None
        self.number, self.time = 0, 0.0
        self.steps: list[int] = []
        self.times: list[float] = []
        self.losses: list[float] = []
        self.seen: dict[str, list[Any]] = {observer: [] for observer in observers}
        targets = integrator.state.targets
        self.inputs = integrator.state.first.inputs
        # the loss of the zero function: what a fit from a perfect start is measured against
        self.space = integrator.state.space
        with np.errstate(over="ignore"):  # reported with the first loss
            squares = (targets.astype(np.float64) ** 2).sum()
        self.floor = 0.5 * share * float(self.space.total(squares))
        xp = namespace(targets)
        self.residual, self.spare = (xp.empty(targets.shape, targets.dtype) for _ in range(2))
        self.reached = integrator.state
        self.interrupted = self._recorded = self._warned = False
        #: of an observer on this rank, until all ranks know
        self._failure: Exception | None = None

    # -- the loop -------------------------------------------------------------------------

    def go(self, progress: bool) -> Trajectory:
        """Until the end, a signal, or an interrupt from the keyboard."""
        total = None if math.isinf(self.limit) else int(self.limit)
        bar = Bar(total=total, initial=self.number, disable=not progress, unit="step", desc="train")
        # ranks must stop at one step
        watch = Signals() if self.saver is not None or self.space.sharded else nullcontext()
        try:
            with watch as signals:
                while not self._visit(bool(signals and signals.stop)):
                    self._step()
                    if self.losses:
                        said = {"loss": f"{self.losses[-1]:.4g}"}
                        if math.isfinite(self.end):  # how many steps that takes shows on the way
                            said["t"] = f"{self.time:.3g} of {self.end:.3g}"
                        bar.set_postfix(said, refresh=False)
                    bar.update()
                self._agree()
        except KeyboardInterrupt:
            if not self.losses:
                raise
            self.interrupted = True
        finally:
            bar.close()
            if self.log is not None:
                self.log.close()
        return self.trajectory()

    def _visit(self, stop: bool) -> bool:
        """Evaluate where the run is, record and save what is due; whether the run is over."""
        late = self.saver is not None and self.saver.due(self.number)
        stop, late, failed = self.space.either(stop, late, self._failure is not None)
        if failed:
            self._agree()
        finished = self.number >= self.limit or self.time >= (1 - 1e-12) * self.end
        self.interrupted = stop and not finished
        last, due = finished or stop, self._due()
        if last and not due:
            # This moment is recorded because the run ends here; going on, it would not be.
            self._save()
        if not self._recorded:
            self._moment(due or last)
        if due:
            self._recorded = True
            if last or self.number == 0 or late:
                self._save()
        elif not last and late:
            self._save()
        return last

    def _step(self) -> None:
        target = self.end
        if self.stops is not None:
            target = next(t for t in self.stops if t - self.time > 1e-12 * t)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # of steps that are taken back
                self.time += self.integrator.advance(target - self.time)
        except ArithmeticError as error:  # no step is short enough
            raise DivergenceError(f"{self.name}: {error}", self.trajectory()) from error
        if math.isclose(self.time, target, rel_tol=1e-12):
            self.time = target
        self.number += 1
        self._recorded = False

    def _due(self) -> bool:
        if self.stops is not None:
            return self.number == 0 or self.time in self.stops
        return self.number % self.every == 0

    def _moment(self, record: bool) -> None:
        if not record and self.integrator.stochastic:
            return
        self._evaluate()
        state = self.integrator.state
        values = {}
        if record:
            moment = Moment(
                self.number,
                self.time,
                self.loss,
                self.spare,
                state,
                self.inputs,
                self.share,
                self.integrator.predictor,
            )
            for name, observer in self.observers.items():
                try:
                    value = self._observed(name, observer, moment)
                    if value is not None:  # it prints or draws, and records nothing
                        values[name] = value
                except Exception as error:
                    if not self.space.sharded:
                        raise
                    # Others may be waiting in what comes next: go on until all are asked.
                    self._failure = self._failure or error
            record = self._failure is None
        # From here to the end nothing is half done.
        self._take()
        if record:
            for name, observed in values.items():
                self.seen[name].append(observed)
            self.steps.append(self.number)
            self.times.append(self.time)
            self.losses.append(self.loss)
            if self.log is not None:
                self.log.write(self.number, self.time, self.loss, values)

    def _observed(self, name: str, observer: Observer, moment: Moment) -> Any:
        value, seen = _kept(observer(moment)), self.seen[name]
        if not self.losses:
            return value
        # here, where it costs a step, and not when all is put together
        now = _gave(value)
        before = _gave(seen[0] if seen else None)
        if now != before:
            raise ValueError(
                f"observe[{name!r}] gave {now} at step {self.number} but {before} at the start"
            )
        return value

    def _agree(self) -> None:
        """Raise on all ranks if an observer has failed on any."""
        if self.observers:
            self.space.together(self._fail)

    def _fail(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _evaluate(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below
            self.loss = self.share * self.integrator.evaluate(self.spare)
        first = self.losses[0] if self.losses else math.inf
        if not math.isfinite(self.loss) or self.loss > self.diverge * max(first, self.floor):
            raise DivergenceError(self._divergence(), self.trajectory())

    def _take(self) -> None:
        self.residual, self.spare = self.spare, self.residual
        self.reached = self.integrator.state

    # -- what it leaves ---------------------------------------------------------------------

    def trajectory(self) -> Trajectory:
        """What was recorded, and the state it led to."""
        done = len(self.losses)
        return Trajectory.of_state(
            self.reached,
            residual=self.residual,
            times=np.array(self.times[:done]),
            losses=np.array(self.losses),
            products=self.integrator.products,
            observations={
                name: np.array(values[:done])
                for name, values in self.seen.items()
                if values or not done  # an observer that returns None has recorded nothing
            },
            step=self.integrator.step,
            note=self.integrator.note,
            interrupted=self.interrupted,
            steps=np.array(self.steps[:done], dtype=np.int64),
            _predictor=self.integrator.predictor or self.reached,
        )

    def _save(self) -> None:
        if self.saver is None:
            return
        self._agree()  # a state of which an observer failed is not saved
        arrays = {f"state_{name}": value for name, value in self.integrator.arrays().items()}
        arrays |= {"times": np.array(self.times), "losses": np.array(self.losses)}
        arrays["steps"] = np.array(self.steps, dtype=np.int64)
        by_sample = [f"state_{name}" for name in self.integrator.by_sample]
        for number, name in enumerate(sorted(self.observers)):  # a name may begin with another
            observer = self.observers[name]
            arrays[f"observed_{name}"] = np.array(self.seen[name])
            if hasattr(observer, "state") and self.losses:
                arrays |= {f"memory_{number}_{key}": v for key, v in observer.state().items()}
            names = getattr(observer, "by_sample", ())
            by_sample += [f"memory_{number}_{key}" for key in names]
        meta = {
            "number": self.number,
            "time": self.time,
            "recorded": self._recorded,
            "products": self.integrator.products,
            "note": self.integrator.note,
        }
        error = self.saver.save(
            self.number, arrays, self.meta | meta, [name for name in by_sample if name in arrays]
        )
        if error is not None and not self._warned:
            self._warned = True  # a full disk is no reason to lose the run
            warnings.warn(
                f"the state of step {self.number} could not be saved: {error}; the run goes on",
                RuntimeWarning,
                stacklevel=4,
            )

    def resume(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        prefix = "observed_"
        held = {key.removeprefix(prefix) for key in arrays if key.startswith(prefix)}
        if held != set(self.observers):
            raise ValueError(
                f"observe must be as in the checkpoint, which has {sorted(held) or 'none'}, "
                f"not {sorted(self.observers) or 'none'}"
            )
        xp = namespace(self.residual)
        state = {
            key.removeprefix("state_"): xp.asarray(value) if value.ndim else value
            for key, value in arrays.items()
            if key.startswith("state_")
        }
        self.integrator.restore(state)
        self.integrator.note = meta["note"]
        self.number, self.time = meta["number"], meta["time"]
        self.times, self.losses = arrays["times"].tolist(), arrays["losses"].tolist()
        self.steps = self._steps_held(arrays.get("steps"), bool(meta["recorded"]))
        for number, name in enumerate(sorted(self.observers)):
            observer = self.observers[name]
            self.seen[name] = list(arrays[prefix + name])
            mark = f"memory_{number}_"
            memory = {k.removeprefix(mark): v for k, v in arrays.items() if k.startswith(mark)}
            if memory:
                observer.restore(memory)  # type: ignore[attr-defined]
        self._recorded = meta["recorded"]
        self._evaluate()
        if self._recorded:
            self._take()
        self.integrator.products = meta["products"]  # the saved run had paid for this already

    def _steps_held(self, held: Any, recorded: bool) -> list[int]:
        """The steps of the moments in a checkpoint; −1 where an old one did not keep them."""
        if held is not None:
            return held.tolist()
        count = len(self.losses)
        if self.stops is None and count == self.number // self.every + 1:
            return list(range(0, count * self.every, self.every))
        steps = [0, *[-1] * (count - 1)]
        if recorded:
            steps[-1] = self.number
        return steps

    def _divergence(self) -> str:
        if not self.number:
            return (
                f"the loss of the start is {self.loss:.4g}: the outputs of the network, or the "
                "squares of f - y, are beyond the range of numbers"
            )
        top = self.share * largest_eigenvalue(self.reached.kernel()).value
        size = self.integrator.step
        limit = f"{2 / top:.4g}" if top > 0 else "infinite"
        return (
            f"{self.name} diverged at step {self.number}: loss {self.loss:.4g} with step size "
            f"{size:.4g}; the stability limit 2/λ_max(K) was {limit} at the last step before. "
            "Standardise X and y, take a smaller step or step='auto', or another method, such as "
            "GradientFlow()"
        )


def _gave(value: Any) -> str:
    return "None" if value is None else f"shape {np.shape(value)}"


def _kept(value: Any) -> Any:
    """What an observer gave, on the host."""
    return value if module_name(value) == "numpy" else to_host(value)
