"""Kernels of infinite width against a recursion in 40 digits, and against finite networks."""

import pickle
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of
from tests import examples
from tests.operators.battery import small_blocks

SLOPES = st.sampled_from([0.0, 0.01, 0.3, 1.0, -1.0])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 3))
X[3], X[4], X[5] = X[0], -2 * X[1], 0  # equal, opposite and zero samples
X[6] = X[2] + 1e-9 * X[1]
NEW = np.vstack([RNG.standard_normal((2, 3)), X[1]])


def network(slopes, *, seed=0, width=4, **options):
    widths = [3, *[width] * len(slopes)]
    return of.ReLUNetwork.random(widths, slope=slopes, seed=seed, **options)


def changed(net, **settings):
    """The network with other biases, rates or readout rate."""
    given = {"biases": net.biases, "output_bias": net.output_bias, **net.settings()}
    return of.ReLUNetwork(net.weights, net.readout, **(given | settings))


# -- the recursion in 40 digits ------------------------------------------------------------------


@cache
def digits():
    mp = pytest.importorskip("mpmath").mp.clone()
    mp.dps = 40
    return mp


def unit_means(slope, p, q, t):
    """E[a(u) a(v)] and E[s(u) s(v)] for normal u, v of deviations p, q at the angle t."""
    mp = digits()
    slope = mp.mpf(slope)
    bend = (1 - slope) ** 2 / (2 * mp.pi)
    if not p * q:  # where h = 0, s is α
        means = [(1 + slope) / 2 if x else slope for x in (p, q)]
        return mp.mpf(0), means[0] * means[1]
    moment = bend * (mp.sin(t) + (mp.pi - t) * mp.cos(t)) + slope * mp.cos(t)
    return p * q * moment, slope + bend * (mp.pi - t)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, -1.0, -0.4, 2.0])
@pytest.mark.parametrize("t", [0.0, 0.4, 1.5, np.pi / 2, 2.5, np.pi])
def test_means_over_units_are_integrals(slope, t):
    """By Gauss and Legendre over the angle of (u, v), piece by piece; E[r²] = 2."""
    kinks = [np.pi / 2, -np.pi / 2, t - np.pi / 2, t + np.pi / 2 - 2 * np.pi * (t > np.pi / 2)]
    edges = np.unique([-np.pi, np.pi, *kinks])
    x, w = np.polynomial.legendre.leggauss(20)
    angle = (edges[1:] + edges[:-1] + np.outer(x, np.diff(edges))) / 2
    w = np.outer(w, np.diff(edges)) / 2
    u, v = 0.7 * np.cos(angle), 1.9 * np.cos(angle - t)
    both = np.where(u > 0, 1, slope) * np.where(v > 0, 1, slope)
    moment, slopes = unit_means(slope, 0.7, 1.9, t)
    assert abs(float(moment) - (w * both * u * v).sum() / np.pi) < 1e-14
    assert abs(float(slopes) - (w * both).sum() / (2 * np.pi)) < 1e-14


def reference(net, X, Y, variances, kernel):
    """Entry by entry, from the exact Gram of the inputs."""
    mp = digits()
    linear = [*net.weights, net.readout]
    rates = [*net.rates, net.readout_rate or 0]
    squares = [
        0 if b is None else float((b.astype(float) ** 2).mean())
        for b in (*net.biases, net.output_bias)
    ]

    def gram(x, y):
        return mp.fdot(x.tolist(), y.tolist()) / len(x)

    def entry(x, y):
        pp, qq, pq, K = gram(x, x), gram(y, y), gram(x, y), mp.mpf(0)
        dot = 0
        for i, (variance, square) in enumerate(zip(variances, squares, strict=True)):
            trained = mp.mpf(1) / 3 if i == 0 and net.biases[0] is not None else 0
            K = variance * dot * K + mp.mpf(rates[i]) * linear[i].shape[1] * (pq + trained)
            pp, qq, pq = (mp.mpf(variance) * z + square for z in (pp, qq, pq))
            if i == net.depth:
                return K if kernel == "ntk" else pq
            slope = net.slopes[i]
            both = mp.sqrt(pp * qq)
            t = mp.acos(max(-1, min(1, pq / both))) if both else mp.pi / 2
            pq, dot = unit_means(slope, mp.sqrt(pp), mp.sqrt(qq), t)
            pp, qq = (z * (1 + mp.mpf(slope) ** 2) / 2 for z in (pp, qq))

    return np.array([[float(entry(x, y)) for y in Y] for x in X])


def close(found, wanted, factor=100):
    error = factor * np.finfo(found.dtype).eps * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=error)


