"""What data behind an operator determine of a field: resolution, spread of points, variance."""

from __future__ import annotations

from typing import Any

from opflow.machine.arrays import Array, Data, Index, namespace
from opflow.machine.threads import cached_property
from opflow.machine.workspace import op_namespace, row_slices, selector
from opflow.operators.measuring import measuring_operator
from opflow.operators.operator import Operator
from opflow.operators.pullback import pushforward
from opflow.operators.rules import compose
from opflow.spectral import checks
from opflow.spectral.functions.posterior import Posterior
from opflow.spectral.traces.structure import exact_diagonal


class Resolution:
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

    Attributes
    ----------
    operator : Operator (N, N)
        R, lazy: the regression on d = G f, without noise, is R f.
    diagonal, variance : array (N,)
        That of R, near 1 where a number is determined by the data and near 0 where by the prior;
        and diag(K − R K), the posterior variance of f.

    See Also
    --------
    opflow.spectral.resolution : Makes one.
    opflow.spectral.posterior : The posterior of given data; of ``cross=K @ G.T`` that of f.
    opflow.measured_kernel : G K Gᵀ.

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
    >>> found = of.spectral.Resolution(np.eye(3), np.eye(3)[:2], noise=0.25)
    >>> found.diagonal, found.variance, found.columns([1]).ravel()
    (array([0.8, 0.8, 0. ]), array([0.2, 0.2, 1. ]), array([0. , 0.8, 0. ]))
    """

    def __init__(self, op: Data, measurement: Data, noise: float, **options: Any) -> None:
        K = checks.symmetric_operator(op)
        like = op_namespace(K).zeros(0, dtype=K.dtype)
        self._G = G = measuring_operator(measurement, K.shape[0], 1, like)
        self._cross = compose(K, G.H)
        d = op_namespace(K).zeros(G.shape[0], dtype=K.dtype)
        prior = exact_diagonal(K)
        self._posterior = Posterior(pushforward(K, G), d, noise, self._cross, prior, **options)

    @property
    def operator(self) -> Operator:
        return compose(self._posterior.influence, self._G)

    @cached_property
    def variance(self) -> Array:
        return self._posterior.variance

    @cached_property
    def diagonal(self) -> Array:
        n, m = self._cross.shape
        parts = []
        for s in row_slices(n, 4 * (n + 2 * m) * self._cross.dtype.itemsize):
            X = self._G.rmatmat(self._posterior.inverse.matmat(self._cross.block(s, slice(None)).T))
            parts.append(X[s].diagonal().copy())
        return namespace(*parts).concatenate(parts)

    def columns(self, index: Index) -> Array:
        """Point-spread functions, columns of R: what is found of a field that is one at a point.

        Parameters
        ----------
        index : slice, int array or boolean array

        Returns
        -------
        array (N, len(index))
        """
        return self.operator.matmat(selector(self._cross, index, self._cross.shape[0]))


def resolution(op: Data, measurement: Data, noise: float, **options: Any) -> Resolution:
    """What a field's data behind an operator determine of it: resolution and variance.

    Parameters
    ----------
    op, measurement, noise
        Those of :class:`Resolution`.
    **options
        Its keywords.

    Returns
    -------
    Resolution

    See Also
    --------
    opflow.spectral.Resolution : What it returns.
    opflow.train : Its `measurement` trains a network through the operator.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> net, X = of.ReLUNetwork.random([2, 64], seed=0), of.coordinates((4, 4))
    >>> K, half = of.collective_kernel(net.fields(X)), np.eye(16)[:8]
    >>> seen = of.spectral.resolution(K, half, noise=1e-2).diagonal
    >>> bool(seen[:8].min() > seen[8:].max())
    True
    """
    return Resolution(op, measurement, noise, **options)
