"""The step "auto" follows the kernel, and no run with it ends above where it began."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of

datasets = pytest.importorskip("sklearn.datasets")
pytestmark = pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")

SCALINGS = ("ntk", "standard", "mean-field")
DEPTHS = (1, 2, 3)


def standard(X):
    scale = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1)


def diabetes(raw=True):
    X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    return standard(X), y[:, None] if raw else standard(y[:, None])


def classes(y):
    return 1.0 * (y[:, None] == np.unique(y))


def bundled(name, raw=False):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(X))[:300]
    return X[rows] if raw else standard(X[rows]), classes(y)[rows]


def made(name, *, n=120, raw=True, kind="values", **options):
    X, y = getattr(datasets, f"make_{name}")(n_samples=n, random_state=0, **options)
    y = classes(y) if kind == "classes" else y.reshape(n, -1)
    return (X, y) if raw else (standard(X), standard(y))


#: 30 data sets, as a user would give them: standardised, or with raw targets, or raw altogether
SETS = {
    "diabetes": lambda: diabetes(raw=False),
    "diabetes, raw targets": diabetes,
    "diabetes, raw": lambda: (
        datasets.load_diabetes(scaled=False).data, datasets.load_diabetes().target[:, None]
    ),
    "wine": lambda: bundled("wine"),
    "wine, raw": lambda: bundled("wine", raw=True),
    "iris": lambda: bundled("iris"),
    "iris, raw": lambda: bundled("iris", raw=True),
    "breast cancer": lambda: bundled("breast_cancer"),
    "breast cancer, raw": lambda: bundled("breast_cancer", raw=True),
    "digits": lambda: bundled("digits"),
    "digits, raw": lambda: bundled("digits", raw=True),
    "linnerud": lambda: tuple(map(standard, datasets.load_linnerud(return_X_y=True))),
    "linnerud, raw": lambda: datasets.load_linnerud(return_X_y=True),
    "regression": lambda: made("regression", n_features=10, raw=False),
    "regression, raw": lambda: made("regression", n_features=10),
    "regression, three targets": lambda: made("regression", n_targets=3, n_features=50, noise=10.0),
    "regression, few samples": lambda: made("regression", n=40),
    "friedman1": lambda: made("friedman1", noise=0.1),
    "friedman2": lambda: made("friedman2", raw=False),
    "friedman2, raw": lambda: made("friedman2"),
    "friedman3": lambda: made("friedman3", noise=0.1, raw=False),
    "classification": lambda: made(
        "classification", kind="classes", n_features=30, n_informative=10, n_classes=5
    ),
    "moons": lambda: made("moons", kind="classes", noise=0.1),
    "circles": lambda: made("circles", kind="classes", noise=0.1),
    "blobs": lambda: made("blobs", kind="classes", centers=4),
    "swiss roll": lambda: made("swiss_roll"),
    "s curve": lambda: made("s_curve", noise=0.1),
    "gaussian quantiles": lambda: made("gaussian_quantiles", kind="classes"),
    "hastie": lambda: made("hastie_10_2"),
    "sparse uncorrelated": lambda: made("sparse_uncorrelated"),
}  # fmt: skip
#: those whose kernels move most
QUICK = ("diabetes, raw targets", "linnerud, raw", "regression, raw", "friedman1")


def network(X, y, scaling="ntk", depth=2, width=24):
    widths = [X.shape[1], *[width] * depth]
    return of.ReLUNetwork.random(widths, outputs=y.shape[1], scaling=scaling, seed=0)


def descends(name, scaling, depth):
    X, y = SETS[name]()
    run = of.train(network(X, y, scaling, depth), X, y, steps=40)
    assert run.losses[-1] < run.losses[0]
    assert (run.losses <= run.losses[0]).all()


@pytest.mark.parametrize("name, scaling, depth", [*itertools.product(QUICK, SCALINGS, (1, 3))])
def test_default_options_descend(name, scaling, depth):
    descends(name, scaling, depth)


@pytest.mark.thorough
@pytest.mark.parametrize("name, scaling, depth", [*itertools.product(SETS, SCALINGS, DEPTHS)])
def test_default_options_descend_on_thirty_sets(name, scaling, depth):
    assert len(SETS) == 30
    descends(name, scaling, depth)


@st.composite
def runs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 25)), draw(st.sampled_from([1, 3]))
    widths = [draw(st.integers(1, 6)), *draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    net = of.ReLUNetwork.random(
        widths, outputs=k, scaling=draw(st.sampled_from(SCALINGS)), seed=rng, dtype=dtype,
        bias=draw(st.booleans()),
    )  # fmt: skip
    X = 10 ** draw(st.floats(-2, 2)) * rng.standard_normal((n, widths[0]))
    y = 10 ** draw(st.floats(-2, 4)) * rng.standard_normal((n, k))
    method = of.GradientDescent(momentum=draw(st.sampled_from([0.0, 0.5, 0.9])))
    options = {"method": method, "loss": draw(st.sampled_from(["sum", "mean"])),
               "eliminate": draw(st.booleans())}  # fmt: skip
    return net, X.astype(dtype), y.astype(dtype), options


@settings(max_examples=30)
@given(runs())
def test_no_loss_is_above_that_of_the_start(run):
    net, X, y, options = run
    run = of.train(net, X, y, steps=15, **options)
    squares = (y.astype(float) ** 2).sum() * (1 / len(X) if options["loss"] == "mean" else 1)
    rounding = (1e3 * np.finfo(y.dtype).eps) ** 2 * max(run.losses[0], squares / 2)
    assert (run.losses <= max(run.losses[0], rounding)).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_no_step_is_above_the_limit_of_its_kernel(scaling):
    X, y = diabetes()
    net = network(X, y, scaling, width=64)
    sharpness = of.observe.Sharpness(tol=1e-2)
    run = of.train(net, X, y, steps=20, observe=[sharpness])
    tops, sizes = run.observations["sharpness"], np.diff(run.times)
    assert tops.max() > 10 * tops[0]  # what 1/λ_max of the start does not survive
    assert (sizes * tops[:-1] < 2).all()
    assert run.step == pytest.approx(sizes[-1])
    with pytest.raises(of.DivergenceError):
        of.train(net, X, y, steps=40, method=of.GradientDescent(float(sizes.max())), diverge=10)


def test_a_step_that_raises_the_loss_is_taken_back_and_halved():
    X, y = diabetes()
    net = network(X, y, width=64)
    start = of.train(net, X, y, steps=0)
    run = of.train(net, X, y, steps=1)
    halvings = math.log2(start.step / run.times[1])
    assert halvings == round(halvings) >= 1 and run.step == run.times[1]
    assert f"{halvings:.0f} times a step raised the loss, was taken back and halved" in run.note
    assert run.products == start.products + 1 + halvings
    assert run.losses[1] <= run.losses[0]
    plain = of.train(net, X, y, steps=1, method=of.GradientDescent(float(run.times[1])))
    for a, b in zip(run.network.weights, plain.network.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    longer = of.GradientDescent(float(2 * run.times[1]))
    assert of.train(net, X, y, steps=1, method=longer).losses[1] > run.losses[0]


def test_a_kernel_that_hardly_moves_keeps_its_step():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 1))
    net = network(X, y, depth=1, width=2000)
    run = of.train(net, X, y, steps=150)
    given = of.train(net, X, y, steps=150, method=of.GradientDescent(run.step))
    np.testing.assert_array_equal(run.losses, given.losses)
    # a product or two, and the fields, after 1, 2, 4, … steps
    first = of.train(net, X, y, steps=0).products
    assert run.products - given.products - (first - 1) <= 3 * math.log2(150)


def test_the_step_grows_again_with_a_kernel_that_falls():
    X, y = SETS["blobs"]()
    run = of.train(network(X, y, width=32), X, y, steps=60, observe=[of.observe.Sharpness()])
    tops, sizes = run.observations["sharpness"], np.diff(run.times)
    assert tops[-1] < tops[0] / 2
    assert sizes[-1] > 1.5 * sizes[0]


def test_a_kernel_that_moves_out_of_sight_of_its_vector_is_seen():
    """All gates switch: the eigenvector of before has nothing in the range of the new kernel."""
    X = np.array([[1.0], [2.0], [-3.0]])
    K, moved = (
        of.collective_kernel(of.ReLUNetwork([np.array([[w]])], np.ones(1)).fields(X))
        for w in (1.0, -1.0)
    )
    before = of.spectral.largest_eigenvalue(K)
    assert np.abs(moved @ before.vector).max() < 1e-12
    now = of.spectral.largest_eigenvalue(moved, steps=4, start=before.vector)
    assert now.value == pytest.approx(9.0) and before.value == pytest.approx(5.0)


@pytest.mark.parametrize("options", [
    {}, {"method": of.GradientDescent(momentum=0.9)}, {"loss": "mean", "eliminate": True},
    {"method": of.GradientDescent(batch=40, rng=1)}, {"method": of.TruncatedFlow(order=2)},
], ids=["plain", "momentum", "eliminated", "batch", "truncated"])  # fmt: skip
@pytest.mark.parametrize("stop", [1, 2, 9])
def test_a_resumed_run_follows_as_if_it_had_not_stopped(options, stop, tmp_path):
    X, y = diabetes()
    X, y = X[:100], y[:100] / (50 if "truncated" in str(options) else 1)
    net, path = network(X, y, width=64), tmp_path / "run.npz"
    full = of.train(net, X, y, steps=20, **options)
    assert full.losses[-1] < full.losses[0]
    of.train(net, X, y, steps=stop, checkpoint=path, **options)
    run = of.train(net, X, y, steps=20, checkpoint=path, resume=True, **options)
    for name in ("losses", "times", "residual", "products", "note", "step"):
        np.testing.assert_array_equal(getattr(run, name), getattr(full, name), err_msg=name)


@pytest.mark.parametrize("batch", [1, 8, 60])
def test_batches_are_stable_in_mean_square(batch):
    X, y = SETS["hastie"]()
    X, y = X[:60], y[:60]
    net = network(X, y, depth=1, width=64)
    K = of.collective_kernel(net.fields(X)).todense()
    n, b = len(X), batch
    limit = n / (n - 1) * (
        (n - b) / b * K.diagonal().max() + (b - 1) / b * np.linalg.eigvalsh(K)[-1]
    )  # fmt: skip
    method = of.GradientDescent(batch=batch, rng=0)
    assert of.train(net, X, y, steps=0, method=method).step == pytest.approx(1 / limit, rel=0.02)
    run = of.train(net, X, y, steps=20 * n // b, every=10**6, method=method)
    assert run.losses[-1] < 0.7 * run.losses[0]


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_momentum_adds_up_the_noise_of_batches(momentum):
    # x' = x + β (x − x_before) − η (λ + ξ) x is stable in mean square where
    # η (λ / (1 + β) + var ξ / λ / (1 − β)) < 2
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 1))
    net = of.ReLUNetwork.random([3, 8], seed=0)
    K = of.collective_kernel(net.fields(X)).todense()
    top = np.linalg.eigvalsh(K)[-1]
    noise = 15 / (5 * 19) * (20 * K.diagonal().max() - top)
    method = of.GradientDescent(batch=5, momentum=momentum, rng=0)
    first = of.train(net, X, y, steps=0, method=method).step
    assert first == pytest.approx(1 / (top + noise / (1 - momentum)), rel=0.02)
    for seed in range(5):
        method = of.GradientDescent(batch=5, momentum=momentum, rng=seed)
        losses = of.train(net, X, y, steps=60, method=method).losses
        assert losses[-1] < losses[0] and losses.max() < 1.5 * losses[0]


def test_a_given_step_above_the_limit_may_raise_the_loss():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 1))
    net = network(X, y, width=512)
    top = of.spectral.norm(of.collective_kernel(net.fields(X)))
    method = of.GradientDescent(float(7 / top))
    run = of.train(net, X, y, steps=30, method=method)
    assert run.losses.max() > 20 * run.losses[0] > 40 * run.losses[-1]
    with pytest.raises(of.DivergenceError, match="diverged at step"):
        of.train(net, X, y, steps=50, method=method, diverge=10)


def test_divergence_says_what_to_do():
    X, y = diabetes()
    net, method = network(X, y, depth=1), of.GradientDescent(1.0)
    for factor in (2.0, math.inf):
        with pytest.raises(of.DivergenceError) as info:
            of.train(net, X, y, steps=200, method=method, diverge=factor)
        for part in ("loss", "step size 1;", "2/λ_max", "Standardise", "'auto'", "GradientFlow"):
            assert part in str(info.value)
        assert np.isfinite(info.value.trajectory.losses).all()
    assert not math.isfinite(float(str(info.value).split("loss ")[1].split()[0]))


@pytest.mark.parametrize("diverge, error", [
    (0.5, ValueError), (-1.0, ValueError), (math.nan, ValueError), ("no", TypeError),
    (True, TypeError), (None, TypeError),
])  # fmt: skip
def test_diverge_is_checked_before_any_work(diverge, error):
    with pytest.raises(error, match="diverge must be a"):
        of.train(of.ReLUNetwork.random([3, 4]), np.eye(3), np.ones(3), steps=1, diverge=diverge)
