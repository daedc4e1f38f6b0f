"""Networks behind an operator: runs against torch, routes, methods, checkpoints, refusals."""

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.dynamics.first_layer import FirstLayer
from opflow.dynamics.measurement import Measured, Outputs
from opflow.dynamics.methods import gauss_newton
from opflow.dynamics.plan import plan
from opflow.dynamics.state import State
from opflow.machine import threads
from opflow.machine import workspace as budgets
from opflow.relu import fields
from tests import examples
from tests.dynamics.test_routes import ROUTES, apart
from tests.relu.reference import problems

pytestmark = pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")

FORMS = {
    "array": lambda G: G,
    "sparse": sp.csr_array,
    "opflow": of.as_operator,
    "pylops": lambda G: pylops.MatrixMult(G, dtype=G.dtype),
    "scipy": spla.aslinearoperator,
}


def measured(net, n, rows=9, seed=0):
    """G and d of a network on n samples."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((rows, n * net.outputs)) / (n * net.outputs) ** 0.5
    return G.astype(net.dtype), rng.standard_normal(rows).astype(net.dtype)


def small(k=2, n=12, **options):
    """A network, inputs, G and d."""
    options = {"bias": True, "seed": 1, "outputs": k, **options}
    net = of.ReLUNetwork.random([3, 10, 8], **options)
    X = np.random.default_rng(0).standard_normal((n, 3))
    return (net, X, *measured(net, n))


def safe_step(net, X, G):
    """A step that is far from the limit of stability."""
    top = np.linalg.eigvalsh(of.measured_kernel(net.fields(X), G).todense())[-1]
    return 0.1 / max(top, 33.0)


def torch_run(net, X, G, d, step, steps):
    """The losses of a torch loop, and the outputs at its end."""
    torch = pytest.importorskip("torch")
    leaves = [torch.tensor(p, requires_grad=True) for p in net.parameter_list()]
    X, G, d = map(torch.tensor, (X, G, d))
    losses = []
    for i in range(steps + 1):
        rest, a = list(leaves), X
        for b, slope in zip(net.biases, net.slopes, strict=True):
            h = a @ rest.pop(0).T
            h = h if b is None else h + rest.pop(0)
            a = torch.where(h > 0, h, slope * h)
        V = rest.pop(0) if net.readout_rate is not None else torch.tensor(net.readout)
        f = a @ V.T
        if net.output_bias is not None:
            f = f + (rest.pop(0) if rest else torch.tensor(net.output_bias))
        loss = 0.5 * ((G @ f.reshape(-1) - d) ** 2).sum()
        losses.append(loss.item())
        if i < steps:
            slopes = torch.autograd.grad(loss, leaves)
            for p, g, rate in zip(leaves, slopes, net.parameter_rates(), strict=True):
                p.data -= step * rate * g
    return np.array(losses), f.detach().numpy()


@settings(max_examples=examples(40))
@given(problem=problems(), rows=st.integers(1, 9), form=st.sampled_from(list(FORMS)),
       workspace=st.sampled_from([100, 1 << 23]))  # fmt: skip
def test_a_hundred_steps_are_those_of_torch(problem, rows, form, workspace):
    net, X = problem
    G, d = measured(net, len(X), rows)
    step = safe_step(net, X, G)
    losses, f = torch_run(net, X, G, d, step, 100)
    before, budgets.WORKSPACE = budgets.WORKSPACE, workspace
    try:
        run = of.train(net, X, d, measurement=FORMS[form](G), steps=100,
                       method=of.GradientDescent(step=step))  # fmt: skip
    finally:
        budgets.WORKSPACE = before
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10, atol=1e-10 * losses[0])
    assert apart(run.predict(X), f) <= 1e-10
    assert run.residual.shape == (rows, 1)
    np.testing.assert_allclose(run.residual[:, 0], G @ f.reshape(-1) - d, atol=1e-9 * abs(d).max())


@pytest.mark.parametrize("storage", ["cached", "packed", "recomputed"])
@settings(max_examples=examples(15))
@given(problem=problems(), rows=st.integers(1, 9))
def test_the_kernel_is_that_of_the_jacobian(storage, problem, rows):
    net, X = problem
    G = measured(net, len(X), rows)[0]
    K = of.measured_kernel(net.fields(X, storage=storage), G)
    GJ = G @ of.jacobian(net.fields(X)).todense()
    tolerance = 1e-12 * (np.abs(GJ).max() ** 2 + 1e-300) * GJ.shape[1]
    np.testing.assert_allclose(K.todense(), GJ @ GJ.T, atol=tolerance)
    np.testing.assert_allclose(K.diagonal(), (GJ**2).sum(axis=1), atol=tolerance)
    assert K.psd
    assert K.shape == (rows, rows)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("workspace", [100, 1 << 23])
def test_routes_agree(route, workspace, monkeypatch):
    net, X, G, d = small()
    step = safe_step(net, X, G)
    monkeypatch.setattr(budgets, "WORKSPACE", workspace)
    how = {"measurement": G, "steps": 20, "method": of.GradientDescent(step, momentum=0.3)}
    want = of.train(net, X, d, eliminate=False, **how)
    (inputs,), options = ROUTES[route](X)
    got = of.train(net, inputs, d, **how, **options)
    assert apart(got.residual, want.residual) <= 1e-12
    np.testing.assert_allclose(got.losses, want.losses, rtol=1e-12)


METHODS = {
    "descent": of.GradientDescent(),
    "momentum": of.GradientDescent(momentum=0.5),
    "gradient flow": of.GradientFlow(),
    "exponential": of.ExponentialFlow(),
    "linearised": of.LinearisedFlow(),
    "gauss-newton": of.GaussNewton(),
    "exact": of.ExactFlow(),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_goes_on_bit_for_bit_and_knows_its_measurement(name, tmp_path):
    net, X, G, d = small()
    how = {"method": METHODS[name], "measurement": G, "checkpoint": tmp_path / "run"}
    whole = of.train(net, X, d, steps=12, **how | {"checkpoint": None})
    assert whole.losses[-1] < 0.9 * whole.losses[0]
    np.testing.assert_allclose(G @ whole.predict(X).ravel() - d, whole.residual[:, 0], atol=1e-7)
    of.train(net, X, d, steps=5, **how)
    other = G.copy()
    other[3, 4] += 1e-2
    with pytest.raises(ValueError, match="another run: its measurement= is another"):
        of.train(net, X, d, steps=12, resume=True, **how | {"measurement": other})
    run = of.train(net, X, d, steps=12, resume=True, **how)
    assert run.losses.tobytes() == whole.losses.tobytes()
    assert run.residual.tobytes() == whole.residual.tobytes()


# the exact flow steps to where gates are at zero, so that rounding decides on kernels there
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"exact"}))
@pytest.mark.parametrize("kind", ["array", "rows on disk", "sparse"])
def test_ways_to_hold_the_fields_agree(name, kind, monkeypatch):
    net, X, G, d = small()
    how = {"method": METHODS[name], "measurement": G, "eliminate": False, "steps": 4}
    want = of.train(net, X, d, observe=[of.observe.TopEigenpairs(2)], **how)
    inputs = ROUTES[kind](X)[0][0] if kind in ROUTES else X
    for storage in ("cached", "packed", "recomputed"):
        monkeypatch.setattr(fields, "storage_within", lambda *given, storage=storage: storage)
        monkeypatch.setattr(budgets, "WORKSPACE", 400)
        run = of.train(net, inputs, d, observe=[of.observe.TopEigenpairs(2)], **how)
        np.testing.assert_allclose(run.losses, want.losses, rtol=1e-10)
        assert apart(run.residual, want.residual) <= 1e-10
        np.testing.assert_allclose(*(r.observations["eigenvalues"] for r in (run, want)), rtol=1e-8)


# the exact flow moves the weights of X in memory, and says so of what it does not take
@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"exact"}))
@pytest.mark.parametrize("route", ROUTES)
def test_every_method_takes_every_route(name, route, monkeypatch):
    monkeypatch.setattr(gauss_newton, "MANY", 0)  # among samples, as where W¹ is eliminated
    net, X, G, d = small()
    how = {"method": METHODS[name], "measurement": G, "steps": 4}
    want = of.train(net, X, d, eliminate=False, **how)
    (inputs,), options = ROUTES[route](X)
    got = of.train(net, inputs, d, **how, **options)
    np.testing.assert_allclose(got.losses, want.losses, rtol=1e-10)
    assert apart(got.residual, want.residual) <= 1e-10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", [of.GradientDescent(), of.GradientDescent(0.01, 0.5)])
def test_the_identity_changes_no_bit(form, method, monkeypatch):
    net, X, *_ = small()
    y = np.random.default_rng(2).standard_normal((12, 2))
    monkeypatch.setattr(threads, "SHARE", 1.0)  # several threads, if there are any
    for eliminate in (True, False):
        how = {"steps": 30, "method": method, "eliminate": eliminate}
        want = of.train(net, X, y, **how)
        got = of.train(net, X, y.ravel(), measurement=FORMS[form](np.eye(24)), **how)
        assert got.losses.tobytes() == want.losses.tobytes()
        assert got.residual.tobytes() == want.residual.tobytes()
        assert (got.step, got.products) == (want.step, want.products)
        for a, b in zip(got.network.parameter_list(), want.network.parameter_list(), strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("inputs", [np.asarray, sp.csr_array])
def test_kept_activations_are_those_computed_anew(inputs, monkeypatch):
    net, X, G, d = small(readout_rate=0.3)
    monkeypatch.setattr(threads, "SHARE", 1.0)
    monkeypatch.setattr(budgets, "WORKSPACE", 700)
    found = []
    for memory in (None, 1e3, 1e9):
        state = State(net, FirstLayer(inputs(X)), d[:, None], memory=memory,
                      measurement=Measured(of.as_operator(G), net.outputs))  # fmt: skip
        r = np.empty((9, 1))
        found.append([state.loss_and_velocity(r)[0], *state.loss_and_velocity(r)[1], r])
    for parts in zip(*found, strict=True):
        assert len({part.tobytes() for part in parts}) == 1


def test_a_diagonal_weighs_the_samples():
    """Weighted least squares is the loss of a user's own objective with these weights."""
    net, X, *_ = small(k=1)
    rng = np.random.default_rng(3)
    y, w = rng.standard_normal(12), rng.uniform(0.5, 2, 12)
    run = of.train(net, X, w * y, measurement=pylops.Diagonal(w), steps=40,
                   method=of.GradientDescent(0.01))  # fmt: skip
    losses, f = torch_run(net, X, np.diag(w), w * y, 0.01, 40)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-12)
    assert run.losses[-1] == pytest.approx(0.5 * (w**2 * (f[:, 0] - y) ** 2).sum(), rel=1e-12)


