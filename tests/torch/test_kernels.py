"""Jacobians and kernels of modules against automatic differentiation."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import opflow as of
from opflow.torch.recomputed import RecomputedJacobian
from tests import examples
from tests.torch.modules import MODULES, SAMPLES, Attention, built, dense_jacobian, some

#: everything held, a part of it, nothing
MEMORY = [None, "half", 1]


def jacobian(module, X, memory=None, **options):
    """With so much memory that half of the samples are held, if it is "half"."""
    if memory == "half":
        network = of.torch.kernels.Network(module, X, **options)
        network.count = SAMPLES // 2
        network.held = of.torch.kernels.held_jacobians(
            network.model, network.plan, network.samples.blocks(0, network.count, 1), network.count
        )
        return network.jacobian()
    return of.torch.jacobian(module, X, memory=memory, **options)


def close(got, want, dtype=np.float64):
    scale = np.abs(want).max() or 1.0
    return got.shape == want.shape and np.abs(got - want).max() <= 3e3 * np.finfo(dtype).eps * scale


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", MODULES)
def test_products_and_entries_are_those_of_the_dense_jacobian(name, memory):
    if name == "bag" and memory is not None:
        pytest.skip("torch has no tangents of EmbeddingBag")
    module, X = built(name)
    D = dense_jacobian(module, X)
    D = D.reshape(-1, D.shape[-1])
    J = jacobian(module, X, memory)
    rng = np.random.default_rng(0)
    v, u = rng.standard_normal((D.shape[1], 3)), rng.standard_normal((len(D), 3))
    assert J.shape == D.shape
    for columns in (slice(0, 3), 0):
        assert close(J @ v[:, columns], D @ v[:, columns])
        assert close(J.T @ u[:, columns], D.T @ u[:, columns])
    K = of.Gram(J)
    assert close(K.diagonal(), (D**2).sum(1))
    assert close((J.T @ J).diagonal(), (D**2).sum(0))
    which = np.array([len(D) - 1, 0, 1])
    assert close(J.rows(which), D[which])
    assert close(K.block(which, slice(0, 4)), (D @ D.T)[which][:, :4])


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["residual", "lenet", "attention", "tied"])
def test_float32_stays_float32_and_wider_vectors_are_multiplied_in_float64(name, memory):
    module, X = built(name, torch.float32)
    D = dense_jacobian(*built(name))
    J = jacobian(module, X, memory)
    D = D.reshape(J.shape)
    u = np.random.default_rng(0).standard_normal(len(D))
    assert J.dtype == (J.T @ u.astype(np.float32)).dtype == np.float32
    assert close(J.T @ u.astype(np.float32), D.T @ u, np.float32)
    assert (J.T @ u).dtype == (J @ D[0]).dtype == np.float64
    if memory == 1:  # the factors of the others are held in float32
        double = dense_jacobian(module.double(), X.double() if X.is_floating_point() else X)
        assert close(J.T @ u, double.reshape(D.shape).T @ u)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["gelu", "resnet, group norm", "attention", "repeated"])
@pytest.mark.parametrize("outputs", ["sum", "trace", 1])
def test_kernels_of_outputs(name, memory, outputs):
    module, X = built(name)
    D = dense_jacobian(module, X)
    rows = {"sum": D.sum(1), "trace": D.reshape(len(D), -1), 1: D[:, 1]}[outputs]
    K = of.Gram(jacobian(module, X, memory, outputs=outputs))
    assert close(K.todense(), rows @ rows.T)
    assert close(K @ np.eye(len(D)), rows @ rows.T)
    assert close(K.diagonal(), (rows**2).sum(1))


@pytest.mark.parametrize("memory", [None, 1])
def test_layer_kernels_and_cross_kernels(memory):
    module, X = built("attention")
    D = dense_jacobian(module, X)
    layers = of.torch.layer_kernels(module, X, memory=memory)
    names = ["embed", "norm", "attend", "attend.out_proj", "up", "down", "last"]
    assert list(layers) == names
    flat = D.reshape(-1, D.shape[-1])
    start = 0
    for name, K in layers.items():
        part = dict(module.named_modules())[name]
        width = sum(p.numel() for p in part.parameters(recurse=False))
        J = flat[:, start : start + width]
        assert close(K.todense(), J @ J.T)
        start += width
    assert start == flat.shape[1]
    assert close(of.torch.kernel(module, X, memory=memory).todense(), flat @ flat.T)
    new = flat[:4]
    cross = of.torch.cross_kernel(module, some(X, slice(0, 2)), X, memory=memory)
    assert close(cross.todense(), new @ flat.T)
    cross = of.torch.cross_kernel(module, some(X, slice(0, 2)), X, memory=memory, outputs="trace")
    assert close(cross.todense(), np.einsum("mkp,nkp->mn", D[:2], D))


@settings(max_examples=examples(20))
@given(
    inputs=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    width=st.integers(5, 7),
    memory=st.sampled_from([None, 1]),
    seed=st.integers(0, 99),
)
def test_convolutions_of_any_shape(
    inputs, groups, kernel, stride, padding, dilation, bias, width, memory, seed
):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(inputs * groups, 2 * groups, kernel, stride, padding, dilation, groups, bias),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
    ).double()
    X = torch.randn(3, inputs * groups, width, 6, dtype=torch.float64)
    D = dense_jacobian(module, X)
    K = of.torch.kernel(module, X, memory=memory)
    flat = D.reshape(-1, D.shape[-1])
    assert close(K @ np.eye(len(flat)), flat @ flat.T)


@settings(max_examples=examples(20))
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    bias=st.booleans(),
    samples=st.integers(1, 6),
    memory=st.sampled_from([None, 1]),
)
def test_linear_layers_at_any_number_of_positions(shape, widths, bias, samples, memory):
    torch.manual_seed(0)
    sizes = [shape[-1], *widths]
    layers = [nn.Linear(a, b, bias) for a, b in itertools.pairwise(sizes)]
    module = nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())]).double()
    X = torch.randn(samples, *shape, dtype=torch.float64)
    D = dense_jacobian(module, X)
    flat = D.reshape(-1, D.shape[-1])
    J = of.torch.jacobian(module, X, memory=memory)
    assert close(J.todense(), flat)
    assert close(J.T @ np.eye(len(flat)), flat.T)


# -- what has no rule, and data of other kinds ------------------------------------------------


class Positions(nn.Module):
    """A parameter of its own, added to the inputs."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(3, 4))
        self.rest = Attention()

    def forward(self, x):
        return self.rest(x + self.shift)


