"""Rules of the algebra: what is built, and which tags follow."""

import operator

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import opflow as of
from opflow.operators.algebra import Identity, Product, Sum
from opflow.operators.composite import Adjoint, Scaled
from opflow.operators.stack import HStack


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def square(rng):
    return [of.Matrix(rng.standard_normal((4, 4))) for _ in range(4)]


def test_sums_are_flat(square):
    A, B, C, D = square
    total = (A + B) + (C + D)
    assert isinstance(total, Sum)
    assert total.operands == (A, B, C, D)


def test_products_are_flat(square):
    A, B, C, D = square
    chain = (A @ B) @ (C @ D)
    assert isinstance(chain, Product)
    assert chain.operands == (A, B, C, D)


def test_builtin_sum_starts_from_zero(square):
    K1, K2 = (of.Gram(M) for M in square[:2])
    total = sum([K1, K2])
    assert total.operands == (K1, K2)
    assert total.psd


def test_identities_drop_out_of_products(square):
    A, B, *_ = square
    I = of.Identity(4)  # noqa: E741
    assert I @ A is A
    assert A @ I is A
    assert (A @ I @ B).operands == (A, B)
    assert isinstance(I @ I, Identity)


def test_scalars_move_to_the_front(square):
    A, B, *_ = square
    chain = (2 * A) @ (3 * B)
    assert isinstance(chain, Scaled)
    assert chain.scalar == 6
    assert chain.operands[0].operands == (A, B)
    assert ((2 * A) * 5).scalar == 10
    assert (A / 4).scalar == 0.25
    assert 0.5 * (2 * A) is A
    assert (A * np.float32(2)).scalar == 2.0
    assert isinstance((2 * of.Identity(4)) @ A, Scaled)


def test_double_adjoints_are_undone(square):
    A, B, *_ = square
    assert A.T.T is A
    assert A.H.H is A
    assert isinstance(A.T, Adjoint)
    assert (A @ B).T.T.operands == (A, B)
    assert (A + B).T.T.operands == (A, B)


def test_adjoints_are_pushed_to_the_leaves(square):
    A, B, *_ = square
    chain = (2 * (A @ B)).T
    assert chain.scalar == 2
    left, right = chain.operands[0].operands
    assert left.operands == (B,)
    assert right.operands == (A,)


def test_the_adjoint_of_a_symmetric_operator_is_itself(square):
    K = of.Gram(square[0]) - of.Gram(square[1])
    assert K.T is K


def test_a_power_is_a_flat_product(square):
    A, *_ = square
    assert (A**3).operands == (A, A, A)
    assert isinstance(A**0, Identity)
    assert A**1 is A
    for power in (-1, 0.5):
        with pytest.raises(ValueError, match="non-negative integer"):
            A**power
    with pytest.raises(ValueError, match="square"):
        of.Matrix(np.ones((2, 3))) ** 2


def test_the_real_conjugate_is_the_operator(square):
    assert square[0].conj() is square[0]


def test_a_negative_multiple_of_psd_is_symmetric_only(square):
    K = of.Gram(square[0])
    for op in (-K, -2.0 * K, K * -1, K / -3, of.Identity(4) - K):
        assert op.symmetric
        assert not op.psd
    for op in (K, 0 * K, 2 * K, K / 3, -1 * -K, K + K, K + 0.1 * of.Identity(4)):
        assert op.psd
        assert op.symmetric


def test_psd_plus_untagged_is_untagged(square):
    total = of.Gram(square[0]) + square[1]
    assert not total.symmetric
    assert not total.psd


def test_a_product_of_two_psd_operators_is_untagged(square):
    K1, K2 = (of.Gram(M) for M in square[:2])
    assert not (K1 @ K2).symmetric
    assert (K1 @ K1).psd
    assert (K1 @ K2 @ K1).psd


def test_a_congruence_is_psd_only_with_one_and_the_same_factor(rng, square):
    B, J = of.Gram(square[0]), of.Matrix(rng.standard_normal((4, 3)))
    same = of.Matrix(J.data)  # equal numbers, but another operator: not known to be the same
    assert (J.T @ B @ J).psd
    assert (J.T @ J).psd
    assert not (J.T @ B @ same).symmetric
    assert not (same.T @ J).symmetric
    assert not (J.T @ square[0] @ J).symmetric
    indefinite = J.T @ (B - of.Identity(4)) @ J
    assert indefinite.symmetric
    assert not indefinite.psd
    assert not (J.T @ (-B) @ J).psd


