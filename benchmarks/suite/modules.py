"""PyTorch modules: the cases, their data on disk, and what opflow and peers do with them.

A contender is a function of a :class:`ModuleProblem`, as those of ReLU networks are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suite.problems import Call, SetUp


class ModuleShape(NamedTuple):
    """A module on so many samples; what stands for the widths of a network is its outputs."""

    N: int
    module: str
    d: int
    widths: tuple[int, ...]
    parameters: int
    #: samples at a time of the peers, and bytes that opflow may hold
    block: int
    memory: str | None

    def __str__(self) -> str:
        P = f"{self.parameters / 1e6:.2f} M" if self.parameters > 1e6 else f"{self.parameters:,}"
        return f"{self.module}, N = {self.N:,}, k = {self.widths[-1]}, P = {P}"


def shape(N: int, module: str, block: int = 0, memory: str | None = None) -> ModuleShape:
    """With what the module itself tells."""
    built, features, outputs = BUILDERS[module]()
    parameters = sum(p.numel() for p in built.parameters())
    size = int(np.prod(features))
    return ModuleShape(N, module, size, (outputs,), parameters, block or N, memory)


def _resnet(outputs: int = 1, width: int = 64, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> Any:
    """A ResNet of basic blocks for images of 32 × 32, in evaluation mode."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(after)
            self.skip = nn.Identity()
            if stride > 1 or before != after:
                conv = nn.Conv2d(before, after, 1, stride, bias=False)
                self.skip = nn.Sequential(conv, nn.BatchNorm2d(after))

        def forward(self, x: Any) -> Any:
            h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(h + self.skip(x))

    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for level, count in enumerate(blocks):
        for i in range(count):
            after = width * 2**level
            layers.append(Block(before, after, 2 if level and not i else 1))
            before = after
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs)]
    return nn.Sequential(*layers).eval(), (3, 32, 32), outputs


def _lenet() -> Any:
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    return module, (1, 8, 8), 10


def _mlp() -> Any:
    from torch import nn

    layers = [nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), (64,), 10


def _cnn() -> Any:
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    return module, (1, 8, 8), 10


#: the module, the shape of a sample and the number of outputs
BUILDERS: dict[str, Callable[[], Any]] = {
    "ResNet-18": _resnet,
    "small ResNet": lambda: _resnet(width=4, blocks=(1, 1)),
    "LeNet": _lenet,
    "MLP": _mlp,
    "CNN": _cnn,
}


def write(folder: Path, what: ModuleShape, dtype: str) -> None:
    """Parameters, inputs (of one channel: digits of scikit-learn), labels and vectors."""
    import torch

    torch.manual_seed(0)
    module, features, outputs = BUILDERS[what.module]()
    for name, buffer in module.named_buffers():  # statistics that are not those of the start
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    state = {name: t.numpy() for name, t in module.state_dict().items()}
    state = {name: t.astype(dtype) if t.dtype.kind == "f" else t for name, t in state.items()}
    np.savez(folder / "parameters.npz", **state)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, outputs, what.N)
    X = rng.standard_normal((what.N, *features))
    if np.prod(features) == 64:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        which = rng.permutation(len(digits))[: what.N]
        labels, X = digits[which], (pixels[which] / 8 - 1).reshape(-1, *features)
    arrays = {"X": X.astype(dtype), "labels": labels}
    arrays["r"] = rng.standard_normal(what.N * outputs).astype(dtype)
    arrays["v"] = rng.standard_normal(what.parameters).astype(dtype)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "problem.json").write_text(json.dumps(what._asdict()))


class ModuleProblem:
    """What a contender reads: plain NumPy arrays, torch not needed."""

    def __init__(self, folder: str | Path, threads: int) -> None:
        folder = Path(folder)
        self.threads = threads
        told = json.loads((folder / "problem.json").read_text())
        self.what = ModuleShape(**told)
        self.X, self.labels, self.r, self.v = (
            np.load(folder / f"{name}.npy") for name in ("X", "labels", "r", "v")
        )
        self.parameters = dict(np.load(folder / "parameters.npz"))

    def torch(self) -> tuple[Any, Any]:
        """The module and its inputs."""
        import torch

        torch.set_num_threads(self.threads)
        module = BUILDERS[self.what.module]()[0].to(torch.from_numpy(self.X).dtype)
        module.load_state_dict({n: torch.from_numpy(a) for n, a in self.parameters.items()})
        return module, torch.from_numpy(self.X)

    def blocks(self, X: Any) -> list[tuple[Any, Any]]:
        """Inputs and labels in row blocks, as the loaders of peers have them."""
        import torch

        labels = torch.from_numpy(self.labels)
        return list(zip(X.split(self.what.block), labels.split(self.what.block), strict=True))


