"""The Hessian against second derivatives by torch, for all networks, losses and coordinates."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.dynamics.objectives import run_objective
from tests.operators.battery import small_blocks
from tests.relu.reference import problems, rich, trained
from tests.relu.test_torch import outputs

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
differentiate = torch.autograd.functional

OBJECTIVES = ["quadratic", "cross-entropy", "huber", of.Huber(0.3)]


class Cubic:
    """Σ r³/3, not convex: force r², second derivative 2r."""

    def value(self, f, y):
        return ((f - y) ** 3).sum(axis=1) / 3

    def force(self, f, y):
        return (f - y) ** 2

    def hessian(self, f, y, u):
        return 2 * (f - y) * u


def targets(objective, n, k, seed=0):
    rng = np.random.default_rng(seed)
    if objective == "cross-entropy":
        return rng.integers(0, max(k, 2), n)
    return 2 * rng.standard_normal((n, k))


def loss(objective, f, y):
    """The sum of the samples' losses, by torch."""
    y = torch.from_numpy(y)
    if isinstance(objective, Cubic):
        return ((f - y) ** 3).sum() / 3
    if objective == "quadratic":
        return 0.5 * ((f - y) ** 2).sum()
    if objective != "cross-entropy":
        delta = 1.0 if objective == "huber" else objective.delta
        return torch.nn.functional.huber_loss(f, y, reduction="sum", delta=delta)
    if f.shape[1] == 1:
        f = torch.cat([torch.zeros_like(f), f], dim=1)
    # relative to the largest output: torch's own derivative p − 1 loses the digits of a small 1 − p
    top = f.detach().argmax(dim=1, keepdim=True)
    z = (f - f.gather(1, top)).scatter(1, top, 0.0)
    others = z.exp().scatter(1, top, 0.0).sum(dim=1)
    return torch.log1p(others).sum() - z.gather(1, y[:, None]).sum()


def by_torch(net, X, y, objective, rates=True, gauss_newton=False):
    """The dense Hessian in W/√η by nested differentiation, or JᵀSJ of torch's own J and S."""
    parts = net.parameter_list()
    sizes = [p.size for p in parts]
    flat = torch.from_numpy(np.concatenate([p.ravel() for p in parts]))

    def f(p):
        shaped = (
            piece.reshape(part.shape) for piece, part in zip(p.split(sizes), parts, strict=True)
        )
        return outputs(net, X, shaped)

    if gauss_newton:
        J = differentiate.jacobian(f, flat).reshape(-1, len(flat))
        at = f(flat).detach()
        S = differentiate.hessian(lambda g: loss(objective, g.reshape(at.shape), y), at.ravel())
        H = J.T @ S @ J
    else:
        H = differentiate.hessian(lambda p: loss(objective, f(p), y), flat)
    scale = np.repeat(np.sqrt(net.parameter_rates()), sizes) if rates else 1.0
    return (H.detach().numpy() * scale).T * scale


def same(H, expected, tolerance=1e-10):
    size = np.abs(expected).max(initial=0.0) + 1e-12
    got = H @ np.eye(len(expected))
    assert np.abs(got - expected).max(initial=0.0) <= tolerance * size
    x = np.random.default_rng(1).standard_normal(len(expected))
    assert np.abs(H @ x - expected @ x).max() <= tolerance * size * np.abs(x).sum()


@pytest.mark.parametrize("objective", [*OBJECTIVES, Cubic()], ids=[*map(str, OBJECTIVES), "cubic"])
@given(
    problem=problems(),
    rates=st.booleans(),
    gauss_newton=st.booleans(),
    storage=st.sampled_from(["cached", "packed", "recomputed"]),
    workspace=st.sampled_from([400, 8 << 20]),
)
def test_products_equal_nested_differentiation(
    problem, objective, rates, gauss_newton, storage, workspace
):
    net, X = problem
    y = targets(objective, len(X), net.outputs)
    part = "gauss-newton" if gauss_newton else "full"
    with small_blocks(workspace):
        H = of.hessian(net.fields(X, storage=storage), y, objective, part=part, rates=rates)
        same(H, by_torch(net, X, y, objective, rates, gauss_newton))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("route", ["cached", "transport"])
