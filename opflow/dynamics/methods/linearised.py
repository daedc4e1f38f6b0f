r"""The lazy regime: the network linearised at its start, its flow solved exactly.

``r(t) = exp(−tK) r(0)`` with K frozen for good, and ``u(t) = ∫_0^t r`` moves everything else:
parameters by ``−ηJᵀu``, outputs at new points by ``−K(x, X) u``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opflow.dynamics.methods.exponential import moving_integral
from opflow.dynamics.methods.flow import KrylovFlow
from opflow.dynamics.methods.method import LinearModel, ParameterIntegrator
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, Data, namespace
from opflow.relu.jacobian import jacobian
from opflow.spectral.krylov.flow import Krylov


@dataclass(frozen=True)
class LinearisedFlow(KrylovFlow):
    r"""The gradient flow of the network's linearisation at its start.

    Parameters
    ----------
    tol : float, default 1e-8
        The error of r(t) is at most `tol` times ‖r(0)‖, plus rounding.
    size : int, default 128
        Vectors of the Krylov basis at most, of N·k numbers each; then it is restarted.

    See Also
    --------
    opflow.ExponentialFlow : The flow of the network itself.
    opflow.spectral.kernel_regression : The limit of long times.
    opflow.spectral.expm : The action of the exponential.

    Notes
    -----
    The residual is that of the linear model [1]_,
    :math:`f_0 + J(\theta - \theta_0) - y = e^{-tK} r(0)`, exact in time at any t; the state holds
    the parameters :math:`\theta_0 - \eta J^T u(t)`, whose network is not linear and has another
    residual.  Observers describe the linear model: its kernel and gates are those of the start, and
    its predictions are linear in the parameters; ``moment.network`` and the trajectory's `network`
    hold the parameters alone.

    The integrator's `dual` is :math:`u(t) = \int_0^t e^{-sK} r(0)\,ds` (N, k), times `share`,
    without what r has in the null space of K, which stays for all times: the linear model at new
    points is :math:`f_0(x) - K(x, X)\,u(t)` for any cross kernel of the start, or with Gᵀu(t).

    Times that are not asked for double.  All products are spent on one Krylov space, some
    :math:`\sqrt{t\lambda_{max}\log(1/tol)}` or fewer, and one a moment on the parameters.

    References
    ----------
    .. [1] J. Lee et al., "Wide neural networks of any depth evolve as linear models under gradient
       descent", 2019, arXiv:1902.06720.

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

    name = "the linearised flow"
    extra = 2.0

    def start(self, state: State, share: float) -> LinearisedIntegrator:
        return LinearisedIntegrator(state, share, self.tol, self.size)


class LinearisedIntegrator(ParameterIntegrator):
    """Evaluates the linear flow at one time after another; its state is parameters −ηJᵀu away."""

    note = "exact in time"
    by_sample = ("start", "base")

    def __init__(self, state: State, share: float, tol: float, vectors: int) -> None:
        super().__init__(state, share)
        self.origin = state
        self.tol = tol
        self._vectors = vectors
        #: Krylov spaces begun so far: none before the first moment is evaluated
        self._pieces = 0

    @property
    def predictor(self) -> LinearModel:
        return self

    @property
    def dual(self) -> Array:
        """u(t) but for its part in the null space of K, which moves nothing, (N, k)."""
        return self._base + self._shaped(moving_integral(self.krylov, self._elapsed))

    def evaluate(self, residual: Array) -> float:
        if not self._pieces:
            self.origin.loss_and_velocity(residual)
            self.products += 2  # with the fields of the kernel
            self._kernel = self.origin.kernel()
            self._norm = float(self.origin.space.norm(residual))
            self._base = namespace(residual).zeros_like(residual)
            #: the time at which the Krylov space begins
            self._before = 0.0
            self._begin(residual.copy())
        residual[...] = self._shaped(self.krylov.at(self._elapsed))
        return 0.5 * float(self.origin.space.total((residual.astype(np.float64) ** 2).sum()))

    def advance(self, remaining: float) -> float:
        krylov = self.krylov
        left = remaining * self.share
        before = krylov.products
        if not krylov.exhausted and not before:
            krylov.grow()
        size = self._before + self._elapsed  # the time doubles
        size = min(left, size or 1 / (krylov.top or 1.0))
        met = krylov.reach(self._elapsed + size, self._allowed())
        self.products += krylov.products - before
        if not met:
            if self._elapsed:  # what the space could do is done
                self._base = self.dual
                self._before += self._elapsed
                self._begin(self._shaped(krylov.at(self._elapsed)))
                return self.advance(remaining)
            size = krylov.horizon(self._allowed(), size)
        self._elapsed += size
        self._move()
        return remaining if size == left else size / self.share

    def predict(self, X: Data) -> Array:
        """The linear model at new points, f_0 + J (θ − θ_0), (M, k)."""
        if not self.origin.first.has_weights:
            raise ValueError(
                "LinearisedFlow does not predict where gram= is a kernel: GradientFlow and "
                "GradientDescent do"
            )
        start = self.origin.network
        pairs = zip(self.state.network.parameter_list(), start.parameter_list(), strict=True)
        moved = [(p - q).reshape(-1) for p, q in pairs]
        J = jacobian(start.fields(X), rates=False)
        direction = namespace(start.readout).concatenate(moved).astype(start.dtype, copy=False)
        return start(X) + J.matvec(direction).reshape(-1, start.outputs)

    def _move(self) -> None:
        self.state = self.origin.moved(self.origin.direction(self.dual), 1.0)
        self.products += 1

    def _begin(self, residual: Array) -> None:
        """A Krylov space of the residual where the last one could do no more."""
        self._start = residual
        self._elapsed = 0.0
        self._pieces += 1
        self.krylov = Krylov(self._kernel, residual.reshape(-1), size=self._vectors)

    def _allowed(self) -> float:
        """The tolerance of the n-th space, relative to its start; 1/(n(n + 1)) sums to 1."""
        share = self.tol / (self._pieces * (self._pieces + 1))
        return share * self._norm / self.krylov.norm if self.krylov.norm else share

    def _shaped(self, flat: Array) -> Array:
        return flat.reshape(self.origin.targets.shape)

    def arrays(self) -> dict[str, Array]:
        numbers = [self._elapsed, self._before, self._norm, self._pieces, self.krylov.products]
        return {"start": self._start, "base": self._base, "numbers": np.array(numbers)}

    def restore(self, arrays: dict[str, Array]) -> None:
        self._kernel = self.origin.kernel()
        self._base = arrays["base"]
        elapsed, self._before, self._norm, pieces, vectors = arrays["numbers"].tolist()
        self._pieces = int(pieces) - 1
        self._begin(arrays["start"])
        # The same vectors again: what the space says depends on how many there are.
        for _ in range(int(vectors)):
            self.krylov.grow()
        self._elapsed = elapsed
        self._move()