def test_the_step_is_that_of_the_measured_kernel():
    net, X, G, d = small()
    run = of.train(net, X, d, measurement=G, steps=0)
    top = np.linalg.eigvalsh(of.measured_kernel(net.fields(X), G).todense())[-1]
    assert run.step * top == pytest.approx(1, rel=0.03)
    seen = [of.observe.Sharpness(tol=1e-8), of.observe.TopEigenpairs(2), of.observe.GateFlips(),
            of.observe.ResidualNorm(), of.observe.Alignment(), of.observe.HeldOutLoss(X, X[:, :2]),
            of.observe.KernelDistance()]  # fmt: skip
    run = of.train(net, X, d, measurement=G, steps=3, observe=seen)
    assert run.observations["sharpness"][0] == pytest.approx(top)
    assert run.observations["eigenvalues"][0, 0] == pytest.approx(top)
    recomputed = of.train(net, X, d, measurement=G, steps=3, memory=2_000_000)
    np.testing.assert_allclose(recomputed.losses, run.losses, rtol=1e-12)


def test_messages_name_the_measured_kernel():
    net, X, G, d = small()
    auto = of.GradientDescent()
    for how, kernel in (({"measurement": G}, "G K Gᵀ"), ({}, "K")):
        y = d if how else np.ones((12, 2))
        assert f"with λ_max({kernel}) =" in of.train(net, X, y, steps=2, method=auto, **how).note
        with pytest.raises(of.DivergenceError, match=rf"limit 2/λ_max\({kernel}\) was"):
            of.train(net, X, y, steps=90, method=of.GradientDescent(3.0), **how)


