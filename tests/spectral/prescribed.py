"""Operators with a prescribed spectrum, and kernels whose null space is known."""

import numpy as np

import opflow as of

SPECTRA = {
    "spread": lambda n, rng: rng.uniform(0, 3, n),
    "repeated": lambda n, rng: np.repeat([0.0, 1.0, 5.0], n)[::3][:n],
    "few repeated": lambda n, rng: np.r_[[1e3, 1e3, 500.0], rng.uniform(0, 3, n)][:n],
    "clustered": lambda n, rng: 1 + 1e-12 * rng.standard_normal(n),
    "conditioned": lambda n, rng: np.geomspace(1e-12, 1, n),
    "power law": lambda n, rng: np.arange(1.0, n + 1) ** -1.5,
    "rank one": lambda n, rng: 7 * np.eye(1, n)[0],
    "zero": lambda n, rng: np.zeros(n),
}


def prescribed(values, seed=0, dtype=np.float64):
    """An operator with the eigenvalues `values`, which may be negative."""
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    F = (Q * np.sqrt(np.abs(values))).astype(dtype)
    signs = None if np.min(values) >= 0 else np.sign(values).astype(dtype)
    return of.Gram(F, signs)


def spectrum(name, n, seed=0):
    return np.sort(SPECTRA[name](n, np.random.default_rng(seed)))


def degenerate_kernel(n=240, dtype=np.float64, seed=0):
    """A kernel of a ReLU network with a third of the samples twice and a third of the units dead.

    Returns it with its number of zero eigenvalues: one for each repeated sample.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 12))
    X[2 * n // 3 :] = X[: n - 2 * n // 3]
    random = of.ReLUNetwork.random([12, 60], seed=seed)
    bias = np.where(np.arange(60) % 3 == 0, -1e3, 0.0)
    parts = ([W.astype(dtype) for W in random.weights], random.readout.astype(dtype))
    net = of.ReLUNetwork(*parts, biases=[bias.astype(dtype)])
    return of.collective_kernel(net.fields(X.astype(dtype))), n - 2 * n // 3
