"""The loop of a run: step after step, moments recorded and states saved, until it ends."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from opflow.dynamics.methods.method import Integrator
from opflow.dynamics.objectives import Quadratic, objective_blocks
from opflow.dynamics.observe.moment import Moment
from opflow.dynamics.record import Observer, Record, named
from opflow.dynamics.storage.checkpoint import Saver
from opflow.dynamics.storage.log import Log
from opflow.dynamics.storage.signals import Signals
from opflow.dynamics.storage.trajectory import Trajectory
from opflow.dynamics.timetable import Timetable
from opflow.interface.progress import Bar
from opflow.machine.arrays import Array, namespace
from opflow.machine.files import prefixed, under
from opflow.spectral.krylov.lanczos import largest_eigenvalue


class DivergenceError(ArithmeticError):
    """Raised where the loss becomes infinite, NaN, or far larger than at the start.

    Parameters
    ----------
    message : str
        The step, the loss, the step size and 2/λ_max.
    trajectory : Trajectory
        The run so far, which is an attribute too.

    Attributes
    ----------
    trajectory : Trajectory
        The run up to the last moment before.

    See Also
    --------
    opflow.train : Raises it; its argument `diverge` sets the limit.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net, descent = of.ReLUNetwork.random([3, 8, 8], seed=0), of.GradientDescent(step=1.0)
    >>> try:
    ...     of.train(net, 30 * np.eye(3), np.ones(3), method=descent, steps=50)
    ... except of.DivergenceError as error:
    ...     print(error.trajectory)
    <Trajectory of 0 steps to t = 0, loss 306.2 -> 306.2>
    """

    def __init__(self, message: str, trajectory: Trajectory) -> None:
        super().__init__(message)
        self.trajectory = trajectory


@dataclass
class Loop:
    """One run."""

    #: of the method, for messages
    name: str
    integrator: Integrator
    #: what multiplies the summed loss
    share: float
    #: of moments; it is empty
    record: Record
    table: Timetable
    #: a loss this many times the first one ends the run
    diverge: float
    saver: Saver | None
    #: kept in every checkpoint
    meta: Mapping[str, Any]
    #: asked at every moment whether the run ends there
    stop: Observer | None = None

    def __post_init__(self) -> None:
        self.log: Log | None = None
        #: steps so far, and the time they led to
        self.number = 0
        self.time = 0.0
        state = self.integrator.state
        self.space = state.space
        targets = state.targets
        xp = namespace(targets)
        #: of the last moment, and a buffer for that of the next one
        self.residual = xp.empty(targets.shape, targets.dtype)
        self.spare = xp.zeros(targets.shape, targets.dtype)
        with np.errstate(over="ignore"):  # reported with the first loss
            zero = sum(
                state.objective.value(self.spare[s], targets[s]).astype(np.float64).sum()
                for s in objective_blocks(targets)
            )
        #: the loss of the zero function: what a fit from a perfect start is measured against
        self.floor = self.share * abs(float(self.space.total(zero)))
        #: the state of the last moment
        self.reached = state
        self.interrupted = False
        #: the name of the condition that holds here
        self.stopped = ""
        #: whether this moment is recorded, and would be if the run went on from here
        self._recorded = False
        self._warned = False

    def go(self, progress: bool) -> Trajectory:
        """Until the end, a signal, or an interrupt from the keyboard."""
        steps = self.table.steps
        bar = Bar(total=steps, initial=self.number, disable=not progress, unit="step", desc="train")
        signals = Signals()
        # ranks must stop at one step
        watched = self.saver is not None or self.space.sharded
        try:
            with bar, signals if watched else nullcontext():
                while not self._visit(bool(signals.stop)):
                    self._step()
                    if progress:
                        self._show(bar)
                self.record.agree()
        except KeyboardInterrupt:
            if not self.record.losses:
                raise
            self.interrupted = True
        finally:
            if self.log is not None:
                self.log.close()
        return self.trajectory()

    def _visit(self, stop: bool) -> bool:
        """Evaluate, record and save what is due where the run is; whether it ends here."""
        late = self.saver is not None and self.saver.due(self.number)
        stop, late, failed = self.space.either(stop, late, self.record.failure is not None)
        if failed:
            self.record.agree()
        finished = self.table.finished(self.number, self.time)
        self.interrupted = stop and not finished
        ends = finished or stop
        if self.table.records(self.number, self.time):
            self._moment()
            self._recorded = True
            ends = ends or bool(self.stopped)
            if ends or late or self.number == 0:
                self._save()
        elif ends:
            # A run that goes on from here does not record this moment: saved before it is recorded.
            self._save()
            self._moment()
        else:
            if not self.integrator.stochastic:
                self._evaluate()
                self._take()
            if late:
                self._save()
        return ends

    def _moment(self) -> None:
        """Evaluate, ask the observers, record, and ask whether to stop."""
        known = self._recorded  # taken up from a checkpoint
        residual = self.residual
        if not known:
            self._evaluate()
            residual = self.spare
        now = (self.number, self.time, self.loss)
        state = self.integrator.state
        moment = Moment(
            *now,
            residual,
            state,
            state.first.inputs,
            self.share,
            self.integrator.predictor,
            observations=self.record.seen,
        )
        if not known:
            values = self.record.ask(moment)
            # From here on an interrupt leaves nothing half done: a moment counts with its loss.
            self._take()
            if self.record.failure is None:
                self.record.append(*now, values)
                if self.log is not None:
                    self.log.write(*now, values)
        if (stop := self.stop) is not None:
            self.record.agree()
            met = self.space.together(lambda: bool(stop(moment)))
            if self.space.either(met)[0]:
                self.stopped = next(iter(named([stop])))

    def _evaluate(self) -> None:
        """The loss and, in the spare buffer, the residual; raise if the run has diverged."""
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported below
            self.loss = self.share * self.integrator.evaluate(self.spare)
        first = abs(self.record.losses[0]) if self.record.losses else math.inf
        if not math.isfinite(self.loss) or self.loss > self.diverge * max(first, self.floor):
            raise DivergenceError(self._divergence(), self.trajectory())

    def _take(self) -> None:
        """What was evaluated is what the run has reached."""
        self.residual, self.spare = self.spare, self.residual
        self.reached = self.integrator.state

    def _step(self) -> None:
        target = self.table.target(self.time)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # of steps that are taken back
                self.time += self.integrator.advance(target - self.time)
        except ArithmeticError as error:  # no step is short enough
            raise DivergenceError(f"{self.name}: {error}", self.trajectory()) from error
        if math.isclose(self.time, target, rel_tol=1e-12):
            self.time = target
        self.number += 1
        self._recorded = False

    def _show(self, bar: Bar) -> None:
        if self.record.losses:
            said = {"loss": f"{self.record.losses[-1]:.4g}"}
            if math.isfinite(self.table.end):  # how many steps that takes shows on the way
                said["t"] = f"{self.time:.3g} of {self.table.end:.3g}"
            bar.set_postfix(said, refresh=False)
        bar.update()

    def trajectory(self) -> Trajectory:
        """What was recorded, and the state it led to."""
        return Trajectory.of_state(
            self.reached,
            residual=self.residual,
            products=self.integrator.products,
            step=self.integrator.step,
            note=self.integrator.note,
            interrupted=self.interrupted,
            stopped=self.stopped,
            events=self.integrator.events,
            _predictor=self.integrator.predictor or self.reached,
            **self.record.complete(),
        )

    def _save(self) -> None:
        if self.saver is None:
            return
        self.record.agree()  # a state of which an observer failed is not saved
        arrays = prefixed("state_", self.integrator.arrays()) | self.record.arrays()
        rows = [f"state_{name}" for name in self.integrator.by_sample] + self.record.by_sample()
        meta = {
            **self.meta,
            "number": self.number,
            "time": self.time,
            "recorded": self._recorded,
            "products": self.integrator.products,
            "note": self.integrator.note,
        }
        by_sample = [name for name in rows if name in arrays]
        error = self.saver.save(self.number, arrays, meta, by_sample)
        if error is not None and not self._warned:
            self._warned = True  # a full disk is no reason to lose the run
            warnings.warn(
                f"the state of step {self.number} could not be saved: {error}; the run goes on",
                RuntimeWarning,
                stacklevel=4,
            )

    def resume(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        self.number = meta["number"]
        self.time = meta["time"]
        self._recorded = meta["recorded"]
        self.record.restore(arrays, self.number, self._recorded, self.table)
        xp = namespace(self.residual)
        state = under("state_", arrays)
        self.integrator.restore({k: xp.asarray(v) if v.ndim else v for k, v in state.items()})
        self.integrator.note = meta["note"]
        self._evaluate()
        if self._recorded:
            self._take()
        self.integrator.products = meta["products"]  # the saved run had paid for this already

    def _divergence(self) -> str:
        here = self.reached
        if not self.number:
            return (
                f"the loss of the start is {self.loss:.4g}: the outputs of the network, or "
                f"their {here.objective.name} loss, are beyond the range of numbers"
            )
        top = self.share * (largest_eigenvalue(here.kernel()).value + here.stiffness)
        limit = f"{2 / top:.4g}" if top > 0 else "infinite"
        which = f"2/λ_max({here.measurement.symbol})"
        if not isinstance(here.objective, Quadratic):
            which += " of the quadratic loss"
        return (
            f"{self.name} diverged at step {self.number}: loss {self.loss:.4g} with step size "
            f"{self.integrator.step:.4g}; the stability limit {which} was {limit} at the last step "
            "before. Standardise X and y, take a smaller step or step='auto', or "
            "another method, such as GradientFlow()"
        )
