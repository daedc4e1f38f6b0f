"""K-FAC: the Gauss–Newton matrix of a Jacobian by one Kronecker product a block of columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

from opflow.machine.arrays import Data, namespace
from opflow.machine.workspace import op_namespace
from opflow.operators.composite import Scaled
from opflow.operators.gates import ScaledGates
from opflow.operators.gram import Gram
from opflow.operators.khatri_rao import KhatriRao
from opflow.operators.kronecker import Kronecker
from opflow.operators.matrix import Matrix
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator, is_operator
from opflow.operators.stack import HStack

#: Φ and A of a block of columns: arrays, or PSD operators
Factors = tuple[Data, Data]


def kfac(J: Data, damping: float | None = None) -> Operator:
    r"""The Kronecker-factored approximation of ``J.T @ J``, or its damped inverse.

    Parameters
    ----------
    J : Operator (N·k, P)
        Of :func:`opflow.jacobian`, or other :class:`KhatriRao` products side by side.
    damping : float, optional
        λ > 0, for the inverse of the approximation + λ: a preconditioner of ``J.T @ J + λ``.

    Returns
    -------
    Operator (P, P), PSD
        A :class:`Kronecker` with a block for every weight matrix and every bias, or the inverse.

    See Also
    --------
    opflow.jacobian : The Jacobian.
    opflow.spectral.solve : Takes the inverse as a preconditioner.
    opflow.GaussNewton : Training that may use it.
    opflow.hessian : The Hessian, and its Gauss–Newton part.

    Notes
    -----
    The block of :math:`\varphi \odot a` is :math:`\Phi \otimes A`, :math:`\Phi = \sum_{\mu p}
    \varphi_{\mu p}^T \varphi_{\mu p}` and :math:`A = \frac1N \sum_\mu a_\mu^T a_\mu` [1]_; exact
    for biases and a trained readout.  (Where positions share weights both go over them: *expand*
    [2]_.)  2·N·(k·n_ℓ² + n_{ℓ-1}²) flops a layer, from conjugates that are kept, 9·n³ a factor for
    the eigenpairs that give the inverse exactly; then 2·P·(n_ℓ + n_{ℓ-1}) a product, twice that
    with the inverse.

    References
    ----------
    .. [1] J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", 2015, arXiv:1503.05671.
    .. [2] R. Eschenhagen, A. Immer, R. E. Turner, F. Schneider, P. Hennig, "Kronecker-factored
       approximate curvature for modern neural network architectures", 2023, arXiv:2311.00636.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> J = of.jacobian(fields)
    >>> of.spectral.solve(J.T @ J, J.T @ np.ones(3), 0.1, preconditioner=of.kfac(J, 0.1)).converged
    True
    """
    if damping is not None and not damping > 0:
        raise ValueError(f"damping must be positive, or None for no inverse, not {damping!r}")
    blocks = kfac_blocks(as_operator(J))
    op = Kronecker(*((_psd(Phi), _psd(A)) for Phi, A in blocks), symbol="K-FAC")
    if damping is None:
        return op
    return damped_inverse(op)(float(damping))


def _psd(M: Data) -> Operator:
    """`M` as an operator: PSD if it is an array."""
    return M if is_operator(M) else Matrix(M, psd=True)


def damped_inverse(op: Operator) -> Callable[[float], Operator]:
    """λ ↦ (op + λ)⁻¹ of a Kronecker product of PSD factors, by the eigenpairs of each, once."""
    xp = op_namespace(op)
    pairs = [[xp.linalg.eigh(M.todense()) for M in pair] for pair in op.pairs]
    values = xp.concatenate([xp.outer(a.clip(0), b.clip(0)).ravel() for (a, _), (b, _) in pairs])
    turn = Kronecker(*((U, V) for (_, U), (_, V) in pairs), symbol="U")
    return lambda damping: Gram(turn, 1 / (values + damping), symbol=f"({op.symbol} + λ)⁻¹")


@singledispatch
def kfac_blocks(J: Operator) -> list[Factors]:
    """The factors of every block of columns."""
    return [kfac_factors(part) for part in (J.parts if isinstance(J, HStack) else [J])]


@singledispatch
def kfac_factors(J: Operator) -> Factors:
    """Φ and A of a block of columns: a class of Jacobians registers how they are made."""
    raise TypeError(
        f"kfac has no rule for {type(J).__name__}; for of.jacobian without comm= it has"
    )


@kfac_factors.register
def _scaled_factors(J: Scaled) -> Factors:
    Phi, A = kfac_factors(J.parts[0])
    return J.scalar**2 * Phi, A


@kfac_factors.register
def _khatri_rao_factors(J: KhatriRao) -> Factors:
    return squared(J.A), squared(J.B) / J.B.shape[0]


@kfac_factors.register(Matrix)
@kfac_factors.register(ScaledGates)
def _bias_factors(J: Operator) -> Factors:
    Phi = squared(J)
    return Phi, namespace(Phi).ones((1, 1), dtype=Phi.dtype)


def squared(F: Operator) -> Data:
    """``FᵀF``, dense."""
    return Gram(F.T).todense()
