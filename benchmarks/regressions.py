"""Timings of our own, to be held against earlier ones; no peers, and nothing is asserted of times.

    pip install pytest-benchmark
    pytest benchmarks/regressions.py --benchmark-storage=runs --benchmark-autosave   # before
    pytest benchmarks/regressions.py --benchmark-storage=runs --benchmark-compare    # after

Ordinary `pytest` does not collect this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import opflow as of


@pytest.fixture(params=["float32", "float64"])
def dtype(request: Any) -> Any:
    return np.dtype(request.param)


@pytest.fixture(params=[(2_000, 784, 512), (1_000, 256, 256, 256)], ids=["one hidden", "three"])
def problem(request: Any, dtype: Any) -> Any:
    N, *widths = request.param
    X = np.random.default_rng(0).standard_normal((N, widths[0])).astype(dtype)
    return of.ReLUNetwork.random(widths, scaling="standard", seed=0, dtype=dtype), X


@pytest.mark.parametrize("engine", of.gate_engines())
@pytest.mark.parametrize("columns", [1, 16])
def test_product(benchmark: Any, problem: Any, engine: str, columns: int) -> None:
    net, X = problem
    with of.gate_options(engine):
        K = of.collective_kernel(net.fields(X))
        benchmark(K.matmat, np.ones((len(X), columns), X.dtype))


def test_fields(benchmark: Any, problem: Any) -> None:
    net, X = problem
    benchmark(net.fields, X)


def test_dense_kernel(benchmark: Any, problem: Any) -> None:
    net, X = problem
    benchmark(of.collective_kernel(net.fields(X)).todense)


@pytest.mark.parametrize("eliminate", [False, True])
def test_ten_steps(benchmark: Any, problem: Any, eliminate: bool) -> None:
    net, X = problem
    method = of.GradientDescent(step=1e-6)
    benchmark(of.train, net, X, X[:, 0].copy(), steps=10, method=method, eliminate=eliminate)


def test_ten_eigenpairs(benchmark: Any, problem: Any) -> None:
    net, X = problem
    K = of.collective_kernel(net.fields(X))
    benchmark(of.spectral.eigsh, K, 10, tol=1e-4)