def test_a_note_names_it_after_a_checkpoint(tmp_path):
    net, X, G, d = small()
    how = {"measurement": G, "checkpoint": tmp_path / "run"}
    for steps in (5, 6):
        run = of.train(net, X, d, steps=steps, resume=steps > 5, **how)
        assert "with λ_max(G K Gᵀ) =" in run.note


@pytest.mark.parametrize("eliminate", [True, False])
def test_the_plan_counts_products_with_g(eliminate):
    """A forward pass more, by weights the first layer too, and a product with G and with Gᵀ."""
    net, X, G, _ = small(k=2, n=12)
    above = net.parameters - net.weights[0].size

    def step(seen):
        route = plan(net, X, steps=1, memory=1e9, eliminate=eliminate, seen=seen).routes[0]
        return route.step

    plain = step(Outputs())
    dense, tall = (
        step(Measured(of.as_operator(A), 2)) for A in (G, sp.csr_array(np.ones((500, 24))))
    )
    first = 0 if eliminate else net.weights[0].size
    assert dense.flops == plain.flops + 2 * 12 * (above + first) + 2 * (2 * 9 * 24)
    assert tall.sparse == 2 * (2 * 500 * 24)
    assert tall.bytes >= plain.bytes + 2 * 500 * 24 * 12


