import pickle

import numpy as np
import pytest
from hypothesis import given, settings

import opflow as of
from tests import examples
from tests.relu.reference import problems


@settings(max_examples=examples(40))
@given(problems())
def test_fields_satisfy_their_definitions(problem):
    network, X = problem
    fields = network.fields(X)
    a = X
    for W, b, slope, h, gates, after in zip(
        network.weights, network.biases, network.slopes, fields.preactivations, fields.gates,
        fields.activations[1:], strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(h, a @ W.T + (0 if b is None else b), atol=1e-12)
        assert (gates == (h > 0)).all()
        np.testing.assert_allclose(after, np.where(gates, h, slope * h), rtol=1e-15)
        a = after
    c = 0 if network.output_bias is None else network.output_bias
    np.testing.assert_allclose(fields.outputs, a @ network.readout.T + c, atol=1e-12)
    np.testing.assert_allclose(network(X), fields.outputs, atol=1e-12)
    wanted = (len(X),) if network.outputs == 1 else (len(X), network.outputs)
    assert all(phi.shape[:-1] == wanted for phi in fields.conjugates)


@settings(max_examples=examples(30))
@given(problems(max_depth=3))
def test_conjugates_are_derivatives_of_outputs(problem):
    """Central differences of the part of the network above each hidden field."""
    network, X = problem
    fields = network.fields(X)

    def above(h, layer):
        a = np.where(fields.gates[layer], 1, network.slopes[layer]) * h
        for i in range(layer + 1, network.depth):
            b = network.biases[i]
            z = a @ network.weights[i].T + (0 if b is None else b)
            a = (
                np.where(fields.gates[i], 1, network.slopes[i]) * z
            )  # inside the activation region f is linear in h
        return a @ network.readout.T

    for layer, h in enumerate(fields.preactivations):
        phi = fields.conjugates[layer].reshape(len(X), network.outputs, -1)
        for unit in range(h.shape[1]):
            e = np.zeros(h.shape[1])
            e[unit] = 0.5
            slope = above(h + e, layer) - above(h - e, layer)
            np.testing.assert_allclose(phi[:, :, unit], slope, atol=1e-10)


def test_nbytes_counts_what_is_held():
    fields = of.ReLUNetwork.random([3, 4, 5], outputs=2, seed=0).fields(np.ones((10, 3)))
    assert fields.nbytes == 10 * 9 * 8
    assert fields.gates and fields.nbytes == 10 * 9 * 9
    assert fields.conjugates and fields.nbytes == 10 * 9 * 9 + 10 * 2 * 9 * 8


def test_scalings_have_their_documented_rates_and_one_initial_function():
    draw = {s: of.ReLUNetwork.random([8, 16, 4], scaling=s, seed=3) for s in
            ("standard", "ntk", "mean-field")}  # fmt: skip
    assert draw["standard"].rates == (1.0, 1.0)
    assert draw["ntk"].rates == (2 / 8, 2 / 16)
    assert draw["mean-field"].rates == (4.0, 4.0)
    X = np.random.default_rng(0).standard_normal((5, 8))
    np.testing.assert_array_equal(draw["standard"](X), draw["ntk"](X))
    np.testing.assert_allclose(draw["mean-field"](X), draw["ntk"](X) / 2)


def test_random_variances_are_as_documented():
    net = of.ReLUNetwork.random([400, 500, 300], outputs=50, scaling="standard", seed=0)
    for W, n_in in zip(net.weights, (400, 500), strict=True):
        assert abs(W.var() * n_in / 2 - 1) < 0.02
    assert abs(net.readout.var() * 300 - 1) < 0.05


def test_networks_pickle():
    net = of.ReLUNetwork.random([3, 4], seed=0, bias=True)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again(np.ones((1, 3))), net(np.ones((1, 3))))