def test_a_congruence_nests(rng):
    J, W = of.Matrix(rng.standard_normal((4, 3))), of.Weight(rng.standard_normal((3, 2)))
    D = of.Mask(rng.random(4) < 0.5)
    assert ((D @ J @ W).T @ (D @ J @ W)).psd
    assert of.pullback(of.pullback(of.Identity(4), D @ J), W).psd
    assert of.pullback(of.Identity(4), D @ J, J).psd  # JᵀDJ
    assert not of.pullback(of.Gram(J), D @ J, J).symmetric  # JᵀD(JJᵀ)J


def test_a_mask_that_adopts_a_dtype_is_still_one_and_the_same(rng):
    D = of.Mask(rng.random(4) < 0.5)
    K = of.Gram(rng.standard_normal((4, 2)).astype(np.float32))
    assert (D @ K @ D).dtype == np.float32
    assert (D @ K @ D).psd
    assert ((D @ K) @ D).psd
    other = of.Mask(D.diagonal() > 0)
    assert not (D @ K @ other).symmetric
    P = of.PackedGates(rng.random((4, 3)) < 0.5)
    assert (P.T @ K @ P).psd
    assert (P.T @ K @ P).dtype == np.float32


def test_an_odd_product_of_one_symmetric_factor_keeps_its_tags(square):
    K = of.Gram(square[0])
    assert (K @ (-K) @ K).symmetric
    assert not (K @ (-K) @ K).psd
    assert (K**3).psd


@pytest.mark.parametrize("combine", [
    lambda a, b: a + b, lambda a, b: a @ b, lambda a, b: of.Hadamard(a, b),
    lambda a, b: of.KhatriRao(a, b), lambda a, b: HStack([a, b]), lambda a, b: a - b,
])  # fmt: skip
def test_mixed_dtypes_are_refused(square, combine):
    single = of.Matrix(np.ones((4, 4), dtype=np.float32))
    with pytest.raises(TypeError, match=r"float32, float64.*astype"):
        combine(square[0], single)
    assert combine(square[0], single.astype(np.float64)).dtype == np.float64


