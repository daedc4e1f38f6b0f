"""The identity that carries the speed, and what happens where it does not apply."""

import numpy as np
import pytest

import opflow as of
from opflow.machine import workspace as row_blocks


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def close(op, want):
    np.testing.assert_allclose(op.todense(), want, rtol=0, atol=1e-13 * (1 + abs(want).max()))


def test_a_hadamard_product_of_grams_is_the_gram_of_a_khatri_rao_product(rng):
    A, B = rng.standard_normal((6, 2)), rng.standard_normal((6, 3))
    K = of.Hadamard(of.Gram(A), of.Gram(B))
    assert type(K) is of.Gram
    assert type(K.factor) is of.KhatriRao
    assert K.factor.operands[0].data is A
    assert K.factor.operands[1].data is B
    assert K.psd
    close(K, (A @ A.T) * (B @ B.T))


def test_three_narrow_grams_merge_into_one(rng):
    A, B, C = (rng.standard_normal((30, w)) for w in (2, 3, 4))
    K = of.Hadamard(of.Gram(A), of.Gram(B), of.Gram(C))
    assert type(K) is of.Gram
    assert K.factor.shape == (30, 24)
    close(K, (A @ A.T) * (B @ B.T) * (C @ C.T))


def test_three_wide_grams_are_tiled(rng):
    A, B, C = (rng.standard_normal((5, 4)) for _ in range(3))
    K = of.Hadamard(of.Gram(A), of.Gram(B), of.Gram(C))
    assert type(K) is of.TiledHadamard
    assert K.psd
    close(K, (A @ A.T) * (B @ B.T) * (C @ C.T))


def test_weights_multiply(rng):
    A, B, w, u = (rng.random(s) for s in ((5, 2), (5, 3), 2, 3))
    K = of.Hadamard(of.Gram(A, w), of.Gram(B, u))
    assert type(K) is of.Gram
    assert K.psd
    close(K, ((A * w) @ A.T) * ((B * u) @ B.T))


def test_negative_weights_are_not_psd(rng):
    A, B, w = rng.random((5, 2)), rng.random((5, 3)), np.array([1.0, -0.5])
    K = of.Hadamard(of.Gram(A, w), of.Gram(B))
    assert K.symmetric
    assert not K.psd
    close(K, ((A * w) @ A.T) * (B @ B.T))


def test_two_negative_weights_make_positive_ones(rng):
    A, B = rng.random((5, 2)), rng.random((5, 3))
    K = of.Hadamard(of.Gram(A, -np.ones(2)), of.Gram(B, -np.ones(3)))
    assert K.psd
    close(K, (A @ A.T) * (B @ B.T))


def test_scalars_and_sums_are_pulled_out(rng):
    A, B, C = (rng.standard_normal((6, 2)) for _ in range(3))
    K = of.Hadamard(-2 * of.Gram(A), 3 * of.Gram(B))
    assert K.scalar == -6
    assert type(K.operands[0]) is of.Gram
    assert not K.psd
    S = of.Hadamard(of.Gram(A) + of.Gram(B), of.Gram(C))
    assert [type(t) for t in S.operands] == [of.Gram, of.Gram]
    close(S, (A @ A.T + B @ B.T) * (C @ C.T))


@pytest.mark.parametrize("workspace", [24, 300, 8 << 20])
def test_operands_without_a_factor_go_through_tiles(rng, monkeypatch, workspace):
    monkeypatch.setattr(row_blocks, "WORKSPACE", workspace)
    M, F = rng.standard_normal((7, 7)), rng.standard_normal((7, 2))
    for op, dense in (
        (of.Hadamard(of.Matrix(M), of.Gram(F)), M * (F @ F.T)),
        (of.Hadamard(of.Gram(F), of.Matrix(M + M.T, symmetric=True)), (F @ F.T) * (M + M.T)),
        (of.Hadamard(M[:, :3], F[:, [0, 1, 0]]), M[:, :3] * F[:, [0, 1, 0]]),
    ):
        assert type(op) is of.TiledHadamard
        X, Y = rng.standard_normal((op.shape[1], 2)), rng.standard_normal((7, 2))
        np.testing.assert_allclose(op @ X, dense @ X, atol=1e-12)
        np.testing.assert_allclose(op.T @ Y, dense.T @ Y, atol=1e-12)
        close(op, dense)


def test_schur_needs_every_operand_psd(rng):
    F, M = rng.standard_normal((4, 2)), np.diag([1.0, 2, 3, 4])
    assert of.Hadamard(of.Gram(F), of.Matrix(M, psd=True)).psd
    half = of.Hadamard(of.Gram(F), of.Matrix(M, symmetric=True))
    assert half.symmetric
    assert not half.psd
    assert not of.Hadamard(of.Gram(F), of.Matrix(M)).symmetric


def test_each_row_is_a_kronecker_product(rng):
    A, B = rng.standard_normal((4, 2)), rng.standard_normal((4, 3))
    J = of.KhatriRao(A, B).todense()
    for mu in range(4):
        np.testing.assert_array_equal(J[mu], np.kron(A[mu], B[mu]))


def test_k_rows_of_the_left_go_with_one_row_of_the_right(rng):
    A, B = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 5))
    J = of.KhatriRao(A, B)
    assert J.shape == (12, 10)
    dense = J.todense().reshape(4, 3, 10)
    for mu in range(4):
        for p in range(3):
            np.testing.assert_array_equal(dense[mu, p], np.kron(A[mu, p], B[mu]))
    close(of.KhatriRao(A.reshape(12, 2), B), J.todense())


def test_the_adjoint_is_the_gradient_in_c_order(rng):
    A, B, r = rng.standard_normal((4, 2)), rng.standard_normal((4, 3)), rng.standard_normal(4)
    gradient = of.KhatriRao(A, B).T @ r
    np.testing.assert_allclose(gradient.reshape(2, 3), A.T @ np.diag(r) @ B, atol=1e-13)


def test_the_right_may_not_have_more_rows(rng):
    with pytest.raises(ValueError, match=r"A has 4 rows.*3 rows of B"):
        of.KhatriRao(np.ones((4, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"A has 2 rows.*4 rows of B"):
        of.KhatriRao(np.ones((2, 2)), np.ones((4, 2)))


def test_a_hadamard_product_needs_two_operands_of_one_shape():
    with pytest.raises(ValueError, match="at least two"):
        of.Hadamard(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"one shape, not \[\(2, 2\), \(3, 3\)\]"):
        of.Hadamard(np.ones((2, 2)), np.ones((3, 3)))
