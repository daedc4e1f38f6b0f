"""Gaussian processes on a lazy kernel: predictions with error bars, evidence, influences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer, check_real, namespace
from opflow.machine.threads import cached_property
from opflow.machine.workspace import op_namespace, operator_module, parse_memory, row_slices
from opflow.operators.gram import Gram
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator
from opflow.spectral.blocks import distribution_of, eps_of, matching
from opflow.spectral.checks import DENSE, Estimate, check_shift, check_tol, symmetric_operator
from opflow.spectral.density.rule import Quadrature
from opflow.spectral.functions.preconditioners import nystrom
from opflow.spectral.functions.regression import check_targets
from opflow.spectral.functions.solve import TOLERANCES, Inverse, break_even
from opflow.spectral.traces.estimators import half_width
from opflow.spectral.traces.structure import diagonal_products, exact_diagonal, matrix_of
from opflow.spectral.traces.trace import MIN_PRODUCTS, PRODUCTS, Diagonal
from opflow.spectral.traces.trace_functions import psd_rule, rule_trace


class Posterior:
    r"""The posterior of the Gaussian process y = f(X) + ε, f ~ GP(0, K), ε ~ N(0, σ²), given data.

    Parameters
    ----------
    op, y
        K and the targets, as in :func:`kernel_regression`: c columns on one kernel, or k outputs.
    noise : float
        The variance σ², not negative; 0 only if K is not singular, and ``how="direct"``.
    cross, prior_diagonal : operator or array (M, N) or (M·k, N·k); array (M,) or (M, k); optional
        K(X*, X), such as ``of.cross_kernel(new_fields, fields)``, by default K itself; and, for
        the variance, the diagonal of K(X*, X*).
    how : {None, "direct", "iterative"}
        Cholesky and exact numbers, or conjugate gradients and estimates; by default the first up
        to an order of 1024, and where by the cost model that beats a block of solves.
    tol, rank, probes, steps, products, memory, rng, seed
        Of :func:`solve` and :func:`logdet`; solves for leverages; bytes for a block of new points.

    Attributes
    ----------
    coefficients, mean : array
        α = A⁻¹ y with A = K + σ², of the shape of y; and K(X*, X) α.
    variance : array (M,), or (M, k) of k flattened outputs
        diag K(X*, X*) − diag K(X*, X) A⁻¹ K(X, X*): of f, without the noise.
    log_marginal_likelihood, noise_gradient : Estimate
        −½ (yᵀα + log det A + N log 2π) summed over the columns of y, and its derivative in σ²
        (not log σ²), ½ (αᵀα − tr A⁻¹).
    leverages, leave_one_out : Diagonal
        That of K A⁻¹; and αᵢ / (A⁻¹)ᵢᵢ, of the shape of y: the target less its prediction from
        all other entries (of k outputs, also those of its sample).  With 95 % error bars.
    influence, inverse : operator
        S = K(X*, X) A⁻¹, lazy, S[i, j] = ∂ mean_i / ∂ y_j; and A⁻¹.  Without y_j, mean_i would be
        less by S[i, j] times the leave-one-out residual j.

    See Also
    --------
    opflow.spectral.posterior : Makes one.
    opflow.spectral.kernel_regression : The mean alone.
    opflow.spectral.logdet : The log-determinant in the likelihood.

    Notes
    -----
    See [1]_.  Of a tangent kernel and ``y - net(X)``, the linearised Laplace approximation.
    Computed when asked for; direct: 7/3·n³ flops, 4·n² a new point, and all eigenvalues for the
    likelihood.  Else :func:`solve`; of K A⁻¹ its preconditioner's basis gives a part, random signs
    the rest.

    References
    ----------
    .. [1] C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.Posterior(np.eye(2), np.array([2.0, 4.0]), 1.0)
    >>> found.coefficients, found.variance
    (array([1., 2.]), array([0.5, 0.5]))
    """

    @keywords
    def __init__(
        self,
        op: Data,
        y: Data,
        noise: float,
        cross: Data = None,
        prior_diagonal: Data = None,
        *,
        how: str | None = None,
        tol: float | None = None,
        rank: int = 100,
        probes: int = 10,
        steps: int = 60,
        products: int = PRODUCTS,
        memory: float | str | None = None,
        rng: Seed = 0,
        seed: Seed = 0,
    ) -> None:
        self._op = op = symmetric_operator(op)
        if distribution_of(op).sharded:
            raise ValueError("posterior takes no sharded op: all of its rows have to be here")
        self._noise = noise = check_shift(noise, "noise")
        self.y, self._y, self._outputs = check_targets(op, y)
        self._products = check_integer(products, "products", MIN_PRODUCTS)
        tol = check_tol(tol or TOLERANCES[op.dtype])
        small = how is None and op.shape[0] <= DENSE
        self._tol = 0.0 if small or break_even(op, how, products, None) <= 50 else tol
        if self._tol and not noise:
            raise ValueError("noise must be positive unless how='direct'")
        self._size = float(op.space.norm(self.y.astype(np.float64)))
        self._slack = self._tol * self._size / (noise or 1.0)  # of the coefficients
        self._budget = parse_memory(memory, operator_module(op))
        seeds = np.random.default_rng(rng).integers(2**62, size=3).tolist()
        self._rank = rank
        self._seeds = seeds[:2]
        self._quadrature = (probes, steps, seeds[2])
        self._cross = op if cross is None else as_operator(cross)
        rows, columns = self._cross.shape
        if columns != op.shape[0] or rows % np.prod(self._outputs):
            raise ValueError(f"cross must have shape (M, {op.shape[0]}), not {rows, columns}")
        self._prior = prior_diagonal
        if prior_diagonal is not None:
            self._prior = check_real(prior_diagonal, "prior_diagonal", dtype=op.dtype).reshape(-1)
            if self._prior.size != rows:
                raise ValueError(f"prior_diagonal has size {self._prior.size}, not {rows}")

    def __repr__(self) -> str:
        how = "iterative" if self._tol else "direct"
        return f"<Posterior of {self.y.shape} targets, noise {self._noise:.3g}, {how}>"

    def _by_sample(self, x: Array) -> Array:
        return x.reshape(-1, *self._outputs) if self._outputs else x

    @cached_property
    def inverse(self) -> Operator:
        if self._tol:
            P = nystrom(self._op, self._noise, self._rank, rng=self._seeds[0])
            return Inverse(
                self._op, shift=self._noise, preconditioner=P, tol=self._tol, how="iterative"
            )
        xp = op_namespace(self._op)
        A = matrix_of(self._op).astype(np.float64)
        least = 0.0
        if not self._noise:
            least = 10 * eps_of(self.y) * float(A.trace())
        A[xp.arange(len(A)), xp.arange(len(A))] += self._noise
        with contextlib.suppress(np.linalg.LinAlgError):
            root = xp.tril(xp.linalg.inv(xp.linalg.cholesky(A)))
            if float((root**2).sum()) * least < 1:  # tr A⁻¹, at least 1 over an eigenvalue
                return Gram(root.T.astype(self.y.dtype), symbol="(K + σ²)⁻¹")
        raise ValueError(f"op + {self._noise:.3g} is singular to rounding: give a larger noise")

    @cached_property
    def coefficients(self) -> Array:
        return self._by_sample(self.inverse @ self._y)

    @cached_property
    def mean(self) -> Array:
        return self._by_sample(self._cross @ self.coefficients.reshape(self._y.shape))

    @cached_property
    def influence(self) -> Operator:
        return self._cross @ self.inverse

    @cached_property
    def variance(self) -> Array:
        left = self._prior
        if left is None and self._cross is not self._op:
            raise ValueError("variance needs prior_diagonal, the diagonal of K(X*, X*)")
        if left is None:
            left = exact_diagonal(self._op)
        left = left.copy()
        held = 12 * self._op.shape[0] * left.itemsize  # by a solve, a column
        for rows in row_slices(len(left), held, self._budget):
            C = self._cross.block(rows, slice(None)).T
            X = self.inverse.matmat(C)
            if self._tol:  # so that a residual enters squared
                C = 2 * C - self._op.matmat(X) - self._noise * X
            left[rows] -= (C * X).sum(axis=0)
        return self._by_sample(left.clip(min=0))

    @cached_property
    def log_marginal_likelihood(self) -> Estimate:
        form = float((self.y * self.coefficients).sum(dtype=np.float64))
        doubt = self._slack * self._size
        return self._evidence(form, doubt, lambda x: np.log(2 * np.pi * (x + self._noise)))

    @cached_property
    def noise_gradient(self) -> Estimate:
        size = float(self._op.space.norm(self.coefficients.astype(np.float64)))
        return self._evidence(-(size**2), 2 * size * self._slack, lambda x: 1 / (x + self._noise))

    def _evidence(self, form: float, doubt: float, f: Callable[[Array], Array]) -> Estimate:
        """−½ (form + tr f(K) for every column of y)."""
        part = rule_trace(self._rule, f)
        pairs = ((part, form), (part.high, form + doubt), (part.low, form - doubt))
        ends = (-0.5 * (form + self._y.size / len(self._y) * trace) for trace, form in pairs)
        return Estimate(*ends, products=part.products, how=part.how)

    @cached_property
    def _rule(self) -> Quadrature:
        return psd_rule(self._op, "estimate" if self._tol else "exact", *self._quadrature)

    @cached_property
    def _bounds(self) -> list[Array]:
        """The diagonal of A⁻¹ and the ends of its 95 % intervals, from 1/Aᵢᵢ where A knows it."""
        inverse = self.inverse
        noise = self._noise
        if not isinstance(inverse, Inverse):
            return [inverse.diagonal()] * 3
        U = inverse.options["preconditioner"].data
        shares = 1 - noise / ((U * self._op.matmat(U)).sum(axis=0) + noise)
        rng = np.random.default_rng(self._seeds[1])
        G = matching(inverse.space.signs(rng, len(U), self._products), U)
        rest = G * (G - noise * (inverse @ G) - U @ (shares[:, None] * (U.T @ G)))
        error = half_width(rest) + self._tol * len(U) ** 0.5
        middle = 1 - U**2 @ shares - rest.mean(axis=1)
        least = 0 if diagonal_products(self._op) else noise / (exact_diagonal(self._op) + noise)
        return [x.clip(least, 1) / noise for x in (middle, middle - error, middle + error)]

    @cached_property
    def leverages(self) -> Diagonal:
        return self._bars(*(1 - self._noise * x for x in self._bounds))

    @cached_property
    def leave_one_out(self) -> Diagonal:
        alpha = self.coefficients.reshape(self._y.shape)
        with np.errstate(divide="ignore"):
            x, most, least = (1 / x.reshape(-1, *[1] * (alpha.ndim - 1)) for x in self._bounds)
        return self._bars(x, most, least, alpha, self._slack)

    def _bars(self, x: Array, most: Array, least: Array, a: Any = 1, slack: Any = 0) -> Diagonal:
        """a·x, of an x between `least` and `most` and an a that is known to `slack`."""
        error = abs(a) * namespace(x).maximum(most - x, x - least) + slack * most
        how, products = ("random signs", self._products) if self._tol else ("exact", 0)
        return Diagonal(self._by_sample(a * x), self._by_sample(error), products, how)


def posterior(
    op: Data, y: Data, noise: float, cross: Data = None, prior_diagonal: Data = None, **options: Any
) -> Posterior:
    """Gaussian-process regression on a kernel.

    Parameters
    ----------
    op : operator or array (N, N), or (N·k, N·k)
        K, symmetric PSD; of order N·k for k outputs flattened sample-major.
    y : array (N,) or (N, c)
        Targets: columns on one kernel of order N, or the k = c outputs of a kernel of order N·k.
    noise : float
        The variance σ², not negative; 0 only if K is not singular, and ``how="direct"``.
    cross : operator or array (M, N) or (M·k, N·k), optional
        K(X*, X), such as ``of.cross_kernel(new_fields, fields)``; K itself by default.
    prior_diagonal : array (M,) or (M, k), optional
        The diagonal of K(X*, X*), for the variance at new points.
    **options
        `how`: "direct" (Cholesky, exact) or "iterative" (conjugate gradients, estimates); `tol` and
        `rank` of :func:`solve`; `probes` and `steps` of :func:`logdet`; `products`, solves for
        leverages; `memory`, bytes for a block of new points; and `rng` or `seed`.

    Returns
    -------
    Posterior

    See Also
    --------
    opflow.spectral.Posterior : What it returns.
    opflow.spectral.kernel_regression : The mean alone.
    opflow.cross_kernel : The kernel between new and old points.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.posterior(np.diag([1.0, 3.0]), np.ones(2), 1.0)
    >>> found.mean, found.variance, found.leverages.values
    (array([0.5 , 0.75]), array([0.5 , 0.75]), array([0.5 , 0.75]))
    """
    return Posterior(op, y, noise, cross, prior_diagonal, **options)
