r"""The gradient flow through every gate flip and along every sliding pre-activation.

Where a pre-activation reaches zero and is driven back from both sides, it *slides*: its gate takes
the value in between for which it stays at zero (a solution in the sense of Filippov).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opflow.dynamics.methods.exact.distinct import Distinct
from opflow.dynamics.methods.exact.gates import Gates, Unsettled
from opflow.dynamics.methods.exact.series import ORDERS, SLIDES, Series
from opflow.dynamics.methods.method import Method, ParameterIntegrator
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, check_integer, is_sparse
from opflow.spectral.checks import check_tol

#: when, where and how a gate changed
KEYS = ("time", "layer", "unit", "sample", "kind")
EVENT = np.dtype(list(zip(KEYS, ("f8", "i4", "i4", "i4", "U9"), strict=True)))
#: what happens to a gate that has not been sliding and is now closed, open or sliding
KINDS = ("off", "on", "slide in")
#: neglected terms of a series, in parts of the tolerance
NEGLECTED = 1e-3
#: flops that a run may take, by the estimate of one event a pre-activation
WORK = 1e15
#: orders of a series that an event takes, for the estimate
TYPICAL = 8
#: events at one time, one after the other, that may leave a run where it is
HALTED = 100
#: and that suggest that a unit has lost all weights
STUCK = 10


@dataclass(frozen=True)
class ExactFlow(Method):
    r"""Gradient flow of the quadratic loss through every gate flip, and along pre-activations at 0.

    Parameters
    ----------
    tol : float, default 1e-10
        Accuracy of pre-activations, in parts of the largest of their layer; also how close to zero
        one may come without being seen.
    sliding : bool, default True
        Follow pre-activations that stay at zero; if False, the first of them ends the run with an
        error.
    events : int, optional
        The most events to follow; one more ends the run with an error.

    Raises
    ------
    ValueError
        If the run may take more than 1e15 flops, by an estimate of one event a pre-activation.

    See Also
    --------
    opflow.GradientFlow : The flow to a tolerance, at any size.
    opflow.ExponentialFlow : The flow by steps with frozen gates.
    opflow.Trajectory : Its attribute `events` says when, where and how gates changed.

    Notes
    -----
    A step ends where a pre-activation next reaches zero.  Until then the weights have a Taylor
    series [1]_; with one hidden layer and a fixed readout it is that of :math:`e^{-tK} r`, which
    converges for all t.  The pre-activations are polynomials, whose coefficients bound their second
    derivatives, and with them a search that passes no zero.

    A pre-activation that is driven back from both sides slides [2]_: its gate takes the value
    between slope and 1 for which it stays, until that value reaches an end.  The velocity is then
    the negative gradient projected onto the weights for which these pre-activations stay zero; a
    unit with one hidden layer adds :math:`v^2 (G_{AA} - G_{AS} G_{SS}^{-1} G_{SA})` to K, for its
    active and sliding samples.  Where gates at zero are not determined (the flow is not unique, or
    a unit has lost all its weights) they are closed, as ReLU'(0) = 0 says, and `note` counts it.
    Descent may leave such a point later.  A leaky unit that loses all its weights while it is
    driven back ends the run with an error.

    Equal samples, and samples on one ray if there are no biases, are followed as one.  A series has
    at most 33 orders, each with the weights and three fields of N·Σn numbers and 6·N·P flops; an
    event takes 5 to 15 orders, and λ_max·t of about 3 without an event takes all of them.  S
    sliding pre-activations add S³/3 flops an event.  X is an array or sparse, the dtype float64.

    References
    ----------
    .. [1] Y. F. Chang, G. Corliss, "Solving ordinary differential equations using Taylor series",
       ACM Transactions on Mathematical Software 8, 1982.
    .. [2] A. F. Filippov, "Differential Equations with Discontinuous Righthand Sides", Kluwer,
       1988.

    Examples
    --------
    One unit, two samples: on the first it falls to zero, and the second keeps it there.

    >>> import numpy as np, opflow as of
    >>> net = of.ReLUNetwork([np.array([[1.0, 0.0]])], np.array([[1.0]]))
    >>> X, y = np.array([[1.0, 0.0], [1.0, 1.0]]), [-1.0, 5.0]
    >>> run = of.train(net, X, y, method=of.ExactFlow(), until=9.0)
    >>> run.events[["unit", "sample", "kind"]].tolist(), round(float(run.events["time"][0]), 12)
    ([(0, 0, 'slide in')], 3.073475703224)
    """

    tol: float = 1e-10
    sliding: bool = True
    events: int | None = None

    name = "the exact flow"
    quadratic = True
    by_weights = True
    sharded = False
    frozen = False
    # a series, and copies of it in products of series and in the search
    extra = 4.0 + 2.2 * ORDERS
    kept = 3.5 * ORDERS

    def __post_init__(self) -> None:
        check_tol(self.tol)
        if not isinstance(self.sliding, bool):
            raise TypeError(f"sliding must be True or False, not {self.sliding!r}")
        if self.events is not None:
            check_integer(self.events, "events", 0)

    def start(self, state: State, share: float) -> ExactIntegrator:
        return ExactIntegrator(self, state, share)


class ExactIntegrator(ParameterIntegrator):
    """From event to event, by Taylor series."""

    stochastic = True  # a moment that is not recorded needs no pass

    def __init__(self, method: ExactFlow, state: State, share: float) -> None:
        super().__init__(state, share)
        X = state.first.inputs
        network = state.upper
        if type(X) is not np.ndarray and not is_sparse(X):
            raise ValueError(f"{method!r} needs X as a NumPy array or a SciPy sparse matrix")
        if network.dtype != np.float64:
            raise TypeError(f"{method!r} needs a network of float64, not {network.dtype}")
        self.method = method
        self._run = Distinct(state, X, share)
        hidden = np.hstack(network.fields(self._run.rows).preactivations)
        one = 6.0 * TYPICAL * state.samples * network.parameters
        if hidden.size * one > WORK:
            raise ValueError(
                f"{method!r} may meet {hidden.size:.2g} events, one a pre-activation, of {one:.2g} "
                f"flops each: more than {WORK:g} in all; take fewer samples or units, or "
                "GradientFlow()"
            )
        self._weights = self._run.weights()
        self._gates = Gates(self._run, hidden)
        self._events: list[tuple[float, int, int, int, str]] = []
        #: so far
        self._time = 0.0
        #: from here, for the next step
        self._series: Series
        for _ in range(2):  # first the size of the velocity, then how fast that changes
            self._gates.unit /= self._gates.series(self._weights).speed()
        self._settle(self._gates.values.copy(), False)

    def evaluate(self, residual: Array) -> float:
        r = self._series.residuals[0]
        residual[...] = r
        return 0.5 * float(np.vdot(r, r))

    def advance(self, remaining: float) -> float:
        start = self._time
        for attempt in range(HALTED):
            self._step(remaining, attempt >= STUCK)
            if self._time > start:
                self.state = self.state.at(self._run.parameters(self._weights))
                return self._time - start
        raise ArithmeticError(f"more than {HALTED} events follow each other {self._here()}")

    def _step(self, remaining: float, stuck: bool) -> None:
        """To the next event, or as far as the series goes."""
        series = self._series
        gates = self._gates
        unit = gates.unit
        size = series.reach(min(1.0, remaining / unit), NEGLECTED * self.method.tol)
        self.products += series.order
        time, places = gates.first_event(series, size)
        size = min(size, time)
        self._weights = series.moved(size)
        self._time += size * unit
        gates.zero[:] = False  # but for those that slide
        if not places.size:
            gates.unit *= 4 * size
            self._series = gates.series(self._weights)
            return
        gates.unit *= max(2 * size, 0.5)
        before = gates.values.copy()
        gates.change(places)
        self._settle(before, stuck)

    def _here(self) -> str:
        return f"at t = {self._time:.6g}"

    def _settle(self, before: Array, stuck: bool) -> None:
        """Take the gates that fit their velocities, and note which have changed."""
        run = self._run
        gates = self._gates
        here = self._here()
        try:
            self._series = gates.settle(self._weights, before, stuck)
        except Unsettled as error:
            raise ArithmeticError(f"{error} {here}") from None
        changed = np.argwhere(before != gates.values).tolist()
        for sample, column in sorted(changed, key=lambda pair: run.layers[pair[1]]):
            layer = int(run.layers[column])
            unit = column - run.cuts[layer].start
            kind = KINDS[gates.values[sample, column]]
            if before[sample, column] == SLIDES:
                kind = "slide out"
            for member in np.flatnonzero(run.index == sample).tolist():
                self._events.append((self._time, layer, unit, member, kind))
                if kind == "slide in" and not self.method.sliding:
                    raise ArithmeticError(
                        f"unit {unit} of layer {layer + 1} slides on sample {member} {here}: "
                        "sliding=True follows it"
                    )
        most = self.method.events
        if most is not None and len(self._events) > most:
            raise ArithmeticError(f"more than events={most} {here}")
        self.note = f"pre-activations to {self.method.tol:g} of the largest"
        if gates.unclear:
            self.note += f"; {gates.unclear} closed at will"

    @property
    def events(self) -> Array:
        """The changes of gates so far, a structured array."""
        return np.array(self._events, EVENT)

    def arrays(self) -> dict[str, Array]:
        events = self.events
        arrays = {f"event_{name}": events[name] for name in KEYS}
        numbers = [self._time, self._gates.unit, self._gates.unclear]
        return arrays | {"numbers": np.array(numbers, dtype=np.float64)} | self._parts()

    def restore(self, arrays: dict[str, Array]) -> None:
        columns = [arrays[f"event_{name}"].tolist() for name in KEYS]
        self._events = list(zip(*columns, strict=True))
        self._time, self._gates.unit, unclear = arrays["numbers"].tolist()
        self._gates.unclear = int(unclear)
        for name, part in self._parts().items():
            part[...] = arrays[name]
        self.state = self.state.at(self._run.parameters(self._weights))
        self._series = self._gates.series(self._weights)

    def _parts(self) -> dict[str, Array]:
        """The weights, and by layer the gates and which are at zero: as they are, to write to."""
        parts = {f"weights_{i}": W for i, W in enumerate(self._weights)}
        for i, cut in enumerate(self._run.cuts):
            parts[f"gates_{i}"] = self._gates.values[:, cut]
            parts[f"zero_{i}"] = self._gates.zero[:, cut]
        return parts