def test_the_gauss_newton_part_is_that_of_the_jacobian(objective, route):
    net, X = trained(3, 3)
    fields = net.fields(X)
    y = targets(objective, len(X), 3)
    chosen = run_objective(objective, 3)
    rows = np.repeat(fields.outputs, 3, axis=0), np.repeat(chosen.targets(y, 3), 3, axis=0)
    blocks = chosen.hessian(*rows, np.tile(np.eye(3), (len(X), 1))).reshape(-1, 3, 3)
    J, S = of.jacobian(fields, route=route), of.BlockDiagonal(blocks)
    G = of.hessian(fields, y, objective, part="gauss-newton")
    same(G, (J.T @ S @ J).todense())
    assert G.psd and G.symmetric
    assert not of.hessian(fields, y, objective).psd
    same(pickle.loads(pickle.dumps(G)), G.todense())


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("part", ["full", "gauss-newton"])
def test_a_fit_that_is_nearly_perfect_keeps_its_digits(k, part):
    net, X = rich(3, k)
    logits = np.pad(net(X), ((0, 0), (int(k == 1), 0)))
    margin = np.diff(np.sort(logits))[:, -1].min()
    net = of.ReLUNetwork(net.weights, 25 / margin * net.readout, biases=net.biases)
    y = logits.argmax(axis=1)
    H = of.hessian(net.fields(X), y, "cross-entropy", part=part)
    expected = by_torch(net, X, y, "cross-entropy", gauss_newton=part != "full", rates=False)
    got = H @ np.eye(len(expected))
    assert 0 < np.abs(expected).max() < 1e-4  # 1 − p times squares of fields
    assert np.abs(got - expected).max() <= 1e-10 * np.abs(expected).max()


def test_a_loss_that_is_not_known_to_be_convex_is_not_tagged_psd():
    net, X = rich(2, 2)
    G = of.hessian(net.fields(X), targets("quadratic", len(X), 2), Cubic(), part="gauss-newton")
    assert G.symmetric and not G.psd


def test_float32_stays_float32_and_is_as_exact():
    net, X = rich(3, 2)
    small = of.ReLUNetwork(
        [W.astype(np.float32) for W in net.weights], net.readout.astype(np.float32)
    )
    X, y = X.astype(np.float32), targets("quadratic", len(X), 2).astype(np.float32)
    H = of.hessian(small.fields(X), y)
    wide = of.ReLUNetwork([W.astype(float) for W in small.weights], small.readout.astype(float))
    exact = of.hessian(wide.fields(X.astype(float)), y.astype(float)).todense()
    product = H @ np.eye(H.shape[0], dtype=np.float32)
    assert product.dtype == np.float32
    assert np.abs(product - exact).max() <= 1e-5 * np.abs(exact).max()


def test_frozen_layers_have_no_curvature():
    net, X = rich(3, 2)
    frozen = of.ReLUNetwork(net.weights, net.readout, biases=net.biases, rates=[1.0, 0.0, 2.0])
    H = of.hessian(frozen.fields(X), np.zeros((len(X), 2))).todense()
    second = slice(net.parameter_slices()[1][0].start, net.parameter_slices()[1][1].stop)
    assert not H[second].any() and not H[:, second].any()
    assert H[: second.start, second.stop :].any()


def test_sparse_inputs_and_inputs_read_by_rows():
    sparse = pytest.importorskip("scipy.sparse")
    net, X = trained(2, 2)
    X[:, 1] = 0
    y = targets("quadratic", len(X), 2)
    expected = of.hessian(net.fields(X), y).todense()
    same(of.hessian(net.fields(sparse.csr_matrix(X)), y), expected)


def test_memory_does_not_grow_with_the_samples():
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([8, 32, 32], outputs=3, seed=0)
    peaks = []
    for n in (4_000, 32_000):
        H = of.hessian(net.fields(rng.standard_normal((n, 8))), rng.integers(0, 3, n),
                       "cross-entropy")  # fmt: skip
        V = rng.standard_normal((H.shape[1], 4))
        with small_blocks(1 << 18):
            H @ V
            tracemalloc.start()
            H @ V
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


def test_the_cost_counts_the_products_with_the_weights():
    N, widths, k = 7, [3, 4, 5, 6], 2
    fields = of.ReLUNetwork.random(widths, outputs=k, seed=0).fields(np.ones((N, 3)))
    P = fields.network.parameters
    H = of.hessian(fields, np.zeros((N, k)))
    assert H.cost().flops == 12 * N * P - 8 * N * 12 + 4 * N * k * 6


def test_what_is_no_hessian_is_refused():
    net, X = rich(2, 2)
    y, fields = np.zeros((len(X), 2)), net.fields(X)

    class Bounded:
        curvature = 1.0
        value = force = staticmethod(lambda f, y: f - y)

    with pytest.raises(ValueError, match=r"Bounded needs hessian\(f, y, u\)"):
        of.hessian(fields, y, Bounded())
    with pytest.raises(ValueError, match="part must be 'full' or 'gauss-newton', not 'half'"):
        of.hessian(fields, y, part="half")
    with pytest.raises(ValueError, match="objective must be 'quadratic'"):
        of.hessian(fields, y, "hinge")
    with pytest.raises(ValueError, match="y has shape"):
        of.hessian(fields, y[:, 0])
    with pytest.raises(TypeError, match="fields must be an opflow Fields"):
        of.hessian(net, y)
    with pytest.raises(ValueError, match="know X as a Gram or an operator"):
        of.hessian(net.fields(of.Matrix(X)), y)