@pytest.mark.parametrize("many", [1e9, 0.0])
@pytest.mark.parametrize("objective", ["quadratic", "huber"])
def test_a_gauss_newton_step_is_the_dense_solution(many, objective, monkeypatch):
    monkeypatch.setattr(gauss_newton, "MANY", many)
    net, X, G, d = small(readout_rate=0.7)
    method = of.GaussNewton(damping=0.3, tol=1e-15, products=2000)
    run = of.train(net, X, d, measurement=G, steps=1, method=method, objective=objective)
    J = G @ of.jacobian(net.fields(X)).todense()
    r = G @ net(X).ravel() - d
    bent = np.ones_like(r)
    if objective == "huber":
        r, bent = r.clip(-1, 1), 1.0 * (abs(r) <= 1)
    p = np.linalg.solve(J.T * bent @ J + 0.3 * np.eye(J.shape[1]), J.T @ r)
    for W, rate, new in zip(net.parameter_list(), net.parameter_rates(),
                            run.network.parameter_list(), strict=True):  # fmt: skip
        np.testing.assert_allclose(new, W - rate**0.5 * p[: W.size].reshape(W.shape), atol=1e-9)
        p = p[W.size :]


def test_the_linear_flow_is_the_exponential_of_the_measured_kernel():
    net, X, G, d = small()
    K = of.measured_kernel(net.fields(X), G).todense()
    values, vectors = np.linalg.eigh(K)
    r = G @ net(X).ravel() - d
    for method, tolerance in ((of.LinearisedFlow(), 1e-7), (of.ExponentialFlow(1e-10), 2e-2)):
        run = of.train(net, X, d, measurement=G, method=method, times=[0.01])
        exact = vectors @ (np.exp(-0.01 * values) * (vectors.T @ r))
        assert apart(run.residual[:, 0], exact) <= tolerance
    regression = of.spectral.kernel_regression(K, d - G @ net(X).ravel(), 1e-6 * values[-1])
    cross = of.cross_kernel(net.fields(-X), net.fields(X)) @ of.as_operator(G).T
    run = of.train(net, X, d, measurement=G, method=of.LinearisedFlow(), times=[1e6])
    moved = run.predict(-X).ravel() - net(-X).ravel()
    assert apart(regression.predict(cross), moved) <= 1e-2


