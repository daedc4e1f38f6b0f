"""Operators that give nothing but products, so that what is exact for others is estimated."""

import numpy as np
import pytest

import opflow as of
from opflow.spectral import checks
from opflow.spectral.traces import norms, structure


class Products(of.Operator):
    """A dense symmetric matrix behind its products."""

    def __init__(self, A, psd=False):
        self.A = A
        super().__init__(A.shape, A.dtype, symmetric=True, psd=psd)

    def _matmat(self, X):
        return self.A @ X

    _rmatmat = _matmat


def rotated(values, seed=0, dtype=np.float64):
    """A symmetric matrix with these eigenvalues."""
    n = len(values)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    A = (Q * values) @ Q.T
    return ((A + A.T) / 2).astype(dtype)


@pytest.fixture
def large(monkeypatch):
    """Small operators are taken for ones too large for LAPACK."""
    assert checks.DENSE > 0
    monkeypatch.setattr(structure, "DENSE", 0)
    monkeypatch.setattr(norms, "use_lapack", lambda *_: False)
