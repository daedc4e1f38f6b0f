"""Every way to hold the inputs, the fields and the first layer gives the same trajectory."""

import pickle

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.machine import workspace as budgets
from opflow.machine.gate_tables import gate_engine
from tests import examples
from tests.relu.reference import problems

# columns of two or three drawn samples may span anything
pytestmark = pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")


class Rows:
    """What h5py and zarr look like from outside: increasing indices only, arrays copied out."""

    def __init__(self, data):
        self._data, self.shape, self.dtype = data, data.shape, data.dtype
        self.most = 0

    def __getitem__(self, index):
        if not isinstance(index, slice):
            assert (np.diff(index) > 0).all()
        part = self._data[index].copy()
        self.most = max(self.most, len(part))
        return part


def linear(A, B):
    return A @ B.T


ROUTES = {
    "rows on disk": lambda X: ((Rows(X),), {}),
    "sparse": lambda X: ((sp.csr_array(X),), {}),
    "sparse by columns": lambda X: ((sp.csc_matrix(X),), {}),
    "operator": lambda X: ((of.as_operator(X),), {}),
    "pylops operator": lambda X: ((pylops.MatrixMult(X, dtype=X.dtype),), {}),
    "eliminated": lambda X: ((X,), {"eliminate": True}),
    "eliminated, rows on disk": lambda X: ((Rows(X),), {"eliminate": True}),
    "eliminated, sparse": lambda X: ((sp.csr_array(X),), {"eliminate": True}),
    "eliminated, operator": lambda X: ((of.as_operator(X),), {"eliminate": True}),
    "kernel as a function": lambda X: ((X,), {"gram": linear}),
    "kernel as a matrix": lambda X: ((X,), {"gram": X @ X.T}),
    "kernel as a tiled operator": lambda X: (
        (X,), {"gram": of.materialise(of.Gram(X), how="tiled")}),
}  # fmt: skip


def targets(network, X):
    rng = np.random.default_rng(0)
    return rng.standard_normal((len(X), network.outputs)).astype(X.dtype)


def apart(a, b):
    return np.linalg.norm((a - b).astype(float)) / (np.linalg.norm(b.astype(float)) or 1.0)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
@settings(max_examples=examples(12))
@given(data=st.data(), steps=st.integers(0, 4), workspace=st.sampled_from([100, 1 << 23]),
       momentum=st.sampled_from([0.0, 0.5]))  # fmt: skip
def test_routes_agree(route, dtype, tolerance, data, steps, workspace, momentum):
    network, X = data.draw(problems(dtype=dtype))
    y = targets(network, X)
    largest = float(of.collective_kernel(network.fields(X)).trace())  # no run is to diverge
    step = 1e-3 if largest < 500 else 0.5 / largest
    method = of.GradientDescent(step=step, momentum=momentum)
    want = of.train(network, X, y, steps=steps, method=method, eliminate=False)
    assert want.route == "weights"
    before, budgets.WORKSPACE = budgets.WORKSPACE, workspace
    try:
        arguments, options = ROUTES[route](X)
        got = of.train(network, *arguments, y, steps=steps, method=method, **options)
        predicted = None if route.startswith("kernel as a") and route != "kernel as a function" \
            else got.predict(X)  # fmt: skip
    finally:
        budgets.WORKSPACE = before
    if options:
        assert got.route == "eliminated"
    assert apart(got.residual, want.residual) <= tolerance
    np.testing.assert_allclose(got.losses, want.losses, rtol=tolerance)
    if predicted is not None:
        assert np.abs(predicted - y - got.residual).max() <= tolerance * (1 + np.abs(y).max())
    if "gram" not in options:
        for a, b in zip(got.network.weights, want.network.weights, strict=True):
            assert apart(a, b) <= tolerance