def test_fields_of_a_pylops_operator_keep_their_shape():
    net, X, *_ = small(k=1)
    G = pylops.FirstDerivative((3, 4), axis=1, dtype="float64")
    d = np.random.default_rng(5).standard_normal((3, 4))
    runs = [of.train(net, X, y, measurement=G, steps=5) for y in (d, d.ravel())]
    assert runs[0].losses.tobytes() == runs[1].losses.tobytes()
    with pytest.raises(ValueError, match=r"y has shape \(4, 3\) but measurement has 12 rows"):
        of.train(net, X, d.T, measurement=G, steps=5)
    mean = of.train(net, X, d, measurement=G, steps=0, loss="mean")
    assert 12 * mean.losses[0] == pytest.approx(runs[0].losses[0])


def broken(**products):
    """A SciPy operator, wrong in some way."""
    known = {"matvec": lambda v: np.ones(9) * v.sum(), "rmatvec": lambda v: np.ones(24) * v.sum()}
    return spla.LinearOperator((9, 24), dtype=np.float64, **known | products)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measurement": np.ones((9, 23))}, r"measurement has shape \(9, 23\).*\(M, 24\)"),
        ({"measurement": np.ones((9, 12))}, r"\(M, 24\).*of\.FeatureLift\(measurement, 2\)"),
        ({"measurement": np.ones(24)}, r"measurement has shape \(24,\)"),
        ({"measurement": np.ones((9, 24), complex)}, "measurement must be float32 or float64"),
        ({"measurement": pylops.MatrixMult(np.ones((9, 24), complex), dtype=complex)},
         "measurement is complex128"),
        ({"measurement": np.full((9, 24), np.nan)}, "measurement contains NaN"),
        ({"measurement": broken(matvec=lambda v: np.full(9, np.nan))}, "measurement gives NaN"),
        ({"measurement": broken(rmatvec=lambda v: -np.ones(24) * v.sum())}, "measurement has an a"),
        ({"measurement": broken(rmatvec=None)}, "measurement cannot be applied.*no adjoint"),
        ({"measurement": broken(rmatvec=lambda v: np.full(24, np.inf))}, "measurement gives NaN"),
        ({"measurement": broken(matvec=lambda v: np.ones(8))}, "measurement cannot be applied"),
        ({"measurement": sp.csr_array(np.ones((9, 24), complex))}, "measurement must be float32"),
        ({"measurement": sp.csr_array(np.full((9, 24), np.inf))}, "measurement contains NaN"),
        ({"measurement": np.ones((24, 9))}, r"measurement has shape \(24, 9\).*\(M, 24\)"),
        ({"measurement": np.ones((0, 24))}, r"measurement has shape \(0, 24\)"),
        ({"measurement": "G"}, "measurement"),
        ({"y": np.ones(10)}, r"y has shape \(10,\) but measurement has 9 rows"),
        ({"y": np.full(9, np.nan)}, "y contains NaN"),
        ({"method": of.GradientDescent(batch=3)}, "measurement= is not for .*batch=3"),
        ({"method": of.TruncatedFlow(order=1)}, "is not for TruncatedFlow.*ExactFlow"),
        ({"method": of.GaussNewton(preconditioner="kfac")}, "measurement= needs GaussNewton"),
        ({"observe": [of.observe.HessianEigenvalues()]}, "measurement="),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(options, message):
    net, X, G, d = small()
    with pytest.raises((ValueError, TypeError), match=message):
        of.train(net, X, **{"y": d, "measurement": G, "steps": 2, **options})


def test_single_precision_stays_and_is_asked_for():
    net, X, G, d = small(dtype=np.float32)
    X = X.astype(np.float32)
    run = of.train(net, X, d, measurement=G, steps=3)
    assert run.residual.dtype == np.float32
    with pytest.raises(TypeError, match="measurement is float64 but what it measures"):
        of.train(net, X, d, measurement=pylops.MatrixMult(G.astype(float)), steps=3)
    with pytest.raises(ValueError, match=r"measurement has shape \(3, 5\)"):
        of.measured_kernel(net.fields(X), np.ones((3, 5), np.float32))
