import math
import warnings

import numpy as np
import pytest

import opflow as of
from opflow.dynamics import measurement
from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.methods import gauss_newton
from opflow.dynamics.objectives import run_objective
from opflow.dynamics.state import State

EXACT = {"tol": 1e-15, "products": 2000}
SPACES = {"parameters": 1e9, "samples": 0.0}


@pytest.fixture(params=list(SPACES))
def space(request, monkeypatch):
    """The search is where the test says, whatever the sizes."""
    monkeypatch.setattr(gauss_newton, "MANY", SPACES[request.param])
    return request.param


def problem(outputs=1, objective="quadratic", n=24, widths=(9, 8), **kw):
    rng = np.random.default_rng(outputs)
    kw = {"bias": True, "seed": 1, **kw}
    net = of.ReLUNetwork.random([5, *widths], outputs=outputs, **kw)
    X = rng.standard_normal((n, 5))
    y = rng.standard_normal((n, outputs))
    if objective == "cross-entropy":
        y = rng.integers(0, max(outputs, 2), n).astype(float)
    return net, X, y


def train(net, X, y, steps, objective="quadratic", loss="sum", method=None, **kw):
    method = method or of.GaussNewton(**kw)
    return of.train(net, X, y, method=method, steps=steps, objective=objective, loss=loss)


def dense_step(net, X, y, objective, damping, share=1.0):
    """The parameters after one step, by a dense solve."""
    goal = run_objective(objective, net.outputs)
    y = goal.targets(y, net.outputs) if y.ndim == 1 else y
    fields = net.fields(X)
    f = fields.outputs
    J = of.jacobian(fields).todense()
    k = net.outputs
    columns = [goal.hessian(f, y, np.broadcast_to(e, f.shape)) for e in np.eye(k)]
    H = np.zeros((len(J), len(J)))
    for mu in range(len(X)):
        H[mu * k : mu * k + k, mu * k : mu * k + k] = np.stack([c[mu] for c in columns], axis=1)
    g = goal.force(f, y).reshape(-1)
    p = np.linalg.solve(share * J.T @ H @ J + damping * np.eye(J.shape[1]), share * J.T @ g)
    moved = []
    for W, rate in zip(net.parameter_list(), net.parameter_rates(), strict=True):
        moved.append(W - rate**0.5 * p[: W.size].reshape(W.shape))
        p = p[W.size :]
    return moved


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("objective", ["quadratic", "cross-entropy", "huber"])
@pytest.mark.parametrize(
    ("loss", "preconditioner"), [("sum", "diagonal"), ("mean", "diagonal"), ("mean", "kfac")]
)
def test_a_step_is_the_dense_solution(space, outputs, objective, loss, preconditioner):
    net, X, y = problem(outputs, objective, readout_rate=0.7)
    share = 1.0 if loss == "sum" else 1 / len(X)
    how = {"damping": 0.3 * share, "preconditioner": preconditioner, **EXACT}
    run = train(net, X, y, 1, objective, loss, **how)
    expected = dense_step(net, X, y, objective, 0.3 * share, share)
    for p, q in zip(run.network.parameter_list(), expected, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-10 * max(1.0, abs(q).max()))


def test_a_frozen_layer_stays(space):
    net, X, y = problem(2)
    frozen = of.ReLUNetwork(net.weights, net.readout, biases=net.biases, rates=[0.0, 3.0])
    run = train(frozen, X, y, 1, damping=0.3, **EXACT)
    np.testing.assert_array_equal(run.network.weights[0], net.weights[0])
    for p, q in zip(run.network.parameter_list(), dense_step(frozen, X, y, "quadratic", 0.3),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-10)