@pytest.mark.parametrize("storage", ["cached", "packed", "recomputed"])
@pytest.mark.parametrize("kind", ["array", "rows", "sparse"])
@settings(max_examples=examples(15))
@given(problem=problems(), workspace=st.sampled_from([100, 1 << 23]), columns=st.integers(1, 3))
def test_kernels_of_any_storage_agree(storage, kind, problem, workspace, columns):
    network, X = problem
    r = np.random.default_rng(0).standard_normal((len(X) * network.outputs, columns))
    K = of.collective_kernel(network.fields(X)).todense()
    inputs = {"array": X, "rows": Rows(X), "sparse": sp.csr_array(X)}[kind]
    before, budgets.WORKSPACE = budgets.WORKSPACE, workspace
    try:
        fields = network.fields(inputs, storage=storage)
        lazy = of.collective_kernel(fields)
        scale = 1e-12 * (np.abs(K).max() + 1e-300) * max(K.shape)
        np.testing.assert_allclose(lazy @ r, K @ r, atol=scale * np.abs(r).max())
        np.testing.assert_allclose(lazy.diagonal(), K.diagonal(), atol=scale)
        np.testing.assert_allclose(lazy.block(slice(None), [0]), K[:, :1], atol=scale)
        np.testing.assert_allclose(
            fields.outputs, network(X), atol=1e-12 * (1 + abs(network(X)).max())
        )
    finally:
        budgets.WORKSPACE = before
    for a, b in zip(fields.activations[1:], network.fields(X).activations[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12 * (1 + np.abs(b).max()))


def test_fields_hold_what_their_memory_allows():
    network = of.ReLUNetwork.random([4, 64, 64], seed=0)
    X = np.random.default_rng(0).standard_normal((100, 4))
    held = {}
    for memory, storage in (("1MB", "cached"), ("60kB", "packed"), ("10kB", "recomputed")):
        fields = network.fields(X, memory=memory)
        assert fields.storage == storage
        of.collective_kernel(fields) @ np.ones(100)
        held[storage] = fields.nbytes
    with of.gate_options("blas"):
        fields = network.fields(X)
        of.collective_kernel(fields)
    assert fields.nbytes == 4 * 100 * 64 * 8
    # where gate products are to be had, the kernel makes do with the gates of the top layer
    top = 1 if gate_engine() == "blas" else 0
    assert held["cached"] == (3 + top) * 100 * 64 * 8
    assert held["packed"] == 100 * 64 * 8 + 100 * 8
    assert held["recomputed"] == 0


def test_a_kernel_without_inputs_reads_its_own_rows():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    G = np.exp(-((X[:, None] - X[None]) ** 2).sum(axis=2))
    network = of.ReLUNetwork.random([30, 16, 8], outputs=2, seed=0, bias=True)
    run = of.train(network, None, y, gram=G, steps=50)
    assert run.losses[-1] < run.losses[0]
    np.testing.assert_allclose(run.network(G) - y, run.residual, atol=1e-12)


def test_a_kernel_function_predicts_at_new_points():
    """With the linear kernel the predictions are those of the weights."""
    rng = np.random.default_rng(0)
    X, y, new = (rng.standard_normal(shape) for shape in ((30, 4), (30, 2), (7, 4)))
    network = of.ReLUNetwork.random([4, 16, 8], outputs=2, seed=0, bias=True)
    method = of.GradientDescent(step=1e-2)
    run = of.train(network, X, y, gram=linear, steps=20, method=method)
    want = of.train(network, X, y, steps=20, method=method)
    np.testing.assert_allclose(run.predict(new), want.network(new), atol=1e-12)
    observed = of.train(network, X, y, gram=linear, steps=20, method=method,
                        observe=[of.observe.HeldOutLoss(new, np.ones((7, 2)))])  # fmt: skip
    loss = 0.5 * ((want.network(new) - 1) ** 2).sum() / 7
    assert observed.observations["held_out_loss"][-1] == pytest.approx(loss)


def test_predictions_of_a_kernel_check_their_inputs():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    run = of.train(of.ReLUNetwork.random([4, 16], seed=0), X, y, gram=linear, steps=5)
    again = pickle.loads(pickle.dumps(run))
    np.testing.assert_allclose(again.predict(X), run.predict(X), rtol=1e-12)
    with pytest.raises(ValueError, match=r"X has shape \(2, 5\)"):
        run.predict(np.ones((2, 5)))
    narrow = X.astype(np.float32)
    np.testing.assert_array_equal(run.predict(narrow), run.predict(narrow.astype(np.float64)))


def test_a_linearised_run_does_not_predict_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    run = of.train(of.ReLUNetwork.random([4, 16], seed=0), X, y, method=of.LinearisedFlow(),
                   times=[1.0])  # fmt: skip
    np.testing.assert_allclose(run.predict(X) - y[:, None], run.residual, atol=1e-7)
    run.save(tmp_path / "run.npz")
    with pytest.raises(ValueError, match="linearisation"):
        of.Trajectory.load(tmp_path / "run.npz").predict(X)


def test_batches_of_sparse_rows():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    network = of.ReLUNetwork.random([4, 16], seed=0)
    runs = [of.train(network, data, y, steps=5, method=of.GradientDescent(1e-2, batch=7, rng=0))
            for data in (X, sp.csr_array(X))]  # fmt: skip
    np.testing.assert_allclose(runs[0].residual, runs[1].residual, atol=1e-12)


def test_a_kernel_run_keeps_its_coefficients_in_its_file(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    run = of.train(of.ReLUNetwork.random([4, 16], seed=0), X, y, gram=linear, steps=5)
    run.save(tmp_path / "run.npz")
    again = of.Trajectory.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again.coefficients, run.coefficients)
    assert again.route == "eliminated"
    with pytest.raises(ValueError, match="kernel"):
        again.predict(X)


def test_elimination_is_chosen_where_it_is_cheaper():
    rng = np.random.default_rng(0)
    wide, tall = rng.standard_normal((30, 2000)), rng.standard_normal((2000, 4))
    for X, route in ((wide, "eliminated"), (tall, "weights")):
        network = of.ReLUNetwork.random([X.shape[1], 8], seed=0)
        assert of.train(network, X, np.ones(len(X)), steps=50).route == route


def test_explain_lists_the_routes(capsys):
    X = np.random.default_rng(0).standard_normal((30, 200))
    network = of.ReLUNetwork.random([200, 8], seed=0)
    of.train(network, X, np.ones(30), steps=10, explain=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["route", "eliminated,", "weights", "eliminated,"]
    assert [line.endswith("chosen") for line in lines] == [False, True, False, False]


def test_momentum_is_the_heavy_ball():
    network, X = of.ReLUNetwork.random([4, 16], seed=0), np.eye(4)
    y, step, beta = np.ones(4), 0.05, 0.8
    run = of.train(network, X, y, steps=6, method=of.GradientDescent(step=step, momentum=beta))
    W, V, motion = network.weights[0], network.readout, 0.0
    for _ in range(6):
        gates = (X @ W.T) > 0
        r = np.maximum(X @ W.T, 0) @ V.T - y[:, None]
        motion = beta * motion - step * network.rates[0] * ((r * V) * gates).T @ X
        W = W + motion
    np.testing.assert_allclose(run.network.weights[0], W, atol=1e-13)


def test_a_schedule_gives_each_step_its_size():
    network, X = of.ReLUNetwork.random([4, 16], seed=0), np.eye(4)
    run = of.train(network, X, np.ones(4), steps=3,
                   method=of.GradientDescent(step=lambda n: 0.1 / (n + 1)))  # fmt: skip
    np.testing.assert_allclose(run.times, [0, 0.1, 0.15, 0.1 * (1 + 1 / 2 + 1 / 3)])
    with pytest.raises(ValueError, match=r"step\(1\) must be positive"):
        of.train(network, X, np.ones(4), steps=3,
                 method=of.GradientDescent(step=lambda n: 0.1 - 0.1 * n))  # fmt: skip


def test_float64_accumulation_is_nearer_to_the_float64_run():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4000, 6)), rng.standard_normal(4000)
    network = of.ReLUNetwork.random([6, 32], seed=0)
    exact = of.train(network, X, y, steps=100, method=of.GradientDescent(step=1e-5))
    narrow = of.ReLUNetwork([W.astype(np.float32) for W in network.weights],
                            network.readout.astype(np.float32), rates=network.rates)  # fmt: skip
    errors = []
    for accumulate in (None, "float64"):
        run = of.train(narrow, X.astype(np.float32), y.astype(np.float32), steps=100,
                       method=of.GradientDescent(step=1e-5, accumulate=accumulate))  # fmt: skip
        assert run.network.dtype == np.float32
        errors.append(np.abs(run.network.weights[0] - exact.network.weights[0]).max())
    assert errors[1] < 0.5 * errors[0]


