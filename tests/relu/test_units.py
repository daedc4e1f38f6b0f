"""Leaky and linear units, trained readouts, frozen layers: what is known of them in closed form."""

import itertools
import tracemalloc

import numpy as np
import pytest

import opflow as of
from opflow.dynamics.observe import balances
from opflow.relu.invariants import balance_drift
from tests.relu.reference import trained


def modes(step, until, values, start):
    """Strengths u_i of the modes of a deep linear network of two layers, on whitened inputs."""
    rng = np.random.default_rng(0)
    width = 8
    X = np.linalg.qr(rng.standard_normal((40, 6)))[0]  # XᵀX = 1
    left = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    right = np.linalg.qr(rng.standard_normal((6, 4)))[0]
    inner = np.linalg.qr(rng.standard_normal((width, 4)))[0]
    net = of.ReLUNetwork(  # balanced: Vᵀ V = W Wᵀ
        [start**0.5 * inner @ right.T], start**0.5 * left @ inner.T, slope=1.0, readout_rate=1.0
    )
    y = X @ right @ np.diag(values) @ left.T
    steps = round(until / step)
    run = of.train(net, X, y, method=of.GradientDescent(step=step), steps=steps, every=steps)
    product = run.network.readout @ run.network.weights[0]
    found = left.T @ product @ right
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-12)
    return np.diag(found)


def test_deep_linear_networks_follow_the_closed_form_of_their_modes():
    """u(t) = s e^{2st} / (e^{2st} − 1 + s/u(0)), Saxe, McClelland and Ganguli, arXiv:1312.6120."""
    s = np.array([3.0, 2.0, 1.0, 0.5])
    start = 0.01
    until = 2.0
    growth = np.exp(2 * s * until)
    exact = s * growth / (growth - 1 + s / start)
    assert exact[0] > 0.99 * s[0] and exact[-1] < 0.3 * s[-1]  # one is learned, one has not begun
    step = 1e-3
    errors = [np.abs(modes(h, until, s, start) - exact) for h in (step, step / 2)]
    assert errors[0].max() <= 10 * step
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.02)  # the Euler steps of that flow
    side = np.full(4, start**0.5)
    for _ in range(round(until / step)):  # and exactly the steps of its modes
        side = side + step * side * (s - side**2)
    np.testing.assert_allclose(modes(step, until, s, start), side**2, rtol=1e-11)