# -- opflow -------------------------------------------------------------------------------------


def product(p: ModuleProblem) -> SetUp:
    import opflow as of

    module, X = p.torch()

    def set_up() -> Call:
        K = of.torch.kernel(module, X, memory=p.what.memory)
        return lambda: K @ p.r

    return set_up


def dense(p: ModuleProblem) -> SetUp:
    import opflow as of

    module, X = p.torch()
    return lambda: lambda: of.torch.kernel(module, X).todense()


def spectrum(p: ModuleProblem) -> SetUp:
    import opflow as of

    module, X = p.torch()
    return lambda: lambda: of.spectral.eigsh(of.torch.kernel(module, X), 20).eigenvalues


def gauss_newton(p: ModuleProblem) -> SetUp:
    import opflow as of

    module, X = p.torch()

    def set_up() -> Call:
        H = of.torch.hessian(module, X, p.labels, "cross-entropy", part="gauss-newton")
        return lambda: H @ p.v

    return set_up


# -- peers --------------------------------------------------------------------------------------


def jvp_vjp(p: ModuleProblem) -> SetUp:
    """torch.func, in row blocks: a backward pass, then a tangent pass."""
    import torch

    module, X = p.torch()
    ps = {name: t.detach() for name, t in module.named_parameters()}
    force = torch.from_numpy(p.r).reshape(len(X), -1)

    def call() -> Any:
        total = {name: torch.zeros_like(t) for name, t in ps.items()}
        for x, u in zip(X.split(p.what.block), force.split(p.what.block), strict=True):
            pull = torch.func.vjp(lambda q, x=x: torch.func.functional_call(module, q, x), ps)[1]
            for name, part in pull(u)[0].items():
                total[name] += part
        with torch.no_grad():
            out = [
                torch.func.jvp(
                    lambda q, x=x: torch.func.functional_call(module, q, x), (ps,), (total,)
                )[1]
                for x in X.split(p.what.block)
            ]
        return torch.cat(out).reshape(-1).numpy()

    return lambda: call


def _func_kernel(p: ModuleProblem) -> Any:
    """The Jacobian contraction of torch.func, a Jacobian for each parameter."""
    import torch

    module, X = p.torch()
    ps = {name: t.detach() for name, t in module.named_parameters()}

    def one(q: Any, x: Any) -> Any:
        return torch.func.functional_call(module, q, x[None])[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0))

    def kernel() -> Any:
        parts = (J.flatten(0, 1).flatten(1) for J in jacobian(ps, X).values())
        return sum(J @ J.T for J in parts)

    return kernel


def func_dense(p: ModuleProblem) -> SetUp:
    kernel = _func_kernel(p)
    return lambda: lambda: kernel().numpy()


def func_spectrum(p: ModuleProblem) -> SetUp:
    import torch

    kernel = _func_kernel(p)
    return lambda: lambda: torch.linalg.eigvalsh(kernel())[-20:].flip(0).numpy()


def curvlinops_product(p: ModuleProblem) -> SetUp:
    import torch
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    module, X = p.torch()
    data, r = p.blocks(X), torch.from_numpy(p.r)

    def set_up() -> Call:
        J, JT = (
            kind(module, list(module.parameters()), data, check_deterministic=False)
            for kind in (JacobianLinearOperator, TransposedJacobianLinearOperator)
        )
        return lambda: (J @ (JT @ r)).detach().numpy()

    return set_up


def curvlinops_gauss_newton(p: ModuleProblem) -> SetUp:
    import torch
    from curvlinops import GGNLinearOperator

    module, X = p.torch()
    data, v = p.blocks(X), torch.from_numpy(p.v)
    loss = torch.nn.CrossEntropyLoss(reduction="sum")

    def set_up() -> Call:
        G = GGNLinearOperator(module, loss, list(module.parameters()), data,
                              check_deterministic=False)  # fmt: skip
        return lambda: (G @ v).detach().numpy()

    return set_up


def nngeometry(p: ModuleProblem) -> SetUp:
    import torch
    from nngeometry.gram import GramMatrix

    module, X = p.torch()
    data = torch.utils.data.TensorDataset(X, torch.from_numpy(p.labels))
    loader = torch.utils.data.DataLoader(data, batch_size=p.what.block)

    def call() -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(X.dtype)  # in which it forms the Gram of a convolution
        try:
            G = GramMatrix(module, loader, function=lambda x, y: module(x)).data
        finally:
            torch.set_default_dtype(before)
        return G.permute(1, 0, 3, 2).flatten(2).flatten(0, 1).detach().numpy()

    return lambda: call