def test_batches_are_unbiased_with_the_stated_noise():
    """The mean and the covariance of one step's gradient over many draws."""
    rng = np.random.default_rng(0)
    n, b, draws = 12, 5, 4000
    X, y = rng.standard_normal((n, 3)), rng.standard_normal(n)
    network = of.ReLUNetwork.random([3, 4], seed=0, scaling="standard")

    def gradient(X, y, **options):
        method = of.GradientDescent(step=1e-3, **options)
        moved = of.train(network, X, y, steps=1, method=method).network.weights[0]
        return 1e3 * (moved - network.weights[0]).ravel()

    full = gradient(X, y)
    each = np.array([gradient(X[[i]], y[[i]]) for i in range(n)])
    generator = np.random.default_rng(1)
    found = np.array([gradient(X, y, batch=b, rng=generator) for _ in range(draws)])
    covariance = n * (n - b) / b * np.cov(each.T)
    spread = np.sqrt(np.diag(covariance) / draws)
    assert (np.abs(found.mean(axis=0) - full) <= 5 * spread + 1e-12).all()
    error = np.linalg.norm(np.cov(found.T) - covariance) / np.linalg.norm(covariance)
    assert error < 10 / draws**0.5


def test_rows_drawn_are_counted_as_products():
    X = np.random.default_rng(0).standard_normal((12, 3))
    method = of.GradientDescent(step=1e-3, batch=5, rng=0)
    run = of.train(of.ReLUNetwork.random([3, 4], seed=0), X, np.ones(12), steps=10, method=method,
                   every=10)  # fmt: skip
    assert run.products == 2 + 50 // 12  # two moments, and fifty rows


