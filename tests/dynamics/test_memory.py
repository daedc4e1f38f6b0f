"""What a run holds stays within `memory`, or the run says what it needs and does not begin."""

import contextlib
import re
import tracemalloc

import numpy as np
import pylops
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import opflow as of
from tests import examples
from tests.dynamics.test_routes import Rows, linear

METHODS = {
    "descent": of.GradientDescent(),
    "given step": of.GradientDescent(step=1e-4),
    "momentum": of.GradientDescent(step=1e-4, momentum=0.9),
    "accumulated": of.GradientDescent(step=1e-4, accumulate="float64"),
    "batches": of.GradientDescent(step=1e-5, batch=8, rng=0),
    "exponential": of.ExponentialFlow(),
    "flow": of.GradientFlow(),
    "linearised": of.LinearisedFlow(),
    "Gauss-Newton": of.GaussNewton(products=4),
}


def sparse(rows, columns, dtype):
    return sp.random_array((rows, columns), density=2 / columns, dtype=dtype, rng=0)


MEASUREMENTS = {
    "dense": lambda *shape: np.ones(shape[:2], shape[2]) / shape[1],
    "sparse": lambda *shape: sparse(*shape).tocsr(),
    "pylops": lambda *shape: pylops.MatrixMult(sparse(*shape).tocsr(), dtype=shape[2]),
}