def drawn(net):
    return [*(2 / (1 + a**2) for a in net.slopes), 1.0]


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
@settings(max_examples=examples(60))
@given(
    st.lists(SLOPES, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 1e-6]),
    st.sampled_from([None, "auto", 0.7]),
    st.integers(0, 2**32 - 1),
)
def test_entries_are_those_of_the_recursion(kernel, slopes, bias, size, readout_rate, seed):
    rng = np.random.default_rng(seed)
    net = network(slopes, bias=bias, readout_rate=readout_rate, seed=rng)
    variances = [float(v) for v in rng.uniform(0.5, 3.0, len(slopes) + 1)]
    if bias:
        biases = [size * b for b in rng.standard_normal((len(slopes), 4))]
        net = changed(net, biases=[*biases[:-1], None], output_bias=biases[0][:1],
                      rates=list(rng.uniform(0, 2, len(slopes))))  # fmt: skip
    K = of.infinite_width(net, X, kernel=kernel, variances=variances)
    rows = [0, 3, 5, 4, 6]
    wanted = reference(net, X[rows], X, variances, kernel)
    close(K.block(np.array(rows), slice(0, 7)), wanted)
    cross = of.infinite_width(net, NEW, X, kernel=kernel, variances=variances)
    close(cross.todense()[2:], reference(net, NEW[2:], X, variances, kernel))
    # of these samples few angles are near 0 or π, so the rounding of float32 is that of its inputs
    few = X.astype(np.float32)[:3]
    narrow = of.ReLUNetwork.from_arrays(
        {name: a.astype(np.float32) for name, a in net.arrays().items()}, net.settings()
    )
    found = of.infinite_width(narrow, few, kernel=kernel, variances=variances)
    assert found.dtype == np.float32 and found.todense().dtype == np.float32
    close(found.todense(), reference(narrow, few, few, variances, kernel))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, -1.0])
def test_equal_and_opposite_samples_are_exact(slope, dtype):
    """K(x, x) = (L + η_V n_L) |x|²/d, and a(-u) = ∓a(u) for α = ±1."""
    rows = np.random.default_rng(1).standard_normal((40, 9)).astype(dtype)
    rows = np.vstack([rows, rows, -rows])
    net = of.ReLUNetwork.random([9, 4, 4, 4], slope=slope, readout_rate=0.5, dtype=dtype, seed=0)
    K = of.infinite_width(net, rows)
    wanted = 5 * (rows[:40].astype(float) ** 2).sum(axis=1) / 9
    close(K.diagonal(), np.tile(wanted, 3), 10)
    close(np.diagonal(K[:40, 40:80]), wanted, 10)
    if abs(slope) == 1:
        close(np.diagonal(K[:40, 80:]), -slope * wanted, 10)


@pytest.mark.parametrize("kernel", ["ntk", "nngp"])
def test_linear_networks_have_the_gram_of_their_inputs(kernel):
    net = changed(network([1.0, 1.0, 1.0], readout_rate=0.5), rates=[0.5, 2.0, 3.0])
    variances = np.array([2.0, 0.5, 3.0, 0.7])
    rates = np.array([0.5 * 3, 2.0 * 4, 3.0 * 4, 0.5 * 4])
    factor = variances.prod() * (1 if kernel == "nngp" else (rates / variances).sum())
    found = of.infinite_width(net, X, NEW, kernel=kernel, variances=variances)
    close(found.todense(), factor * X @ NEW.T / 3)


# -- finite networks ---------------------------------------------------------------------------

CASES = [
    ([slope] * depth, {"readout_rate": readout_rate, "scaling": scaling, "bias": bias})
    for depth, slope, readout_rate, scaling, bias in [
        (1, 0.0, None, "ntk", False),
        (1, 0.3, "auto", "ntk", True),
        (2, 0.0, "auto", "standard", False),
        (2, 0.3, None, "ntk", True),
        (3, 0.0, None, "ntk", False),
        (3, 0.3, "auto", "ntk", False),
    ]
]


def check_mean(net, found, rows):
    """Every mean over the seeds within three standard errors."""
    wanted = of.infinite_width(net, rows).todense()
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5
    gap = abs(found.mean(axis=0) - wanted)
    assert (gap <= 3 * error + 1e-6 * abs(wanted).max()).all(), gap / error
    assert (error <= 0.2 * abs(wanted).max()).all()  # small enough to mean something


@pytest.mark.parametrize(("slopes", "options"), CASES)
def test_means_over_finite_networks(slopes, options):
    """A sample that is zero, whose units all stand at h = 0, included."""
    rows = X[[0, 1, 5]]
    nets = [network(slopes, width=256, seed=seed, **options) for seed in range(40)]
    found = [of.collective_kernel(net.fields(rows)).todense() for net in nets]
    check_mean(nets[0], np.array(found), rows)