@pytest.mark.parametrize("objective", ["quadratic", "cross-entropy"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_both_spaces_lead_to_one_state(monkeypatch, objective, outputs):
    net, X, y = problem(outputs, objective)
    runs = []
    for many in SPACES.values():
        monkeypatch.setattr(gauss_newton, "MANY", many)
        runs.append(train(net, X, y, 3, objective, **EXACT))
    np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-8)
    for p, q in zip(*(run.network.parameter_list() for run in runs), strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-8)


def test_truncated_searches_are_those_of_the_parameters(monkeypatch):
    """Without a preconditioner the iterates of both spaces are the same, one by one."""
    net, X, y = problem(3, "cross-entropy")
    monkeypatch.setattr(measurement, "column_squares", lambda J: np.zeros(J.shape[1]))
    for products in (1, 2, 5):
        ends = []
        for many in SPACES.values():
            monkeypatch.setattr(gauss_newton, "MANY", many)
            options = {"damping": 0.3, "tol": 1e-15, "products": products}
            ends.append(train(net, X, y, 1, "cross-entropy", **options))
        np.testing.assert_allclose(ends[0].losses[1], ends[1].losses[1], rtol=1e-12)


@pytest.mark.parametrize("objective", ["quadratic", "cross-entropy", "huber"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_loss_never_rises(space, objective, outputs):
    net, X, y = problem(outputs, objective, n=60)
    y = 30 * y if objective != "cross-entropy" else y  # far from the start: steps are taken back
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run = train(net, X, y, 30, objective)
    assert (np.diff(run.losses) <= 0).all()
    assert run.losses[-1] < 0.9 * run.losses[0]
    assert "; 0 times" not in run.note or objective == "cross-entropy"


def test_linear_least_squares_are_solved(space):
    """Linear units, of which the readout alone is trained."""
    net, X, y = problem(2)
    frozen = {"rates": [0.0, 0.0], "readout_rate": 1.0, "slope": 1.0}
    net = of.ReLUNetwork(net.weights, net.readout, biases=net.biases, **frozen)
    run = train(net, X, y, 12, tol=1e-12, products=200)
    a = net.fields(X).activations[-1]
    best = np.linalg.lstsq(a, y, rcond=None)[0]
    np.testing.assert_allclose(run.losses[-1], 0.5 * ((a @ best - y) ** 2).sum(), rtol=1e-9)


def test_few_samples_are_fitted(space):
    net, X, y = problem(2, n=10, widths=(40, 40))
    run = train(net, X, y, 40)
    assert run.losses[-1] < 1e-15 * run.losses[0]


def test_where_nothing_can_move_nothing_does(space):
    net, X, y = problem(bias=False)
    dead = net.replace([-np.abs(net.weights[0]), net.weights[1]])
    for network, targets in ((dead, y), (net, net(np.abs(X)))):
        run = train(network, np.abs(X), targets, 3)
        assert run.losses[0] == run.losses[-1]
        np.testing.assert_array_equal(run.network.weights[0], network.weights[0])


def test_products_are_counted(space):
    net, X, y = problem(2)
    run = train(net, X, y, 2, tol=1e-15, products=5, damping=0.3)
    fields, search, loss = 1, 5, 1
    others = {"parameters": 1, "samples": 2}[space]  # preconditioner; or ‖Jᵀg‖ and Jᵀu
    assert run.products == loss + 2 * (fields + search + others + loss) + 1  # and the second start


def test_a_run_at_its_rounding_spends_nothing_more(space):
    net, X, y = problem(2, n=6, widths=(40,))
    runs = [train(net, X, y, steps) for steps in (60, 80)]
    assert runs[0].losses[-1] < 1e-25
    assert "damping inf (auto); " in runs[0].note
    assert runs[0].products == runs[1].products


def test_kfac_takes_fewer_products_to_a_lower_loss():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 10)) @ rng.standard_normal((10, 10))
    y = np.sin(X[:, :3])
    net = of.ReLUNetwork.random([10, 20, 20], outputs=3, seed=0, readout_rate=1.0)
    diagonal = train(net, X, y, 20)
    kfac = train(net, X, y, 20, preconditioner="kfac")
    assert kfac.products < 0.8 * diagonal.products
    assert kfac.losses[-1] < diagonal.losses[-1]


KFAC = {"method": of.GaussNewton(preconditioner="kfac")}


@pytest.mark.parametrize("options", [{}, {"eliminate": True}, {"objective": "huber"}, KFAC])
def test_resumes_bit_for_bit(space, tmp_path, options):
    net, X, y = problem(2)
    options = {"method": of.GaussNewton(), **options}
    whole = of.train(net, X, y, steps=9, **options)
    path = tmp_path / "run.npz"
    of.train(net, X, y, steps=4, checkpoint=path, **options)
    again = of.train(net, X, y, steps=9, checkpoint=path, resume=True, **options)
    np.testing.assert_array_equal(whole.losses, again.losses)
    np.testing.assert_array_equal(whole.residual, again.residual)
    assert (whole.products, whole.note) == (again.products, again.note)


@pytest.mark.parametrize("given", [False, True])
def test_the_first_layer_may_be_eliminated(given):
    net, X, y = problem(2, bias=False)
    how = {"gram": lambda A, B: A @ B.T} if given else {"eliminate": True}
    method = of.GaussNewton(damping=0.3, **EXACT)
    run = of.train(net, X, y, steps=2, method=method, **how)
    plain = of.train(net, X, y, steps=2, method=method, eliminate=False)
    np.testing.assert_allclose(run.residual, plain.residual, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(space, dtype):
    net, X, y = problem(3, dtype=dtype)
    state = State(net, FirstLayer(X.astype(dtype)), y.astype(dtype))
    integrator = of.GaussNewton().start(state, 1.0)
    spare = np.empty_like(state.targets)
    for _ in range(3):
        integrator.evaluate(spare)
        integrator.advance(math.inf)
    arrays = integrator.arrays()
    (search,) = (arrays[name] for name in ("search", "dual") if name in arrays)
    assert {p.dtype for p in (*integrator.state.parameters, search)} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"damping": 0}, ValueError, "damping must be positive"),
        ({"damping": "none"}, ValueError, "damping must be a positive number or 'auto'"),
        ({"damping": None}, TypeError, "damping must be"),
        ({"tol": 0}, ValueError, "tol must be positive"),
        ({"tol": "auto"}, TypeError, "tol must be a positive number"),
        ({"products": 0}, ValueError, "products"),
        ({"products": 2.5}, TypeError, "products"),
        ({"preconditioner": "jacobi"}, ValueError, "must be 'diagonal' or 'kfac', not 'jacobi'"),
    ],
)
def test_options_are_checked(options, error, match):
    with pytest.raises(error, match=match):
        of.GaussNewton(**options)


@pytest.mark.parametrize("moments", [{"until": 3.0}, {"times": [1.0, 2.0]}])
def test_there_is_no_time(moments):
    net, X, y = problem()
    with pytest.raises(ValueError, match="has none: give steps"):
        of.train(net, X, y, method=of.GaussNewton(), steps=3, **moments)