@pytest.mark.parametrize("slope", [-1.0, -0.5, 0.2, 1.0, 1.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_networks_of_any_slope_are_the_definition(slope, dtype):
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([5, 9, 7], outputs=2, seed=0, slope=slope, bias=True, dtype=dtype)
    X = rng.standard_normal((11, 5)).astype(dtype)
    a = X
    for W, b in zip(net.weights, net.biases, strict=True):
        h = a @ W.T + b
        a = np.where(h > 0, h, dtype(slope) * h)
    np.testing.assert_allclose(net(X), a @ net.readout.T, rtol=100 * np.finfo(dtype).eps)
    assert net(X).dtype == dtype
    for W in net.weights:
        assert W.var() * W.shape[1] * (1 + slope**2) / 2 == pytest.approx(1, abs=0.5)
    assert net.rates == tuple(2 / (1 + slope**2) / n for n in net.widths[:-1])


@pytest.mark.parametrize("outputs", [1, 2])
def test_frozen_layers_stay_and_the_others_move(outputs):
    net, X = trained(3, outputs)
    net = of.ReLUNetwork.from_arrays(net.arrays(), net.settings() | {"rates": (1.0, 0.0, 0.5)})
    y = np.random.default_rng(0).standard_normal((len(X), outputs))
    method = of.GradientDescent(step=1e-5)
    run = of.train(net, X, y, method=method, steps=20, observe=[of.observe.Balancedness()])
    for before, after, rate in zip(
        net.parameter_list(), run.network.parameter_list(), net.parameter_rates(), strict=True
    ):
        assert (before == after).all() == (rate == 0)
    found, _ = balances(net)
    assert [len(b) for b in found] == [0, 0, 5]  # none beside the frozen layer
    assert balance_drift(run.network, *balances(net)) <= 1e-4
    J = of.jacobian(net.fields(X))
    frozen = net.parameter_slices()[1]
    for part in frozen:
        assert not J.todense()[:, part].any()
    assert of.layer_kernels(net.fields(X))[1].trace() == 0


@pytest.mark.parametrize("method", [
    of.GradientDescent(momentum=0.5), of.GradientFlow(), of.ExponentialFlow(), of.LinearisedFlow(),
    of.TruncatedFlow(order=1), of.ExactFlow(),
], ids=lambda m: type(m).__name__)  # fmt: skip
def test_runs_with_trained_readouts_resume_bit_for_bit(tmp_path, method):
    net, X = trained(2, 2)
    y = np.random.default_rng(0).standard_normal((len(X), 2))
    whole = of.train(net, X, y, method=method, steps=6)
    path = tmp_path / "state.npz"
    of.train(net, X, y, method=method, steps=3, checkpoint=path)
    run = of.train(net, X, y, method=method, steps=6, checkpoint=path, resume=True)
    np.testing.assert_array_equal(run.losses, whole.losses)
    run.save(tmp_path / "run.npz")
    again = of.Trajectory.load(tmp_path / "run.npz").network
    assert again.settings() == run.network.settings()
    assert again.digest() == run.network.digest() == whole.network.digest()


def test_the_readout_of_an_eliminated_run_moves_too():
    net, X = trained(2, 2)
    y = np.random.default_rng(0).standard_normal((len(X), 2))
    runs = [of.train(net, X, y, steps=10, eliminate=e) for e in (False, True)]
    for a, b in itertools.pairwise([list(run.network.parameter_list()) for run in runs]):
        for p, q in zip(a, b, strict=True):
            np.testing.assert_allclose(p, q, atol=1e-11)
    np.testing.assert_allclose(*(run.network(X) for run in runs), atol=1e-11)


def test_a_trained_readout_of_many_outputs_holds_no_array_of_outputs_squared():
    """A ⊗ I and ∂f/∂V of 300 outputs, in the memory of a few fields."""
    net = of.ReLUNetwork.random([5, 8], outputs=300, seed=0, readout_rate=1.0)
    X = np.random.default_rng(0).standard_normal((200, 5))
    fields = net.fields(X)
    fields.conjugates  # noqa: B018
    tracemalloc.start()
    kernel = of.layer_kernels(fields)[-1]
    J = of.jacobian(fields, route="cached").parts[-1]
    product = kernel @ np.ones(kernel.shape[1])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200 * 300 * 300 * 8 / 10
    A = fields.activations[-1] @ fields.activations[-1].T
    np.testing.assert_allclose(product.reshape(200, 300)[:, 0], A.sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(kernel.diagonal(), np.diag(A).repeat(300), rtol=1e-12)
    some = [0, 1, 300, 59_999]
    want = np.kron(A[[0, 1, 199]][:, [0, 1, 199]], np.eye(300))
    places = [0, 1, 300, 899]
    np.testing.assert_allclose(kernel.block(some, some), want[np.ix_(places, places)], rtol=1e-12)
    rows = J.rows(some).reshape(4, 300, 8)
    np.testing.assert_array_equal(rows[[0, 1, 2, 3], [0, 1, 0, 299]],
                                  fields.activations[-1][[0, 0, 1, 199]])  # fmt: skip
    assert np.count_nonzero(rows.any(axis=2)) <= 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"slope": [0.1]}, ValueError, r"slope has shape \(1,\) for 2 hidden layers"),
        ({"slope": np.nan}, ValueError, "slope must be a finite number"),
        ({"slope": "x"}, ValueError, "slope must be a finite number, not 'x'"),
        ({"readout_rate": "auto"}, TypeError, "readout_rate must be a number, not 'auto'"),
        ({"rates": 1.0}, TypeError, "rates must be a sequence of 2 numbers, not 1.0"),
        ({"readout_rate": -1}, ValueError, "readout_rate must be finite and not negative"),
        ({"rates": [1, np.inf]}, ValueError, r"rates\[1\] must be finite and not negative"),
        ({"output_bias": np.zeros(3)}, ValueError, r"output_bias has shape \(3,\)"),
        ({"output_bias": np.zeros(1, np.float32)}, TypeError, "mix float32 and float64"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(options, error, message):
    net = of.ReLUNetwork.random([2, 3, 3], seed=0)
    with pytest.raises(error, match=message):
        of.ReLUNetwork(net.weights, net.readout, **options)
