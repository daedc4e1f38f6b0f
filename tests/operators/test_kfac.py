"""K-FAC of Jacobians: block by block the Kronecker product of second moments, and its inverse."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given

import opflow as of
from opflow.operators.kfac import kfac_factors
from tests.relu.reference import problems, rich, trained


def dense(fields):
    """The blocks Φ ⊗ A by NumPy, from conjugates and activations."""
    net = fields.network
    N, k = len(fields.outputs), net.outputs
    phis = [phi.reshape(N * k, -1) for phi in fields.conjugates]
    phis.append(np.tile(np.eye(k), (N, 1)))
    blocks = []
    for (_, b), rate, phi, a in zip(
        net.layers(), net.layer_rates(), phis, fields.activations, strict=False
    ):
        blocks.append(rate * np.kron(phi.T @ phi, a.T @ a / N))
        if b is not None:
            blocks.append(rate * phi.T @ phi)
    return scipy.linalg.block_diag(*blocks)


@pytest.mark.parametrize("route", ["cached", "transport"])
@given(problem=problems())
def test_blocks_are_kronecker_products_of_second_moments(route, problem):
    net, X = problem
    fields = net.fields(X)
    K, expected = of.kfac(of.jacobian(fields, route=route)), dense(fields)
    size = 1e-13 * abs(expected).max() + 1e-300
    assert K.psd and isinstance(K, of.Kronecker)
    np.testing.assert_allclose(K.todense(), expected, atol=size)
    np.testing.assert_allclose(K.diagonal(), expected.diagonal(), atol=size)
    for damping in (1e-3, 10.0):
        damping *= 1 + abs(expected).max()
        P = of.kfac(of.jacobian(fields, route=route), damping)
        product = P.todense() @ (expected + damping * np.eye(len(expected)))
        assert P.psd
        np.testing.assert_allclose(product, np.eye(len(expected)), atol=1e-8)


def test_blocks_of_biases_and_of_a_trained_readout_are_exact():
    net, X = trained(2, 3)
    J = of.jacobian(net.fields(X), route="cached")
    K, G = of.kfac(J).todense(), (J.T @ J).todense()
    exact = [s for _, s in net.parameter_slices()] + [net.parameter_slices()[-1][0]]
    for s in exact:
        np.testing.assert_allclose(K[s, s], G[s, s], rtol=1e-12)


def test_one_sample_of_one_output_is_exact_in_every_block():
    net, X = rich(3, 1, samples=1)
    J = of.jacobian(net.fields(X))
    K, G = of.kfac(J).todense(), (J.T @ J).todense()
    for pair in net.parameter_slices():
        for s in pair:
            np.testing.assert_allclose(K[s, s], G[s, s], atol=1e-12 * abs(G).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_inverse_preconditions_and_keeps_the_dtype(dtype):
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    X = (rng.standard_normal((600, 20)) @ (turn * np.geomspace(1, 30, 20)) @ turn.T).astype(dtype)
    net = of.ReLUNetwork.random([20, 30, 20], outputs=3, seed=0, bias=True, dtype=dtype)
    J = of.jacobian(net.fields(X))
    b = J.T @ rng.standard_normal(1800).astype(dtype)
    damping = 1e-3 * float((J.T @ J).diagonal().max())
    P = of.kfac(J, damping)
    assert (P @ b).dtype == dtype
    options = dict(shift=damping, how="iterative", tol=1e-4)
    ours = of.spectral.solve(J.T @ J, b, preconditioner=P, **options)
    diagonal = of.spectral.solve(J.T @ J, b, preconditioner="jacobi", **options)
    assert ours.converged and ours.iterations < 0.75 * diagonal.iterations
    error = J.T @ (J @ ours.x) + damping * ours.x - b
    assert np.linalg.norm(error) <= 2e-4 * np.linalg.norm(b)


def test_gates_in_the_place_of_conjugates_and_sparse_inputs():
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6)) * (rng.random((40, 6)) < 0.4)
    net = of.ReLUNetwork.random([6, 64], seed=0, bias=True)
    expected = dense(net.fields(X))
    gates = of.PackedGates(net.fields(X).gates[0])
    phi = of.ScaledGates(gates, net.readout[0])
    J = of.HStack([of.KhatriRao(phi, sparse.csr_matrix(X)), phi])
    scale = scipy.linalg.block_diag(*[net.rates[0] * np.eye(n) for n in (6 * 64, 64)])
    np.testing.assert_allclose(scale @ of.kfac(J).todense(), expected, atol=1e-12)


def test_a_class_of_jacobians_registers_its_factors():
    class Shared(of.Matrix):
        """Samples with two positions each."""

    @kfac_factors.register
    def _(J: Shared):
        return np.eye(2), np.eye(3) / 2

    K = of.kfac(of.HStack([2 * Shared(np.ones((4, 6))), of.Matrix(np.ones((4, 1)))]))
    np.testing.assert_array_equal(K.todense(), np.diag([2.0] * 6 + [4.0]))


def test_what_has_no_factors_is_refused():
    J = of.Gram(np.eye(3))
    with pytest.raises(TypeError, match=r"no rule for Gram.*without comm="):
        of.kfac(J)
    for damping in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="damping must be positive"):
            of.kfac(of.KhatriRao(np.eye(2), np.eye(2)), damping)
