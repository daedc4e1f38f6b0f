"""The workloads, and the data on disk that every contender starts from.

Two correct float32 programs differ where a field is within rounding of zero, by up to 4e-3 at
full size, because a gate flips.  Samples with such a field are drawn anew, so that all
contenders have the same gates and results can be compared to rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Call = Callable[..., Any]
SetUp = Callable[[], Call]
clock = time.perf_counter

#: fields nearer to zero than this times their root mean square make a sample be drawn anew
MARGIN = 3e-5


class Shape(NamedTuple):
    """Samples, features and widths of a workload."""

    N: int
    d: int
    widths: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return sum(a * b for a, b in zip((self.d, *self.widths), self.widths, strict=False))

    def __str__(self) -> str:
        return f"N = {self.N:,}, d = {self.d:,}, [{', '.join(map(str, self.widths))}]"


WORKLOADS = {
    "W1": Shape(2_000, 784, (512,)),
    "W2": Shape(20_000, 784, (512,)),
    "W3": Shape(10_000, 784, (512, 512, 512)),
    "W4": Shape(4_000, 3_072, (1024, 1024)),
    "W5": Shape(100_000, 64, (256, 256)),
}
STEPS = WORKLOADS | {
    "wide": Shape(1_000, 100_000, (256,)),
    "tall": Shape(20_000, 100, (256,)),
}
DENSE = {f"D{N}": Shape(N, 784, (512, 512, 512)) for N in (2_000, 5_000)}
SCALING = {
    f"N{N}": Shape(N, 64, (256,)) for N in (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 10**6)
}
START = {"W1": WORKLOADS["W1"]}
#: tiny stand-ins of --quick
QUICK = {
    "products": {"W1": Shape(300, 40, (48,)), "W3": Shape(200, 30, (40, 36))},
    "steps": {"W1": Shape(300, 40, (48,)), "wide": Shape(50, 2_000, (40,))},
    "dense": {"D2000": Shape(60, 20, (16, 16, 16))},
    "scaling": {f"N{N}": Shape(N, 16, (32,)) for N in (10_000, 30_000)},
    "start": {"W1": Shape(100, 30, (48,))},
}
FULL = {
    "products": WORKLOADS,
    "steps": STEPS,
    "dense": DENSE,
    "scaling": SCALING,
    "start": START,
}


def write(folder: Path, shape: Shape, dtype: str, columns: int, step: bool) -> None:
    """Inputs, weights, vectors and targets as ``.npy`` files; `step` adds a stable step size."""
    import opflow as of

    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random(
        [shape.d, *shape.widths], scaling="standard", seed=1, dtype=np.dtype(dtype)
    )
    X = rng.standard_normal((shape.N, shape.d), dtype=np.float32).astype(dtype)
    for rows in _blocks(shape):
        X[rows] = clear_of_kinks(net.weights, X[rows], rng)
    arrays = {f"W{i}": W for i, W in enumerate(net.weights)}
    arrays |= {"X": X, "readout": net.readout}
    arrays["r"] = rng.standard_normal((shape.N, columns), dtype=np.float32).astype(dtype)
    arrays["y"] = rng.standard_normal(shape.N, dtype=np.float32).astype(dtype)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    size = None
    if step:
        size = 1 / of.spectral.largest_eigenvalue(of.collective_kernel(net.fields(X))).value
    (folder / "problem.json").write_text(
        json.dumps({"layers": len(net.weights), "columns": columns, "dtype": dtype, "step": size})
    )


def clear_of_kinks(weights: Any, X: Any, rng: np.random.Generator) -> Any:
    """`X` with those samples drawn anew that have a field within rounding of zero."""
    X = X.copy()
    doubtful = np.arange(len(X))
    while doubtful.size:
        near = np.zeros(doubtful.size, dtype=bool)
        a = X[doubtful].astype(np.float64)
        for W in weights:
            h = a @ W.T.astype(np.float64)
            near |= np.abs(h).min(axis=1) < MARGIN * np.sqrt(np.mean(h**2))
            a = np.maximum(h, 0)
        doubtful = doubtful[near]
        X[doubtful] = rng.standard_normal((doubtful.size, X.shape[1]), dtype=np.float32)
    return X


def _blocks(shape: Shape) -> list[slice]:
    rows = max(1, int(2e8 // (8 * max(shape.d, *shape.widths))))
    return [slice(start, start + rows) for start in range(0, shape.N, rows)]


class Problem:
    """What a contender reads: plain NumPy arrays, opflow not needed.

    The peers compute on `device`; results come from there only if it is the CPU.
    """

    device = "cpu"
    #: of torch.compile
    backend = "inductor"

    def __init__(self, folder: str | Path, threads: int) -> None:
        folder = Path(folder)
        told = json.loads((folder / "problem.json").read_text())
        self.threads, self.columns, self.step = threads, told["columns"], told["step"]
        self.dtype = np.dtype(told["dtype"])
        self.X, self.readout, self.r, self.y = (
            np.load(folder / f"{name}.npy") for name in ("X", "readout", "r", "y")
        )
        self.weights = [np.load(folder / f"W{i}.npy") for i in range(told["layers"])]

    @property
    def chunk(self) -> int:
        """Vectors at a time in a block product by automatic differentiation: within 1 GB."""
        widest = max(W.shape[0] for W in self.weights)
        return max(1, min(self.columns, int(1e9 // (len(self.X) * widest * self.dtype.itemsize))))
