"""Modules of many kinds, their inputs, and their Jacobian by automatic differentiation."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SAMPLES = 5


def normal(*shape):
    return torch.randn(SAMPLES, *shape)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + torch.tanh(self.second(self.norm(x))))


class ResNetBlock(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.one = norm(4)
        self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False)
        self.two = norm(4)
        self.skip = nn.Conv2d(3, 4, 1, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        h = F.relu_(self.one(self.first(x)))
        h = self.two(self.second(h))
        h += self.skip(x)
        return self.last(F.relu(h).mean((2, 3)))


class Attention(nn.Module):
    """A block as of a vision transformer, on patches (positions, features)."""

    def __init__(self, batch_first=True, fused=False):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=batch_first)
        self.up = nn.Linear(6, 7)
        self.down = nn.Linear(7, 6)
        self.last = nn.Linear(6, 2)
        self.swap = not batch_first
        self.fused = fused

    def forward(self, x):
        x = self.embed(x)
        h = self.norm(x)
        h = h.transpose(0, 1) if self.swap else h
        h = self.attend(h, h, h, need_weights=not self.fused)[0]
        x = x + (h.transpose(0, 1) if self.swap else h)
        x = x + self.down(F.gelu(self.up(x)))
        return self.last(x.mean(1))


class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True)
        self.packed = nn.MultiheadAttention(4, 1, batch_first=True, bias=False)

    def forward(self, query, memory):
        h = self.attend(query, memory, memory)[0]
        return self.packed(h, query, query, need_weights=False)[0].sum(1)


class Dotted(nn.Module):
    """Attention written out with three multiplications."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))  # K by k.bias is 0

    def forward(self, x):
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)).mean(1)


class Tied(nn.Module):
    """A language model whose decoder is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 9, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, ids):
        return self.decode(torch.tanh(self.mix(self.embed(ids)))).mean(1)


class Repeated(nn.Module):
    """One layer, three times."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return x


class Tokens(nn.Module):
    """Positions and samples as one axis, in the middle."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        tokens = self.norm(F.elu(self.first(x.reshape(-1, 3))))
        return self.last(tokens).reshape(len(x), -1, 2).sum(1)


class Named(nn.Module):
    """Inputs by keywords."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 2)
        self.right = nn.Linear(2, 2)

    def forward(self, left, right):
        return self.left(left) * self.right(right)


def frozen():
    module = nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module


def mlp(activation):
    return nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 5, bias=False), activation,
                         nn.Linear(5, 3))  # fmt: skip


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 3, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def image():
    return normal(3, 6, 6)


#: name: what builds the module, what draws its inputs
MODULES = {
    "relu": (lambda: mlp(nn.ReLU()), lambda: normal(4)),
    "gelu": (lambda: mlp(nn.GELU()), lambda: normal(4)),
    "silu": (lambda: mlp(nn.SiLU()), lambda: normal(4)),
    "tanh": (lambda: mlp(nn.Tanh()), lambda: normal(4)),
    "softplus": (lambda: mlp(nn.Softplus()), lambda: normal(4)),
    "leaky": (lambda: mlp(nn.LeakyReLU(0.2)), lambda: normal(4)),
    "elu": (lambda: mlp(nn.ELU()), lambda: normal(4)),
    "sigmoid": (lambda: mlp(nn.Sigmoid()), lambda: normal(4)),
    "prelu": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3), nn.PReLU()),
        lambda: normal(4)),
    "residual": (Residual, lambda: normal(4)),
    "lenet": (lenet, lambda: normal(1, 8, 8)),
    "resnet, group norm": (lambda: ResNetBlock(lambda n: nn.GroupNorm(2, n)), image),
    "resnet, batch norm": (lambda: ResNetBlock(nn.BatchNorm2d), image),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.GELU(), nn.Conv2d(6, 2, 4)), image),
    "dilated": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, dilation=2, padding="same", padding_mode="circular"),
            nn.Tanh(), nn.AdaptiveAvgPool2d(1)), image),
    "signals": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ReLU(),
                              nn.Conv1d(4, 2, 3)), lambda: normal(2, 11)),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 2)),
        lambda: normal(1, 3, 3, 3)),
    "attention": (Attention, lambda: normal(3, 4)),
    "attention, fused": (lambda: Attention(fused=True), lambda: normal(3, 4)),
    "attention, positions first": (lambda: Attention(batch_first=False), lambda: normal(3, 4)),
    "attention to others": (CrossAttention, lambda: (normal(2, 4), normal(3, 3))),
    "dotted": (Dotted, lambda: normal(3, 4)),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)),
        lambda: torch.randint(0, 7, (SAMPLES, 3))),
    "bag": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 4), nn.Tanh(), nn.Linear(4, 2)),
        lambda: torch.randint(0, 7, (SAMPLES, 3))),
    "tied": (Tied, lambda: torch.randint(0, 9, (SAMPLES, 3))),
    "repeated": (Repeated, lambda: normal(4)),
    "tokens": (Tokens, lambda: normal(4, 3)),
    "keywords": (Named, lambda: {"left": normal(3), "right": normal(2)}),
    "frozen": (frozen, lambda: normal(4)),
}  # fmt: skip


def built(name, dtype=torch.float64, modules=MODULES):
    """The module, in evaluation mode with buffers that tell, and its inputs."""
    torch.manual_seed(0)
    make, draw = modules[name]
    module = make().to(dtype).eval()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data.add_(torch.rand(buffer.shape))
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape))
    return module, in_dtype(draw(), dtype)


def in_dtype(X, dtype):
    if isinstance(X, dict):
        return {name: in_dtype(part, dtype) for name, part in X.items()}
    if isinstance(X, tuple):
        return tuple(in_dtype(part, dtype) for part in X)
    return X.to(dtype) if X.is_floating_point() else X


def some(X, index):
    if isinstance(X, dict):
        return {name: part[index] for name, part in X.items()}
    return tuple(part[index] for part in X) if isinstance(X, tuple) else X[index]


def called(module, X):
    if isinstance(X, dict):
        return module(**X)
    return module(*X) if isinstance(X, tuple) else module(X)


def dense_jacobian(module, X):
    """(N, k, P), one backward pass for every number of the outputs."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):
        out = called(module, X)
        out = out.reshape(len(out), -1)
        rows = [
            torch.autograd.grad(f, parameters, retain_graph=True, materialize_grads=True)
            for f in out.reshape(-1)
        ]
    flat = [torch.cat([part.reshape(-1) for part in row]) for row in rows]
    return torch.stack(flat).reshape(*out.shape, -1).numpy().astype(np.float64)
