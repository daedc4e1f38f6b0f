r"""Kernel ridge regression on a lazy kernel: ``α = (K + μ)⁻¹ y``, predictions ``K(x, X) α``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.optimize import brentq, minimize_scalar

from opflow.interface.pictured import Pictured
from opflow.machine.arrays import Array, Data, check_real, is_sparse
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator
from opflow.spectral.blocks import check_finite
from opflow.spectral.checks import check_shift, symmetric_operator
from opflow.spectral.functions.solve import Solution, solve


@dataclass(frozen=True, eq=False)
class KernelRegression(Pictured):
    """A fitted kernel ridge regression.

    Attributes
    ----------
    coefficients : array of the shape of y
        α.
    fitted, residual : arrays of the shape of y
        Kα, and y − Kα.
    solution : Solution
        What the solver reports: residuals, convergence, iterations, products.

    See Also
    --------
    opflow.spectral.kernel_regression : Fits it.
    opflow.cross_kernel : The kernel between new and old points.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.kernel_regression(np.eye(2), np.array([2.0, 4.0]), 1.0)
    >>> found.fitted, found.predict(np.array([[1.0, 1.0]]))
    (array([1., 2.]), array([3.]))
    """

    coefficients: Array
    fitted: Array
    residual: Array
    solution: Solution
    #: whether the outputs of a sample are rows of the kernel, not columns of y
    _flattened: bool

    def __repr__(self) -> str:
        return f"<KernelRegression of {self.coefficients.shape} targets by {self.solution!r}>"

    _picture = "predicted"

    def _drawn(self) -> tuple[Array, Array]:
        """The targets, and what was fitted to them."""
        return self.fitted + self.residual, self.fitted

    def predict(self, cross: Data) -> Array:
        """The prediction at new points, K(X*, X) α.

        Parameters
        ----------
        cross : operator or array (M, N), or (M·k, N·k) for a kernel with k outputs
            K(X*, X), such as ``of.cross_kernel(new_fields, fields)``.

        Returns
        -------
        array (M,) or (M, c)
        """
        cross = as_operator(cross)
        alpha = self.coefficients
        if self._flattened:
            alpha = alpha.reshape(-1)
        if cross.domain.here(cross.shape[1]) != len(alpha):
            raise ValueError(
                f"cross has shape {cross.shape}; it needs {len(alpha)} columns, one a row of the "
                "kernel"
            )
        if not self._flattened:
            return cross @ alpha
        outputs = self.coefficients.shape[1]
        if cross.shape[0] % outputs:
            raise ValueError(f"cross has {cross.shape[0]} rows, no multiple of {outputs} outputs")
        return cross.matvec(alpha).reshape(-1, outputs)


def check_targets(op: Operator, y: Data) -> tuple[Array, Array, tuple[int, ...]]:
    """The targets; the same as vectors of the order of `op`; and the outputs flattened in them."""
    y = check_real(y, "y", dtype=op.dtype)
    rows = size = 0
    if not is_sparse(y) and y.ndim in (1, 2):
        rows, size = op.space.total(np.array([len(y), y.size]))
    if op.shape[0] not in (rows, size) or not size:
        raise ValueError(
            f"y has shape {y.shape} but op has order {op.shape[0]}: as many as its rows, or "
            "as its entries flattened sample-major, are expected"
        )
    check_finite(y, "y", op.space)
    if y.ndim == 2 and op.shape[0] == size:
        return y, y.reshape(-1), y.shape[1:]
    return y, y, ()


def kernel_regression(op: Data, y: Data, shift: float, **options: Any) -> KernelRegression:
    r"""Kernel ridge regression, α = (K + μ)⁻¹ y.

    Parameters
    ----------
    op : operator or array (N, N), or (N·k, N·k)
        K, symmetric PSD; of order N·k for k outputs flattened sample-major, as in
        :func:`opflow.collective_kernel`.
    y : array (N,) or (N, c)
        Targets, of the operator's dtype or cast to it as in :func:`solve`.  Columns are regressed
        side by side on one kernel of order N, or are the k = c outputs of a kernel of order N·k.
    shift : float
        μ, not negative: N times λ if the loss is a mean and λ its ridge.
    **options
        Those of :func:`opflow.spectral.solve`: `preconditioner`, `tol`, `maxiter`, `rank`, `rng`,
        `how`.

    Returns
    -------
    KernelRegression

    See Also
    --------
    opflow.spectral.posterior : The same with variances and the likelihood.
    opflow.spectral.solve : The solver.
    opflow.spectral.learning_curve : The error to expect.
    opflow.sklearn.NTKRegressor : An estimator for scikit-learn.

    Notes
    -----
    Costs what :func:`opflow.spectral.solve` costs, and one product for the fit; warns as that does.

    A network linearised at its start, trained to the end by gradient flow, predicts
    :math:`f_0(x) + K(x, X) K^{-1} (y - f_0(X))` [1]_: regress ``y - net(X)`` on the collective
    kernel with μ = 0 and add the prediction to ``net(X_new)``.  μ > 0 is an L2 penalty of μ/2 on
    the distance from the initial parameters (over √η in each layer), next to
    :math:`\frac12\|f - y\|^2`.

    References
    ----------
    .. [1] J. Lee et al., "Wide neural networks of any depth evolve as linear models under gradient
       descent", 2019, arXiv:1902.06720.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> rng = np.random.default_rng(0)
    >>> net, X = of.ReLUNetwork.random([3, 200], seed=0), rng.standard_normal((30, 3))
    >>> y, new = X[:, :1] * X[:, 1:2], rng.standard_normal((2, 3))
    >>> cross = of.cross_kernel(net.fields(new), net.fields(X))
    >>> K = of.collective_kernel(net.fields(X))
    >>> regression = of.spectral.kernel_regression(K, y - net(X), 1e-3)
    >>> prediction = net(new) + regression.predict(cross)
    >>> bool(np.abs(regression.residual).max() < np.abs(y).max()), prediction.shape
    (True, (2, 1))
    """
    op = symmetric_operator(op)
    y, targets, outputs = check_targets(op, y)
    solution = solve(op, targets, shift, **options)
    fitted = (op @ solution.x).reshape(y.shape)
    alpha = solution.x.reshape(y.shape)
    return KernelRegression(alpha, fitted, y - fitted, solution, _flattened=bool(outputs))


def leave_one_out(K: Array, y: Array) -> tuple[float, float]:
    """The ridge whose leave-one-out error is least, and that error."""
    values, vectors = scipy.linalg.eigh(K.astype(np.float64))
    top = values[-1] or 1.0
    shares = vectors.T @ y
    squares = vectors**2

    def error(power: float) -> float:
        inverse = 1 / (values.clip(min=0) + top * np.exp(power))[:, None]
        return float((((vectors @ (inverse * shares)) / (squares @ inverse)) ** 2).mean())

    powers = np.linspace(np.log(len(K) * np.finfo(K.dtype).eps), 5, 50)
    best = powers[np.argmin([error(power) for power in powers])]
    width = powers[1] - powers[0]
    found = minimize_scalar(error, bounds=(best - width, best + width), method="bounded")
    return float(top * np.exp(found.x)), float(found.fun)


def learning_curve(
    eigenvalues: Data, coefficients: Data, samples: Data, noise: float = 0.0, ridge: float = 0.0
) -> np.ndarray:
    r"""The expected error of kernel regression on P samples, against the target without noise.

    Parameters
    ----------
    eigenvalues, coefficients : array (m,)
        η of the kernel, and a of the target in the orthonormal eigenfunctions (√η times the
        paper's): of N equally likely inputs the eigenvalues of the kernel over N, and uᵀy/√N.
    samples, noise, ridge : numbers, or an array of samples
        P, the variance σ² of the targets' noise, and the shift λ of the regression.

    Returns
    -------
    array of the shape of `samples`, or number
        The mean squared error.

    See Also
    --------
    opflow.spectral.kernel_regression : The regression.
    opflow.spectral.projections : Coefficients on eigenvectors.

    Notes
    -----
    For large P and m the mean squared error is (Σ a²κ²/(κ + Pη)² + γσ²) / (1 − γ), with
    κ = λ + Σ κη/(κ + Pη) and γ = P Σ η²/(κ + Pη)² [1]_.

    References
    ----------
    .. [1] A. Canatar, B. Bordelon, C. Pehlevan, "Spectral bias and task-model alignment explain
       generalization in kernel regression and infinitely wide neural networks", Nature
       Communications 12, 2021, arXiv:2006.13198.

    Examples
    --------
    >>> import opflow as of
    >>> of.spectral.learning_curve([0.5, 0.25, 0.25], [1.0, 1.0, 0.0], [0, 2, 4]).round(4)
    array([2.   , 0.618, 0.   ])
    """
    eta, a, sizes = (np.asarray(x, dtype=float) for x in (eigenvalues, coefficients, samples))
    if eta.ndim != 1 or eta.shape != a.shape or not ((eta >= 0).all() and (sizes >= 0).all()):
        raise ValueError("eigenvalues >= 0 and coefficients must be of one length, samples >= 0")
    noise = check_shift(noise, "noise")
    ridge = check_shift(ridge, "ridge")
    unit = (ridge + eta.sum()) or 1.0  # of κ, η and λ, whose ratios count
    eta = eta / unit
    ridge = ridge / unit

    def error(P: float) -> float:
        def excess(x: float) -> float:
            return ridge * np.exp(-x) + (eta / (np.exp(x) + P * eta)).sum() - 1

        log_kappa = -100.0
        if excess(log_kappa) > 0:
            log_kappa = brentq(excess, log_kappa, 0.01)
        shares = eta / (np.exp(log_kappa) + P * eta)
        left = a - P * shares * a
        gamma = P * (shares @ shares)
        return float((left @ left + gamma * noise) / max(1 - gamma, np.finfo(float).tiny))

    return np.array([error(P) for P in sizes.ravel()]).reshape(sizes.shape)
