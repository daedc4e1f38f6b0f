"""`rng`, `seed` and `progress`: the same in every public function that has them."""

import inspect
import io
import sys

import numpy as np
import pytest

import opflow as of
import opflow.plot
from opflow.interface.keywords import product_bar

F = np.random.default_rng(0).standard_normal((40, 5))
K = of.Gram(F) + of.Identity(40)


def random_functions():
    found = {}
    modules = (of, of.spectral, opflow.plot, of.observe) if hasattr(of, "observe") else (of,)
    for module in modules:
        for name in module.__all__:
            item = getattr(module, name)
            methods = [getattr(item, "random", None)] if inspect.isclass(item) else []
            for function in (item, *methods):
                try:
                    names = inspect.signature(function).parameters
                except (TypeError, ValueError):
                    continue
                if {"rng", "seed"} & set(names):
                    found[f"{module.__name__}.{getattr(function, '__qualname__', name)}"] = function
    return found


RANDOM = random_functions()


def test_what_draws_is_found():
    assert len(RANDOM) >= 26
    for name in ("eigsh", "density", "solve", "nystrom", "ReLUNetwork.random", "GradientDescent"):
        assert any(key.endswith(name) for key in RANDOM), name


@pytest.mark.parametrize("name", RANDOM)
def test_randomness_has_both_names_and_one_value(name):
    function = RANDOM[name]
    parameters = inspect.signature(function).parameters
    assert parameters["rng"].default == parameters["seed"].default
    required = [
        K
        for p in parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
    ]
    with pytest.raises(TypeError, match="rng and seed are two names of one argument"):
        function(*required, rng=1, seed=1)


class Terminal(io.StringIO):
    """Standard error where bars are drawn at once."""

    def isatty(self):
        return True

    def shown(self):
        text = self.getvalue()
        self.truncate(0)
        return text


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal, in a test: before it begins, it would be undone."""

    def make():
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


CALLS = {
    "eigsh": lambda **k: of.spectral.eigsh(K, 3, method="lanczos", **k).eigenvectors,
    "density": lambda **k: of.spectral.density(K, how="estimate", **k)([1.0, 5.0]),
    "logdet": lambda **k: of.spectral.logdet(K, 1.0, how="estimate", steps=3, **k),
    "solve": lambda **k: of.spectral.solve(K, F[:, 0], 1.0, preconditioner="nystrom", **k).x,
    "svds": lambda **k: of.spectral.svds(K, 2, **k).left,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_seed_is_an_rng_and_progress_changes_no_bit(name, terminal):
    call = CALLS[name]
    err = terminal()
    expected = np.asarray(call(rng=3))
    assert np.array_equal(np.asarray(call(seed=3)), expected)
    assert np.array_equal(np.asarray(call(seed=np.random.default_rng(3))), expected)
    assert err.shown() == ""
    assert np.array_equal(np.asarray(call(seed=3, progress=True)), expected)
    assert "products" in err.shown()


def test_networks_and_runs_take_both_names():
    one, other = of.ReLUNetwork.random([3, 4], rng=5), of.ReLUNetwork.random([3, 4], seed=5)
    assert one.digest() == other.digest()
    assert of.GradientDescent(batch=2, seed=4) == of.GradientDescent(batch=2, rng=4)


def test_a_bar_counts_the_products_that_the_result_tells_of(terminal):
    err = terminal()
    with product_bar("pairs", mininterval=0):
        pairs = of.spectral.eigsh(K, 3, method="lanczos")
    assert f"{pairs.products} products" in err.shown()


def test_a_bar_says_how_many_products_there_will_be(terminal):
    err = terminal()
    of.spectral.density(K, how="estimate", probes=4, steps=5, progress=True)
    assert "20/20" in err.shown()
    of.spectral.logdet(K, 1.0, how="exact", progress=True)
    assert "LAPACK, order 40" in err.shown()
