import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.spectral.compare import (
    alignment,
    kernel_alignment,
    kernel_distance,
)
from opflow.spectral.modes import principal_angles
from tests.spectral.products import Products, large, rotated  # noqa: F401

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


def cosine(A, B):
    return np.sum(A * B) / (np.linalg.norm(A) * np.linalg.norm(B))


@given(st.integers(2, 20), st.integers(1, 4), st.integers(1, 4), dtypes, st.booleans(), seeds)
def test_alignment_is_the_cosine_with_the_outer_product(n, rank, k, dtype, centred, seed):
    rng = np.random.default_rng(seed)
    F = rng.standard_normal((n, rank)).astype(dtype)
    Y = rng.standard_normal((n, k)).astype(dtype).astype(np.float64)
    K, Z = F.astype(np.float64) @ F.T.astype(np.float64), Y
    if centred:
        C = np.eye(n) - 1 / n
        K, Z = C @ K @ C, C @ Y
    found = alignment(of.Gram(F), Y, centred=centred)
    assert found.exact and found.products == k + centred
    lost = np.linalg.norm(F) ** 2 / np.linalg.norm(K) * (np.linalg.norm(Y) / np.linalg.norm(Z)) ** 2
    assert abs(found - cosine(K, Z @ Z.T)) <= 20 * n * np.finfo(dtype).eps * lost


def test_targets_of_several_outputs_are_one_vector():
    rng = np.random.default_rng(0)
    fields = of.ReLUNetwork.random([4, 6], outputs=3, seed=0).fields(rng.standard_normal((5, 4)))
    K, Y = of.collective_kernel(fields), rng.standard_normal((5, 3))
    want = cosine(K.todense(), np.outer(Y.ravel(), Y.ravel()))
    assert np.isclose(alignment(K, Y), want, rtol=1e-12)
    assert np.isclose(alignment(K, Y.reshape(-1, 1)), want, rtol=1e-12)
    assert np.isclose(alignment(K, Y.ravel()), want, rtol=1e-12)


