"""Feature-learning diagnostics: average gradient outer products, and how linear targets are.

The neural feature ansatz compares a layer's weight Gram with the average gradient outer product
(AGOP); target linearity asks how much of the targets is linear in a layer's activations.
"""

from __future__ import annotations

from opflow.machine.arrays import Data, check_real, is_array, namespace
from opflow.operators import Gram, Matrix, Operator, Weight, pullback
from opflow.operators.rules import scale
from opflow.relu.checks import check_fields, check_layer
from opflow.relu.fields import Fields
from opflow.relu.network import ReLUNetwork

__all__ = ["agop", "feature_ansatz", "target_linearity"]


def agop(fields: Fields, layer: int) -> Operator:
    r"""Return the average gradient outer product at the input of a layer.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.

    Returns
    -------
    Operator of shape (n_{ℓ-1}, n_{ℓ-1}), PSD

    See Also
    --------
    opflow.features.feature_ansatz : Compares it with the weight Gram.
    opflow.pullback : How it is made.

    Notes
    -----
    .. math::
        G^\ell = \frac1N \sum_{\mu p} \psi^{\ell-1}_{\mu p} \psi^{\ell-1,T}_{\mu p}
            = W^{\ell T} \Big(\frac1N \varphi^{\ell T}\varphi^\ell\Big) W^\ell,

    the gradient of output p with respect to :math:`a^{\ell-1}` being :math:`\psi^{\ell-1}_{\mu
    p} = \varphi^\ell_{\mu p} W^\ell` [1]_.  A pullback of the conjugates' covariance through the
    weights; a product costs 4·n_ℓ·(N·k + n_{ℓ-1}) flops.

    References
    ----------
    .. [1] A. Radhakrishnan, D. Beaglehole, P. Pandit, M. Belkin, "Mechanism of feature learning
       in deep fully connected networks and kernel machines that recursively learn features",
       arXiv:2212.13881.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> of.features.agop(fields, 2).psd
    True
    """
    layer = check_layer(fields, layer)
    covariance = Gram(Matrix(fields.conjugate(layer), symbol="φ").T)
    W = Weight(fields.network.weights[layer - 1])
    return pullback(scale(1 / fields.samples, covariance), W)


def feature_ansatz(
    fields: Fields,
    layer: int,
    *,
    power: float = 1.0,
    centred: bool = False,
    start: ReLUNetwork | None = None,
) -> float:
    r"""Return the correlation of a layer's weight Gram with its average gradient outer product.

    Parameters
    ----------
    fields : Fields
    layer : int
        ℓ, 1..L.
    power : float, default 1
        Matrix power of the AGOP; 1/2 is a variant in use.
    centred : bool, default False
        Subtract the mean gradient over the samples first.
    start : ReLUNetwork, optional
        W(0) are its weights, which the authors' code subtracts from W in the weight Gram.

    Returns
    -------
    float
        Between 0 and 1; 0 if either matrix is zero.

    See Also
    --------
    opflow.features.agop : The gradient outer product.
    opflow.features.target_linearity : Another measure of features.

    Notes
    -----
    The cosine of the two matrices, as in the code that accompanies [1]_,

    .. math::
        \frac{\langle M^T M, G^\alpha \rangle_F}{\|M^T M\|_F\, \|G^\alpha\|_F},

    M being W, or :math:`W - W(0)` with a `start`.  With :math:`G = W^T S W`, S the covariance of
    the conjugates, everything is computed from the n_ℓ × n_ℓ matrices S, WWᵀ, MWᵀ and MMᵀ, in
    float64: 2·N·k·n_ℓ² + 6·n_ℓ²·n_{ℓ-1} + O(n_ℓ³) flops, and the input width never enters as a
    square.

    References
    ----------
    .. [1] A. Radhakrishnan, D. Beaglehole, P. Pandit, M. Belkin, "Mechanism of feature learning
       in deep fully connected networks and kernel machines that recursively learn features",
       arXiv:2212.13881.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> fields = of.ReLUNetwork.random([3, 5, 4], seed=0).fields(np.eye(3))
    >>> 0 <= of.features.feature_ansatz(fields, 1) <= 1
    True
    """
    layer = check_layer(fields, layer)
    if not power > 0:
        raise ValueError(f"power must be positive, not {power!r}")
    phi = fields.conjugates[layer - 1]
    xp = namespace(phi)
    W = M = fields.network.weights[layer - 1].astype(xp.float64)
    if start is not None:
        if start.widths != fields.network.widths:
            raise ValueError(f"start has widths {start.widths}, not {fields.network.widths}")
        M = W - start.weights[layer - 1]
    if centred:
        phi = phi - phi.mean(axis=0)
    phi = phi.reshape(-1, phi.shape[-1])
    S = (phi.T @ phi).astype(xp.float64) / fields.samples
    # G = Wᵀ S W shares its nonzero spectrum λ with R = S^½ W Wᵀ S^½ = U λ Uᵀ, and its
    # eigenvectors are Wᵀ S^½ U λ^{-½}.
    values, vectors = xp.linalg.eigh(S)
    root = (vectors * xp.sqrt(xp.maximum(values, 0))) @ vectors.T
    spectrum, U = xp.linalg.eigh(root @ (W @ W.T) @ root)
    nonzero = spectrum > len(S) * xp.finfo(xp.float64).eps * xp.abs(spectrum).max()
    spectrum = spectrum[nonzero]
    U = U[:, nonzero]
    size = float(xp.linalg.norm(M @ M.T)) * float(xp.linalg.norm(spectrum**power))
    if size == 0:
        return 0.0
    overlaps = ((M @ W.T @ (root @ U)) ** 2).sum(axis=0)
    return float((spectrum ** (power - 1) * overlaps).sum()) / size