W = [np.ones((3, 2)), np.ones((4, 3))]
V = np.ones((1, 4))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: of.ReLUNetwork([], V), ValueError, "weights is empty"),
        (lambda: of.ReLUNetwork([np.ones((0, 2))], V), ValueError, r"weights\[0\]"),
        (lambda: of.ReLUNetwork([W[0], np.ones((4, 5))], V), ValueError, r"weights\[1\]"),
        (lambda: of.ReLUNetwork(W, np.ones((1, 3))), ValueError, "readout"),
        (lambda: of.ReLUNetwork([w * 1j for w in W], V), TypeError, "complex"),
        (lambda: of.ReLUNetwork([w.astype(np.float16) for w in W], V), TypeError, "mix float32"),
        (lambda: of.ReLUNetwork([w.astype(str) for w in W], V), TypeError, r"weights\[0\].*text"),
        (lambda: of.ReLUNetwork([W[0].astype(np.float32), W[1]], V), TypeError, "mix"),
        (lambda: of.ReLUNetwork([W[0] * np.nan, W[1]], V), ValueError, "NaN"),
        (lambda: of.ReLUNetwork(W, V * np.inf), ValueError, "readout"),
        (lambda: of.ReLUNetwork(W, V, rates=[1, -1]), ValueError, "rates"),
        (lambda: of.ReLUNetwork(W, V, rates=[1]), ValueError, "rates"),
        (lambda: of.ReLUNetwork(W, V, biases=[np.ones(3)]), ValueError, "biases"),
        (lambda: of.ReLUNetwork(W, V, biases=[np.ones(2), None]), ValueError, r"biases\[0\]"),
        (lambda: of.ReLUNetwork.random([2, 0]), ValueError, r"widths\[1\]"),
        (lambda: of.ReLUNetwork.random([2]), ValueError, "widths"),
        (lambda: of.ReLUNetwork.random([2, 2], outputs=0), ValueError, "outputs"),
        (lambda: of.ReLUNetwork.random([2, 2], scaling="he"), ValueError, "scaling"),
        (lambda: of.ReLUNetwork.random([2, 2], dtype=np.float16), TypeError, "float16"),
        (lambda: of.ReLUNetwork(W, V).fields(np.ones((100, 5))), ValueError,
         r"X has shape \(100, 5\) but the network expects 2 input features"),
        (lambda: of.ReLUNetwork(W, V).fields(np.ones((0, 2))), ValueError, "no samples"),
        (lambda: of.ReLUNetwork(W, V).fields(np.ones(2)), ValueError, "X"),
        (lambda: of.ReLUNetwork(W, V).fields(np.ones((3, 2), complex)), TypeError, "complex"),
        (lambda: of.ReLUNetwork(W, V)(np.full((3, 2), np.inf)), ValueError, "X contains"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_holds_the_network(tmp_path, bias, dtype):
    options = {"outputs": 2, "scaling": "mean-field", "bias": bias, "dtype": dtype}
    net = of.ReLUNetwork.random([3, 5, 4], seed=0, **options)
    net.save(tmp_path / "net.npz")
    again = of.ReLUNetwork.load(tmp_path / "net.npz")
    assert again.digest() == net.digest()
    assert [b is None for b in again.biases] == [b is None for b in net.biases]
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]


def test_the_file_of_a_run_holds_its_network_and_that_of_a_network_no_run(tmp_path):
    net = of.ReLUNetwork.random([3, 4], seed=0)
    run = of.train(net, np.eye(3), np.ones(3), steps=1)
    run.save(tmp_path / "run.npz")
    assert of.ReLUNetwork.load(tmp_path / "run.npz").digest() == run.network.digest()
    net.save(tmp_path / "net.npz")
    with pytest.raises(ValueError, match=r"net\.npz is not a trajectory"):
        of.Trajectory.load(tmp_path / "net.npz")


def test_files_that_hold_no_network_are_refused(tmp_path):
    path = tmp_path / "net.npz"
    of.ReLUNetwork.random([3, 4], seed=0).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays | {"weight_0": arrays["weight_0"] + 1})
    with pytest.raises(ValueError, match="checksum does not match"):
        of.ReLUNetwork.load(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match="is not a network"):
        of.ReLUNetwork.load(path.with_suffix(".npy"))
    of.train(of.ReLUNetwork.random([3, 4], seed=0), np.eye(3), np.ones(3), steps=1,
             checkpoint=tmp_path / "state.npz")  # fmt: skip
    with pytest.raises(ValueError, match="is a checkpoint, not a network"):
        of.ReLUNetwork.load(tmp_path / "state.npz")
    with pytest.raises(FileNotFoundError):
        of.ReLUNetwork.load(tmp_path / "none.npz")