def test_alignment_of_layers_and_of_labels():
    rng = np.random.default_rng(0)
    fields = of.ReLUNetwork.random([4, 6, 5], seed=0).fields(rng.standard_normal((9, 4)))
    labels = rng.integers(0, 2, 9)
    for kernel in of.layer_kernels(fields):
        want = cosine(kernel.todense(), np.outer(labels, labels))
        assert np.isclose(alignment(kernel, labels.tolist()), want, rtol=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_estimated_alignments_cover(centred, large):  # noqa: F811
    A = rotated(0.9 ** np.arange(120))
    y = A @ np.random.default_rng(1).standard_normal(120)
    op, C = Products(A, psd=True), np.eye(120) - centred / 120
    truth = cosine(C @ A @ C, np.outer(C @ y, C @ y))
    found = [alignment(op, y, centred=centred, products=30, rng=seed) for seed in range(1000)]
    assert np.mean([x.low <= truth <= x.high for x in found]) >= 0.93
    assert not found[0].exact and found[0].products == 31 + centred


@given(st.integers(1, 20), dtypes, seeds)
def test_kernels_compared_by_their_entries(n, dtype, seed):
    rng = np.random.default_rng(seed)
    A, B = (rotated(rng.standard_normal(n), s, dtype) for s in (seed, seed + 1))
    a, b = A.astype(np.float64), B.astype(np.float64)
    tol = 20 * n * np.finfo(dtype).eps
    assert abs(kernel_alignment(A, B) - cosine(a, b)) <= tol
    distance = np.linalg.norm(b - a) / np.linalg.norm(a)
    assert abs(kernel_distance(A, B) - distance) <= tol * (1 + distance)


def test_a_small_distance_keeps_its_digits():
    A = rotated(np.linspace(1, 2, 30))
    E = rotated(np.linspace(-1, 1, 30), seed=1)
    found = kernel_distance(A, A + 1e-10 * E)
    assert np.isclose(found, 1e-10 * np.linalg.norm(E) / np.linalg.norm(A), rtol=1e-5)


def test_degenerate_kernels():
    zero, one = of.Zero(3), of.Identity(3)
    assert kernel_distance(one, one) == 0 and np.isclose(kernel_alignment(one, one), 1)
    assert kernel_distance(zero, one) == math.inf
    assert math.isnan(kernel_distance(zero, zero)) and math.isnan(kernel_alignment(zero, one))
    assert math.isnan(alignment(zero, np.ones(3)))
    assert alignment(np.eye(1), np.ones(1)) == 1


def pairs():
    rng = np.random.default_rng(0)
    top = rotated(1.0 / np.arange(1, 61) ** 1.5)
    noise = rng.standard_normal((60, 60)) / 60
    moved = top + 0.5 * (noise + noise.T)
    F = rng.standard_normal((60, 4)) + 2
    yield top, moved
    yield F @ F.T, rotated(np.linspace(0, 1, 60), 3)
    yield top, top + 1e-6 * rotated(np.ones(60) / np.arange(1, 61), 4)
    yield rotated(np.ones(60) + 0.1 * rng.random(60)), rotated(np.linspace(0.5, 1, 60), 5)
    yield np.diag(np.eye(1, 60)[0]) + 1e-3 * top, top


@pytest.mark.parametrize("pair", range(5))
def test_estimated_comparisons_cover(pair, large):  # noqa: F811
    A, B = list(pairs())[pair]
    ops = Products(A), Products(B)
    for call, truth in (
        (kernel_alignment, cosine(A, B)),
        (kernel_distance, np.linalg.norm(B - A) / np.linalg.norm(A)),
    ):
        found = [call(*ops, products=40, rng=seed) for seed in range(1000)]
        assert np.mean([x.low <= truth <= x.high for x in found]) >= 0.93, call.__name__
        assert not found[0].exact and found[0].products == 40


def test_same_kernel_by_products(large):  # noqa: F811
    op = Products(rotated(np.linspace(0, 1, 60)))
    found = kernel_alignment(op, op)
    assert np.isclose(found, 1) and np.isclose(found.low, 1) and found.high >= found
    assert kernel_distance(op, op) == 0


@given(st.integers(2, 12), st.data(), dtypes, seeds)
def test_principal_angles_agree_with_scipy(n, data, dtype, seed):
    p, q = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    rng = np.random.default_rng(seed)
    U, V = (rng.standard_normal((n, k)).astype(dtype) for k in (p, q))
    want = np.sort(scipy.linalg.subspace_angles(U.astype(float), V.astype(float)))
    got = principal_angles(U, V)
    assert got.shape == (min(p, q),) and (np.diff(got) >= -1e-12).all()
    condition = np.linalg.cond(U) + np.linalg.cond(V)
    tol = 20 * n * np.finfo(dtype).eps * condition
    # SciPy's own digits end at √ε for angles that are zero, as those of any n + 1 vectors are
    np.testing.assert_allclose(np.cos(got), np.cos(want), atol=tol)
    assert (got[: max(0, p + q - n)] <= tol).all()


@pytest.mark.parametrize("angles", [[1e-12, 1e-10], [1e-9, 1.0], [0.0, math.pi / 2]])
def test_angles_of_any_size(angles):
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    U = Q[:, :2]
    V = U * np.cos(angles) + Q[:, 2:4] * np.sin(angles)
    np.testing.assert_allclose(principal_angles(U, V @ [[1, 2], [0, 1]]), angles, atol=2e-15)


def test_what_is_refused():
    eye = np.eye(4)
    with pytest.raises(ValueError, match=r"y has shape \(3,\) but op has order 4"):
        alignment(eye, np.ones(3))
    with pytest.raises(ValueError, match="y must not be zero"):
        alignment(eye, np.zeros(4))
    with pytest.raises(ValueError, match="y must not be constant"):
        alignment(eye, np.full(4, 0.1), centred=True)
    with pytest.raises(ValueError, match="y contains NaN"):
        alignment(eye, np.array([1.0, np.nan, 0.0, 0.0]))
    with pytest.raises(TypeError, match="y must be float32 or float64"):
        alignment(eye, np.ones(4) * 1j)
    with pytest.raises(ValueError, match=r"K1 has shape \(3, 3\) but K0 has shape \(4, 4\)"):
        kernel_distance(eye, np.eye(3))
    with pytest.raises(ValueError, match="K1 must be symmetric"):
        kernel_alignment(eye, np.triu(np.ones((4, 4))))
    with pytest.raises(ValueError, match="U must be an array"):
        principal_angles(np.ones(4), eye)
    with pytest.raises(ValueError, match="V must have linearly independent columns"):
        principal_angles(eye, np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"V has shape"):
        principal_angles(eye, np.eye(3))
