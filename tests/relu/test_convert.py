"""Networks of PyTorch and scikit-learn are taken as they are, and given back bit for bit."""

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
nn = torch.nn

#: what stands after a layer, and the slope that it makes
UNITS = [
    (lambda: [nn.ReLU()], 0.0),
    (lambda: [nn.ReLU(inplace=True), nn.Dropout(0.5)], 0.0),
    (lambda: [nn.LeakyReLU()], 0.01),
    (lambda: [nn.Identity(), nn.LeakyReLU(0.3)], 0.3),
    (lambda: [nn.LeakyReLU(-1.0)], -1.0),
    (lambda: [nn.LeakyReLU(-1.0), nn.ReLU()], -1.0),
    (lambda: [nn.LeakyReLU(0.5), nn.Sequential(nn.LeakyReLU(-0.5))], -0.25),
    (lambda: [nn.ReLU(), nn.LeakyReLU(0.3)], 0.0),
    (lambda: [nn.Sequential()], 1.0),
    (lambda: [nn.Identity(), nn.Flatten()], 1.0),
]


@st.composite
def modules(draw):
    """A Sequential in evaluation mode, the slopes of its layers, and which layers are frozen."""
    torch.manual_seed(draw(st.integers(0, 999)))
    widths = draw(st.lists(st.integers(1, 6), min_size=3, max_size=6))
    parts, slopes, frozen = [nn.Flatten()], [], []
    for i, (m, n) in enumerate(itertools.pairwise(widths)):
        layer = nn.Linear(m, n, bias=draw(st.booleans()))
        frozen.append(draw(st.booleans()))
        layer.requires_grad_(not frozen[-1])
        make, slope = draw(st.sampled_from(UNITS))
        if i == len(widths) - 2:
            make = draw(st.sampled_from([list, lambda: [nn.Dropout(0.1), nn.Identity()]]))
        else:
            slopes.append(slope)
        rest = [layer, *make()]
        parts += [nn.Sequential(*rest)] if draw(st.booleans()) else rest
    module = nn.Sequential(*parts).eval()
    return module.to(draw(st.sampled_from([torch.float32, torch.float64]))), slopes, frozen


def rounding(net, X):
    """What two ways to sum a forward pass may differ by."""
    size, terms = abs(X), 0
    for W, b, slope in zip(
        [*net.weights, net.readout], [*net.biases, net.output_bias], [*net.slopes, 1], strict=True
    ):
        size = max(1, abs(slope)) * (size @ abs(W).T + (0 if b is None else abs(b)))
        terms += W.shape[1] + 3
    return 2 * terms * np.finfo(net.dtype).eps * size


def same(one, other):
    """Whether two networks hold the same bits."""
    assert one.settings() == other.settings()
    assert one.arrays().keys() == other.arrays().keys()
    for name, array in one.arrays().items():
        assert array.dtype == other.arrays()[name].dtype
        assert array.tobytes() == other.arrays()[name].tobytes(), name


