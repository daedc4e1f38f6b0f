"""Hessians of losses of modules against automatic differentiation."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import opflow as of
from tests.torch.modules import SAMPLES, built, called, dense_jacobian


def dense_hessian(module, X, loss):
    parameters = [p for p in module.parameters() if p.requires_grad]
    out = called(module, X)
    gradients = torch.autograd.grad(loss(out.reshape(len(out), -1)), parameters, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in gradients])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True, materialize_grads=True)
            for g in flat]  # fmt: skip
    return torch.stack([torch.cat([p.reshape(-1) for p in row]) for row in rows]).numpy()


LABELS = torch.tensor([0, 1, 1, 0, 1])
TARGETS = torch.linspace(-2, 2, 2 * SAMPLES, dtype=torch.float64).reshape(SAMPLES, 2)
LOSSES = {
    "quadratic": (TARGETS, lambda f: 0.5 * ((f - TARGETS) ** 2).sum()),
    "cross-entropy": (LABELS.double(), lambda f: F.cross_entropy(f, LABELS, reduction="sum")),
    "huber": (TARGETS, lambda f: F.huber_loss(f, TARGETS, reduction="sum")),
}


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize("name", ["residual", "attention", "tokens", "frozen"])
def test_products_are_those_of_the_dense_hessian(name, objective):
    module, X = built(name)
    y, loss = LOSSES[objective]
    dense = dense_hessian(module, X, loss)
    H = of.torch.hessian(module, X, y, objective)
    assert H.symmetric and not H.psd and H.shape == dense.shape
    V = np.random.default_rng(0).standard_normal((len(dense), 3))
    scale = np.abs(dense @ V).max()
    assert np.abs(H @ V - dense @ V).max() <= 1e-12 * scale
    assert np.abs(H @ V[:, 0] - dense @ V[:, 0]).max() <= 1e-12 * scale


def test_the_gauss_newton_part_and_both_ends_of_the_spectrum():
    module, X = built("gelu")
    y = torch.randn(SAMPLES, 3, dtype=torch.float64)
    D = dense_jacobian(module, X).reshape(3 * SAMPLES, -1)
    G = of.torch.hessian(module, X, y, part="gauss-newton")
    assert (
        G.psd and np.abs(G @ D.T - D.T @ (D @ D.T)).max() <= 1e-12 * np.abs(D.T @ (D @ D.T)).max()
    )
    dense = dense_hessian(module, X, lambda f: 0.5 * ((f - y) ** 2).sum())
    pairs = of.spectral.eigsh(of.torch.hessian(module, X, y.numpy()), 2, which="BE")
    values = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(pairs.eigenvalues, values[[-1, 0]], rtol=1e-8)


def test_float32_and_blocks_of_samples():
    module, X = built("residual", torch.float32)
    y = TARGETS.float()
    want = of.torch.hessian(module, X, y)
    v = np.random.default_rng(0).standard_normal(want.shape[0]).astype(np.float32)
    whole = want @ v
    assert whole.dtype == np.float32
    want.at_once = 1
    np.testing.assert_allclose(want @ v, whole, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named():
    module, X = nn.Linear(4, 2), torch.randn(3, 4)
    with pytest.raises(ValueError, match="y has shape"):
        of.torch.hessian(module, X, torch.randn(4, 2))
    with pytest.raises(ValueError, match="part must be"):
        of.torch.hessian(module, X, torch.randn(3, 2), part="half")
    with pytest.raises(ValueError, match="objective must be"):
        of.torch.hessian(module, X, torch.randn(3, 2), "mse")
