"""Pullback and pushforward of an operator through weights: one step of each recursion.

``pullback(B, J, J2) = Jᵀ B J2`` carries an operator on a layer's output back to its input;
``pushforward(B, J, J2) = J B J2ᵀ`` is its dual.  With one and the same J they are congruences
and keep symmetry and positive semidefiniteness.
"""

from __future__ import annotations

from opflow.machine.arrays import Data
from opflow.operators.operator import Operator
from opflow.operators.rules import as_operator, compose


def pullback(B: Data, J: Data, J2: Data | None = None) -> Operator:
    r"""Return the lazy pullback ``Jᵀ B J2``.

    Parameters
    ----------
    B : operator or array, shape (m, m2)
    J : operator or array, shape (m, n)
    J2 : operator or array, shape (m2, n2), optional
        `J` by default, which makes the result a congruence.

    Returns
    -------
    Operator of shape (n, n2)
        PSD or symmetric if B is and `J2` is not given.

    See Also
    --------
    opflow.pushforward : The dual, ``J B J2ᵀ``.
    opflow.hierarchy.pullback : Members of the recursion of a network.
    opflow.WeightGram : The first nontrivial member.

    Notes
    -----
    The transpose of a complex J is its adjoint.  With J = D_μ W and J2 = D_ν W this is one step of
    :math:`B^{(\ell-1,m)}_{\mu\nu} = W^{\ell T} D^\ell_\mu B^{(\ell,m)}_{\mu\nu} D^\ell_\nu W^\ell`
    [1]_.

    References
    ----------
    .. [1] C. Nordio, "Learning Dynamics Reveal a Hierarchy of Weight-Induced Layerwise Gram
       Metrics", 2026, arXiv:2606.09744.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> W = of.Weight(np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> member = of.pullback(of.Identity(2), of.Mask([True, False]) @ W)
    >>> member.psd, member.todense().tolist()
    (True, [[1.0, 2.0], [2.0, 4.0]])
    """
    J = as_operator(J)
    if J2 is None:
        J2 = J
    return compose(J.H, as_operator(B), as_operator(J2))


def pushforward(B: Data, J: Data, J2: Data | None = None) -> Operator:
    r"""Return the lazy pushforward ``J B J2ᵀ``.

    Parameters
    ----------
    B : operator or array, shape (n, n2)
    J : operator or array, shape (m, n)
    J2 : operator or array, shape (m2, n2), optional
        `J` by default, which makes the result a congruence.

    Returns
    -------
    Operator of shape (m, m2)
        PSD or symmetric if B is and `J2` is not given.

    See Also
    --------
    opflow.pullback : The dual, ``Jᵀ B J2``.
    opflow.hierarchy.pushforward : Members of the recursion of a network.

    Notes
    -----
    With J = W D_μ and J2 = W D_ν this is one step of
    :math:`F^{(\ell,m)}_{\mu\nu} = W^\ell D^{\ell-1}_\mu F^{(\ell-1,m)}_{\mu\nu}
    D^{\ell-1}_\nu W^{\ell T}`.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> of.pushforward(of.Identity(1), np.array([[1.0], [2.0]])).todense()
    array([[1., 2.],
           [2., 4.]])
    """
    J = as_operator(J)
    if J2 is None:
        J2 = J
    return compose(J, as_operator(B), as_operator(J2).H)