def target_linearity(fields: Fields, targets: Data, layer: int) -> float:
    r"""Measure how much of the targets is a linear function of a layer's activations.

    Parameters
    ----------
    fields : Fields
    targets : array (N, q) or (N,)
        Of the network's dtype, or converted to it.
    layer : int
        ℓ, 0..L; 0 is the input.

    Returns
    -------
    float
        Between 0 and 1.

    See Also
    --------
    opflow.features.feature_ansatz : Another measure of features.
    opflow.spectral.alignment : How much of the targets a kernel explains.

    Notes
    -----
    The coefficient of determination of the least-squares fit without intercept,

    .. math::
        TL = 1 - \frac{\|Y_c - H H^+ Y_c\|_F^2}{\|Y_c\|_F^2}, \qquad H = a^\ell,

    with :math:`Y_c` the targets minus their mean over the samples: the measure of [1]_, as the
    authors' published code evaluates it for one output or one-hot classes (features not centred),
    with a pseudo-inverse where that code inverts HᵀH.  O(N·n_ℓ²) flops.

    References
    ----------
    .. [1] T. Cha, D. Beaglehole, A. Radhakrishnan, D. Lee, "The Weight Gram Matrix Captures
       Sequential Feature Linearization in Deep Networks", arXiv:2605.06258.

    Examples
    --------
    >>> import numpy as np, opflow as of
    >>> X = np.random.default_rng(0).standard_normal((50, 3))
    >>> fields = of.ReLUNetwork.random([3, 5], seed=0).fields(X - X.mean(axis=0))
    >>> round(of.features.target_linearity(fields, fields.inputs[:, 0], 0), 12)
    1.0
    """
    layer = 0 if layer == 0 and layer is not False else check_layer(fields, layer)
    H = check_fields(fields).activations[layer]
    if not is_array(H):
        raise ValueError("layer 0 is sparse, on disk or an operator: an array is needed")
    Y = check_real(targets, "targets", dtype=H.dtype, finite=True)
    if Y.ndim == 1:
        Y = Y[:, None]
    if Y.ndim != 2 or len(Y) != fields.samples:
        raise ValueError(f"targets has shape {Y.shape} but the fields have {fields.samples} rows")
    xp = namespace(H, Y)
    Y = Y - Y.mean(axis=0)
    total = float((Y**2).sum())
    if total == 0:
        raise ValueError("targets are constant: there is nothing to explain")
    left = Y - H @ xp.linalg.lstsq(H, Y, rcond=None)[0]
    return 1 - float((left**2).sum()) / total
