"""The truncated flow against gradient descent, its operators, and its own closure."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.methods.field_state import FieldState
from opflow.dynamics.state import State
from tests import examples
from tests.operators.battery import small_blocks
from tests.relu.reference import problems, rich, trained

# columns of two or three drawn samples may span anything
pytestmark = pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")


def targets(network, X):
    y = np.random.default_rng(0).standard_normal((len(X), network.outputs))
    return y.astype(network.dtype)


def teacher(depth, outputs=1, bias=False, dtype=np.float64, N=60, width=24, sparse=False):
    net = of.ReLUNetwork.random([6, *[width] * depth], outputs=outputs, seed=depth, bias=bias,
                                dtype=dtype)  # fmt: skip
    X = np.random.default_rng(1).standard_normal((N, 6)).astype(dtype)
    y = np.random.default_rng(2).standard_normal((N, outputs)).astype(dtype)
    return net, sp.csr_array(X) if sparse else X, y


@settings(max_examples=examples(40))
@given(problems(max_depth=5, max_outputs=3), st.integers(0, 2), st.sampled_from([300, 8 << 20]))
@example(rich(4, 2), 0, 300)
@example(trained(4, 2), 0, 300)
@example(rich(5, 1), 1, 8 << 20)
def test_full_order_is_gradient_descent_through_gate_flips(problem, more, workspace):
    network, X = problem
    y = targets(network, X)
    step = 0.2 * of.train(network, X, y, steps=0).step
    try:
        exact = of.train(network, X, y, steps=15, method=of.GradientDescent(step=step))
    except of.DivergenceError:
        assume(False)
    with small_blocks(workspace):
        method = of.TruncatedFlow(order=network.depth - 1 + more, step=step)
        run = of.train(network, X, y, steps=15, method=method)
    size = max(np.abs(y).max(), np.abs(exact.network(X)).max(), np.abs(network(X)).max())
    size = max(size, (2 * exact.losses.max()) ** 0.5)  # outputs may be larger along the way
    same = all(
        (a == b).all()
        for a, b in zip(exact.network.fields(X).gates, run.network.fields(X).gates, strict=True)
    )
    if same:  # else a pre-activation came within rounding of zero
        assert np.abs(run.residual - exact.residual).max() <= 1e-10 * size
        for a, b in zip(run.network.weights, exact.network.weights, strict=True):
            assert np.abs(a - b).max() <= 1e-10 * max(np.abs(b).max(), size)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("outputs", "bias"), [(1, False), (3, True)])
def test_full_order_follows_many_flips(depth, outputs, bias):
    net, X, y = teacher(depth, outputs, bias)
    run = of.train(net, X, y, steps=60, method=of.TruncatedFlow(order=depth),
                   observe=[of.observe.TruncationError(), of.observe.GateFlips()])  # fmt: skip
    assert run.observations["gate_flips"].sum() > 20
    assert run.observations["truncation_error"].max() < 1e-10


@settings(max_examples=examples(40))
@given(problems(max_depth=5, max_outputs=3), st.integers(0, 4))
@example(rich(4, 2), 0)
@example(trained(4, 2), 0)
@example(rich(4, 2), 1)
@example(trained(4, 2), 1)
@example(rich(5, 3), 2)
@example(rich(4, 1), 3)
def test_one_small_step_is_the_truncated_velocity(problem, order):
    network, X = problem
    y = targets(network, X)
    fields = network.fields(X)
    r = fields.outputs - y
    want = of.hierarchy.field_velocities(fields, order) @ r.ravel()
    state = FieldState(State(network, FirstLayer(X), y), order)
    before = [h.copy() for h in state.hidden] + [p.copy() for p in state.psi]
    speed = max(np.abs(want).max(), 1e-3)
    size = max(np.abs(b).max() for b in before)
    step = 1e-7 / speed
    state.evaluate(np.empty_like(y))
    state.advance(step)
    assume(all((h > 0).tobytes() == g.tobytes()  # else the step left the activation region
               for h, g in zip(state.hidden, fields.gates, strict=True)))  # fmt: skip
    after = [*state.hidden, *state.psi]
    got = np.concatenate([((b - a) / step).ravel() for a, b in zip(before, after, strict=True)])
    assert np.abs(got + want).max() <= 1e-5 * speed * max(size, 1, speed)


def test_a_resumed_flow_keeps_the_class_of_its_network(tmp_path):
    class Own(of.ReLUNetwork):
        pass

    net, X, y = teacher(2)
    own = Own(net.weights, net.readout, rates=net.rates)
    how = {"method": of.TruncatedFlow(order=0), "checkpoint": tmp_path / "run.npz"}
    of.train(own, X, y, steps=1, **how)
    assert type(of.train(own, X, y, steps=2, resume=True, **how).network) is Own


def test_a_diverged_flow_keeps_the_network_it_reached():
    net, X, y = teacher(3)
    with pytest.raises(of.DivergenceError) as info:
        of.train(net, X, y, steps=200, method=of.TruncatedFlow(order=0, step=1e3))
    reached = info.value.trajectory
    assert len(reached.losses) == 1
    for a, b in zip(reached.network.weights, net.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_order_zero_closes_among_the_fields():
    """No weight above the first layer is read: other weights, same fields, same motion."""
    net, X, y = teacher(3)
    rng = np.random.default_rng(3)
    states = [FieldState(State(net, FirstLayer(X), y), 0) for _ in range(2)]
    states[1].network = net.replace([W + rng.standard_normal(W.shape) for W in net.weights])
    for state in states:
        for _ in range(5):
            state.evaluate(np.empty_like(y))
            state.advance(1e-2)
    for a, b in zip(states[0].hidden + states[0].psi, states[1].hidden + states[1].psi,
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_lower_orders_leave_an_error_that_falls_with_order():
    net, X, y = teacher(4)
    errors = [
        of.train(net, X, y, steps=5, method=of.TruncatedFlow(order=p),
                 observe=[of.observe.TruncationError()]).observations["truncation_error"]
        for p in range(5)
    ]  # fmt: skip
    for p in range(3):
        assert (errors[p][0] < 1e-14).all()
        assert (errors[p][-1] > 1e-3).all()
        assert (errors[p][1:] > errors[p + 1][1:]).all()
        assert errors[p][5, 1] > errors[p][1, 1]  # of the hidden fields, in time
    assert errors[3].max() < 1e-12 and errors[4].max() < 1e-12


@pytest.mark.parametrize("options", [{"sparse": True}, {"dtype": np.float32}, {"outputs": 2}])
def test_truncated_flow_takes_what_descent_takes(options):
    net, X, y = teacher(2, bias=True, **options)
    runs = [of.train(net, X, y, steps=8, loss="mean", method=method)
            for method in (of.GradientDescent(), of.TruncatedFlow(order=2))]  # fmt: skip
    tolerance = 1e-4 if net.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=tolerance)
    assert runs[1].residual.dtype == net.dtype


def test_the_kernel_of_a_state_is_that_of_its_fields():
    net, X, y = teacher(3, outputs=2)
    seen = []
    of.train(net, X, y, steps=3, method=of.TruncatedFlow(order=0),
             observe={"K": lambda m: seen.append(m.fields) or 0.0})  # fmt: skip
    fields = seen[-1]
    K = of.collective_kernel(fields)
    want = sum(
        np.kron(a @ a.T, np.ones((2, 2))) * (p.reshape(120, -1) @ p.reshape(120, -1).T) * rate
        for a, p, rate in zip(fields.activations[:-1], fields.conjugates, net.rates, strict=True)
    )
    np.testing.assert_allclose(K.todense(), want, atol=1e-12 * want.max())
    with pytest.raises(ValueError, match="transport"):
        of.collective_kernel(fields, route="transport")


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("loss", ["sum", "mean"])
def test_weight_grams_follow_their_closed_equation_as_the_step_shrinks(side, loss):
    net, X, y = teacher(3, bias=True)
    drift = []
    step = of.train(net, X, y, steps=0, loss=loss).step
    for parts in (8, 16, 32):
        run = of.train(net, X, y, steps=4 * parts, loss=loss,
                       method=of.GradientDescent(step=step / parts),
                       observe=[of.observe.GramClosure(2, side)])  # fmt: skip
        values = run.observations[f"gram_closure_{side}_2"]
        assert values[0] == 0
        drift.append(values[-1])
    assert drift[0] > 1e-12
    assert 1.7 < drift[0] / drift[1] < 2.3 and 1.7 < drift[1] / drift[2] < 2.3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: of.TruncatedFlow(order=-1), ValueError, "order must be at least 0"),
        (lambda: of.TruncatedFlow(order=1.0), TypeError, "order must be an integer"),
        (lambda: of.TruncatedFlow(order=1, step="big"), ValueError, "step"),
        (
            lambda: of.train(*teacher(1), steps=1, observe=[of.observe.TruncationError()]),
            ValueError,
            "TruncatedFlow",
        ),
        (
            lambda: of.train(*teacher(1), steps=1, observe=[of.observe.GramClosure(2)]),
            ValueError,
            "layer must be between 1 and 1",
        ),
        (lambda: of.train(*teacher(1), steps=1, method="truncated"), TypeError, "TruncatedFlow"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
