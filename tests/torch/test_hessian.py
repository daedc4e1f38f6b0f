"""Hessians of losses of modules against automatic differentiation."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

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


def test_attention_takes_the_same_way_for_forces_and_derivatives():
    layer = nn.TransformerEncoderLayer(6, 2, 7, dropout=0.0, batch_first=True)
    module = nn.TransformerEncoder(layer, 1, enable_nested_tensor=True).double().eval()
    X = torch.randn(3, 4, 6, dtype=torch.float64)
    mask = torch.tensor([[False] * 4, [False, False, True, True], [False, False, False, True]])
    y = torch.zeros(3, 24, dtype=torch.float64)

    def forward(module, batch):
        return module(batch[0], src_key_padding_mask=batch[1])

    H = of.torch.hessian(module, (X, mask), y, forward=forward)
    v = np.random.default_rng(0).standard_normal(H.shape[0])
    parameters = list(module.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # has second derivatives
        loss = 0.5 * (module.train()(X, src_key_padding_mask=mask) ** 2).sum()
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    ends = np.cumsum([p.numel() for p in parameters])[:-1]
    parts = [torch.as_tensor(part) for part in np.split(v, ends)]
    along = sum((g.reshape(-1) * part).sum() for g, part in zip(first, parts, strict=True))
    want = torch.cat([g.reshape(-1) for g in torch.autograd.grad(along, parameters)]).numpy()
    assert np.abs(H @ v - want).max() <= 1e-11 * np.abs(want).max()


def test_a_parameter_may_have_no_axes():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * torch.tanh(super().forward(x))

    torch.manual_seed(0)
    module = Scaled().double()
    X = torch.randn(SAMPLES, 4, dtype=torch.float64)
    dense = dense_hessian(module, X, LOSSES["quadratic"][1])
    H = of.torch.hessian(module, X, TARGETS)
    assert np.abs(H.todense() - dense).max() <= 1e-12 * np.abs(dense).max()


def test_padding_has_no_hessian():
    module, X = built("embedding")
    with pytest.raises(ValueError, match="padding_idx"):
        of.torch.hessian(module, X, TARGETS)


def test_what_does_not_fit_is_named():
    module, X = nn.Linear(4, 2), torch.randn(3, 4)
    with pytest.raises(ValueError, match="y has shape"):
        of.torch.hessian(module, X, torch.randn(4, 2))
    with pytest.raises(ValueError, match="part must be"):
        of.torch.hessian(module, X, torch.randn(3, 2), part="half")
    with pytest.raises(ValueError, match="objective must be"):
        of.torch.hessian(module, X, torch.randn(3, 2), "mse")