@pytest.mark.thorough
@pytest.mark.parametrize(("slopes", "options"), CASES)
def test_means_over_wide_networks(slopes, options):
    rows = X[[0, 1, 4]].astype(np.float32)
    small = network(slopes, width=1, dtype=np.float32, **options)
    fans = np.array([3, *[8192] * len(slopes)])
    stretched = fans / small.widths
    readout_rate = options["readout_rate"]
    if readout_rate == "auto" and options["scaling"] == "ntk":
        readout_rate = 1 / 8192
    elif readout_rate == "auto":
        readout_rate = 1.0
    rates = np.array(small.rates)
    if options["scaling"] == "ntk":
        rates = rates / stretched[:-1]
    found = []
    for seed in range(24 // len(slopes)):
        rng = np.random.default_rng(seed)
        weights = []
        for n, variance in zip(fans, drawn(small), strict=True):
            size = (1 if len(weights) == len(slopes) else 8192, n)
            weights.append(rng.standard_normal(size, dtype=np.float32))
            weights[-1] *= np.float32((variance / n) ** 0.5)
        biases = [None if b is None else np.zeros(8192, np.float32) for b in small.biases]
        net = of.ReLUNetwork(weights[:-1], weights[-1], biases=biases, rates=rates, slope=slopes,
                             readout_rate=readout_rate)  # fmt: skip
        found.append(of.collective_kernel(net.fields(rows)).todense())
    check_mean(net, np.array(found), rows)


def test_outputs_have_the_covariance_of_the_nngp():
    rows, slopes = X[:3], [0.3, 0.0]
    outputs = []
    for seed in range(60):
        net = network(slopes, width=64, outputs=50, seed=seed)
        rng = np.random.default_rng(seed)
        biases = [
            rng.choice([-0.5, 0.5], b.shape) for b in network(slopes, width=64, bias=True).biases
        ]
        net = changed(net, biases=biases, output_bias=rng.choice([-1.0, 1.0], 50))
        outputs.append(net(rows))
    products = np.array([f @ f.T / 50 for f in outputs])
    wanted = of.infinite_width(net, rows, kernel="nngp").todense()
    error = products.std(axis=0, ddof=1) / 60**0.5
    assert (abs(products.mean(axis=0) - wanted) <= 3 * error).all()


@pytest.mark.parametrize("scaling", ["standard", "mean-field"])
def test_any_scaling_has_the_limit_of_its_numbers(scaling):
    """The rates of "standard" and both numbers of "mean-field" depend on the width."""
    net = network([0.0, 0.0], width=1024, scaling=scaling, readout_rate="auto", seed=3)
    last = 1 / 1024 if scaling == "mean-field" else 1
    K = of.infinite_width(net, X, variances=[2, 2, last]).todense()
    found = of.collective_kernel(net.fields(X)).todense()
    assert np.linalg.norm(found - K) < 0.2 * np.linalg.norm(K)


# -- the operator ------------------------------------------------------------------------------


def test_it_is_a_lazy_kernel():
    net = network([0.0, 0.3], bias=True)
    K = of.infinite_width(net, X)
    assert isinstance(K, of.FunctionGram) and K.psd and K.symmetric and K.shape == (7, 7)
    dense = K.todense()
    assert np.linalg.eigvalsh(dense).min() > -1e-12
    with small_blocks(64):
        close(K @ np.eye(7), dense, 10)
        close(K.todense(), dense, 10)
    close(pickle.loads(pickle.dumps(K)) @ np.eye(7), dense, 10)
    cross = of.infinite_width(net, NEW, X)
    assert cross.shape == (3, 7) and not cross.symmetric
    close(cross.T @ np.eye(3), of.infinite_width(net, X, NEW).todense(), 10)
    two = network([0.0, 0.3], bias=True, outputs=2)
    assert of.FeatureLift(of.infinite_width(two, X), 2).shape == (14, 14)


def test_rows_on_disk_are_inputs(tmp_path):
    X.tofile(tmp_path / "X")
    mapped = np.memmap(tmp_path / "X", shape=X.shape, dtype=X.dtype, mode="r")
    net = network([0.0])
    close(of.infinite_width(net, mapped).todense(), of.infinite_width(net, X).todense(), 10)


def test_kernel_regression_is_the_dense_formula():
    rng = np.random.default_rng(2)
    rows, new, y = (
        rng.standard_normal((60, 3)),
        rng.standard_normal((5, 3)),
        rng.standard_normal(60),
    )
    net = network([0.0, 0.3], readout_rate="auto")
    K = of.infinite_width(net, rows)
    fit = of.spectral.kernel_regression(K, y, 1e-2, tol=1e-13)
    cross = of.infinite_width(net, new, rows)
    wanted = cross.todense() @ np.linalg.solve(K.todense() + 1e-2 * np.eye(60), y)
    np.testing.assert_allclose(
        fit.predict(cross), wanted, rtol=1e-10, atol=1e-10 * abs(wanted).max()
    )


def test_runs_take_it_as_their_gram_and_predict():
    rows, y = X[:5], np.arange(5.0)
    net = network([0.0, 0.0])
    K = of.infinite_width(net, rows)
    run = of.train(net, rows, y, steps=5, gram=K)
    same = of.train(net, rows, y, steps=5, gram=K.function)
    assert np.array_equal(run.losses, same.losses)
    assert np.array_equal(run.predict(NEW), same.predict(NEW))
    close(run.predict(rows) - y[:, None], run.residual, 1e3)
    copied = of.train(net, rows.tolist(), y, steps=5, gram=K)
    assert np.array_equal(copied.predict(NEW), run.predict(NEW))
    other = of.train(net, 2 * rows, y, steps=5, gram=K)
    with pytest.raises(ValueError, match="gram=callable"):
        other.predict(NEW)


def test_neural_tangents_agrees():
    stax = pytest.importorskip("neural_tangents").stax
    layers = []
    for slope in (0.0, 0.3, -1.0):
        layers += [stax.Dense(1, W_std=(2 / (1 + slope**2)) ** 0.5), stax.LeakyRelu(slope)]
    *_, kernel = stax.serial(*layers, stax.Dense(1))
    # there the readout is trained, and rates are those of h = √(σ²/n) W a
    net = network([0.0, 0.3, -1.0], readout_rate="auto")
    rows = X[:3]
    for name in ("ntk", "nngp"):
        found = of.infinite_width(net, NEW, rows, kernel=name).todense()
        with pytest.importorskip("jax.experimental").enable_x64():
            wanted = np.asarray(kernel(NEW, rows, name))
        # it loses half of the digits of an angle at the last new sample, which is one of the rows
        np.testing.assert_allclose(found[:2], wanted[:2], rtol=1e-12)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net: of.infinite_width("net", X), TypeError, "network must be a ReLUNetwork"),
        (
            lambda net: of.infinite_width(net, X, kernel="ck"),
            ValueError,
            "'ntk' or 'nngp', not 'ck'",
        ),
        (
            lambda net: of.infinite_width(net, X, kernel=["ntk"]),
            ValueError,
            r"'ntk' or 'nngp', not \['ntk'\]",
        ),
        (lambda net: of.infinite_width(net, X[:, :2]), ValueError, "X has shape"),
        (lambda net: of.infinite_width(net, X, X[:, :2]), ValueError, "X2 has shape"),
        (lambda net: of.infinite_width(net, of.Gram(X)), ValueError, "arrays or rows on disk"),
        (
            lambda net: of.infinite_width(net, X, variances=[1.0, 2.0]),
            ValueError,
            "3 positive numbers",
        ),
        (
            lambda net: of.infinite_width(net, X, variances=[1, 0, 1]),
            ValueError,
            "3 positive numbers",
        ),
        (
            lambda net: of.infinite_width(net, X, variances=[1, np.nan, 1]),
            ValueError,
            "variances contains",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(network([0.0, 0.0]))


def test_networks_drawn_otherwise_are_refused_with_what_they_have():
    net = network([0.0, 0.3], width=64, scaling="mean-field")
    with pytest.raises(
        ValueError, match=r"readout has variance .*/64 but ReLUNetwork.random draws 1/64"
    ):
        of.infinite_width(net, X)
    torch_like = of.ReLUNetwork([W / 6**0.5 for W in net.weights], 8 * net.readout)
    with pytest.raises(ValueError, match=r"weights\[0\] has variance .*variances=\[.*, .*, .*\]"):
        of.infinite_width(torch_like, X)
    zero = of.ReLUNetwork(net.weights, 0 * net.readout, slope=net.slopes)
    with pytest.raises(ValueError, match="readout has variance 0/64"):
        of.infinite_width(zero, X)


def test_no_drawn_network_is_refused():
    for seed in range(examples(300)):
        widths = np.random.default_rng(seed).integers(1, 40, 3)
        of.infinite_width(
            of.ReLUNetwork.random(widths.tolist(), seed=seed), np.ones((1, widths[0]))
        )