@given(modules(), st.data())
def test_a_module_goes_round_without_losing_a_bit(made, data):
    module, slopes, frozen = made
    net = of.ReLUNetwork.from_torch(module)
    assert net.slopes == tuple(slopes)
    assert net.rates == tuple(float(not f) for f in frozen[:-1])
    assert net.readout_rate == (None if frozen[-1] else 1.0)
    for mine, theirs in zip(
        [p for pair in zip(net.weights, net.biases, strict=True) for p in pair if p is not None],
        module.parameters(),
        strict=False,
    ):
        assert mine.tobytes() == theirs.detach().numpy().tobytes()
        assert not np.shares_memory(mine, theirs.detach().numpy())
    back = net.to_torch()
    same(net, of.ReLUNetwork.from_torch(back))
    for one, other in zip(module.parameters(), back.parameters(), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
        assert one.requires_grad == other.requires_grad
    X = np.random.default_rng(0).standard_normal((7, net.widths[0])).astype(net.dtype)
    for other in (module, back):
        theirs = other(torch.from_numpy(X)).detach().numpy()
        assert (abs(net(X) - theirs) <= rounding(net, X)).all()


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_a_network_goes_round_without_losing_a_bit(depth, k, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    some = lambda size: rng.standard_normal(size) if data.draw(st.booleans()) else None  # noqa: E731
    widths = rng.integers(1, 7, depth + 1)
    net = of.ReLUNetwork(
        [rng.standard_normal((n, m)) for m, n in itertools.pairwise(widths)],
        rng.standard_normal((k, widths[-1])),
        biases=[some(n) for n in widths[1:]],
        rates=[data.draw(st.sampled_from([0.0, 1.0])) for _ in range(depth)],
        slope=[data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0, -1.0, 2.5])) for _ in range(depth)],
        readout_rate=data.draw(st.sampled_from([None, 1.0])),
        output_bias=some(k),
    )
    before = torch.random.get_rng_state()
    module = net.to_torch()
    assert torch.equal(before, torch.random.get_rng_state())
    same(net, of.ReLUNetwork.from_torch(module))
    X = rng.standard_normal((5, widths[0]))
    theirs = module(torch.from_numpy(X)).detach().numpy()
    assert (abs(net(X) - theirs) <= rounding(net, X)).all()
    for parameter in module.parameters():  # training there leaves the network as it was
        assert all(not np.shares_memory(parameter.detach().numpy(), a) for a in net.weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_become_float32_exactly(dtype):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)
    net = of.ReLUNetwork.from_torch(module)
    assert net.dtype == np.float32
    for name, mine in zip(
        ("0.weight", "0.bias", "2.weight", "2.bias"), net.parameter_list(), strict=True
    ):
        assert torch.equal(torch.from_numpy(mine).to(dtype), module.state_dict()[name])
        assert (mine == module.state_dict()[name].double().numpy()).all()


def test_hooks_are_refused():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    module[0].register_forward_hook(lambda part, given, out: 2 * out)
    with pytest.raises(TypeError, match=r"module\[0\] is Linear with forward hooks"):
        of.ReLUNetwork.from_torch(module)


def test_strides_do_not_matter():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    module[0].weight = nn.Parameter(torch.randn(3, 4).T)
    net = of.ReLUNetwork.from_torch(module)
    assert (net.weights[0] == module[0].weight.detach().numpy()).all()
    assert torch.equal(net.to_torch()[0].weight, module[0].weight)


def test_what_is_trained_may_be_chosen():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert of.ReLUNetwork.from_torch(module).readout_rate == 1.0
    assert of.ReLUNetwork.from_torch(module, readout_rate=None).readout_rate is None
    assert of.ReLUNetwork.from_torch(module, readout_rate=0.5).readout_rate == 0.5
    module[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"only the bias of module\[2\] is frozen: requires_grad_"):
        of.ReLUNetwork.from_torch(module)
    assert of.ReLUNetwork.from_torch(module, readout_rate=None).output_bias is not None
    module[2].requires_grad_(False)
    assert of.ReLUNetwork.from_torch(module).readout_rate is None
    module[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"only the weight of module\[0\] is frozen"):
        of.ReLUNetwork.from_torch(module)
    with pytest.raises(ValueError, match="readout_rate must be a number, 'auto' or None"):
        of.ReLUNetwork.from_torch(module, readout_rate="all")


