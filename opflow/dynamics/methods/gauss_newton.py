r"""Gauss–Newton steps: damped least squares of the network linearised where it is.

``(JᵀHJ + λ) p = Jᵀg`` for the step −p, g the force and H the loss's second derivative in f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from opflow.dynamics.methods.flow import Point, PointIntegrator
from opflow.dynamics.methods.method import Method
from opflow.dynamics.methods.step_size import check_step
from opflow.dynamics.state import State
from opflow.machine.arrays import Array, check_integer, namespace
from opflow.operators.kfac import damped_inverse, kfac
from opflow.operators.operator import Operator
from opflow.relu.jacobian import jacobian
from opflow.relu.kernels import collective_kernel
from opflow.spectral.checks import check_tol
from opflow.spectral.functions.preconditioners import Jacobi

#: λ of the first step, in parts of the curvature of the model along the gradient
FIRST = 0.01
#: the part of the last step from which the search for the next one starts
KEPT = 0.95
#: after a good step λ becomes at least this many times as large
RELIEF = 1 / 3
#: attempts of a step: what the loss rises by after these is rounding
TRIES = 10
#: random vectors that estimate the diagonal of (G J)ᵀ G J
SIGNS = 8
#: parameters for every number of the force, above which the search is among samples
MANY = 16


@dataclass(frozen=True)
class GaussNewton(Method):
    r"""Gauss–Newton (Levenberg–Marquardt) steps by conjugate gradients.

    Parameters
    ----------
    damping : float or "auto", default "auto"
        λ, in units of the second derivative of the loss by the parameters; with a number every
        step is taken, "auto" takes none that raises the loss.
    tol : float, default 0.4
        The search ends with the iteration that finds a residual of at most `tol` times ‖Jᵀg‖.
    products : int, default 24
        Iterations of a search at most, one product each.
    preconditioner : {"diagonal", "kfac"}
        Of a search among p: diag(JᵀJ), or :func:`opflow.kfac`, whose blocks cost 9·n³ flops a step
        for a layer's width n and whose products cost 4·P·n; λ is added to either.

    See Also
    --------
    opflow.GradientDescent : Steps of first order.
    opflow.kfac : The preconditioner "kfac".
    opflow.hessian : The Hessian, and its Gauss–Newton part.

    Notes
    -----
    Levenberg–Marquardt steps with Nielsen's damping [1]_: with the force g, its derivative H in f
    and J in the coordinates W/√η, a step is

    .. math:: (J^T H J + \lambda)\,p = J^T g, \qquad W \leftarrow W - \sqrt{\eta}\,p.

    The search is among p (P numbers), preconditioned.  Where P > 16·N·k, or the
    first layer is eliminated, it is among u (N·k numbers): :math:`p = J^T u`,
    :math:`(HK + \lambda)\,u = g`, symmetric in the inner product :math:`u^T K v` for any H.

    λ starts as a hundredth of the curvature along the gradient.  With ϱ the actual over the
    predicted decrease, a step that lowers the loss multiplies it by
    :math:`\max(1/3, 1 - (2\varrho - 1)^3)`; others are taken back, and multiply it by 2, 4, 8, …
    After ten of these the loss is at its rounding, and the state stays.

    Of measured outputs J is G J, whose diagonal takes four products: random signs estimate it.

    A search starts at 0.95 of the last step: each finds what is steep, and what is flat gathers
    from step to step.  A step of m iterations costs m + 4 products (fields, preconditioner, start,
    new loss), or m + 5 by samples.  Steps have no time: one counts as 1.

    References
    ----------
    .. [1] H. B. Nielsen, "Damping parameter in Marquardt's method", 1999.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> net = of.ReLUNetwork.random([3, 64], seed=0)
    >>> run = of.train(net, X, y, method=of.GaussNewton(), steps=20)
    >>> bool(run.losses[-1] < 0.2 * run.losses[0]), bool((np.diff(run.losses) <= 0).all())
    (True, True)
    """

    damping: float | str = "auto"
    tol: float = 0.4
    products: int = 24
    preconditioner: str = "diagonal"

    name = "Gauss–Newton"
    stepwise = True
    timed = False
    extra = 8.0

    def __post_init__(self) -> None:
        check_step(self.damping, "damping")
        check_tol(self.tol)
        check_integer(self.products, "products", 1)
        if self.preconditioner not in ("diagonal", "kfac"):
            raise ValueError(
                f"preconditioner must be 'diagonal' or 'kfac', not {self.preconditioner!r}"
            )

    def start(self, state: State, share: float) -> GaussNewtonIntegrator:
        if self.preconditioner == "kfac":
            diagonal = "GaussNewton(preconditioner='diagonal'), not kfac"
            state.measurement.refuse(f"measurement= needs {diagonal}")
        return GaussNewtonIntegrator(self, state, share)


class Equations:
    """``(JᵀHJ + λ) p = Jᵀg`` at a state, for vectors x that are p, or u with p = Jᵀu."""

    def __init__(self, point: Point, preconditioner: str) -> None:
        self.state = state = point.state
        self.force = point.residual.reshape(-1)
        fields = state.snapshot()
        #: what is compared with the targets
        self.seen = state.measurement.seen(fields.outputs)
        self.products = 1
        wide = sum(p.size for p in state.parameters) > MANY * state.rows * state.targets.shape[1]
        self.by_samples = wide or fields.gram is not None
        if self.by_samples:
            self.operator: Operator = state.measurement.kernel(collective_kernel(fields))
            self.right = self.force
            self.slope = self.over_samples(self.force, self.image(self.force))  # ‖Jᵀg‖²
        else:
            J = jacobian(fields)
            self.operator = state.measurement.rows(J)
            moving = zip(point.velocity, state.upper.parameter_rates(), strict=True)
            parts = [(-v / (rate**0.5 or 1.0)).reshape(-1) for v, rate in moving]
            self.right = namespace(*parts).concatenate(parts)
            self.slope = float(dot(self.right, self.right))
            self.products += 1
            if preconditioner == "kfac":
                self.inverse = damped_inverse(kfac(J))
            else:
                squares, spent = state.measurement.squares(J, self._signs)
                self.products += spent
                self.inverse = lambda damping: Jacobi(1 / (squares + damping))

    def _signs(self) -> Array:
        """Random signs in the shape of forces."""
        signs = self.state.space.signs(np.random.default_rng(0), self.operator.shape[0], SIGNS)
        return namespace(self.force).asarray(signs, dtype=self.force.dtype)

    def solve(self, damping: float, start: Array | None, how: GaussNewton) -> tuple[Array, float]:
        """x by conjugate gradients from `start`, or zero, and the decrease that it predicts."""
        xp = namespace(self.force)
        x = xp.zeros_like(self.right)
        Jx = xp.zeros_like(self.force)
        if start is not None:
            x = KEPT * start
            Jx = self.image(x)
        r = self.right - damping * x - self.pulled(self.curved(Jx))
        d = xp.zeros_like(x)
        Jd = xp.zeros_like(Jx)
        goal = how.tol**2 * self.slope
        inverse: Operator | None = None
        if not self.by_samples:
            inverse = self.inverse(damping)
            goal = how.tol**2 * float(dot(self.right, inverse @ self.right))
        before = math.inf
        for _ in range(how.products):
            z = inverse @ r if inverse else r
            Jz = self.image(z)
            size = self.inner(r, z, Jz)
            if not size > 0:  # solved exactly
                break
            d = z + size / before * d
            Jd = Jz + size / before * Jd
            HJd = self.curved(Jd)
            along = size / (self.over_samples(Jd, HJd) + damping * self.inner(d, d, Jd))
            x += along * d
            Jx += along * Jd
            r -= along * (self.pulled(HJd) + damping * d)
            before = size
            if size <= goal:
                break
        return x, self.over_samples(self.force - 0.5 * self.curved(Jx), Jx)

    def moved(self, x: Array) -> State:
        """The state after a step."""
        state = self.state
        if self.by_samples:
            self.products += 1
            return state.moved(state.direction(x.reshape(state.targets.shape)), 1.0)
        ends = np.cumsum([p.size for p in state.parameters])[:-1].tolist()
        parts = namespace(x).split(x, ends)
        sets = zip(parts, state.parameters, state.upper.parameter_rates(), strict=True)
        return state.moved([rate**0.5 * x.reshape(p.shape) for x, p, rate in sets], -1.0)

    def image(self, x: Array) -> Array:
        """J p."""
        self.products += 1
        return self.operator.matvec(x)

    def curved(self, image: Array) -> Array:
        """H J p."""
        y = self.state.targets
        hessian = self.state.objective.hessian
        return hessian(self.seen, y, image.reshape(y.shape)).reshape(-1)

    def pulled(self, v: Array) -> Array:
        """The vector of p = Jᵀv."""
        return v if self.by_samples else self.operator.rmatvec(v)

    def over_samples(self, a: Array, b: Array) -> float:
        return float(self.state.space.total(dot(a, b)))

    def inner(self, x: Array, other: Array, image: Array) -> float:
        """The inner product of two p, the other of which has this image J p."""
        return self.over_samples(x, image) if self.by_samples else float(dot(x, other))


def dot(a: Array, b: Array) -> Array:
    """An inner product, summed in float64; a number on the device."""
    return namespace(a).multiply(a, b, dtype=np.float64).sum()


class GaussNewtonIntegrator(PointIntegrator):
    """Gauss–Newton steps."""

    by_sample = ("dual",)

    def __init__(self, method: GaussNewton, state: State, share: float) -> None:
        super().__init__(state, share)
        self.method = method
        self.auto = isinstance(method.damping, str)
        #: of the summed loss; infinite where no step lowers it
        self.damping = math.nan
        if not self.auto:
            self.damping = float(method.damping) / share
        self.note = f"damping {method.damping}"
        #: steps that were taken back
        self.refused = 0
        #: the last step, where the search for the next one starts: p ("search") or u ("dual")
        self._search: dict[str, Array] = {}

    def advance(self, remaining: float) -> float:
        if not math.isinf(self.damping):
            equations = Equations(self.point, self.method.preconditioner)
            if equations.slope > 0:
                self._step(equations, float(self.point.loss))
            self.products += equations.products
        if self.auto:
            back = f"{self.refused:,} times a step raised the loss and was taken back"
            self.note = f"damping {self.share * self.damping:.4g} (auto); {back}"
        return 1.0

    def _step(self, equations: Equations, loss: float) -> None:
        """Solve and move; if the damping is "auto", until the loss falls."""
        if math.isnan(self.damping):
            image = equations.image(equations.right / equations.slope**0.5)
            bent = equations.over_samples(image, equations.curved(image))
            self.damping = FIRST * bent or 1.0
        for tries in range(TRIES):
            start = next(iter(self._search.values()), None)
            x, decrease = equations.solve(self.damping, start, self.method)
            end = self.evaluated(equations.moved(x))
            gain = loss - float(end.loss)
            if gain > 0 or not self.auto:
                break
            self.refused += 1
            self.damping *= 2.0 ** (tries + 1)
            self._search = {}
        else:
            self.damping = math.inf
            return
        if self.auto:
            ratio = gain / decrease if decrease > 0 else 0.0
            self.damping *= max(RELIEF, 1 - (2 * ratio - 1) ** 3)
        self._search = {"dual" if equations.by_samples else "search": x}
        self._point = end
        self.state = end.state

    def arrays(self) -> dict[str, Array]:
        arrays = super().arrays() | self._search
        return arrays | {"damping": np.array(self.damping), "refused": np.array(self.refused)}

    def restore(self, arrays: dict[str, Array]) -> None:
        super().restore(arrays)
        self.damping = float(arrays["damping"])
        self.refused = int(arrays["refused"])
        self._search = {name: arrays[name] for name in ("search", "dual") if name in arrays}