@st.composite
def runs(draw):
    """(network, X, y, options) of a run of a few steps."""
    n = draw(st.integers(20, 1500))
    widths = [draw(st.integers(1, 200))]
    widths += draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    k = draw(st.sampled_from([1, 3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    network = of.ReLUNetwork.random(widths, outputs=k, seed=rng, dtype=dtype,
                                    bias=draw(st.booleans()))  # fmt: skip
    X = rng.standard_normal((n, widths[0])).astype(dtype)
    y = rng.standard_normal((n, k)).astype(dtype)
    name = draw(st.sampled_from(list(METHODS)))
    options = {"method": METHODS[name], "loss": "mean"}
    measured = draw(st.sampled_from([None, *MEASUREMENTS]))
    if measured is not None and name != "batches":
        rows = draw(st.integers(1, 4000))
        options["measurement"] = MEASUREMENTS[measured](rows, n * k, dtype)
        y = rng.standard_normal(rows).astype(dtype)
    kind = draw(st.sampled_from(["array", "rows", "sparse", "operator", "gram"]))
    if name == "batches":
        kind = draw(st.sampled_from(["array", "rows"]))
    elif kind == "gram":
        options["gram"] = linear
    else:
        options["eliminate"] = draw(st.sampled_from([None, True, False]))
    X = {"rows": Rows, "sparse": sp.csr_array, "operator": of.as_operator}.get(kind, lambda a: a)(X)
    return network, X, y, options


def peak_of(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is imported on first use is no memory of a run."""
    X = np.random.default_rng(0).standard_normal((20, 3))
    network = of.ReLUNetwork.random([3, 4, 4], seed=0)
    for method in METHODS.values():
        for data in (X, sp.csr_array(X)) if method.__class__ is not of.GradientDescent else (X,):
            of.train(network, data, np.ones(20), steps=1, method=method)


@settings(max_examples=examples(40))
@given(runs(), st.floats(1.0, 30.0))
def test_the_peak_stays_within_the_budget(run, factor):
    network, X, y, options = run
    try:
        of.train(network, X, y, steps=2, memory=1000, **options)
        raise AssertionError("1 kB cannot suffice")
    except MemoryError as error:
        least = int(re.search(r"memory=(\d+) would do", str(error))[1])
    budget = int(least * factor)

    def train():
        with contextlib.suppress(of.DivergenceError):
            of.train(network, X, y, steps=2, memory=budget, **options)

    peak = peak_of(train)
    assert peak <= budget, f"{peak:,} of {budget:,} (least {least:,})"


@pytest.mark.parametrize(
    ("n", "widths", "options"),
    [
        (20, [3000, 300], {"eliminate": False}),  # weights
        (1500, [10, 200], {"eliminate": True}),  # h¹ and C
        (20, [30, 700, 700], {"eliminate": True}),  # weights above
        (60_000, [4, 4], {"eliminate": False}),  # residuals and the basis of Lanczos
        (20, [3000, 300], {"eliminate": False, "method": of.GradientDescent(1e-4, momentum=0.9)}),
        (20, [3000, 300], {"eliminate": False, "method": of.GradientFlow()}),
        (20, [3000, 300], {"eliminate": False, "method": of.GaussNewton()}),  # among samples
        (6000, [300, 300], {"eliminate": False, "method": of.GaussNewton()}),  # among parameters
        (20, [3000, 30], {"method": of.ExactFlow()}),  # series of weights
        (1500, [10, 200], {"method": of.ExactFlow()}),  # and of fields
        (20, [5, 5], {"measurement": MEASUREMENTS["sparse"](200_000, 20, float)}),
        # the signs that estimate the diagonal of (G J)ᵀ G J
        (500, [200, 200], {"measurement": MEASUREMENTS["sparse"](2600, 500, float),
                           "method": of.GaussNewton(products=2)}),
        (4000, [400, 1, 20, 1], {"eliminate": False, "X": sp.csr_array}),  # rows of a sparse X
        (200_000, [3, 3], {"method": of.GradientDescent(1e-4), "objective": "cross-entropy"}),
        (20, [5, 5], {"measurement": MEASUREMENTS["sparse"](200_000, 20, float),
                      "method": of.GradientDescent(1e-4), "objective": "cross-entropy"}),
    ],
)  # fmt: skip
def test_whatever_dominates_is_counted(n, widths, options):
    options = options.copy()
    rng = np.random.default_rng(0)
    X = options.pop("X", np.asarray)(rng.standard_normal((n, widths[0])))
    y = rng.standard_normal(options["measurement"].shape[0] if "measurement" in options else n)
    if options.get("objective") == "cross-entropy":
        y = (y > 0).astype(float)
    network = of.ReLUNetwork.random(widths, seed=0)

    def train(memory):
        return of.train(network, X, y, steps=3, loss="mean", memory=memory, **options)

    with pytest.raises(MemoryError) as info:
        train(1000)
    least = int(re.search(r"memory=(\d+) would do", str(info.value))[1])
    peak = peak_of(lambda: train(least))
    assert 0.3 * least <= peak <= least, f"{peak:,} of {least:,}"


def test_what_a_product_of_the_measurement_holds_on_the_way_is_counted():
    wide = 500_000
    G = of.as_operator(sp.csr_array(np.ones((1, wide)))) @ sparse(wide, 20, float).tocsr()
    network, X = of.ReLUNetwork.random([5, 5], seed=0), np.eye(20, 5)

    def train(memory):
        return of.train(network, X, np.ones(1), steps=3, memory=memory, measurement=G)

    with pytest.raises(MemoryError) as info:
        train(2**21)  # suffices without
    least = int(re.search(r"memory=(\d+) would do", str(info.value))[1])
    assert peak_of(lambda: train(least)) <= least


def test_a_refused_run_allocates_nothing():
    X = np.zeros((100_000, 20))
    network = of.ReLUNetwork.random([20, 400], seed=0)

    def train():
        with pytest.raises(MemoryError, match="would do"):
            of.train(network, X, np.ones(100_000), steps=1, memory="1MB")

    assert peak_of(train) < 8 * 2**20  # the checks of X in row blocks


@pytest.mark.thorough
@pytest.mark.parametrize("method", [of.TruncatedFlow(order=2), of.GradientDescent()])
def test_fields_that_are_held_whole_are_counted(method):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4000, 20)), rng.standard_normal((4000, 3))
    network = of.ReLUNetwork.random([20, 100, 60, 30], outputs=3, seed=0)
    if isinstance(method, of.GradientDescent):  # the fields of an operator are always cached
        X = of.as_operator(X)
    with pytest.raises(MemoryError) as refused:
        of.train(network, X, y, steps=2, method=method, memory=1)
    need = int(re.search(r"memory=(\d+)", str(refused.value))[1])
    run = lambda: of.train(network, X, y, steps=2, method=method, memory=need)  # noqa: E731
    assert peak_of(run) <= need