def tied(view=lambda weight: weight):
    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = view(one.weight)
    return [one, nn.ReLU(), nn.Sequential(other)]


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.inner(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        for part in reversed(self):
            x = part(x)
        return x


L = nn.Linear


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: [L(3, 3), nn.Tanh(), L(3, 1)], "module[1] is Tanh: ReLU, LeakyReLU or Identity"),
        (lambda: [L(3, 3), nn.GELU(), L(3, 1)], "module[1] is GELU: ReLU, LeakyReLU or Identity"),
        (lambda: [L(3, 3), nn.PReLU(), L(3, 1)], "module[1] is PReLU: LeakyReLU"),
        (lambda: [L(3, 3), nn.ReLU6(), L(3, 1)], "module[1] is ReLU6: ReLU, "),
        (lambda: [nn.Conv2d(1, 2, 3), nn.Flatten(), L(3, 1)], "module[0] is Conv2d: Linear, "),
        (
            lambda: [L(3, 3), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), L(3, 1)],
            "module[1][1] is BatchNorm1d: torch.nn.utils.fusion.fuse_linear_bn_eval",
        ),
        (lambda: [L(3, 3), nn.LayerNorm(3), L(3, 1)], "module[1] is LayerNorm: Linear, "),
        (lambda: [L(3, 3), nn.ReLU(), Skip(), L(3, 1)], "module[2] is Skip: Linear, "),
        (lambda: [Backwards(L(3, 3), L(3, 3))], "module[0] is Backwards: Linear, "),
        (lambda: [L(3, 3), nn.ReLU(), L(3, 2), nn.LogSoftmax(1)], "module[3] is LogSoftmax: leave"),
        (
            lambda: [L(3, 3), nn.ReLU(), L(3, 2), nn.Sigmoid()],
            "module[3] is Sigmoid: after the last",
        ),
        (lambda: [L(3, 3), nn.ReLU(), L(3, 2), nn.ReLU()], "module[3] is ReLU, after the last"),
        (lambda: [nn.ReLU(), L(3, 3), L(3, 2)], "module[0] is ReLU, before the first Linear"),
        (lambda: [L(3, 3), nn.Dropout(), L(3, 2)], "module[1] is Dropout in training mode"),
        (lambda: [nn.Flatten(0), L(3, 3), L(3, 2)], "module[0] is Flatten(start_dim=0, end_dim=-1"),
        (tied, "module[2][0].weight is tied to module[0].weight"),
        (
            lambda: tied(lambda weight: nn.Parameter(weight.detach().T)),
            "module[2][0].weight is tied to module[0].weight",
        ),
        (lambda: [*[L(3, 3), nn.ReLU()] * 2], "module[2].weight is tied to module[0].weight"),
        (
            lambda: [torch.nn.utils.parametrizations.weight_norm(L(3, 3)), L(3, 2)],
            "module[0] is ParametrizedLinear",
        ),
        (lambda: [torch.nn.utils.spectral_norm(L(3, 3)), L(3, 2)], "its weight of weight_orig"),
        (lambda: [L(3, 2)], "module has 1 Linear and no hidden layer"),
        (lambda: [], "module has 0 Linear and no hidden layer"),
        (lambda: [L(3, 3), L(3, 2).double()], "mix float32 and float64"),
        (lambda: [L(3, 3, dtype=torch.complex64), L(3, 2)], "complex64"),
        (lambda: [L(3, 4), L(3, 2)], "readout has shape (2, 3) but the last layer has 4 units"),
    ],
)
def test_what_is_no_network_is_named_and_what_would_do(parts, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)) as error:
        of.ReLUNetwork.from_torch(nn.Sequential(*parts()))
    assert "\n" not in str(error.value)


def test_what_is_not_sequential_is_refused():
    with pytest.raises(TypeError, match="Sequential"):
        of.ReLUNetwork.from_torch(L(2, 2))
    with pytest.raises(TypeError, match=r"module is Skip: .* Sequential of them are taken"):
        of.ReLUNetwork.from_torch(Skip())
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Sequential, not dict"):
        of.ReLUNetwork.from_torch({})


def test_parts_with_names_are_called_by_them():
    named = nn.Sequential()
    named.add_module("body", nn.Sequential(L(3, 3), nn.SiLU()))
    with pytest.raises(TypeError, match=r"module\.body\[1\] is SiLU"):
        of.ReLUNetwork.from_torch(named)


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    net = of.ReLUNetwork.random([3, 4], seed=0)
    with pytest.raises(ImportError, match=r"to_torch needs torch: pip install '\.\[torch\]'"):
        net.to_torch()
    with pytest.raises(ImportError, match=r"from_torch needs torch: pip install"):
        of.ReLUNetwork.from_torch(None)


