"""JAX, and neural-tangents, which needs a JAX of its time."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.suite.problems import Call, Problem, SetUp, clock


def _jax(p: Problem) -> tuple[Any, ...]:
    import jax

    jax.config.update("jax_enable_x64", True)
    X, v, r = (jax.numpy.asarray(a) for a in (p.X, p.readout, p.r))
    weights = [jax.numpy.asarray(W) for W in p.weights]

    def f(ws: Any, x: Any) -> Any:  # inputs are arguments: XLA would fold constants, slowly
        for W in ws:
            x = jax.nn.relu(x @ W.T)
        return (x @ v.T)[:, 0]

    return jax, f, weights, X, r


def _result(p: Problem, x: Any) -> Any:
    return np.asarray(x) if p.device == "cpu" else x


def jvp_vjp(p: Problem) -> SetUp:
    jax, f, weights, X, r = _jax(p)

    def product(ws: Any, x: Any, s: Any) -> Any:
        def at(ws: Any) -> Any:
            return f(ws, x)

        return jax.jvp(at, (ws,), (jax.vjp(at, ws)[1](s)[0],))[1]

    def block(ws: Any, x: Any, S: Any) -> Any:
        return jax.lax.map(lambda s: product(ws, x, s), S.T, batch_size=p.chunk).T

    def set_up() -> Call:
        if p.columns == 1:
            once = jax.jit(product)
            return lambda: _result(p, once(weights, X, r[:, 0]))[:, None]
        many = jax.jit(block)
        return lambda: _result(p, many(weights, X, r))

    return set_up


def linearize(p: Problem, loop: bool = False) -> SetUp:
    jax, f, weights, X, r = _jax(p)

    def set_up() -> Call:
        def at(ws: Any) -> Any:
            return f(ws, X)

        (linear, push), (nonlinear, pull) = jax.linearize(at, weights), jax.vjp(at, weights)
        jax.block_until_ready((linear, nonlinear))  # it may go on computing behind our back

        def product(s: Any) -> Any:
            return push(pull(s)[0])

        once = jax.jit(product)
        if p.columns == 1:
            return lambda: _result(p, once(r[:, 0]))[:, None]
        if loop:
            return lambda: np.stack([np.asarray(once(s)) for s in r.T], axis=1)
        many = jax.jit(lambda S: jax.lax.map(product, S.T, batch_size=p.chunk).T)
        return lambda: _result(p, many(r))

    return set_up


def steps(p: Problem) -> SetUp:
    jax, f, weights, X, _ = _jax(p)
    y, state = jax.numpy.asarray(p.y), [weights]
    loss = jax.value_and_grad(lambda ws, x, y: 0.5 * ((f(ws, x) - y) ** 2).sum())

    def update(ws: Any, x: Any, y: Any) -> Any:
        value, gradient = loss(ws, x, y)
        return value, [W - p.step * g for W, g in zip(ws, gradient, strict=True)]

    def set_up() -> Call:
        once = jax.jit(update)

        def call(count: int) -> Any:
            seconds = []
            for _ in range(count):
                start = clock()
                _, state[0] = jax.block_until_ready(once(state[0], X, y))
                seconds.append(clock() - start)
            return _result(p, f(state[0], X)), seconds

        return call

    return set_up


def _neural_tangents(p: Problem) -> tuple[Any, ...]:
    import jax
    import neural_tangents

    jax.config.update("jax_enable_x64", True)
    v = jax.numpy.asarray(p.readout.T.copy())
    # stored (n_in, n_out): transposed weights cost its dense kernels a factor of two hundred
    weights = [jax.numpy.asarray(W.T.copy()) for W in p.weights]

    def f(ws: Any, x: Any) -> Any:
        for W in ws:
            x = jax.nn.relu(x @ W)
        return x @ v

    return jax, neural_tangents, f, weights, jax.numpy.asarray(p.X)


def neural_tangents_product(p: Problem) -> SetUp:
    jax, nt, f, weights, X = _neural_tangents(p)
    r = jax.numpy.asarray(p.r)

    def set_up() -> Call:
        once = jax.jit(lambda ws, x, s: nt.empirical_ntk_vp_fn(f, x, None, ws)(s[:, None])[:, 0])
        return lambda: np.stack([np.asarray(once(weights, X, s)) for s in r.T], axis=1)

    return set_up


def neural_tangents_dense(p: Problem) -> SetUp:
    jax, nt, f, weights, X = _neural_tangents(p)

    def set_up() -> Call:
        kernel = nt.empirical_ntk_fn(f, trace_axes=(-1,), vmap_axes=0, implementation=3)
        form = jax.jit(lambda ws, x: kernel(x, None, ws))
        return lambda: np.asarray(form(weights, X))

    return set_up