def test_a_batch_of_everything_is_descent():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    network = of.ReLUNetwork.random([3, 4, 4], seed=0, bias=True)
    runs = [of.train(network, X, y, steps=5, method=of.GradientDescent(step=0.01, batch=b, rng=0))
            for b in (None, 12)]  # fmt: skip
    np.testing.assert_array_equal(runs[0].residual, runs[1].residual)


def test_moments_every_so_many_steps():
    network, X = of.ReLUNetwork.random([4, 16], seed=0), np.eye(4)
    method = of.GradientDescent(step=0.05)
    run = of.train(network, X, np.ones(4), steps=7, every=3, method=method)
    full = of.train(network, X, np.ones(4), steps=7, method=method)
    np.testing.assert_array_equal(run.losses, full.losses[[0, 3, 6, 7]])
    np.testing.assert_array_equal(run.residual, full.residual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"X": None}, "X is needed"),
        ({"X": None, "gram": np.eye(20)}, "without X"),
        ({"gram": np.eye(19)}, r"gram has shape \(19, 19\)"),
        ({"gram": np.triu(np.ones((20, 20)))}, "gram must be symmetric"),
        ({"gram": np.eye(20), "eliminate": False}, "exclude each other"),
        ({"gram": lambda A, B: A}, "function must give a block of shape"),
        ({"gram": linear, "X": sp.csr_array(np.ones((20, 4)))}, "callable gram needs X"),
        ({"memory": "1KB"}, None),
        ({"memory": "much"}, "memory"),
        ({"every": 0}, "every"),
        ({"eliminate": True, "method": of.GradientDescent(batch=3)}, "moves weights"),
        ({"method": of.GradientDescent(batch=21)}, "batch must be between 1 and 20"),
        ({"times": [1.0, 0.5]}, "times must be increasing"),
        ({"times": [0.5, 1.0]}, "times are for methods that choose their steps"),
        ({"gram": -np.eye(20)}, "gram must be positive semidefinite"),
        ({"gram": sp.csr_array(np.full((20, 20), np.nan))}, "gram contains NaN"),
        ({"times": [1.0], "until": 2.0}, "exclude each other"),
        ({"resume": True}, "resume=True needs checkpoint"),
    ],
)
def test_bad_options_are_refused(options, message):
    X = np.random.default_rng(0).standard_normal((20, 4))
    network = of.ReLUNetwork.random([4, 8], seed=0)
    arguments = {"X": X, "y": np.ones(20), "steps": 2} | options
    if message is None:
        with pytest.raises(MemoryError, match=r"memory=\d+ would do") as info:
            of.train(network, **arguments)
        least = int(str(info.value).partition("memory=")[2].split()[0])
        of.train(network, **arguments | {"memory": least})
        return
    with pytest.raises(ValueError, match=message):
        of.train(network, **arguments)


@pytest.mark.parametrize("kwargs", [{"momentum": 1.0}, {"momentum": -0.1}, {"batch": 0},
                                    {"accumulate": "float16"}])  # fmt: skip
def test_bad_descents_are_refused(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        of.GradientDescent(**kwargs)
