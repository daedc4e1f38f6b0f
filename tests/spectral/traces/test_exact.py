"""What calls itself exact equals a dense computation in float64, to the rounding of its dtype."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla

import opflow as of
from opflow import spectral
from opflow.spectral.checks import Estimate
from opflow.spectral.density.quadrature import quadrature_cost
from opflow.spectral.traces import exact
from tests.spectral.products import rotated

RNG = np.random.default_rng(0)
Y = RNG.standard_normal(1100)


def kernel(dtype, n=60, outputs=1):
    net = of.ReLUNetwork.random([5, 24, 24], seed=0, outputs=outputs, dtype=dtype)
    X = np.random.default_rng(1).standard_normal((n, 5)).astype(dtype)
    return of.collective_kernel(net.fields(X))


def gram(n, p, dtype):
    return of.Gram(np.random.default_rng(2).standard_normal((n, p)).astype(dtype))


OPERATORS = {
    "low rank, narrow": lambda dtype: gram(700, 20, dtype),
    "low rank, short": lambda dtype: gram(40, 25, dtype),
    "full rank": lambda dtype: gram(50, 80, dtype),
    "sum": lambda dtype: 2.0 * gram(300, 6, dtype) + gram(300, 3, dtype),
    "kernel": kernel,
    "kernel of outputs": lambda dtype: kernel(dtype, 20, 3),
    "array": lambda dtype: of.as_operator(rotated(np.linspace(0.5, 2, 45), dtype=dtype)),
    "few eigenvalues": lambda dtype: of.as_operator(
        rotated(np.repeat([1.0, 2.0, 5.0], [30, 20, 1]), dtype=dtype)
    ),
}


def truth(A, y, shift):
    """Every number from LAPACK's eigenvalues in float64."""
    values = np.maximum(np.linalg.eigvalsh(A), 0.0)
    p = values[values > 1e-12 * values[-1]] / values.sum()
    B = np.cos(np.arange(len(A)))[:, None]
    L = A + B @ B.T
    size = np.linalg.norm
    centred = y - y.mean()
    C = A - A.mean(axis=0) - A.mean(axis=1)[:, None] + A.mean()
    return {
        "trace": np.trace(A),
        "frobenius_norm": size(A),
        "norm": values[-1],
        "condition_number": (values[-1] + shift) / (values[0] + shift),
        "participation_ratio": np.trace(A) ** 2 / size(A) ** 2,
        "logdet": np.log(values + shift).sum(),
        "effective_dimension": (values / (values + shift)).sum(),
        "effective_rank": np.exp(-(p * np.log(p)).sum()),
        "alignment": y @ A @ y / (size(A) * (y @ y)),
        "alignment, centred": centred @ A @ centred / (size(C) * (centred @ centred)),
        "kernel_alignment": (A * L).sum() / (size(A) * size(L)),
        "kernel_distance": size(L - A) / size(A),
        "sharpness": values[-1] / 4,
        "null": (values <= 1e-6 * values[-1]).sum(),
    }


def asked(op, y, shift, how):
    S, B = spectral, of.Gram(np.cos(np.arange(op.shape[0]))[:, None].astype(op.dtype))
    quadrature = {"how": how, "rng": 1}
    return {
        "trace": S.trace(op, how=how if how == "exact" else None),
        "frobenius_norm": S.frobenius_norm(op),
        "norm": S.norm(op),
        "condition_number": S.condition_number(op, shift),
        "participation_ratio": S.participation_ratio(op),
        "logdet": S.logdet(op, shift, **quadrature),
        "effective_dimension": S.effective_dimension(op, shift, **quadrature),
        "effective_rank": S.effective_rank(op, **quadrature),
        "alignment": S.alignment(op, y),
        "alignment, centred": S.alignment(op, y, centred=True),
        "kernel_alignment": S.kernel_alignment(op, op + B),
        "kernel_distance": S.kernel_distance(op, op + B),
        "sharpness": S.sharpness(op, 0.5).ratio,
        "null": S.density(op, **quadrature).null,
    }


