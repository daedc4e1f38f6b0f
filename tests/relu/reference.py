"""Networks drawn by Hypothesis, and their Jacobian by the chain rule, sample by sample."""

import itertools

import numpy as np
from hypothesis import strategies as st

import opflow as of

#: of ReLU, PyTorch's leaky units, others, linear ones and the absolute value
SLOPES = [0.0, 0.01, 0.3, 1.0, -1.0]


@st.composite
def problems(draw, dtype=np.float64, max_depth=4, max_outputs=4):
    """(network, X): depths, widths, outputs, biases, rates, dead units, gates in common.

    Half of the networks are ReLU alone, half have leaky, linear and absolute units; the readout is
    fixed or trained, with a bias or without.
    """
    depth = draw(st.integers(1, max_depth))
    widths = draw(st.lists(st.integers(1, 6), min_size=depth + 1, max_size=depth + 1))
    outputs = draw(st.integers(1, max_outputs))
    samples = draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = [rng.standard_normal((n, m)).astype(dtype) for m, n in itertools.pairwise(widths)]
    if draw(st.booleans()):
        for W in weights:
            W[0] *= rng.random() < 0.7  # else a dead unit
    share = draw(st.sampled_from([1.0, 0.5, 0.0]))  # of layers with a bias
    biases = [
        rng.standard_normal(n).astype(dtype) if rng.random() < share else None for n in widths[1:]
    ]
    rates = list(rng.uniform(0.1, 3.0, depth)) if draw(st.booleans()) else None
    readout = rng.standard_normal((outputs, widths[-1])).astype(dtype)
    slope = rng.choice(SLOPES, depth) if draw(st.booleans()) else 0.0
    readout_rate = draw(st.sampled_from([None, None, 0.7]))
    output_bias = rng.standard_normal(outputs).astype(dtype) if draw(st.booleans()) else None
    X = rng.standard_normal((samples, widths[0])).astype(dtype)
    if samples > 1 and draw(st.booleans()):
        X[-1] = X[0] * draw(st.sampled_from([1, 2]))  # without biases, 2 keeps every gate
    return of.ReLUNetwork(
        weights, readout, biases=biases, rates=rates, slope=slope, readout_rate=readout_rate,
        output_bias=output_bias,
    ), X  # fmt: skip


def trained(depth, outputs):
    """:func:`rich` with mixed units, and a readout and an output bias that are trained."""
    return rich(
        depth, outputs, slope=(SLOPES[1:] * 2)[:depth], readout_rate=0.6,
        output_bias=np.linspace(0.2, 0.5, outputs),
    )  # fmt: skip


def rich(depth, outputs, samples=6, width=5, **options):
    """(network, X) with biases, rates, open gates in every layer and two equal samples."""
    rng = np.random.default_rng(10 * depth + outputs)
    widths = [4, *[width] * depth]
    net = of.ReLUNetwork(
        [rng.standard_normal((n, m)) for m, n in itertools.pairwise(widths)],
        rng.standard_normal((outputs, width)),
        biases=[rng.uniform(0.1, 1.0, n) for n in widths[1:]],
        rates=rng.uniform(0.3, 2.0, depth),
        **options,
    )
    X = rng.standard_normal((samples, 4))
    X[-1] = X[0]
    return net, X


def chain_rule_jacobian(network, X, rates=True):
    """∂f/∂(W¹, b¹, …), one sample and one output at a time, columns scaled by √rate."""
    rows = []
    for x in X.astype(np.float64):
        a, gates = [x], []
        for W, b, slope in zip(network.weights, network.biases, network.slopes, strict=True):
            h = W.astype(np.float64) @ a[-1] + (0 if b is None else b)
            gates.append(np.where(h > 0, 1, slope))
            a.append(gates[-1] * h)
        for p, v in enumerate(network.readout.astype(np.float64)):
            slopes, psi = [], v
            if network.readout_rate is not None:
                scale = network.readout_rate**0.5 if rates else 1.0
                own = np.eye(network.outputs)[p]
                parts = [np.outer(own, a[-1]).ravel()]
                if network.output_bias is not None:
                    parts.append(own)
                slopes.append(scale * np.concatenate(parts))
            for i in reversed(range(network.depth)):
                phi = psi * gates[i]
                scale = network.rates[i] ** 0.5 if rates else 1.0
                parts = [np.outer(phi, a[i]).ravel()]
                if network.biases[i] is not None:
                    parts.append(phi)
                slopes.append(scale * np.concatenate(parts))
                psi = network.weights[i].astype(np.float64).T @ phi
            rows.append(np.concatenate(slopes[::-1]))
    return np.array(rows)
