"""Observers of the run itself: accuracies that can be right, and models that are linear."""

import numpy as np
import pytest

import opflow as of

METHODS = {
    "descent": (of.GradientDescent(), {"steps": 3}),
    "gradient flow": (of.GradientFlow(), {"times": [0.1, 0.2]}),
    "exponential flow": (of.ExponentialFlow(), {"times": [0.1, 0.2]}),
    "linearised": (of.LinearisedFlow(), {"times": [0.1, 0.2]}),
    "truncated": (of.TruncatedFlow(order=1), {"steps": 3}),
}


def data(n=30, d=4, k=1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.tanh(X @ rng.standard_normal((d, k)))


def network(k=1, widths=(16, 12), seed=0):
    return of.ReLUNetwork.random([4, *widths], outputs=k, seed=seed)


# -- accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[-1, 1], [0, 1], [0, 0]])
def test_one_output_has_no_accuracy(labels):
    X, y = data()
    classes = np.where(y[:, 0] > 0, labels[1], labels[0])
    with pytest.raises(ValueError, match=r"one output|classes 0"):
        of.train(network(), X, 1.0 * classes, steps=1, observe=[of.observe.Accuracy(X, classes)])


def test_labels_that_no_output_stands_for_are_refused():
    X, y = data(k=3)
    classes = y.argmax(axis=1)
    with pytest.raises(ValueError, match=r"class 3, but 3 outputs stand for 0\.\.2"):
        of.train(network(3), X, y, steps=1, observe=[of.observe.Accuracy(X, classes + 1)])
    with pytest.raises(ValueError, match=r"classes 0\.\.k − 1, not -1"):
        of.observe.Accuracy(X, classes - 1)
    for wrong in (classes + 0.5, np.full(30, np.nan), classes[:, None]):
        with pytest.raises(ValueError, match="labels must be integers"):
            of.observe.Accuracy(X, wrong)
    with pytest.raises(ValueError, match="labels has 29 rows but X has 30"):
        of.observe.Accuracy(X, classes[1:])
    for observer in (of.observe.Accuracy, of.observe.HeldOutLoss):
        with pytest.raises(ValueError, match="X has no rows"):
            observer(X[:0], classes[:0] if observer is of.observe.Accuracy else y[:0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, list])
def test_accuracy_is_the_share_of_right_classes(dtype):
    X, y = data(k=3)
    classes = y.argmax(axis=1)
    given = classes.tolist() if dtype is list else classes.astype(dtype)
    run = of.train(network(3), X, y, steps=2, observe=[of.observe.Accuracy(X, given)])
    share = np.mean(run.predict(X).argmax(axis=1) == classes)
    assert run.observations["accuracy"][-1] == share


# -- what the observers of a linear model describe -------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"eliminate": True}, {"loss": "mean"}])
@pytest.mark.parametrize("k", [1, 2])
def test_of_a_linearised_flow_observers_describe_the_linear_model(k, options):
    X, y = data(k=k)
    new, truth = data(n=9, k=k, seed=1)
    net = network(k)
    K = of.collective_kernel(net.fields(X)).todense()
    values = np.linalg.eigvalsh(K)[::-1]
    top = of.observe.TopEigenpairs(3)
    T = 20 / values[0] * (len(X) if options.get("loss") == "mean" else 1)
    run = of.train(
        net, X, y, method=of.LinearisedFlow(), times=[0.1 * T, T], **options,
        observe=[
            of.observe.KernelDistance(), of.observe.GateFlips(), of.observe.Sharpness(tol=1e-6),
            of.observe.Alignment(), of.observe.Spectrum(points=20), top, top.angles, top.modes,
            of.observe.HeldOutLoss(new, truth),
        ],
    )  # fmt: skip
    seen = run.observations
    assert run.losses[-1] < 0.5 * run.losses[0]  # far enough that the network's kernel has moved
    moved = of.collective_kernel(run.network.fields(X)).todense()
    assert np.linalg.norm(moved - K) > 1e-2 * np.linalg.norm(K)
    np.testing.assert_array_equal(seen["kernel_distance"], 0.0)
    np.testing.assert_array_equal(seen["gate_flips"], 0)
    share = 1 / len(X) if "loss" in options else 1.0
    np.testing.assert_allclose(seen["sharpness"], share * values[0], rtol=1e-5)
    np.testing.assert_allclose(seen["eigenvalues"], np.tile(values[:3], (3, 1)), rtol=1e-6)
    assert seen["eigenvector_angles"].max() < 1e-3
    expected = seen["modes"][0] * np.exp(-np.multiply.outer(share * run.times, values[:3]))
    np.testing.assert_allclose(seen["modes"], expected, atol=1e-5 * np.linalg.norm(y))
    for name in ("alignment", "spectrum"):
        np.testing.assert_allclose(seen[name], np.tile(seen[name][0], (3, 1)), rtol=1e-9)
    held = [0.5 * ((f - truth) ** 2).sum() / len(new) for f in (net(new), run.predict(new))]
    np.testing.assert_allclose(seen["held_out_loss"][[0, -1]], held, rtol=1e-10)


@pytest.mark.parametrize("method", ["exponential flow", "gradient flow"])
def test_of_the_other_flows_observers_describe_the_network(method):
    X, y = data()
    net = network()
    distance, flips = of.observe.KernelDistance(), of.observe.GateFlips()
    run = of.train(net, X, y, method=METHODS[method][0], times=[0.5], observe=[distance, flips])
    counted = [
        int((a != b).sum())
        for a, b in zip(net.fields(X).gates, run.network.fields(X).gates, strict=True)
    ]
    assert run.observations["gate_flips"][-1].tolist() == counted and sum(counted)
    assert run.observations["kernel_distance"][-1] > 1e-3


@pytest.mark.parametrize("given", ["kernel", "matrix"])
def test_gates_are_counted_where_the_first_layer_has_no_inputs_or_no_weights(given):
    X, y = data()
    rbf = lambda A, B: np.exp(-0.1 * ((A[:, None] - B) ** 2).sum(-1))  # noqa: E731
    if given == "kernel":
        options, net, rows = {"gram": rbf}, network(), X
    else:
        options, rows = {"gram": rbf(X, X)}, None
        net = of.ReLUNetwork.random([30, 16, 12], seed=0)
    gates = {}

    def keep(moment):
        gates[moment.step] = [np.copy(g) for g in moment.snapshot.gates]
        return 0.0

    run = of.train(net, rows, y, steps=20, every=20, **options,
                   observe={"keep": keep, "flips": of.observe.GateFlips()})  # fmt: skip
    counted = [int((a != b).sum()) for a, b in zip(gates[0], gates[20], strict=True)]
    assert run.observations["flips"][-1].tolist() == counted and sum(counted)


# -- edges ----------------------------------------------------------------------------------------


def test_a_kernel_that_stays_zero_has_not_moved():
    X, y = data()
    net = network()
    dead = net.replace([-abs(net.weights[0]), net.weights[1]])
    run = of.train(dead, abs(X), y, steps=2, observe=[of.observe.KernelDistance()])
    np.testing.assert_array_equal(run.observations["kernel_distance"], 0.0)


def test_every_output_is_centred_by_its_own_mean():
    X, _ = data()
    y = np.tile([1.0, -3.0], (30, 1))  # constant: nothing to align with
    run = of.train(network(2), X, y, steps=1, observe=[of.observe.Alignment(centred=True)])
    assert np.isnan(run.observations["alignment"]).all()


def recorded(k):
    X, y = data(n=12, k=k)
    top = of.observe.TopEigenpairs(2)
    seen = [
        of.observe.Loss(), of.observe.ResidualNorm(), of.observe.GateFlips(),
        of.observe.Balancedness(), of.observe.HeldOutLoss(X, y), of.observe.Alignment(),
        of.observe.Sharpness(), of.observe.KernelDistance(), of.observe.Spectrum(points=5), top,
        top.angles, top.modes, of.observe.GramClosure(1),
    ]  # fmt: skip
    seen += [of.observe.Accuracy(X, y.argmax(axis=1))] if k > 1 else []
    return seen, X, y


@pytest.mark.parametrize("size", [1.0, 1e-170])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_survives_where_numpy_raises_at_every_rounding_to_zero(name, k, size):
    method, length = METHODS[name]
    seen, X, y = recorded(k)
    seen += [of.observe.TruncationError()] if name == "truncated" else []
    with np.errstate(all="raise"):
        run = of.train(network(k), X, size * y, method=method, observe=seen, **length)
    assert np.isfinite(run.losses).all()


# -- units ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*train badly")
@pytest.mark.parametrize("units", ["of X and y", "of y", "of X"])
@pytest.mark.parametrize(
    "dtype, exponent", [(np.float64, -400), (np.float64, 400), (np.float32, -50), (np.float32, 50)]
)
@pytest.mark.parametrize("name", METHODS)
def test_no_unit_of_the_data_changes_a_run(name, dtype, exponent, units):
    """f is homogeneous in X and in the readout, so powers of two leave every bit in its place."""
    method, length = METHODS[name]

    def run(c):
        seen, X, y = recorded(2)
        c = np.dtype(dtype).type(c)
        net = of.ReLUNetwork.random([4, 16, 12], outputs=2, seed=0, dtype=dtype)
        V, X, y = net.readout, X.astype(dtype), y.astype(dtype)
        V, X, y = {"of X and y": (V, c * X, c * y), "of y": (c * V, X, c * y),
                   "of X": (V / c, c * X, y)}[units]  # fmt: skip
        net = of.ReLUNetwork(net.weights, V, rates=net.rates)
        k = 1.0 if units == "of X" else float(c) ** 2  # what K and the loss are multiplied by
        seen = [o for o in seen if o.name not in ("accuracy", "held_out_loss")]
        seen += [of.observe.HeldOutLoss(X, y)]
        seen += [of.observe.TruncationError()] if name == "truncated" else []
        options = {key: [t / k for t in v] if key == "times" else v for key, v in length.items()}
        return of.train(net, X, y, method=method, observe=seen, eliminate=False, **options), k

    (plain, _), (scaled, k) = run(1.0), run(2.0**exponent)
    of_size = {"loss": k, "held_out_loss": k, "residual_norm": k**0.5, "modes": k**0.5,
               "sharpness": k, "eigenvalues": k}  # fmt: skip
    tol = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(scaled.losses / k, plain.losses, rtol=tol)
    for seen, values in plain.observations.items():
        now = np.asarray(scaled.observations[seen], dtype=float) / of_size.get(seen, 1.0)
        close = dict(rtol=1e-3, atol=1e-4 * abs(np.asarray(values)).max() + tol)
        if seen == "modes":  # eigenvectors have no sign of their own
            now, values = abs(now), abs(values)
        np.testing.assert_allclose(now, values, err_msg=seen, **close)
