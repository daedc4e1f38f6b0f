r"""The lazy regime: the network linearised at its start, its flow solved exactly.

``r(t) = exp(−tK) r(0)`` with K frozen for good, and ``u(t) = ∫_0^t r`` moves everything else:
parameters by ``−ηJᵀu``, outputs at new points by ``−K(x, X) u``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from opflow.dynamics.methods.exponential import moving_integral
from opflow.dynamics.methods.gradient_flow import check_tol
from opflow.dynamics.state import State
from opflow.machine.arrays import check_integer, namespace
from opflow.relu.kernels import jacobian
from opflow.spectral.krylov.flow import Krylov


@dataclass(frozen=True)
class LinearisedFlow:
    r"""The gradient flow of the network's linearisation at its start.

    Parameters
    ----------
    tol : float, default 1e-8
        The error of r(t) is at most `tol` times ‖r(0)‖, plus rounding.
    size : int, default 128
        Vectors of the Krylov basis at most, of N·k numbers each; then it is restarted.

    Notes
    -----
    The residual is that of the linear model,
    :math:`f_0 + J(\theta - \theta_0) - y = e^{-tK} r(0)`, exact in time at any t; the state holds
    the parameters :math:`\theta_0 - \eta J^T u(t)`, whose network is not linear and has another
    residual.  Observers describe the linear model: its kernel and gates are those of the start, and
    its predictions are linear in the parameters; ``moment.network`` and the trajectory's `network`
    hold the parameters alone.

    The integrator's `dual` is :math:`u(t) = \int_0^t e^{-sK} r(0)\,ds` (N, k), times `share`,
    without what r has in the null space of K, which stays for all times: the linear model at new
    points is :math:`f_0(x) - K(x, X)\,u(t)` for any cross kernel of the start.

    Times that are not asked for double.  All products are spent on one Krylov space, some
    :math:`\sqrt{t\lambda_{max}\log(1/tol)}` or fewer, and one a moment on the parameters.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> net = of.ReLUNetwork.random([3, 64], seed=0)
    >>> run = of.train(net, X, y, method=of.LinearisedFlow(), times=[0.5])
    >>> r = of.spectral.expm(of.collective_kernel(net.fields(X)), net(X)[:, 0] - y, 0.5)
    >>> bool(np.allclose(run.residual[:, 0], r))
    True
    """

    tol: float = 1e-8
    size: int = 128

    name = "the linearised flow"
    #: kernels at frozen gates are needed; sets of parameters besides the state
    frozen, extra = True, 2.0

    def __post_init__(self) -> None:
        check_tol(self.tol)
        check_integer(self.size, "size", 2)

    def start(self, state: State, share: float) -> LinearisedIntegrator:
        """The integrator of a run."""
        return LinearisedIntegrator(state, share, self.tol, self.size)


class LinearisedIntegrator:
    """Evaluates the linear flow at one time after another."""

    note = "exact in time"
    by_sample = ("start", "base")

    def __init__(self, state: State, share: float, tol: float, vectors: int) -> None:
        self.origin, self.share, self.tol, self._vectors = state, share, tol, vectors
        self.products = 0
        self._krylov: Krylov | None = None
        self._state: State | None = state

    @property
    def dual(self) -> Any:
        """u(t) but for its part in the null space of K, which moves nothing, (N, k)."""
        if self._krylov is None:
            return namespace(self.origin.targets).zeros_like(self.origin.targets)
        return self._base + self._shaped(moving_integral(self._krylov, self._elapsed))

    @property
    def state(self) -> State:
        """The parameters moved by −ηJᵀu."""
        if self._state is None:
            self._state = self.origin.moved(self.origin.direction(self.dual), 1.0)
            self.products += 1
        return self._state

    def evaluate(self, residual: Any) -> float:
        xp = namespace(residual)
        if self._krylov is None:
            self.origin.evaluate(residual)
            self.products += 2  # with the fields of the kernel
            self._kernel = self.origin.kernel()
            self._norm = float(self.origin.space.norm(residual))
            self._base, self._pieces, self._before = xp.zeros_like(residual), 0, 0.0
            self._begin(residual.copy())
        assert self._krylov is not None
        residual[...] = self._shaped(self._krylov.at(self._elapsed))
        return 0.5 * float(self.origin.space.total((residual.astype(np.float64) ** 2).sum()))

    def advance(self, remaining: float) -> float:
        assert self._krylov is not None  # a moment is evaluated before a step
        krylov, left = self._krylov, remaining * self.share
        if not krylov.exhausted and not krylov.products:
            self._grow()
        size = min(left, self._before + self._elapsed or (1 / krylov.top if krylov.top else 1.0))
        if not self._reach(size):
            if self._elapsed:  # what the space could do is done
                self._base, self._before = self.dual, self._before + self._elapsed
                self._begin(self._shaped(krylov.at(self._elapsed)))
                return self.advance(remaining)
            size = krylov.horizon(self._allowed(), size)
        self._elapsed += size
        self._state = None
        return remaining if size == left else size / self.share

    def predict(self, X: Any) -> Any:
        """The linear model at new points, f_0 + J (θ − θ_0), (M, k)."""
        start = self.origin.network
        moved = [
            (p - q).reshape(-1)
            for p, q in zip(self.state.parameters, self.origin.parameters, strict=True)
        ]
        if self.origin.first.route == "eliminated":
            W = self.state.network.weights[0] - start.weights[0]
            moved[0] = W.reshape(-1)
        J = jacobian(start.fields(X), rates=False)
        direction = namespace(start.readout).concatenate(moved).astype(start.dtype, copy=False)
        return start(X) + J.matvec(direction).reshape(-1, start.outputs)

    def _begin(self, residual: Any) -> None:
        self._start, self._elapsed = residual, 0.0
        self._pieces += 1
        self._krylov = Krylov(self._kernel, residual.reshape(-1), size=self._vectors)

    def _allowed(self) -> float:
        """The tolerance of the n-th space, relative to its start; 1/(n(n + 1)) sums to 1."""
        assert self._krylov is not None
        share = self.tol / (self._pieces * (self._pieces + 1))
        return share * self._norm / self._krylov.norm if self._krylov.norm else share

    def _reach(self, size: float) -> bool:
        assert self._krylov is not None
        before = self._krylov.products
        met = self._krylov.reach(self._elapsed + size, self._allowed())
        self.products += self._krylov.products - before
        return met

    def _grow(self) -> None:
        assert self._krylov is not None
        self._krylov.grow()
        self.products += 1

    def _shaped(self, flat: Any) -> Any:
        return flat.reshape(self.origin.targets.shape)

    def arrays(self) -> dict[str, Any]:
        if self._krylov is None:
            return {}
        numbers = [self._elapsed, self._before, self._norm, self._pieces, self._krylov.products]
        return {"start": self._start, "base": self._base, "numbers": np.array(numbers)}

    def restore(self, arrays: dict[str, Any]) -> None:
        if not arrays:
            return
        self._kernel, self._base = self.origin.kernel(), arrays["base"]
        elapsed, self._before, self._norm, pieces, vectors = (float(x) for x in arrays["numbers"])
        self._pieces = int(pieces) - 1
        self._begin(arrays["start"])
        # The same vectors again: what the space says depends on how many there are.
        for _ in range(int(vectors)):
            self._grow()
        self._elapsed, self._state = elapsed, None
