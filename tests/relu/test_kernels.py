import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.relu.readout_jacobian import ReadoutJacobian
from tests import examples
from tests.relu.reference import chain_rule_jacobian, problems

ROUTES = st.sampled_from(["cached", "transport", None])


def close(actual, expected, dtype=np.float64):
    tolerance = {np.float64: 1e-12, np.float32: 1e-5}[dtype]
    scale = max(np.abs(expected).max(initial=0), 1e-300)
    return np.abs(actual - expected).max(initial=0) <= tolerance * scale * 10**0.5


@settings(max_examples=examples(60))
@given(problems(), ROUTES, st.booleans())
def test_jacobian_equals_the_chain_rule(problem, route, rates):
    network, X = problem
    expected = chain_rule_jacobian(network, X, rates)
    J = of.jacobian(network.fields(X), route=route, rates=rates)
    assert J.shape == expected.shape
    assert close(J @ np.eye(J.shape[1]), expected)
    assert close(J.T @ np.eye(J.shape[0]), expected.T)
    assert close(J.T @ np.ones(J.shape[0]), expected.T @ np.ones(J.shape[0]))


@settings(max_examples=examples(60))
@given(problems(), ROUTES)
def test_kernel_equals_jacobian_times_its_transpose(problem, route):
    network, X = problem
    J = chain_rule_jacobian(network, X)
    K = of.collective_kernel(network.fields(X), route=route)
    expected = J @ J.T
    assert K.psd and K.symmetric
    assert close(K @ np.eye(len(J)), expected)
    assert close(K.todense(), expected)
    assert close(K.diagonal(), np.diag(expected))
    assert close(np.atleast_1d(K.trace()), np.atleast_1d(np.trace(expected)))
    index = np.arange(len(J))[::-2]
    assert close(K.block(index, slice(0, 2)), expected[index][:, :2])


@settings(max_examples=examples(40))
@given(problems(dtype=np.float32), ROUTES)
def test_float32_stays_float32_and_is_exact_to_rounding(problem, route):
    network, X = problem
    fields = network.fields(X)
    arrays = {name: a.astype(float) for name, a in network.arrays().items()}
    double = of.ReLUNetwork.from_arrays(arrays, network.settings()).fields(X.astype(float))
    if any((a != b).any() for a, b in zip(fields.gates, double.gates, strict=True)):
        return  # a gate within rounding of zero: two different networks
    K = of.collective_kernel(fields, route=route)
    expected = of.collective_kernel(double).todense()
    product = K @ np.eye(len(expected), dtype=np.float32)
    assert product.dtype == np.float32
    assert close(product, expected, np.float32)


@settings(max_examples=examples(30))
@given(problems())
def test_layer_kernels_sum_to_the_collective_kernel(problem):
    network, X = problem
    fields = network.fields(X)
    layers = of.layer_kernels(fields)
    assert len(layers) == network.depth + (network.readout_rate is not None)
    assert all(K.psd for K in layers)
    assert close(sum(layers).todense(), of.collective_kernel(fields, route="transport").todense())


@settings(max_examples=examples(40))
@given(problems(max_depth=3), ROUTES, st.sampled_from(["sum", "trace", np.int64(0)]))
def test_kernels_of_outputs_are_contractions_of_all(problem, route, outputs):
    network, X = problem
    J = chain_rule_jacobian(network, X).reshape(len(X), network.outputs, -1)
    rows = {"sum": J.sum(1), "trace": J.reshape(len(X), -1), 0: J[:, 0]}[outputs]
    fields = network.fields(X)
    K = of.collective_kernel(fields, route=route, outputs=outputs)
    assert K.shape == (len(X), len(X)) and K.psd
    assert close(K.todense(), rows @ rows.T)
    assert close(K @ np.eye(len(X)), rows @ rows.T)
    assert close(K.diagonal(), (rows**2).sum(1))
    assert close(sum(of.layer_kernels(fields, outputs=outputs)).todense(), rows @ rows.T)
    cross = of.cross_kernel(network.fields(X[:1]), fields, outputs=outputs)
    assert close(cross.todense(), rows[:1] @ rows.T)


def test_alignment_of_samples_is_that_of_the_traced_kernel():
    rng = np.random.default_rng(0)
    network = of.ReLUNetwork.random([4, 30, 20], outputs=3, seed=0)
    fields = network.fields(rng.standard_normal((40, 4)))
    Y = np.eye(3)[rng.integers(0, 3, 40)]
    K = of.collective_kernel(fields, outputs="trace")
    C = np.eye(40) - 1 / 40
    centred, labels = C @ K.todense() @ C, C @ Y @ Y.T @ C
    usual = (centred * labels).sum() / np.linalg.norm(centred) / np.linalg.norm(labels)
    assert abs(float(of.spectral.alignment(K, Y, centred=True)) - usual) <= 1e-12


@pytest.mark.parametrize("outputs", ["every", 2, -1, 0.5])
def test_unknown_outputs_are_named(outputs):
    fields = of.ReLUNetwork.random([3, 5], outputs=2, seed=0).fields(np.eye(3))
    with pytest.raises((ValueError, TypeError), match="outputs"):
        of.jacobian(fields, outputs=outputs)


@settings(max_examples=examples(30))
@given(problems())
def test_gauss_newton_has_the_spectrum_of_the_kernel(problem):
    network, X = problem
    fields = network.fields(X)
    J, K = of.jacobian(fields), of.collective_kernel(fields)
    G = J.T @ J
    assert G.psd
    big = np.sort(np.linalg.eigvalsh(G.todense()))[::-1]
    small = np.sort(np.linalg.eigvalsh(K.todense()))[::-1]
    m = min(len(big), len(small))
    assert np.abs(big[:m] - small[:m]).max() <= 1e-12 * max(small[0], 1e-300) * m


