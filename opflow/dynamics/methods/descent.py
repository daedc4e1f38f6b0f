"""Gradient descent: the Euler step of the gradient flow, with momentum, schedules and batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np

from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.methods.method import Method, ParameterIntegrator
from opflow.dynamics.methods.step_size import RISE, AutoStep, check_step
from opflow.dynamics.state import State
from opflow.interface.keywords import TWICE
from opflow.machine.arrays import Array, check_integer, is_rows, namespace, to_device_of
from opflow.operators.rules import is_operator
from opflow.relu.inputs import input_rows
from opflow.spectral.checks import check_shift

#: of a step that is taken back, before what is left of it is rounding
HALVINGS = 50


@dataclass(frozen=True)
class GradientDescent(Method):
    r"""Gradient descent, the Euler step of the gradient flow.

    Parameters
    ----------
    step : float, "auto" or callable
        The step size η; "auto" is 1/λ_max(K), half the limit of stability, and follows K as it
        moves.  A callable is a schedule: ``step(n)`` is the size of step n = 0, 1, ….
    momentum : float, default 0
        β of the heavy ball, 0 <= β < 1.
    batch : int, optional
        Rows drawn for each step instead of all N: stochastic gradient descent.
    rng : int or numpy.random.Generator, optional
        Where the batches come from.
    accumulate : {"float64"}, optional
        For float32 data: parameters, and sums over row blocks, in float64; GEMMs stay float32.
    seed : another name of `rng`
    weight_decay : float, default 0
        λ of the decay of all trained parameters, biases too; the first layer moves as weights.

    See Also
    --------
    opflow.GradientFlow : The flow to a tolerance.

    Notes
    -----
    .. math:: M \leftarrow \beta M - \eta\,\eta_\ell\, (\partial loss/\partial W^\ell
              + \lambda W^\ell), \qquad W^\ell \leftarrow W^\ell + M.

    Every parameter enters linearly where it enters, so with the first layer eliminated the same
    recursion holds for the coefficients C, and by :math:`h^1 = h^1(0) + G C` for the field h^1
    itself: momentum is an exact recursion in field space.  With β the limit of stability is
    2(1 + β)/λ_max.  Weight decay adds λ·max η_ℓ to λ_max; losses are reported without its penalty
    ½λ|θ|².  With rates of 1 ``torch.optim.SGD`` takes the same steps on the same loss, sum or mean.

    With a batch of b rows, drawn without replacement, the gradient of the sum is N/b times that
    of the batch: unbiased, with covariance :math:`\frac{N(N-b)}{b}\,\Sigma`, Σ the covariance of
    the samples' gradients over the training set (divided by N − 1).  Residual and loss of a
    moment are those of the whole set, one pass each: observe every so many steps.

    "auto" stays while it is between 0.8 and 1.1 times 1/λ_max, which is measured after 1, 2, 4, …
    steps, later every 128 (three products or so), and sooner where it moves.  A step that raises
    the loss (with the penalty) by more than a hundredth, or above that of the start, is taken back
    and halved, at one product each; of a run with momentum, one that leads above the start.
    Batches are not checked: there λ_max gives way to the limit of the mean square,
    :math:`\lambda = \lambda_{max} + \frac{N - b}{b (N - 1) (1 - \beta)}
    \big(N \max_\mu K_{\mu\mu} - \lambda_{max}\big)`, measured as often by passes
    [1]_.  A step costs one product, 2·N·(3P − P_1) flops.

    References
    ----------
    .. [1] S. Ma, R. Bassily, M. Belkin, "The power of interpolation", 2018 (the step of a batch).

    Examples
    --------
    >>> import opflow as of
    >>> of.GradientDescent(step=0.1), of.GradientDescent(lambda n: 0.1 / (1 + n), 0.9).momentum
    (GradientDescent(step=0.1), 0.9)
    """

    step: float | str | Callable[[int], float] = "auto"
    momentum: float = 0.0
    batch: int | None = None
    rng: int | np.random.Generator | None = None
    accumulate: str | None = None
    seed: InitVar[int | np.random.Generator | None] = None
    weight_decay: float = 0.0

    name = "gradient descent"
    stepwise = True

    @property
    def by_weights(self) -> bool:
        return self.batch is not None or super().by_weights

    @property
    def frozen(self) -> bool:
        return self.step == "auto"

    @property
    def extra(self) -> float:
        wide = 2.0 * bool(self.accumulate)
        return 3 * wide + (2.0 + wide) * bool(self.momentum)

    def __post_init__(self, seed: int | np.random.Generator | None) -> None:
        if seed is not None:
            if self.rng is not None:
                raise TypeError(TWICE.format("GradientDescent"))
            object.__setattr__(self, "rng", seed)
        if not callable(self.step):
            check_step(self.step)
        check_shift(self.weight_decay, "weight_decay")
        check_shift(self.momentum, "momentum")
        if not self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {self.momentum}")
        if self.batch is not None:
            check_integer(self.batch, "batch", 1)
        if self.accumulate not in (None, "float64"):
            raise ValueError(f"accumulate must be 'float64' or None, not {self.accumulate!r}")

    def __repr__(self) -> str:
        step = repr(self.step)
        if callable(self.step):
            step = getattr(self.step, "__qualname__", type(self.step).__name__)
        others = ("momentum", "batch", "accumulate", "weight_decay")
        shown = [f", {name}={vars(self)[name]!r}" for name in others if vars(self)[name]]
        return f"GradientDescent(step={step}{''.join(shown)})"

    def start(self, state: State, share: float) -> Descent:
        if self.batch is None:
            return Descent(self, state, share)
        if is_operator(state.first.inputs):
            raise ValueError("batch needs inputs that can be read by rows, not an operator")
        check_integer(self.batch, "batch", 1, state.samples)
        return StochasticDescent(self, state, share)


class Descent(ParameterIntegrator):
    """Full-batch descent."""

    step: float = math.nan
    by_sample = ("auto_vector",)

    def __init__(self, method: GradientDescent, state: State, share: float) -> None:
        super().__init__(state, share)
        self.method = method
        #: steps so far
        self.number = 0
        self._auto: AutoStep | None = None
        #: momentum: what the last step moved by
        self._motion: list[Array] = []
        #: of the state, where a step may be taken back
        self._residual: Any = None
        self._loss = math.nan
        #: a loss that is all rounding of f
        self._rounding = 0.0
        if callable(method.step):
            self.note = "steps by the schedule given"
        elif method.step == "auto":
            self._auto = AutoStep(share * state.objective.curvature, method.batch, method.momentum)
        else:
            self.step = float(method.step)
            self.note = f"step {self.step:.4g}, as given"

    def _follow(self, auto: AutoStep) -> None:
        spent = auto.follow(self.state)
        if spent:
            self.products += spent
            self.step = auto.size
            self.note = auto.note

    def evaluate(self, residual: Array) -> float:
        auto = self._auto
        if auto is not None and math.isnan(auto.size):  # not taken up from a checkpoint
            self._follow(auto)
        if auto is None or self.stochastic:
            return self._evaluated(residual)
        if self._residual is None:
            self._residual = namespace(residual).empty_like(residual)
            self._loss = self._evaluated(self._residual)
            if math.isinf(auto.level):
                auto.level = self._loss + self.state.penalty
            y = self.state.targets
            scale = max(auto.level, 0.5 * float(self.state.space.norm(y)) ** 2)
            self._rounding = scale * (1e3 * float(np.finfo(y.dtype).eps)) ** 2
        residual[...] = self._residual
        return self._loss

    def advance(self, remaining: float) -> float:
        start = self.state
        size = self._move(self.velocity, 1.0)
        if self._auto is None:
            return size
        return size / 2 ** self._taken_back(self._auto, start)

    def _taken_back(self, auto: AutoStep, start: State) -> int:
        """Halve the step from `start` until the loss does not rise; how often that was."""
        before = self._loss + start.penalty
        bar = auto.level
        if not self.method.momentum:  # a heavy ball may rise on its way
            bar = min(RISE * before, bar)
        bar = max(before, bar, self._rounding)
        tries = 0
        self._loss = self._evaluated(self._residual)
        while not self._loss + self.state.penalty <= bar and tries < HALVINGS:
            tries += 1
            auto.halve()
            # half way back; the slope that led here is not held any more
            halves = zip(start.parameters, self.state.parameters, strict=True)
            self.state = start.at([p + (q - p) / 2 for p, q in halves])
            self._motion = [m / 2 for m in self._motion]
            self._loss = self._evaluated(self._residual)
            self.step = auto.size
            self.note = auto.note
        return tries

    def _evaluated(self, residual: Array) -> float:
        self.velocity = []  # two sets of numbers at a time are enough
        return super().evaluate(residual)

    def _move(self, velocity: list[Array], weight: float) -> float:
        if self._auto is not None:
            self._follow(self._auto)
        size = self.step
        if callable(self.method.step):
            size = float(self.method.step(self.number))
            if not 0 < size < math.inf:
                raise ValueError(f"step({self.number}) must be positive and finite, not {size}")
        rate = size * self.share * weight
        if self.method.momentum:
            velocity = [rate * v for v in velocity]
            for m, v in zip(self._motion, velocity, strict=False):  # none before the first step
                v += self.method.momentum * m
            self._motion = velocity
            rate = 1.0
        self.state = self.state.moved(velocity, rate)
        self.number += 1
        return size

    def arrays(self) -> dict[str, Array]:
        arrays = super().arrays() | {f"motion_{i}": m for i, m in enumerate(self._motion)}
        arrays |= {"number": np.array(self.number), "step": np.array(self.step)}
        if self._auto is not None:
            arrays |= self._auto.arrays()
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self.number = int(arrays["number"])
        self.step = float(arrays["step"])
        if "motion_0" in arrays:
            self._motion = [arrays[f"motion_{i}"] for i in range(len(self.state.parameters))]
        if self._auto is not None:
            self._auto.restore(arrays)
            self._residual = None


class StochasticDescent(Descent):
    """Descent on rows drawn anew for each step."""

    stochastic = True

    def __init__(self, method: GradientDescent, state: State, share: float) -> None:
        super().__init__(method, state, share)
        self._rng = state.space.generator(method.rng)
        #: rows since the last product was counted
        self._drawn = 0

    def advance(self, remaining: float) -> float:
        self.velocity = []  # that of all samples is not needed
        state = self.state
        n = state.samples
        batch = self.method.batch or n
        chosen = np.sort(self._rng.choice(n, batch, replace=False))
        here = state.space.span(n)
        chosen = chosen[(chosen >= here.start) & (chosen < here.stop)] - here.start
        rows = to_device_of(chosen, state.targets)
        X = state.first.inputs
        drawn = State(
            state.network,
            FirstLayer(input_rows(X, chosen if is_rows(X) else rows)),
            state.targets[rows],
            state.parameters,
            state.accumulate,
            space=state.space,
            objective=state.objective,
            decay=state.decay * batch / n,  # that of n samples, once they are weighted
        )
        velocity = drawn.loss_and_velocity(namespace(drawn.targets).empty_like(drawn.targets))[1]
        spent, self._drawn = divmod(self._drawn + batch, n)  # N rows make a product
        self.products += spent
        return self._move(velocity, n / batch)

    def arrays(self) -> dict[str, Array]:
        state = json.dumps(self._rng.bit_generator.state)
        return super().arrays() | {"rng": np.array(state), "drawn": np.array(self._drawn)}

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self._drawn = int(arrays["drawn"])
        self._rng.bit_generator.state = json.loads(str(arrays["rng"]))
