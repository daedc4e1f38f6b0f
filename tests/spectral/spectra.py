"""Matrices with prescribed spectra, and kernels with what makes spectra hard."""

import numpy as np

import opflow as of

SPECTRA = {
    "flat": lambda n: np.ones(n),
    "zero": lambda n: np.zeros(n),
    "rank one": lambda n: np.append(np.zeros(n - 1), 5.0),
    "repeated": lambda n: np.concatenate([np.linspace(0, 1.9, n - n // 4), np.full(n // 4, 2.0)]),
    "clustered": lambda n: np.concatenate(
        [np.linspace(0, 0.5, n - n // 4), 1 + 1e-12 * np.arange(n // 4)]
    ),
    "ill-conditioned": lambda n: np.geomspace(1e-12, 1, n),
    "half null": lambda n: np.maximum(np.linspace(-1, 1, n), 0),
    "indefinite": lambda n: np.linspace(-1.03, 2, n),  # no two of one size
}


def rotated(values, seed=0, dtype=np.float64):
    """A dense symmetric matrix with these eigenvalues."""
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    A = (Q * values) @ Q.T
    return ((A + A.T) / 2).astype(dtype)


def hard_kernel(n=60, *, outputs=1, dtype=np.float64, seed=0):
    """K of a network with duplicated samples and dead units."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 5)).astype(dtype)
    X[n // 2 :] = X[: n - n // 2]
    net = of.ReLUNetwork.random([5, 12, 9], outputs=outputs, seed=seed, dtype=dtype)
    weights = [W.copy() for W in net.weights]
    weights[0][:4] = -np.abs(weights[0][:4])
    weights[1][::3] = -np.abs(weights[1][::3])  # activations are positive: never active
    return of.collective_kernel(of.ReLUNetwork(weights, net.readout, rates=net.rates).fields(X))