def test_one_hidden_layer_kernel_is_gram_hadamard_coactivation():
    rng = np.random.default_rng(0)
    X, W, v = rng.standard_normal((9, 4)), rng.standard_normal((6, 4)), rng.standard_normal(6)
    fields = of.ReLUNetwork([W], v).fields(X)
    K = of.Hadamard(of.Gram(X), of.CoActivation(fields.gates[0], weights=v**2))
    assert close(K.todense(), of.collective_kernel(fields).todense())
    assert close(K @ np.ones(9), of.collective_kernel(fields) @ np.ones(9))


@pytest.mark.parametrize("slope", [0.01, 0.3, 1.0, -1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("width", [6, 80])  # a few units by BLAS, many through tables of gates
def test_coactivation_of_leaky_units_is_the_rank_one_correction(slope, dtype, width):
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((90, 7)).astype(dtype), rng.standard_normal((width, 7)).astype(dtype)
    v = rng.standard_normal(width).astype(dtype)
    fields = of.ReLUNetwork([W], v, slope=slope).fields(X)
    theta = fields.gates[0].astype(float)
    w = v.astype(float) ** 2
    u = theta @ w
    C = (
        slope**2 * w.sum()
        + slope * (1 - slope) * (u[:, None] + u)
        + (1 - slope) ** 2 * (theta * w @ theta.T)
    )
    Gram = X.astype(float) @ X.T.astype(float)
    co = of.CoActivation(fields.gates[0], weights=v**2, slope=slope)
    r = rng.standard_normal((90, 3)).astype(dtype)
    for storage in ("cached", "packed", "recomputed"):
        K = of.collective_kernel(of.Fields(fields.network, X, storage=storage))
        assert close(K @ r, (Gram * C) @ r, dtype) and close(K.todense(), Gram * C, dtype)
    assert close(co @ r, C @ r, dtype) and close(co.todense(), C, dtype)
    packed = of.CoActivation(of.PackedGates(fields.gates[0], dtype), weights=v**2, slope=slope)
    assert close(packed @ r, C @ r, dtype)
    assert close(of.Hadamard(of.Gram(X), co) @ r, (Gram * C) @ r, dtype)
    mask = of.Mask(fields.gates[0], dtype, slope=slope)
    s = np.where(fields.gates[0], 1, slope).ravel()
    assert close(mask @ np.ones(s.size, dtype), s, dtype) and mask.psd == (slope >= 0)


def test_sparse_inputs_give_the_same_kernel():
    import scipy.sparse as sp

    X = sp.random_array((30, 50), density=0.1, rng=0, format="csr")
    for outputs in (1, 3):
        net = of.ReLUNetwork.random([50, 8, 5], outputs=outputs, seed=0, bias=True)
        y = np.ones(30 * outputs)
        for route in ("cached", "transport"):
            K = of.collective_kernel(net.fields(X), route=route)
            D = of.collective_kernel(net.fields(X.toarray()), route="cached")
            assert close(K @ y, D @ y)
            assert close(K.diagonal(), D.diagonal())
            assert close(K.block(slice(0, 4), slice(2, 9)), D.block(slice(0, 4), slice(2, 9)))


def test_unknown_route_is_named():
    fields = of.ReLUNetwork.random([2, 2], seed=0).fields(np.ones((1, 2)))
    with pytest.raises(ValueError, match="route"):
        of.jacobian(fields, route="fast")


@pytest.mark.parametrize("storage", ["cached", "packed", "recomputed"])
def test_fields_that_are_kept_are_read_only(storage):
    net = of.ReLUNetwork.random([3, 5, 4], outputs=2, seed=0)
    fields = net.fields(np.random.default_rng(0).standard_normal((6, 3)), storage=storage)
    kept = [fields.outputs, *fields.preactivations, *fields.gates, *fields.conjugates]
    kept += fields.activations[1:]
    for array in kept:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    fields.hidden()[0][...] = 0  # made anew
    residual = fields.outputs - 1.0
    residual -= 1.0
    assert all(W.flags.writeable for W in net.weights)


@pytest.mark.parametrize("storage", ["cached", "packed"])
@pytest.mark.parametrize("route", ["cached", "transport"])
@given(problem=problems())
def test_diagonals_of_both_grams_take_no_products(route, storage, problem):
    network, X = problem
    J = of.jacobian(network.fields(X, storage=storage), route=route)
    dense = chain_rule_jacobian(network, X)
    expected, norms = (dense**2).sum(axis=0), (dense**2).sum(axis=1)
    K = of.collective_kernel(network.fields(X), route=route)

    def refused(*_):
        raise AssertionError("a product")

    with pytest.MonkeyPatch.context() as patch:
        for kind in (type(J), of.HStack, of.Scaled, of.KhatriRao, of.Matrix, ReadoutJacobian):
            patch.setattr(kind, "_matmat", refused)
            patch.setattr(kind, "_rmatmat", refused)
        close = {"rtol": 1e-12, "atol": 1e-12 * norms.max(initial=0.0)}
        for gram in (J.T @ J, of.Gram(J.T)):
            np.testing.assert_allclose(gram.diagonal(), expected, **close)
            np.testing.assert_allclose(gram.trace(), norms.sum(), **close)
        # squared norms of the gradients of every output of every sample
        np.testing.assert_allclose(K.diagonal(), norms, **close)
        np.testing.assert_allclose(K.trace(), norms.sum(), **close)
