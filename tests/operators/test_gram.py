"""Grams through every kind of factor."""

import pickle

import numpy as np
import pylops
import pytest
import scipy.sparse as sp

import opflow as of


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def factors(rng):
    F = rng.standard_normal((6, 4))
    gates = F > 0
    return {
        "dense": (F, F),
        "sparse matrix": (sp.csc_matrix(F * gates), F * gates),
        "sparse array": (sp.coo_array(F * gates), F * gates),
        "packed gates": (of.PackedGates(gates), gates.astype(float)),
        "pylops": (pylops.MatrixMult(F), F),
        "pylops chain": (pylops.FirstDerivative(6) @ pylops.MatrixMult(F), None),
        "opflow": (of.Matrix(F) @ of.Weight(F[:4]), F @ F[:4]),
        "adjoint": (of.Weight(F.T.copy()).T, F),
    }


@pytest.mark.parametrize("kind", factors(np.random.default_rng(0)))
@pytest.mark.parametrize("weighted", [False, True])
def test_any_factor_gives_the_same_gram(rng, kind, weighted):
    F, dense = factors(rng)[kind]
    dense = F.todense() if dense is None else dense
    w = rng.random(4) if weighted else None
    G, want = of.Gram(F, w), (dense * (1 if w is None else w)) @ dense.T
    assert G.psd
    np.testing.assert_allclose(G.todense(), want, atol=1e-12)
    np.testing.assert_allclose(G @ np.eye(6), want, atol=1e-12)
    np.testing.assert_allclose(G.diagonal(), np.diag(want), atol=1e-12)
    np.testing.assert_allclose(G.block([4, 1], slice(2, 5)), want[[4, 1], 2:5], atol=1e-12)


def test_a_dense_factor_is_not_copied(rng):
    F = rng.standard_normal((6, 4))
    assert of.Gram(F).factor.data is F


def test_a_sparse_factor_stays_sparse(rng):
    F = sp.random(200, 300, density=0.01, random_state=0, format="csr")
    G = of.Gram(F)
    assert sp.issparse(G.factor.data)
    assert G.cost().flops == 4 * F.nnz


@pytest.mark.parametrize("width", [1, 7, 8, 9, 64])
def test_coactivation_stores_one_bit_a_gate(rng, width):
    gates = rng.random((40, width)) < 0.5
    C = of.CoActivation(gates)
    assert C.factor.data.nbytes == 40 * -(-width // 8)
    assert len(pickle.dumps(C)) < 40 * -(-width // 8) + 3000
    np.testing.assert_array_equal(C.todense(), gates.astype(float) @ gates.T)


def test_coactivation_weighs_units(rng):
    gates, w = rng.random((5, 9)) < 0.5, rng.random(9).astype(np.float32)
    C = of.CoActivation(gates, w)
    assert C.dtype == np.float32
    assert C.psd
    np.testing.assert_allclose(C.todense(), (gates * w) @ gates.T, rtol=1e-6)
    assert not of.CoActivation(gates, -w).psd


def test_coactivation_shares_packed_gates(rng):
    packed = of.PackedGates(rng.random((5, 9)) < 0.5)
    assert of.CoActivation(packed, dtype=np.float32).factor.data is packed.data


def test_a_layer_of_dead_units_has_a_zero_coactivation():
    C = of.CoActivation(np.zeros((4, 3), dtype=bool))
    assert not C.todense().any()
    assert C.trace() == 0


def test_a_weight_gram_masks_by_both_samples(rng):
    W, g, h = rng.standard_normal((5, 3)), rng.random(5) < 0.6, rng.random(5) < 0.6
    M = of.WeightGram(W, g, h)
    assert M.psd
    np.testing.assert_allclose(M.todense(), W.T @ np.diag((g & h) * 1.0) @ W, atol=1e-13)
    np.testing.assert_allclose(
        M.todense(),
        of.pullback(of.Identity(5), of.Mask(g) @ of.Weight(W), of.Mask(h) @ of.Weight(W)).todense(),
        atol=1e-13,
    )


def test_zero_weights_are_psd_and_nan_weights_refused():
    assert of.Gram(np.ones((2, 2)), np.zeros(2)).psd
    with pytest.raises(ValueError, match="weights contains NaN"):
        of.Gram(np.ones((2, 2)), np.array([1.0, np.nan]))
