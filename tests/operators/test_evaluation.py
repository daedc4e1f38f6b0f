"""Factored, tiled and dense are one operator; nothing of size N x N unless asked for."""

import tracemalloc

import numpy as np
import pytest

import opflow as of
from opflow.operators import rows


@pytest.fixture
def kernel():
    rng = np.random.default_rng(8)
    X, gates = rng.standard_normal((30, 4)), rng.random((30, 20)) < 0.5
    return of.Hadamard(of.Gram(X), of.CoActivation(gates)) + 0.1 * of.Identity(30)


@pytest.mark.parametrize("workspace", [100, 8 << 20])
def test_every_way_gives_the_same_products(kernel, monkeypatch, workspace):
    monkeypatch.setattr(rows, "WORKSPACE", workspace)
    X = np.random.default_rng(9).standard_normal((30, 5))
    want = kernel @ X
    for how in ("factored", "tiled", "dense"):
        op = of.materialise(kernel, how=how)
        assert op.psd
        assert op.dtype == kernel.dtype
        np.testing.assert_allclose(op @ X, want, rtol=0, atol=1e-13 * abs(want).max() * 30)


def test_how_names_the_class(kernel):
    assert of.materialise(kernel, how="factored") is kernel
    assert type(of.materialise(kernel, how="tiled")) is of.Tiled
    assert type(of.materialise(kernel, how="dense")) is of.Matrix


def test_a_dense_symmetric_operator_is_symmetric_to_the_last_bit(kernel, monkeypatch):
    monkeypatch.setattr(rows, "WORKSPACE", 700)
    A = of.materialise(kernel, how="dense").data
    assert (A == A.T).all()


def test_without_a_plan_the_operator_stays_as_it_is(kernel):
    assert of.materialise(kernel) is kernel


def test_the_cost_model_forms_a_small_wide_kernel_and_leaves_a_large_narrow_one():
    wide, narrow = of.Gram(np.ones((50, 400))), of.Gram(np.ones((2000, 2)))
    assert type(of.materialise(wide, products=1000)) is of.Matrix
    assert of.materialise(narrow, products=10) is narrow
    assert type(of.materialise(wide, products=1000, memory=100.0)) is not of.Matrix


def test_one_product_never_pays_for_forming(kernel):
    assert of.materialise(kernel, products=1) is kernel


def test_dense_over_the_budget_is_refused_before_it_is_allocated():
    column = np.ones((10**6, 1))
    huge = of.Gram(column)
    tracemalloc.start()
    try:
        for form in (
            lambda: of.materialise(huge, how="dense", memory="1GB"),
            lambda: huge.todense(memory="1GB"),
            lambda: of.KhatriRao(column, np.broadcast_to(1.0, (10**6, 999))).todense(memory=1e9),
        ):
            tracemalloc.reset_peak()
            with pytest.raises(MemoryError, match="GB"):
                form()
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("arguments, match", [
    ({"how": "fast"}, "how must be"),
    ({"products": 0}, "products must be"),
    ({"products": 2, "columns": 0}, "columns must be"),
    ({"how": "dense", "memory": "lots"}, "memory must be"),
    ({"how": "dense", "memory": -1.0}, "memory must be"),
])  # fmt: skip
def test_bad_arguments_are_named(kernel, arguments, match):
    with pytest.raises(ValueError, match=match):
        of.materialise(kernel, **arguments)


@pytest.mark.parametrize("memory, size", [
    ("2GB", 2e9), ("2GiB", 2.0 * 2**30), ("512 KiB", 2.0**19), (1e6, 1e6), ("7", 7.0),
    ("1.5e3MB", 1.5e9), ("3T", 3e12),
])  # fmt: skip
def test_memory_is_parsed(memory, size):
    assert rows.parse_memory(memory) == size


def peak_of(function):
    function()  # BLAS and caches warm up first
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("N", [5_000, 20_000])
def test_a_default_product_stays_within_the_workspace(N):
    rng = np.random.default_rng(10)
    X, phi = rng.random((N, 16), dtype=np.float32), rng.random((N, 32), dtype=np.float32)
    gates = phi > 0.5
    r = rng.random((N, 1), dtype=np.float32)
    for K in (
        of.Hadamard(of.Gram(X), of.Gram(phi)),
        of.Hadamard(of.Gram(X), of.CoActivation(gates)),
        of.Gram(X) + of.Identity(N),
        of.Tiled(of.Hadamard(of.Gram(X), of.Gram(phi))) if N <= 5_000 else of.CoActivation(gates),
    ):
        peak = peak_of(lambda K=K: K @ r)
        assert peak < 2.5 * rows.WORKSPACE + 8 * r.nbytes
        assert peak_of(K.diagonal) < 2.5 * rows.WORKSPACE + 8 * r.nbytes


def test_the_peak_does_not_grow_with_the_number_of_samples():
    def peak(N):
        K = of.Hadamard(of.Gram(np.ones((N, 8))), of.Gram(np.ones((N, 64))))
        r = np.ones(N)
        return peak_of(lambda: K @ r) - 4 * r.nbytes

    assert peak(80_000) < peak(20_000) + 2e6
