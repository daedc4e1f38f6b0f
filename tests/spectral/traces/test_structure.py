"""What structure gives, and what it costs."""

import numpy as np
import pylops
import pytest
import scipy.sparse as sp

import opflow as of
from opflow.spectral.traces.structure import diagonal_products, use_diagonal


@pytest.mark.parametrize("route", ["cached", "transport"])
@pytest.mark.parametrize("outputs, bias", [(1, False), (3, True)])
@pytest.mark.parametrize("widths", [[4, 30], [4, 20, 30]])
@pytest.mark.parametrize("sparse", [False, True])
def test_gauss_newton_knows_its_diagonal(route, outputs, bias, widths, sparse):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random(widths, outputs=outputs, bias=bias, seed=1)
    X = rng.standard_normal((25, 4))
    J = of.jacobian(net.fields(sp.csr_array(X) if sparse else X), route=route)
    dense = J.todense()
    for G, axis in ((J.T @ J, 0), (J @ J.T, 1)):
        wanted = (dense**2).sum(axis=axis)
        exact = of.spectral.diagonal(G + 0.5 * of.Identity(len(wanted)))
        np.testing.assert_allclose(exact.values, wanted + 0.5, rtol=1e-12)
        trace = of.spectral.trace(G)
        assert trace.exact
        assert trace.products == exact.products == 0
        np.testing.assert_allclose([trace, G.trace()], (dense**2).sum(), rtol=1e-12)


@pytest.mark.parametrize("route", ["cached", "transport"])
def test_the_diagonal_of_a_large_gauss_newton_takes_no_products(route, monkeypatch):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([50, 60, 40], seed=1)
    fields = net.fields(rng.standard_normal((30, 50)))
    J = of.jacobian(fields, route=route)
    G = J.T @ J
    assert G.shape[0] > 5000
    for kind in (type(J), of.KhatriRao):
        monkeypatch.setattr(kind, "_matmat", None)
        monkeypatch.setattr(kind, "_rmatmat", None)
    trace = G.diagonal().sum()
    np.testing.assert_allclose(trace, of.collective_kernel(fields).trace(), rtol=1e-12)
    assert use_diagonal(G, 60)
    assert diagonal_products(G) == 0


def test_a_black_box_pays_for_its_squares():
    A = of.as_operator(pylops.MatrixMult(np.random.default_rng(0).standard_normal((2000, 1500))))
    assert diagonal_products(A.T @ A) == 1500
    assert not use_diagonal(A.T @ A, 60)
