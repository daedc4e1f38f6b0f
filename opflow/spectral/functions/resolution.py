"""What measurements tell of a Gaussian field: resolution, point spread, variance that is left."""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.threads import cached_property
from opflow.machine.workspace import op_namespace, row_slices
from opflow.operators.measuring import measuring_operator
from opflow.operators.operator import Operator
from opflow.operators.pullback import pushforward
from opflow.operators.rules import compose
from opflow.spectral.checks import symmetric_operator
from opflow.spectral.functions.posterior import Posterior
from opflow.spectral.traces.structure import exact_diagonal


class Resolution:
    """What :func:`resolution` returns."""

    def __init__(self, K: Operator, G: Operator, noise: float, **options: Any) -> None:
        self._G = G
        self._cross = compose(K, G.H)
        d = op_namespace(K).zeros(G.shape[0], dtype=K.dtype)
        prior = exact_diagonal(K)
        self._posterior = Posterior(pushforward(K, G), d, noise, self._cross, prior, **options)

    @property
    def operator(self) -> Operator:
        """R, lazy."""
        return compose(self._posterior.influence, self._G)

    @cached_property
    def variance(self) -> Array:
        """The diagonal of K − R K, (N,)."""
        return self._posterior.variance

    @cached_property
    def diagonal(self) -> Array:
        """That of R, (N,)."""
        n, m = self._cross.shape
        parts = []
        for s in row_slices(n, 4 * (n + 2 * m) * self._cross.dtype.itemsize):
            X = self._posterior.inverse.matmat(self._cross.block(s, slice(None)).T)
            parts.append(self._G.rmatmat(X)[s].diagonal().copy())
        return namespace(*parts).concatenate(parts)

    def columns(self, index: Index) -> Array:
        """Columns of R, (N, len(index)): what is found of a field that is one at a point."""
        return self.operator.H.block(index, slice(None)).T


def resolution(op: Data, measurement: Data, noise: float, **options: Any) -> Resolution:
    r"""What d = G f + ε, ε ~ N(0, σ²), determines of a field f ~ GP(0, K) of N numbers.

    Parameters
    ----------
    op : operator or array (N, N)
        K, such as ``of.collective_kernel(fields)``.
    measurement : operator, array or sparse matrix (M, N)
        G.
    noise : float
        The variance σ², in units of the squares of d.
    **options
        Keywords of :class:`Posterior`; ``how="direct"`` is exact, ``how="iterative"`` to `tol`.

    Returns
    -------
    Resolution
        With the lazy `operator` R, the regression on G f without noise being R f; its `diagonal`,
        near 1 where the data determine a number and near 0 where the prior does; its
        ``columns(index)``, point-spread functions; and `variance`, the posterior variance of f, the
        diagonal of K − R K.

    See Also
    --------
    opflow.spectral.posterior : The posterior of given data; with ``cross=K @ G.T`` that of f.
    opflow.measured_kernel : G K Gᵀ.
    opflow.train : Its `measurement` trains a network through G.

    Notes
    -----
    :math:`R = K G^T (G K G^T + \sigma^2)^{-1} G`, the model-resolution matrix [1]_.  An array is
    computed when asked for, in blocks: the diagonal and the variance take N solves each, a column
    one.  Direct solves factor an M × M matrix and are exact to rounding times its condition;
    iterative ones leave a relative residual of `tol`, which enters the variance squared.

    References
    ----------
    .. [1] W. Menke, "Geophysical Data Analysis: Discrete Inverse Theory", 1984.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.resolution(np.eye(3), np.eye(3)[:2], noise=0.25)
    >>> found.diagonal, found.variance, found.columns([1]).ravel()
    (array([0.8, 0.8, 0. ]), array([0.2, 0.2, 1. ]), array([0. , 0.8, 0. ]))
    """
    K = symmetric_operator(op)
    like = op_namespace(K).zeros(0, dtype=K.dtype)
    return Resolution(K, measuring_operator(measurement, K.shape[0], 1, like), noise, **options)