def test_narrowing_is_refused(square):
    with pytest.raises(TypeError, match="float64 to float32 is not an exact promotion"):
        square[0].astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_and_gates_adopt_the_dtype_of_the_data(dtype):
    M = of.Matrix(np.ones((3, 3), dtype=dtype))
    gates = np.eye(3, dtype=bool)
    for op in (
        M + of.Identity(3),
        2 * of.Identity(3) + M,
        of.Mask(gates[0]) @ M,
        M @ of.Mask(gates[0]),
        of.Hadamard(of.Gram(M), of.CoActivation(gates)),
        of.CoActivation(gates) + M,
        of.KhatriRao(M, of.PackedGates(gates)),
        of.CoActivation(gates, np.ones(3, dtype=dtype)),
    ):
        assert op.dtype == dtype
        assert (op @ np.ones(op.shape[1], dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("scalar", [1j, np.complex64(2), 1 + 0j])
def test_complex_scalars_are_refused(square, scalar):
    with pytest.raises(TypeError, match="real"):
        square[0] * scalar
    with pytest.raises(TypeError, match="real"):
        scalar * square[0]


@pytest.mark.parametrize("scalar", [np.nan, np.inf, -np.inf])
def test_scalars_that_are_not_finite_are_refused(square, scalar):
    with pytest.raises(ValueError, match="scaled"):
        scalar * square[0]


def test_a_scalar_is_not_allowed_with_matmul(square):
    with pytest.raises(ValueError, match=r"use \*"):
        square[0] @ 2.0


def test_shapes_that_do_not_fit_are_named(square):
    with pytest.raises(ValueError, match=r"\(4, 4\) by Identity of shape \(3, 3\)"):
        square[0] @ of.Identity(3)
    with pytest.raises(ValueError, match=r"\[\(3, 3\), \(4, 4\)\]"):
        square[0] + of.Identity(3)
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        HStack([square[0], of.Identity(3)])


def test_products_with_pylops_use_our_block_products(square):
    calls = []

    class Counting(of.Operator):
        def __init__(self):
            super().__init__((4, 4), np.float64)

        def _matmat(self, X):
            calls.append(X.shape)
            return X

        _rmatmat = _matmat

    chain = Counting() @ pylops.MatrixMult(np.ones((4, 3)))
    assert isinstance(chain, of.Operator)
    chain @ np.ones((3, 7))
    assert calls == [(4, 7)]


def test_complex_operators_of_pylops_can_be_composed_with(square):
    A = square[0]
    F = pylops.signalprocessing.FFT(4, dtype=np.complex128)
    x = np.arange(4.0)
    chain = of.as_operator(F) @ A
    assert chain.dtype == np.complex128
    np.testing.assert_allclose(chain @ x, np.fft.fft(A.data @ x, norm="ortho"), rtol=1e-12)
    y = x + 1j * x[::-1]
    np.testing.assert_allclose(np.vdot(y, chain @ x), np.vdot(chain.H @ y, x), rtol=1e-12)
    assert not chain.symmetric


def test_a_view_of_stored_data_is_never_written_to(rng):
    A = rng.standard_normal((4, 4))
    before, total = A.copy(), of.Matrix(A) + of.Matrix(A)
    total.block(slice(0, 4), slice(0, 4))
    total.rows(slice(0, 2))
    total.diagonal()
    total @ np.ones(4)
    assert (before == A).all()


@pytest.mark.parametrize("wrap", [
    spla.aslinearoperator,
    lambda A: pylops.MatrixMult(A, dtype=A.dtype),
    lambda A: A,
    sp.csr_array,
    of.Matrix,
])  # fmt: skip
def test_differences_have_the_dtype_of_sums(rng, wrap):
    A, B = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    op, other = of.Matrix(A), wrap(B)
    assert (op - other).dtype == (op + other).dtype == np.float32
    np.testing.assert_array_equal((op - other).todense(), A - B)
    if not isinstance(other, pylops.LinearOperator) or isinstance(other, of.Operator):
        assert (other - op).dtype == np.float32
        np.testing.assert_allclose((other - op) @ np.ones(4), (B - A).sum(axis=1), rtol=1e-5)


def test_nothing_but_zero_is_subtracted_or_added_as_a_number(square):
    assert square[0] - 0 is square[0] + 0 is square[0]
    for number in (1, np.float64(1), np.array(1.0)):
        for combine in (operator.add, operator.sub):
            with pytest.raises(TypeError):
                combine(square[0], number)


class Averages(of.Operator):
    """What a user writes: products alone."""

    def __init__(self, n, **tags):
        super().__init__((n, n), np.float64, **tags)

    def _matmat(self, X):
        return np.broadcast_to(X.mean(axis=0), X.shape).copy()


class WithoutAnyProduct(of.Operator):
    def __init__(self):
        super().__init__((3, 3), np.float64)


def test_a_symmetric_operator_is_its_own_adjoint():
    op = Averages(3, psd=True)
    dense = np.full((3, 3), 1 / 3)
    np.testing.assert_allclose(op.todense(), dense)
    np.testing.assert_allclose(op.diagonal(), np.diag(dense))
    np.testing.assert_allclose(op.rmatvec(np.arange(3.0)), dense @ np.arange(3.0))
    np.testing.assert_allclose(of.spectral.eigsh(op, 1).eigenvalues, 1.0)


def test_an_operator_of_scipy_and_its_adjoint_may_know_each_other():
    theirs = spla.aslinearoperator(np.ones((3, 2)))
    theirs.itself = theirs.H  # as of SciPy before 1.17
    theirs.itself.args = (theirs,)
    assert (of.as_operator(theirs).T @ of.as_operator(theirs)).trace() == 6


def test_a_product_that_is_missing_is_named():
    with pytest.raises(NotImplementedError, match="Averages has no adjoint: define _rmatmat"):
        Averages(3).todense()
    with pytest.raises(NotImplementedError, match="WithoutAnyProduct has no product"):
        WithoutAnyProduct() @ np.ones(3)


def test_jitter_on_a_block_stays_in_the_block(rng):
    A = rng.standard_normal((6, 6))
    W, kept = of.Weight(A), A.copy()
    for op in (W, W.T, of.materialise(W, how="tiled")):
        block = op.block(slice(0, 3), slice(0, 3))
        block += np.eye(3)
        with pytest.raises(ValueError, match="read-only"):
            W.rows(slice(0, 2))[...] = 0
    np.testing.assert_array_equal(A, kept)
    A[0, 0] = 7.0  # still the caller's own
    assert W.block([0], [0]) == 7.0
