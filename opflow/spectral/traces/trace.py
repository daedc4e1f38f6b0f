"""The trace and the diagonal of a symmetric operator: exact from structure, or estimated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opflow.interface.keywords import Seed, keywords
from opflow.machine.arrays import Array, Data, check_integer
from opflow.machine.workspace import op_namespace
from opflow.operators.operator import Operator
from opflow.spectral.blocks import (
    Normalised,
    distribution_of,
    gaussian,
    largest_entry,
    matching,
    rounding_of,
)
from opflow.spectral.checks import Estimate, symmetric_operator
from opflow.spectral.traces.estimators import half_width, xnystrace, xtrace
from opflow.spectral.traces.structure import diagonal_products, exact_diagonal, use_diagonal

#: Fewest products that make an interval.
MIN_PRODUCTS = 15
#: Products spent on an estimate by default.
PRODUCTS = 60
WAYS = ("exact", "xtrace", "xnystrace")


@keywords
def trace(
    op: Data, *, how: str | None = None, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Estimate:
    r"""The trace of a symmetric operator.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    how : {"exact", "xtrace", "xnystrace"}, optional
        By default exact where that costs no more than the estimate, or n <= 1024; else
        XNysTrace if `op` is known to be PSD and XTrace if not.
    products : int, default 60
        To spend on an estimate, from 15.  From n on, the trace is exact.
    rng, seed : int, numpy.random.Generator or None, default 0
        Where the random vectors come from.

    Returns
    -------
    Estimate

    See Also
    --------
    opflow.spectral.diagonal : The diagonal itself.
    opflow.spectral.quadrature : The trace of a function of an operator.
    opflow.spectral.logdet : The log-determinant.

    Notes
    -----
    The diagonal is structural, O(n · width), for matrices, Grams of stored or Khatri–Rao factors,
    Hadamard products, kernels of networks, and sums and multiples of these; for products and
    operators of PyLops and SciPy it takes n products.  For a spectrum that decays, the error of
    XNysTrace [1]_ falls like the tail of the spectrum after `products` eigenvalues, XTrace's after
    half as many; for a flat one like ``1 / products``.

    Intervals of the first two come from a jackknife and cover more than 95 %; see
    :mod:`opflow.spectral.traces.estimators` for why the spread of their samples would not do.

    References
    ----------
    .. [1] E. N. Epperly, J. A. Tropp, R. J. Webber, "XTrace: making the most of every sample in
       stochastic trace estimation", 2024, arXiv:2301.07825.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> F = np.random.default_rng(0).standard_normal((2000, 20))
    >>> of.spectral.trace(of.Gram(F)).exact
    True
    >>> estimate = of.spectral.trace(of.Gram(F), how="xnystrace", products=30)
    >>> bool(np.isclose(estimate, np.sum(F**2))), estimate.products
    (True, 30)
    """
    op = symmetric_operator(op)
    if how not in (None, *WAYS):
        raise ValueError(f"how must be one of {', '.join(map(repr, WAYS))}, not {how!r}")
    check_integer(products, "products", MIN_PRODUCTS)
    if how == "xnystrace" and not op.psd:
        raise ValueError("how='xnystrace' needs an op that is known to be PSD")
    if _exact(op, how, products):
        total = op.space.total(exact_diagonal(op).sum(dtype=np.float64))
        return Estimate(float(total), products=diagonal_products(op))
    product = Normalised(op)
    if how == "xnystrace" or (how is None and op.psd):
        estimate = xnystrace(product, gaussian(op, products, rng), space=op.space)
    else:
        omega = gaussian(op, products // 2, rng)
        estimate = xtrace(product, omega, psd=op.psd, space=op.space)
    return estimate.mapped(lambda x: product.unit * x)


def _exact(op: Operator, how: str | None, products: int) -> bool:
    enough = how == "exact" or products >= op.shape[0]
    return enough or (how is None and use_diagonal(op, products))


class Diagonal(NamedTuple):
    """The diagonal of an operator, with error bars.

    Attributes
    ----------
    values, errors : array (n,)
        Each entry is within `errors` of its value with 95 % confidence; zero where exact.
    products : int
        Products with one vector that were spent.
    how : str
        ``"exact"`` or ``"Diag++"``.

    See Also
    --------
    opflow.spectral.diagonal : Computes it.
    opflow.spectral.Estimate : A number with its interval.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> found = of.spectral.diagonal(of.Gram(np.diag([1.0, 2.0])))
    >>> found.values, found.errors, found.how
    (array([1., 4.]), array([0., 0.]), 'exact')
    """

    values: Array
    errors: Array
    products: int
    how: str

    def __repr__(self) -> str:
        return f"<Diagonal of {len(self.values):,} entries ({self.how}, {self.products} products)>"


@keywords
def diagonal(
    op: Data, *, how: str | None = None, products: int = PRODUCTS, rng: Seed = 0, seed: Seed = 0
) -> Diagonal:
    r"""The diagonal of a symmetric operator, with error bars where it is estimated.

    Parameters
    ----------
    op : operator, array (n, n) or sparse matrix
    how : {"exact", "diag++"}, optional
        By default exact under the same condition as :func:`trace`.
    products, rng, seed
        As for :func:`trace`.

    Returns
    -------
    Diagonal
        On the device of `op`.

    See Also
    --------
    opflow.spectral.trace : The trace, for fewer products.

    Notes
    -----
    With Q an orthonormal basis of ``A Ω``, :math:`P = Q Q^T`, and signs g ([1]_, here
    projected on both sides),

    .. math:: \mathrm{diag}(2 P A - P A P) + \mathrm{mean}_g\; g \circ (I - P) A (I - P)\, g .

    A third of the products goes to each of Ω, Q and g; the bars are Student's over the signs.
    16·n·k² flops for k = products / 3.

    References
    ----------
    .. [1] R. A. Baston, Y. Nakatsukasa, "Stochastic diagonal estimation: probabilistic bounds and
       an improved algorithm", 2022.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.spectral.diagonal(of.Gram(np.array([[1.0, 2.0], [0.0, 3.0]]))).values
    array([5., 9.])
    """
    op = symmetric_operator(op)
    if how not in (None, "exact", "diag++"):
        raise ValueError(f"how must be 'exact' or 'diag++', not {how!r}")
    check_integer(products, "products", MIN_PRODUCTS)
    if _exact(op, how, products):
        values = exact_diagonal(op)
        zeros = op_namespace(op).zeros_like(values)
        return Diagonal(values, zeros, diagonal_products(op), "exact")
    return _diag_pp(op, products // 3, distribution_of(op).generator(rng))


def _diag_pp(op: Operator, k: int, rng: np.random.Generator) -> Diagonal:
    """The estimate from k vectors each of a sketch, its basis and random signs."""
    space = op.space
    product = Normalised(op)
    Q, _ = space.qr(product.finite(gaussian(op, k, rng)))
    Z = product.finite(Q)
    core = (2 * Z * Q - (Q @ space.gram(Q, Z)) * Q).sum(axis=1)
    signs = matching(space.signs(rng, op.shape[0], k), Q)
    Y = product.finite(signs - Q @ space.gram(Q, signs))
    samples = signs * (Y - Q @ space.gram(Q, Y))
    errors = half_width(samples) + rounding_of(op) * largest_entry(Z, space)
    values = core + samples.mean(axis=1)
    if op.psd:  # no entry is negative, and zero is nearer to all that may be
        values = values.clip(min=0)
    return Diagonal(product.unit * values, product.unit * errors, 3 * k, "Diag++")
