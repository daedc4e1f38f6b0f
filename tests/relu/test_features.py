import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from tests.relu.reference import problems

features = of.features


def gradients(fields, layer):
    """∂f/∂a^{ℓ-1}, (N, k, n_{ℓ-1}), from the definition."""
    n, k = fields.samples, fields.network.outputs
    return fields.conjugates[layer - 1].reshape(n, k, -1) @ fields.network.weights[layer - 1]


def matrix_power(G, power):
    values, vectors = np.linalg.eigh(G)
    floor = len(G) * np.finfo(float).eps * max(np.abs(values).max(), 1e-300)
    values = np.where(values > floor, np.maximum(values, floor) ** power, 0)
    return (vectors * values) @ vectors.T


@given(problems(max_outputs=3), st.data())
def test_agop_is_the_mean_of_gradient_outer_products(problem, data):
    network, X = problem
    fields = network.fields(X)
    layer = data.draw(st.integers(1, network.depth))
    psi = gradients(fields, layer)
    want = sum(p.T @ p for p in psi) / len(X)
    G = features.agop(fields, layer)
    assert G.psd
    np.testing.assert_allclose(G.todense(), want, atol=1e-12 * max(want.max(), 1e-300))


@given(
    problems(max_outputs=3), st.sampled_from([1.0, 0.5]), st.booleans(), st.booleans(), st.data()
)
def test_feature_ansatz_is_the_cosine_of_the_two_matrices(problem, power, centred, moved, data):
    network, X = problem
    rng = np.random.default_rng(1)
    start = network.replace([rng.standard_normal(W.shape).astype(W.dtype) for W in network.weights])
    fields = network.fields(X)
    layer = data.draw(st.integers(1, network.depth))
    psi, W = gradients(fields, layer), network.weights[layer - 1]
    if centred:
        psi = psi - psi.mean(axis=0)
    G = matrix_power(sum(p.T @ p for p in psi) / len(X), power)
    M = W - start.weights[layer - 1] if moved else W
    M = M.T @ M
    size = np.linalg.norm(M) * np.linalg.norm(G)
    want = (M * G).sum() / size if size > 1e-12 else 0.0
    how = {"start": start} if moved else {}
    got = features.feature_ansatz(fields, layer, power=power, centred=centred, **how)
    # the square root of a rounding error is what a power of 1/2 cannot tell from zero
    assert abs(got - want) <= (1e-10 if power == 1 else 1e-6) or size <= 1e-12


def test_feature_ansatz_holds_where_it_must():
    """One output and one layer of orthonormal weights whose units all see every sample alike."""
    W = np.eye(3)
    fields = of.ReLUNetwork([W, np.ones((1, 3))], np.ones(1)).fields(np.ones((4, 3)))
    assert features.feature_ansatz(fields, 2) == pytest.approx(1, abs=1e-14)
    assert features.feature_ansatz(fields, 1) == pytest.approx(1 / 3**0.5, abs=1e-14)


def test_the_ansatz_of_what_has_not_moved_is_zero():
    assert features.feature_ansatz(FIELDS, 1, start=FIELDS.network) == 0


@given(problems(max_outputs=3), st.data())
def test_target_linearity_is_what_least_squares_explains(problem, data):
    network, X = problem
    fields = network.fields(X)
    layer = data.draw(st.integers(0, network.depth))
    Y = np.random.default_rng(0).standard_normal((len(X), 2))
    if len(X) == 1:
        with pytest.raises(ValueError, match="constant"):
            features.target_linearity(fields, Y, layer)
        return
    H, Yc = fields.activations[layer], Y - Y.mean(axis=0)
    U, s, _ = np.linalg.svd(H, full_matrices=False)
    U = U[:, s > 1e-10 * max(s.max(), 1e-300)]
    want = (np.linalg.norm(U.T @ Yc) / np.linalg.norm(Yc)) ** 2
    assert abs(features.target_linearity(fields, Y, layer) - want) <= 1e-9


FIELDS = of.ReLUNetwork.random([2, 3], seed=0).fields(np.ones((4, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: features.agop(f, 2), ValueError, "layer"),
        (lambda f: features.agop(f.network, 1), TypeError, "fields must be"),
        (lambda f: features.feature_ansatz(f, 1, power=0), ValueError, "power"),
        (
            lambda f: features.feature_ansatz(f, 1, start=of.ReLUNetwork.random([2, 4], seed=0)),
            ValueError,
            r"start has widths \(2, 4\), not \(2, 3\)",
        ),
        (lambda f: features.target_linearity(f, np.ones(3), 1), ValueError, "targets has shape"),
        (lambda f: features.target_linearity(f, np.ones(4), 1), ValueError, "constant"),
        (
            lambda f: features.target_linearity(f, np.ones(4, "c8"), 1),
            TypeError,
            "targets.*complex",
        ),
        (lambda f: features.target_linearity(f, np.arange(4.0), 2), ValueError, "layer"),
        (
            lambda f: features.target_linearity(
                f.network.fields(sp.csr_array(np.ones((4, 2)))), np.arange(4.0), 0
            ),
            ValueError,
            "sparse",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(FIELDS)
