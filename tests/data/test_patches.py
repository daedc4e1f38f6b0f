"""Patches as rows: against slices, against convolutions by torch, and in little memory."""

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

import opflow as of
from tests import examples

pytestmark = pytest.mark.filterwarnings("ignore:.*such data train badly:UserWarning")


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@st.composite
def cases(draw):
    """Images, the size of a patch and a stride."""
    count, height, width = (draw(st.integers(1, most)) for most in (3, 7, 7))
    channels = draw(st.sampled_from([(), (1,), (2,), (3,)]))
    size = draw(st.integers(1, min(3, height, width)))
    images = drawn((count, height, width, *channels), draw(st.integers(0, 2**32 - 1)))
    return images, size, draw(st.integers(1, 3))


def slices(images, size, stride):
    """All patches by slicing, one after the other."""
    height, width = images.shape[1:3]
    return np.array([
        image[y : y + size, x : x + size].ravel()
        for image in images
        for y in range(0, height - size + 1, stride)
        for x in range(0, width - size + 1, stride)
    ])  # fmt: skip


@settings(max_examples=examples(40))
@given(case=cases(), seed=st.integers(0, 99))
@example(case=(drawn((2, 5, 4, 3)), 2, 1), seed=0)
def test_rows_are_slices_of_the_images(case, seed):
    X, rows = of.patches(*case), slices(*case)
    n = len(rows)
    assert (X.shape, X.dtype) == (rows.shape, rows.dtype)
    assert (X.dims[0], np.prod(X.dims)) == (len(case[0]), n)
    some = np.random.default_rng(seed).integers(0, n, 5)
    for index in (slice(None), slice(n // 2, None), slice(None, None, -2), n - 1, some, some[:0]):
        np.testing.assert_array_equal(X[index], rows[index])
    operator = of.RowMatrix(X)
    np.testing.assert_allclose(operator.T @ (operator @ np.eye(rows.shape[1])), rows.T @ rows,
                               atol=1e-13 * n)  # fmt: skip


def test_images_stay_where_they_are(tmp_path):
    images = drawn((4, 9, 8, 3)).astype(np.float32)
    X = of.patches(images, 3, 2)
    assert np.shares_memory(X.images, images)
    assert X.dtype == np.float32
    assert len(pickle.dumps(X)) < images.nbytes + 1000
    assert pickle.loads(pickle.dumps(X))[5].tobytes() == X[5].tobytes()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    on_disk = of.patches(mapped, 3, 2)
    assert np.shares_memory(on_disk.images, mapped)
    assert on_disk[:].tobytes() == X[:].tobytes()
    by_channel = np.ascontiguousarray(images.transpose(0, 3, 1, 2))  # as torch holds them
    assert of.patches(by_channel.transpose(0, 2, 3, 1), 3, 2)[:].tobytes() == X[:].tobytes()
    assert repr(X) == "<Patches 48x27 float32 of 4 images, 4x3 of each>"


@pytest.mark.parametrize(
    ("images", "size", "stride", "error", "message"),
    [
        (np.ones((8, 8)), 3, 1, ValueError, r"images must be \(images, height, width\).*\(8, 8\)"),
        (np.ones((1,) * 5), 1, 1, ValueError, "images must be"),
        (np.ones((2, 8, 8), complex), 3, 1, TypeError, "images must be float32 or float64"),
        (np.ones((2, 8, 6)), 7, 1, ValueError, "size must be between 1 and 6, not 7"),
        (np.ones((2, 8, 6)), 0, 1, ValueError, "size must be between 1 and 6, not 0"),
        (np.ones((2, 8, 6)), 2.0, 1, TypeError, r"size must be an integer, not 2\.0"),
        (np.ones((2, 8, 6)), 2, 1.5, TypeError, r"stride must be an integer, not 1\.5"),
        (np.ones((2, 8, 6)), 2, 0, ValueError, "stride must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(images, size, stride, error, message):
    with pytest.raises(error, match=message):
        of.patches(images, size, stride)


# -- a convolutional network ------------------------------------------------------------------


def averaging(length, pool):
    """AvgPool1d as a matrix; what remains at the end is left out."""
    return np.kron(np.eye(length // pool), np.full(pool, 1 / pool)) @ np.eye(
        length // pool * pool, length
    )


@settings(max_examples=examples(30))
@given(case=cases(), bias=st.booleans(), pool=st.integers(1, 3), form=st.sampled_from("sl"),
       scaling=st.sampled_from(["ntk", "standard"]))  # fmt: skip
@example(case=(drawn((2, 6, 5, 3)), 2, 1), bias=True, pool=2, form="l", scaling="ntk")
def test_kernel_and_steps_are_those_of_a_convolution_by_torch(case, bias, pool, form, scaling):
    torch = pytest.importorskip("torch")
    images, size, stride = case
    X = of.patches(*case)
    count, height, width = X.dims
    pool = min(pool, height, width)
    n, k, channels = 4, 2, X.shape[1] // size**2
    net = of.ReLUNetwork.random([X.shape[1], n], outputs=n, bias=bias, scaling=scaling, seed=1)
    net = of.ReLUNetwork(net.weights, np.eye(n), biases=net.biases, rates=net.rates)
    regions = np.kron(averaging(height, pool), averaging(width, pool))
    fixed = drawn((k, n, len(regions))) / n**0.5
    each = np.einsum("knq,qp->kpn", fixed, regions).reshape(k, -1)
    G = of.SampleLift(each, count) if form == "l" else sp.kron(sp.eye_array(count), each)
    d = drawn(count * k, 2)

    conv = torch.nn.Conv2d(channels, n, size, stride, bias=bias, dtype=torch.float64)
    to_torch = {0: net.weights[0].reshape(n, size, size, channels).transpose(0, 3, 1, 2)}
    if bias:
        to_torch[1] = net.biases[0]
    for p, values in zip(conv.parameters(), to_torch.values(), strict=True):
        p.data = torch.tensor(values)
    linear = torch.nn.Linear(fixed[0].size, k, bias=False, dtype=torch.float64)
    linear.weight.data = torch.tensor(fixed.reshape(k, -1))
    model = torch.nn.Sequential(
        conv, torch.nn.ReLU(), torch.nn.AvgPool2d(pool), torch.nn.Flatten(), linear
    )
    seen = torch.tensor(images.reshape(*images.shape[:3], channels).transpose(0, 3, 1, 2).copy())
    targets, own = torch.tensor(d), list(conv.parameters())

    outputs = model(seen).reshape(-1)
    rows = [torch.autograd.grad(f, own, retain_graph=True) for f in outputs]
    rate = net.rates[0]
    J = np.array([np.concatenate([g.numpy().ravel() for g in row]) for row in rows])
    exact = rate * J @ J.T
    top = np.linalg.eigvalsh(exact)[-1]
    K = of.measured_kernel(net.fields(X), G)
    np.testing.assert_allclose(K.todense(), exact, atol=1e-10 * top)

    step, losses = 0.1 / max(top, 33.0), []
    for _ in range(101):
        loss = 0.5 * ((model(seen).reshape(-1) - targets) ** 2).sum()
        losses.append(loss.item())
        for p, g in zip(own, torch.autograd.grad(loss, own), strict=True):
            if len(losses) <= 100:
                p.data -= step * rate * g
    run = of.train(net, X, d, measurement=G, steps=100, method=of.GradientDescent(step))
    np.testing.assert_allclose(run.losses, losses, rtol=1e-10, atol=1e-10 * losses[0])
    weights = run.network.weights[0].reshape(n, size, size, channels).transpose(0, 3, 1, 2)
    moved = conv.weight.detach().numpy()
    np.testing.assert_allclose(weights, moved, atol=1e-10 * abs(moved).max())
    if bias:
        np.testing.assert_allclose(run.network.biases[0], conv.bias.detach(), atol=1e-10)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_step_holds_a_small_part_of_the_unfolded_patches(mapped, tmp_path):
    images = drawn((40, 64, 64, 3)).astype(np.float32)
    if mapped:
        np.save(tmp_path / "images.npy", images)
        images = np.load(tmp_path / "images.npy", mmap_mode="r")
    X = of.patches(images, 7)
    unfolded = X.shape[0] * X.shape[1] * X.dtype.itemsize
    pool = np.full((1, 58 * 58), 1 / 58**2, np.float32)
    net = of.ReLUNetwork.random([X.shape[1], 8], seed=0, dtype=np.float32)
    how = {"measurement": of.SampleLift(pool, 40), "method": of.GradientDescent(0.1)}
    y = drawn(40).astype(np.float32)
    of.train(net, X, y, steps=0, memory="16MB", **how)  # imports
    tracemalloc.start()
    try:
        run = of.train(net, X, y, steps=2, memory="16MB", **how)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert unfolded > 75e6
    assert peak < min(16e6, unfolded / 5), f"{peak:,} of {unfolded:,}"
    assert run.losses[-1] < run.losses[0]


def test_routes_methods_and_batches_take_patches_as_they_take_a_matrix():
    images = drawn((6, 5, 5, 2))
    X = of.patches(images, 2, 1)
    net = of.ReLUNetwork.random([8, 12], outputs=2, bias=True, seed=0)
    G = of.FeatureLift(sp.kron(sp.eye_array(6), np.full((1, 16), 1 / 16)), 2)
    for options in (
        {"measurement": G, "method": of.GaussNewton()},
        {"measurement": G, "method": of.LinearisedFlow(), "memory": "20MB"},
        {"measurement": G, "eliminate": True},
        {"method": of.GradientDescent(1e-3, batch=7, rng=0)},
    ):
        y = drawn((12 if "measurement" in options else 96 * 2,)).reshape(-1, 2)
        y = y.ravel() if "measurement" in options else y
        runs = [of.train(net, data, y, steps=5, **options) for data in (X, X[:])]
        np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-11)
        assert runs[0].losses[-1] < runs[0].losses[0]