class Functional(nn.Module):
    """A layer's parameter that is used outside of the layer as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + torch.tanh(x @ self.layer.weight)


class ChannelsFirst(nn.LayerNorm):
    """As in ConvNeXt: the rule of its base cannot take its inputs."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


GENERIC = {
    "channels first": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), ChannelsFirst(3), nn.Tanh()),
        lambda: torch.randn(SAMPLES, 2, 6), ["1.weight", "1.bias"]),
    "positions": (Positions, lambda: torch.randn(SAMPLES, 3, 4), ["shift"]),
    "functional": (Functional, lambda: torch.randn(SAMPLES, 4), ["layer.weight"]),
    "upsampling": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3), nn.Tanh()),
        lambda: torch.randn(SAMPLES, 2, 4), ["0.weight", "0.bias"]),
}  # fmt: skip


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", GENERIC)
def test_parameters_without_a_rule_are_named_and_right(name, memory):
    module, X = built(name, modules={n: case[:2] for n, case in GENERIC.items()})
    D = dense_jacobian(module, X)
    with pytest.warns(UserWarning, match=", ".join(map(repr, GENERIC[name][2]))) as said:
        J = jacobian(module, X, memory)
    assert said[0].filename == __file__
    D = D.reshape(J.shape)
    assert close(J.todense(), D)
    assert close(J.T @ D, D.T @ D)