@pytest.mark.filterwarnings("ignore::opflow.spectral.ConvergenceWarning")
@pytest.mark.parametrize("how", [None, "exact", "estimate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_what_says_exact_is_exact(name, dtype, how):
    op = OPERATORS[name](dtype)
    n, eps = op.shape[0], float(np.finfo(dtype).eps)
    y = Y[:n].astype(dtype)
    shift = float(np.trace(op.todense())) / n
    wanted = truth(op.todense().astype(np.float64), y.astype(np.float64), shift)
    said = 0
    for key, value in asked(op, y, shift, how).items():
        if value.exact:
            said += 1
            assert value.low == value == value.high
            assert value == pytest.approx(wanted[key], rel=200 * n**0.5 * eps), key
        else:
            slack = 200 * n**0.5 * eps * abs(wanted[key])
            assert value.low - slack <= wanted[key] <= value.high + slack or how == "estimate", key
    assert said >= (10 if how == "estimate" else len(wanted) - 1)
    diagonal = spectral.diagonal(op)
    assert diagonal.how == "exact" and not diagonal.errors.any()
    np.testing.assert_allclose(diagonal.values, np.diag(op.todense()), rtol=200 * n**0.5 * eps)


@pytest.mark.parametrize("rows", [40, 1500])
@pytest.mark.parametrize("shift", [1e-14, 1e-16])
def test_zeros_of_the_structure_are_zero_beside_any_shift(rows, shift):
    op = gram(rows, 25, np.float64)
    values = np.linalg.svd(op.factor.todense(), compute_uv=False) ** 2
    dimension = spectral.effective_dimension(op, shift)
    determinant = spectral.logdet(op, shift)
    assert dimension.exact and dimension == pytest.approx(25, rel=1e-12)
    expected = np.log(values + shift).sum() + (rows - 25) * np.log(shift)
    assert determinant.exact and determinant == pytest.approx(expected, rel=1e-12)


def test_what_rounding_leaves_open_is_not_called_exact():
    op = gram(40, 25, np.float64).todense()  # nothing tells that fifteen eigenvalues are zero
    dimension = spectral.effective_dimension(op, 1e-16)
    assert not dimension.exact and dimension.how == "all eigenvalues"
    # the matrix is rounded, and its own smallest eigenvalues need not be zero
    assert dimension.low < 26 <= dimension.high


@pytest.mark.thorough
def test_all_eigenvalues_are_taken_where_they_cost_less_than_products():
    n = 1200
    X = np.random.default_rng(3).standard_normal((n, 30))
    K = of.collective_kernel(of.ReLUNetwork.random([30, 256], seed=0).fields(X))
    A = K.todense()
    found = spectral.logdet(K, 1.0)
    assert found.exact
    assert found == pytest.approx(np.linalg.slogdet(A + np.eye(n))[1], rel=1e-10)
    assert spectral.density(K).how == "exact"
    assert spectral.effective_rank(K).exact
    sparse = of.as_operator(np.diag(np.linspace(1.0, 2.0, n)))
    few = quadrature_cost(sparse, 2, 2)
    assert not exact.use_lapack(sparse, few)


def test_numbers_of_a_black_box_report_the_products_that_formed_it():
    A = rotated(np.linspace(1, 2, 30))
    found = spectral.norm(spla.aslinearoperator(A))
    assert found.exact and found.products == 30


def test_an_estimate_is_mapped_at_both_ends():
    half = Estimate(2.0, 1.0, 4.0, products=3, how="Hutch++").mapped(lambda x: x / 2)
    assert (half, half.low, half.high, half.products, half.how) == (1, 0.5, 2, 3, "Hutch++")


@pytest.mark.parametrize("centred", [False, True])
def test_outputs_are_centred_each_by_itself(centred):
    K, y = kernel(np.float64, 20, 3), np.random.default_rng(4).standard_normal((20, 3)) + 2.0
    A = K.todense()
    C = np.eye(60)
    if centred:
        C = np.kron(np.eye(20) - 1 / 20, np.eye(3))
    A, r = C @ A @ C, C @ y.ravel()
    wanted = r @ A @ r / (np.linalg.norm(A) * (r @ r))
    found = spectral.alignment(K, y, centred=centred)
    assert found == pytest.approx(wanted, rel=1e-12)
    if centred:  # a constant of each output changes nothing
        moved = spectral.alignment(K, y + np.array([5.0, -3.0, 1.0]), centred=True)
        assert moved == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("shift", [0.1, 1.0, 10.0])
def test_kernels_in_float32_are_what_their_entries_are(shift):
    net = of.ReLUNetwork.random([6, 20, 20], outputs=2, seed=0, dtype=np.float32)
    X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    K = of.collective_kernel(net.fields(X))
    values = np.maximum(np.linalg.eigvalsh(K.todense().astype(np.float64)), 0.0)
    dimension, determinant = (
        (values / (values + shift)).sum(),
        np.log(values + shift).sum(),
    )
    assert spectral.effective_dimension(K, shift) == pytest.approx(dimension, rel=1e-5)
    assert spectral.logdet(K, shift) == pytest.approx(determinant, rel=1e-5)


def test_kernels_of_any_two_sizes_have_an_angle_and_a_distance():
    A = np.diag(np.arange(1.0, 6.0))
    small = np.ldexp(A, -600)
    with np.errstate(all="raise"):
        for pair in ((A, small), (small, A)):
            assert spectral.kernel_alignment(*pair) == pytest.approx(1, rel=1e-14)
        assert spectral.kernel_distance(A, small) == 1
        assert spectral.kernel_distance(small, A) == pytest.approx(2.0**600, rel=1e-14)


def test_rounding_of_zero_is_no_rate_of_decay():
    U, r = np.eye(2), np.ones(2)
    modes = spectral.decay(np.array([1.0, -1e-16]), U, r, np.array([0.0, 1e18]))
    np.testing.assert_array_equal(modes, [[1, 1], [0, 1]])


def test_no_entry_of_a_psd_diagonal_is_negative():
    F = np.random.default_rng(5).standard_normal((1500, 1500)) * np.geomspace(1, 1e-3, 1500)
    F[::7] = 0.0
    op = of.Gram(of.as_operator(F) @ of.Identity(1500))
    found = spectral.diagonal(op, how="diag++", products=30)
    exact = (F**2).sum(axis=1)
    assert (found.values >= 0).all()
    assert (np.abs(found.values - exact) <= found.errors).mean() > 0.9


@pytest.mark.parametrize("n", [400, 1200])
def test_one_pair_from_a_start_costs_a_handful_of_products(n):
    X = np.random.default_rng(6).standard_normal((n, 20))
    net = of.ReLUNetwork.random([20, 64, 64], seed=0)
    moved = of.train(net, X, np.sin(X[:, 0]), steps=2).network
    before, after = (of.collective_kernel(part.fields(X)) for part in (net, moved))
    cold = spectral.eigsh(before, 1, which="LA", tol=1e-6)
    warm = spectral.eigsh(after, 1, which="LA", tol=1e-6, start=cold.start)
    assert "lanczos" in cold.how and "lanczos" in warm.how
    assert warm.converged and warm.products <= 16 < cold.products
    assert warm.eigenvalues[0] == pytest.approx(np.linalg.eigvalsh(after.todense())[-1], rel=1e-9)