@pytest.mark.parametrize("units", UNITS)
def test_what_came_from_torch_is_saved_and_loaded_and_called_on_any_input(tmp_path, units):
    sparse = pytest.importorskip("scipy.sparse")
    make, _ = units
    torch.manual_seed(0)
    module = nn.Sequential(L(6, 5), *make(), L(5, 4), nn.LeakyReLU(0.1), L(4, 3)).double().eval()
    net = of.ReLUNetwork.from_torch(module)
    net.save(tmp_path / "net.npz")
    same(net, of.ReLUNetwork.load(tmp_path / "net.npz"))
    X = np.random.default_rng(0).standard_normal((300, 6)) * (np.arange(6) % 2)
    theirs = module(torch.from_numpy(X)).detach().numpy()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for given_X in (X, mapped, sparse.csr_array(X), of.Weight(X), torch.from_numpy(X)):
        assert (abs(net(given_X) - theirs) <= rounding(net, X)).all()


def test_what_the_page_says_of_checkpoints_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text()
    (block,) = re.findall(r"```python\n(import torch\n.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    module = nn.Sequential(L(10, 8), nn.LeakyReLU(), nn.Dropout(0.1), L(8, 1))
    torch.save(module.state_dict(), "checkpoint.pt")
    names = {"X": np.random.default_rng(0).standard_normal((20, 10)).astype(np.float32)}
    exec(block, names)
    assert names["K"].shape == (20, 20) and names["net"].readout_rate == 1.0
    same(names["net"], of.ReLUNetwork.from_torch(names["back"]))


def test_files_that_tell_neither_slopes_nor_readout_rate_are_of_relu_networks():
    net = of.ReLUNetwork.random([3, 4], bias=True, seed=0)
    same(net, of.ReLUNetwork.from_arrays(net.arrays(), {"rates": net.rates}))


def perceptron(kind, activation, dtype, widths=(5, 4), **options):
    neural = pytest.importorskip("sklearn.neural_network")
    X = np.random.default_rng(0).standard_normal((60, 3)).astype(dtype)
    options = {"max_iter": 4, "solver": "sgd", "random_state": 0} | options
    model = getattr(neural, kind)(hidden_layer_sizes=widths, activation=activation, **options)
    return model, X


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_perceptrons_of_sklearn_are_the_same_functions(activation, dtype):
    model, X = perceptron("MLPRegressor", activation, dtype)
    model.fit(X, np.c_[X[:, 0], X[:, 1] ** 2])
    net = of.ReLUNetwork.from_sklearn(model)
    assert net.dtype == dtype and net.readout_rate == 1.0
    assert net.slopes == ((0.0, 0.0) if activation == "relu" else (1.0, 1.0))
    assert (abs(net(X) - model.predict(X)) <= rounding(net, X)).all()
    assert not np.shares_memory(net.output_bias, model.intercepts_[-1])
    for classes in (2, 3):
        model, X = perceptron("MLPClassifier", activation, dtype)
        model.fit(X, np.digitize(X[:, 0], [0, 0.7][: classes - 1]))
        net = of.ReLUNetwork.from_sklearn(model)
        assert net.outputs == (1 if classes == 2 else 3)
        logits = net(X).astype(float)
        if classes == 2:
            logits = np.c_[np.zeros(len(X)), logits]
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        tolerance = 2 * rounding(net, X).max(axis=1, keepdims=True)
        assert (abs(model.predict_proba(X) - expected) <= tolerance).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_no_perceptron_is_or_learned_is_refused():
    pipeline = pytest.importorskip("sklearn.pipeline")
    model, X = perceptron("MLPRegressor", "tanh", float)
    with pytest.raises(ValueError, match=r"estimator is not fitted: MLPRegressor\.fit\(X, y\)"):
        of.ReLUNetwork.from_sklearn(model)
    model.fit(X, X[:, 0])
    with pytest.raises(ValueError, match="activation='tanh': 'relu' or 'identity' would do"):
        of.ReLUNetwork.from_sklearn(model)
    with pytest.raises(TypeError, match=r"estimator is Pipeline: .* its last step"):
        of.ReLUNetwork.from_sklearn(pipeline.make_pipeline(model))
    model, X = perceptron("MLPRegressor", "relu", float, widths=())
    with pytest.raises(ValueError, match="at least one hidden layer"):
        of.ReLUNetwork.from_sklearn(model.fit(X, X[:, 0]))