class Keys(nn.Module):
    """Attention does not depend on the bias of its keys, nor GroupNorm of a channel on a shift."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.conv, self.norm = nn.Conv1d(6, 4, 3), nn.GroupNorm(4, 4)

    def forward(self, x):
        x = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.norm(self.conv(x)).relu().mean(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_parameter_without_effect_keeps_its_rule(dtype):
    module, X = built("keys", dtype, {"keys": (Keys, lambda: torch.randn(SAMPLES, 6, 8))})
    D = dense_jacobian(module, X)
    with warnings.catch_warnings(action="error"):
        J = of.torch.jacobian(module, X)
    eps = 1e-3 if dtype == torch.float32 else 1e-12
    assert np.abs(J.todense() - D.reshape(J.shape)).max() < eps * np.abs(D).max()


def test_a_rule_of_ones_own_is_used():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    module = Scaled(4, 2).double()
    X = torch.randn(SAMPLES, 4, dtype=torch.float64)
    D = dense_jacobian(module, X)
    with pytest.warns(UserWarning, match="'weight', 'bias' in Scaled"):  # Linear's rule is not its
        of.torch.jacobian(module, X)

    @of.torch.linear_in.register
    def scaled(layer: Scaled, name, x):
        if name == "bias":
            return lambda bias: 3 * bias.expand(len(x), len(bias))
        return lambda weight: 3 * x @ weight.T

    J = of.torch.jacobian(module, X)
    assert close(J.todense(), D.reshape(J.shape))


def test_kfac_of_layers_with_positions():
    torch.manual_seed(0)
    layer = nn.Linear(6, 30, bias=False)
    module = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(60, 2)).double()
    X = torch.randn(SAMPLES, 2, 6, dtype=torch.float64)
    J = of.torch.jacobian(module, X)
    h = layer(X).detach().requires_grad_()
    outputs = module[1:](h).sum(0)
    rows = [torch.autograd.grad(f, h, retain_graph=True)[0] for f in outputs]
    phi, a = torch.stack(rows).reshape(-1, 30).numpy(), X.reshape(-1, 6).numpy()
    assert close(of.kfac(J).todense()[:180, :180], np.kron(phi.T @ phi, a.T @ a / len(a)))


def test_kfac_of_convolutions_has_an_inverse():
    conv = nn.Conv2d(2, 12, 3, stride=2, padding=1, bias=False)
    module = nn.Sequential(conv, nn.Tanh(), nn.Conv2d(12, 1, 2), nn.Flatten(), nn.Linear(4, 2))
    X = torch.randn(4, 2, 6, 6, dtype=torch.float64)
    J = of.torch.jacobian(module.double(), X)
    assert {type(part).__name__ for part in J.parts} == {"LayerJacobian", "Matrix", "KhatriRao"}
    approximation = of.kfac(J)
    rows = J.T.todense()
    assert close(of.kfac(J, 0.1) @ (approximation @ rows + 0.1 * rows), rows)
    patches = nn.functional.unfold(X, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 18)
    A = (patches.T @ patches / len(patches)).numpy()
    first = approximation.todense()[:216, :216].reshape(12, 18, 12, 18)
    Phi = np.einsum("iajb,ab->ij", first, A) / (A**2).sum()
    assert close(first, np.einsum("ij,ab->iajb", Phi, A))
    np.testing.assert_allclose(np.trace(first.reshape(216, 216)), np.trace(Phi) * np.trace(A))


def test_parameters_are_chosen_by_names_of_parameters_or_modules():
    module, X = built("residual")
    D = dense_jacobian(module, X).reshape(2 * SAMPLES, -1)
    J = of.torch.jacobian(module, X, parameters=["last", "first.bias"])
    assert close(J.todense(), np.hstack([D[:, 24:30], D[:, -14:]]))
    with pytest.raises(ValueError, match="parameters names 'middle'"):
        of.torch.kernel(module, X, parameters=["middle"])


@pytest.mark.parametrize("memory", [None, 1])
def test_batches_in_a_fixed_order_are_the_samples(memory):
    module, X = built("lenet")
    D = dense_jacobian(module, X).reshape(3 * SAMPLES, -1)
    data = torch.utils.data.TensorDataset(X, torch.arange(SAMPLES))
    loader = torch.utils.data.DataLoader(data, batch_size=2)  # does not divide the samples
    K = of.torch.kernel(module, loader, memory=memory)
    assert close(K @ D, D @ D.T @ D)
    assert close(K.block([14, 3, 0], slice(None)), (D @ D.T)[[14, 3, 0]])
    whole = of.torch.kernel(module, loader, memory=memory, forward=lambda m, batch: m(batch[0]))
    assert close(whole @ D, D @ D.T @ D)


def test_arrays_dicts_and_other_calls():
    module, X = built("keywords")
    D = dense_jacobian(module, X).reshape(2 * SAMPLES, -1)
    assert close(of.torch.jacobian(module, X).todense(), D)
    J = of.torch.jacobian(module, X, forward=lambda m, batch: m(batch["left"], batch["right"]))
    assert close(J.todense(), D)
    module, X = built("relu")
    want = of.torch.jacobian(module, X).todense()
    assert close(of.torch.jacobian(module, X.numpy()[::-1]).todense(), want.reshape(5, 3, -1)[::-1]
                 .reshape(want.shape))  # fmt: skip


def test_the_operator_keeps_the_parameters_it_was_made_with():
    module, X = built("gelu")
    D = dense_jacobian(module, X).reshape(3 * SAMPLES, -1)
    operators = [of.torch.jacobian(module, X, memory=memory) for memory in (None, 1)]
    for parameter in module.parameters():
        parameter.data.zero_()
    for J in operators:
        assert close(J @ D.T, D @ D.T)
        assert close(pickle.loads(pickle.dumps(J)) @ D.T, D @ D.T)


def test_gradients_and_modes_of_the_module_are_left_alone():
    module, X = built("frozen")
    before = [(p.requires_grad, p.grad) for p in module.parameters()]
    with torch.no_grad(), warnings.catch_warnings():
        of.torch.kernel(module, X, memory=1) @ np.ones(2 * SAMPLES)
    assert [(p.requires_grad, p.grad) for p in module.parameters()] == before
    assert not any(part._forward_hooks for part in module.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_is_held_stays_within_the_memory():
    module, X = built("gelu")
    X = X.repeat(400, 1)
    network = of.torch.kernels.Network(module, X)
    each = network.plan.numbers * 8
    half = of.torch.kernels.Network(module, X, memory=2 * 2 * 256e6)  # all of it fits
    assert half.count == len(X)
    J = of.torch.jacobian(module, X, memory=each * (len(X) - 1))
    assert isinstance(J, RecomputedJacobian)  # two blocks of passes would not fit beside it
    r = np.random.default_rng(0).standard_normal(J.shape[0])
    assert close(J.T @ r, of.torch.jacobian(module, X).T @ r)


# -- refusals -------------------------------------------------------------------------------------


def dropout():
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))


def together():
    class Centred(nn.Linear):
        def forward(self, x):
            return super().forward(x) - super().forward(x).mean(0)

    return Centred(4, 2)


@pytest.mark.parametrize(
    ("module", "X", "error", "message"),
    [
        (dropout(), torch.randn(3, 4), ValueError, r"'1' \(Dropout\) is in training mode.*eval"),
        (nn.BatchNorm1d(4), torch.randn(3, 4), ValueError, "BatchNorm1d.*eval"),
        (nn.BatchNorm1d(4, track_running_stats=False).eval(), torch.randn(3, 4), ValueError,
         "averages over the batch"),
        (nn.Linear(4, 2).half(), torch.randn(3, 4).half(), TypeError, r"float16.*\.float\(\)"),
        (nn.Linear(4, 2), torch.randn(3, 4).double(), TypeError, "X has dtype torch.float64"),
        (nn.Linear(4, 2), 3, TypeError, "X must be a tensor.*not int"),
        (nn.Linear(4, 2), torch.randn(0, 4), ValueError, "no samples"),
        (nn.ReLU(), torch.randn(3, 4), ValueError, "no parameter that requires gradients"),
        (nn.Linear(4, 2).to("meta"), torch.randn(3, 4), ValueError, "X is on cpu.*meta"),
        (torch.relu, torch.randn(3, 4), TypeError, "module must be a torch.nn.Module"),
        (nn.Linear(4, 2), torch.full((3, 4), torch.nan), ValueError, "not finite"),
        (nn.Linear(4, 2), iter([torch.randn(3, 4)]), TypeError, "an iterator"),
        (together(), torch.randn(3, 4), ValueError, "depend on the others"),
        (nn.Sequential(nn.Linear(4, 2), nn.Flatten(0)), torch.randn(3, 4), ValueError,
         "gives 6 rows of outputs for 3 samples"),
        (nn.Bilinear(4, 2, 1), (torch.randn(3, 4), torch.randn(2, 2)), ValueError,
         "the same samples"),
        (nn.LSTM(4, 2), torch.randn(3, 4), TypeError, "forward=lambda"),
        (nn.Linear(4, 2), iter([torch.randn(3, 4)]), TypeError, "read once only.*list"),
        (nn.Linear(4, 2), torch.utils.data.DataLoader(torch.randn(3, 4), shuffle=True), ValueError,
         "shuffle=False"),
    ],
)  # fmt: skip
def test_what_has_no_jacobian_by_samples_is_refused_by_name(module, X, error, message):
    with pytest.raises(error, match=message):
        of.torch.kernel(module, X)


def test_a_module_without_tangents_says_so_where_it_is_recomputed():
    J = of.torch.jacobian(*built("bag"), memory=1)
    with pytest.raises(NotImplementedError, match=r"Sequential.*memory="):
        J @ np.ones(J.shape[1])


def test_no_parameters_and_no_function_are_refused_by_name():
    with pytest.raises(ValueError, match="parameters names nothing"):
        of.torch.kernel(nn.Linear(4, 2), torch.randn(3, 4), parameters=[])
    with pytest.raises(TypeError, match="forward must be"):
        of.torch.kernel(nn.Linear(4, 2), torch.randn(3, 4), forward=3)


def test_layers_without_randomness_need_no_mode():
    layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True).double()
    X = torch.randn(3, 2, 4, dtype=torch.float64)
    J = of.torch.jacobian(layer, X)
    with sdpa_kernel(SDPBackend.MATH):
        assert close(J.todense(), dense_jacobian(layer, X).reshape(J.shape))


def test_outputs_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="outputs must be"):
        of.torch.kernel(nn.Linear(4, 2), torch.randn(3, 4), outputs=2)
    with pytest.raises(ValueError, match="outputs must be"):
        of.torch.kernel(nn.Linear(4, 2), torch.randn(3, 4), outputs="each")


# -- what shapes and samples do not tell ----------------------------------------------------------


class Gated(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (x[:, :1] > 0)


class Adapted(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.low = nn.Parameter(torch.randn(3, 1))

    def forward(self, x):
        return super().forward(x) + x[:, :1] @ self.low.T


def test_a_layer_that_computes_in_its_own_way_has_no_rule_of_its_base():
    X = torch.randn(12, 4, dtype=torch.float64)
    X[:, 0] = torch.linspace(1, -1, 12)  # what the rules are checked on does not tell
    for module in (Gated(4, 3).double(), Adapted().double()):
        with pytest.warns(UserWarning, match="'weight'"):
            J = of.torch.jacobian(module, X)
        assert close(J.todense(), dense_jacobian(module, X).reshape(J.shape))


class Swapping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > 0 else self.a(self.b(x))


def test_batches_that_go_other_ways_or_have_other_shapes_are_refused():
    X = torch.ones(4, 3)
    X[2:] = -1
    batches = list(X.split(2))
    with pytest.raises(ValueError, match="otherwise from batch to batch"):
        of.torch.jacobian(Swapping(), batches)

    class Mean(nn.Sequential):
        def forward(self, ids):
            return self[1](self[0](ids).mean(1))

    mean = Mean(nn.Embedding(50, 5), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="batches need one shape"):
        of.torch.jacobian(mean, [torch.ones(4, 6, dtype=int), torch.ones(4, 1, dtype=int)])


class Learned(nn.Module):
    """Positions have embeddings of their own, the same for all samples."""

    def __init__(self, positions):
        super().__init__()
        self.token = nn.Embedding(7, 3)
        self.position = nn.Embedding(positions, 3)
        self.last = nn.Linear(3, 2)

    def forward(self, ids):
        x = self.token(ids) + self.position(torch.arange(ids.shape[1]))
        return self.last(torch.tanh(x)).mean(1)


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("positions", [1, 3, 5, 7, 10])
def test_layers_that_see_no_samples(positions, memory):
    module = Learned(positions).double()
    ids = torch.randint(0, 7, (7, positions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        J = of.torch.jacobian(module, ids, memory=memory)
    assert close(J.todense(), dense_jacobian(module, ids).reshape(J.shape))
    assert close(of.Gram(J).diagonal(), (J.todense() ** 2).sum(1))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
def test_recurrent_layers_go_one_by_one(make):
    module = make(3, 2, batch_first=True).double()
    X = torch.randn(4, 3, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="no rule is known"):
        J = of.torch.jacobian(module, X, forward=lambda m, x: m(x)[0])
    parameters = list(module.parameters())
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(f, parameters, retain_graph=True)])
        for f in module(X)[0].reshape(-1)
    ]
    assert close(J.todense(), torch.stack(rows).numpy())


class Scaled(nn.Module):
    """Its scale is a single number, of no axes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * torch.tanh(self.layer(x))


