"""The step size "auto": 1/λ_max(K), measured at the start and followed as K moves."""

from __future__ import annotations

import math

import numpy as np

from opflow.dynamics.methods.method import RunState
from opflow.machine.arrays import Array
from opflow.spectral.krylov.lanczos import largest_eigenvalue

#: Lanczos products that may be spent on the first λ_max
LANCZOS = 30
#: and on each of those that follow it, from the vector where it last was
FOLLOW = 4
#: a relative change of λ_max below this one doubles the wait for the next measurement
STEADY = 0.1
#: one above this one quarters it
MOVING = 0.3
#: products of steps between two measurements at most
LONGEST = 128.0
#: a step is kept while step·λ_max is between these
LOW, HIGH = 0.8, 1.1
#: a loss may rise by this factor in a step: gates that flip back and forth do that at any step size
RISE = 1.01
#: the numbers of a checkpoint, in the order of the one array that older ones hold
NUMBERS = ("size", "first", "top", "since", "wait", "halved", "level")


class AutoStep:
    r"""The step size "auto": 1/λ_max(K), half the stability limit, followed as K moves.

    λ_max is measured again after 1, 2, 4, … steps, at most `LONGEST`, from the vector where it last
    was, and sooner where it has moved.

    Parameters
    ----------
    share : float
        What multiplies the gradient of the summed loss, times the curvature of the loss in f.
    batch, momentum : int, optional, and float
        Samples of a step, and β; see the notes of :class:`opflow.GradientDescent`.
    """

    def __init__(self, share: float, batch: int | None = None, momentum: float = 0.0) -> None:
        self.share = share
        self.batch = batch
        self.momentum = momentum
        #: what weight decay adds to λ_max
        self.decay = 0.0
        self.size = math.nan
        #: the kernel whose λ_max it follows, for people
        self.symbol = "K"
        #: λ_max of the summed loss, and of the decay, at the start
        self.first = math.nan
        #: and when last measured
        self.top = math.nan
        #: its eigenvector, where the next measurement starts
        self.vector: Array | None = None
        #: steps since λ_max was measured
        self.since = 0.0
        #: steps from one measurement to the next
        self.wait = 1.0
        #: steps that were taken back
        self.halved = 0.0
        #: the loss that no step may lead above
        self.level = math.inf

    def follow(self, state: RunState) -> int:
        """Measure λ_max where it is time to, before a step; the products it took."""
        self.symbol = state.measurement.symbol
        if math.isnan(self.size):
            return self._begin(state)
        self.since += 1
        if self.since <= self.wait:
            return 0
        before = self.top
        products = self._measure(state, tol=0.05, steps=FOLLOW)[0]
        self.since = 1.0
        change = abs(self.top - before)
        if change <= STEADY * before:
            passes = state.samples / (self.batch or state.samples)
            self.wait = min(2 * self.wait, LONGEST * passes)
        elif change > MOVING * before:
            self.wait = max(1.0, self.wait / 4)
        if self.top > 0 and not LOW <= self.size * self.share * self.top <= HIGH:
            self.size = 1 / (self.share * self.top)
        return products + 1  # the fields

    def _begin(self, state: RunState) -> int:
        products, bound = self._measure(state, tol=1e-2, steps=LANCZOS)
        self.first = self.top
        self.size = 1.0  # where no gate is open anywhere, K = 0 and nothing will move
        if self.top > 0:
            self.size = 1 / (self.share * (self.top + bound))
        return products

    def _measure(self, state: RunState, tol: float, steps: int) -> tuple[int, float]:
        """Set λ_max (of a batch: the limit of its mean square); the products, and its bound."""
        kernel = state.kernel()
        found = largest_eigenvalue(kernel, tol=tol, steps=steps, start=self.vector)
        self.vector = found.vector
        top = float(found.value)  # a NumPy number would widen float32
        if self.batch is not None:
            n = state.samples
            own = kernel.diagonal()
            largest = float(state.space.largest(own.max() if len(own) else np.zeros(())))
            noise = (n - self.batch) / (self.batch * max(n - 1, 1)) * (n * largest - top)
            top += max(noise, 0.0) / (1 - self.momentum)
        self.decay = state.stiffness / state.objective.curvature
        self.top = top + self.decay
        return found.products, float(found.bound)

    def halve(self) -> None:
        """A step was too long: K moved on the way."""
        self.size /= 2
        self.halved += 1
        self.wait = 1.0

    @property
    def note(self) -> str:
        """Which step it is and why."""
        if not self.first > 0:
            return f"step 1: {self.symbol} = 0, nothing will move"
        of = f"1/λ_max, half the stability limit, with λ_max({self.symbol}) ="
        if self.batch is not None:
            of = f"1/λ, half the stability limit of batches of {self.batch:,}, with λ ="
        if self.decay:
            of = of.replace(" =", " + weight decay =")
        text = f"step {self.size:.4g} (auto: {of} {self.first:.4g} at the start"
        text += f" and {self.top:.4g} when last measured)"
        if self.halved:
            text += f"; {self.halved:,.0f} times a step raised the loss, was taken back and halved"
        return text

    def arrays(self) -> dict[str, Array]:
        """What a checkpoint holds."""
        arrays = {f"auto_{name}": np.array(vars(self)[name]) for name in NUMBERS}
        if self.vector is not None:
            arrays["auto_vector"] = self.vector
        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what :meth:`arrays` gave, or the one array of older files, if they have any."""
        if "auto" in arrays:
            numbers = dict(zip(NUMBERS, arrays["auto"].tolist(), strict=True))
        elif "auto_size" in arrays:
            numbers = {name: float(arrays[f"auto_{name}"]) for name in NUMBERS}
        else:
            return
        vars(self).update(numbers, vector=arrays.get("auto_vector"))


def check_step(step: object, name: str = "step") -> None:
    """Raise unless `step` is a positive finite number or "auto"."""
    if isinstance(step, str):
        if step != "auto":
            raise ValueError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not isinstance(step, int | float) or isinstance(step, bool):
        raise TypeError(f"{name} must be a positive number or 'auto', not {step!r}")
    elif not 0 < step < math.inf:
        raise ValueError(f"{name} must be positive and finite, not {step}")