@pytest.mark.parametrize("memory", MEMORY)
def test_a_parameter_may_have_no_axes(memory):
    module, X = built("scaled", modules={"scaled": (Scaled, lambda: torch.randn(SAMPLES, 4))})
    D = dense_jacobian(module, X)
    with pytest.warns(UserWarning, match="'scale'"):
        J = jacobian(module, X, memory)
    D = D.reshape(J.shape)
    assert close(J.todense(), D)
    assert close(J.T @ D, D.T @ D)


def test_unused_parameters_hold_nothing():
    X = torch.randn(3, 4, dtype=torch.float64)
    wrapped = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(400, 1000)}).double()
    J = of.torch.jacobian(wrapped, X, forward=lambda m, x: m["used"](x))
    assert J.shape == (6, 10 + 401_000)
    assert not (J.T @ np.ones(6))[10:].any()


def test_modes_that_are_set_around_or_later_change_nothing():
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Tanh()).double().eval()
    X = torch.randn(6, 4, dtype=torch.float64)
    with torch.inference_mode():
        J = of.torch.jacobian(module, X.clone(), memory=1)
    D = dense_jacobian(module, X).reshape(J.shape)
    module.train()
    assert close(J @ D.T, D @ D.T)


def test_numbers_of_outputs_may_be_of_numpy():
    module, X = built("gelu")
    D = dense_jacobian(module, X)[:, 1]
    assert close(of.torch.kernel(module, X, outputs=np.int64(1)).todense(), D @ D.T)
