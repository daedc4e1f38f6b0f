"""The exact flow: against closed forms, descent of tiny steps, DOP853, and its own record."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq

import opflow as of
from opflow.dynamics.methods.exact.crossings import first_zero
from opflow.dynamics.methods.exact.gates import Gates
from opflow.dynamics.methods.exact_flow import WORK


def one_unit(w, slope=0.0):
    return of.ReLUNetwork([np.array([w], dtype=float)], np.array([[1.0]]), slope=slope)


def problem(seed, n, widths, outputs=1, size=1.0, **options):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, widths[0]))
    y = size * rng.standard_normal((n, outputs))
    return of.ReLUNetwork.random(widths, outputs=outputs, seed=seed, **options), X, y


def rate(net, X):
    """λ_max(K) of the start."""
    return np.linalg.eigvalsh(of.collective_kernel(net.fields(X)).todense())[-1]


def parameters(run):
    return np.concatenate([p.ravel() for p in run.network.parameter_list()])


# -- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.25, -0.5])
def test_one_sample_crosses_zero_when_the_formula_says(slope):
    run = of.train(one_unit([1.0], slope), [[2.0]], [-1.0], method=of.ExactFlow(), until=1.5)
    crossing = np.log(3.0) / 4  # h = 3 exp(−4t) − 1
    np.testing.assert_allclose(run.events["time"], [crossing], rtol=1e-13)
    assert run.events["kind"].tolist() == ["off" if slope >= 0 else "slide in"]
    h = 0.0
    if slope > 0:  # dh/dt = −4 s (s h + 1)
        h = -(1 - np.exp(-4 * slope**2 * (1.5 - crossing))) / slope
    np.testing.assert_allclose(2 * run.network.weights[0][0, 0], h, atol=1e-12)


def test_two_samples_push_against_each_other_and_one_slides():
    X = np.array([[1.0, 0.0], [1.0, 1.0]])
    y = np.array([-1.0, 5.0])
    until = 6.0
    run = of.train(one_unit([1.0, 0.0]), X, y, method=of.ExactFlow(), until=until)
    G = X @ X.T
    start = np.array([1.0, 1.0])

    def h(t):
        return y + expm(-t * G) @ (start - y)

    slide = brentq(lambda t: h(t)[0], 2.0, 4.0, xtol=1e-15)
    np.testing.assert_allclose(run.events["time"], [slide], rtol=1e-13)
    assert run.events[["layer", "unit", "sample", "kind"]].tolist() == [(0, 0, 0, "slide in")]
    # w_1 = 0 from there on, and w_2 goes to 5
    w = [0.0, 5 - (5 - h(slide)[1]) * np.exp(-(until - slide))]
    np.testing.assert_allclose(run.network.weights[0][0], w, atol=1e-12)


def test_a_sliding_pair_leaves_when_its_gate_reaches_an_end():
    # While sample 0 slides, w_1 = 0 and r_0 = 1, and its gate is r_2 − r_1, of rates 4 and 1.
    X = np.array([[1.0, 0, 0], [1.0, 1.0, 0], [-1.0, 0, 2.0]])
    y = np.array([-1.0, 0.55, 0.75])
    w = np.array([0.05, 1.0, 1.0])
    run = of.train(one_unit(w), X, y, method=of.ExactFlow(), until=2.0)
    assert run.events["kind"].tolist() == ["slide in", "slide out"]
    enter, leave = run.events["time"]
    r = expm(-enter * X @ X.T) @ (X @ w - y)
    np.testing.assert_allclose(r[0], 1.0, rtol=1e-12)
    np.testing.assert_allclose(leave - enter, np.log(r[2] / r[1]) / 3, rtol=1e-12)
    assert run.network.weights[0][0, 0] < 0


def test_where_the_flow_is_not_unique_gates_stay_closed_and_the_note_says_so():
    net = one_unit([0.0, 1.0])  # sample 0 is at zero, and wants to be where it would be open
    run = of.train(net, np.eye(2), [1.0, 1.0], method=of.ExactFlow(), until=1.0)
    assert len(run.events) == 0 and "1 closed at will" in run.note
    np.testing.assert_array_equal(run.network.weights[0], [[0.0, 1.0]])


def test_a_unit_that_loses_all_weights_stays_closed():
    X = np.array([[1.0], [-1.0]])
    run = of.train(one_unit([1.0]), X, [-1.0, -1.0], method=of.ExactFlow(), until=9.0)
    np.testing.assert_allclose(run.network.weights[0], 0, atol=1e-15)


def test_a_unit_passes_zero_where_both_sides_drive_it_the_same_way():
    X = np.array([[1.0], [-1.0]])
    run = of.train(one_unit([1.0]), X, [-1.0, 1.0], method=of.ExactFlow(), until=9.0)
    crossing = np.log(2.0)  # w = 2 exp(−t) − 1, then exp(−(t − log 2)) − 1
    np.testing.assert_allclose(run.events["time"], 2 * [crossing], rtol=1e-12)
    w = np.exp(crossing - 9.0) - 1
    np.testing.assert_allclose(run.network.weights[0], w, rtol=1e-12)


def test_a_pre_activation_that_decays_does_not_reach_zero():
    for until in (10.0, 30.0, 300.0):
        run = of.train(one_unit([1.0, 1.0]), np.eye(2), [0.0, 1.0], method=of.ExactFlow(),
                       until=until)  # fmt: skip
        np.testing.assert_allclose(run.network.weights[0], [[np.exp(-until), 1.0]], atol=1e-13)
        assert (run.events["time"] > 25).all()  # below rounding, a sign may change


def test_a_readout_and_weights_that_start_at_zero():
    X = np.array([[1.0], [2.0]])
    net = of.ReLUNetwork([np.zeros((1, 1))], np.ones((1, 1)), slope=1.0)
    run = of.train(net, X, [1.0, 2.0], method=of.ExactFlow(), until=1.0)
    np.testing.assert_allclose(run.network.weights[0], 1 - np.exp(-5.0), rtol=1e-11)
    net = of.ReLUNetwork([np.ones((1, 1))], np.zeros((1, 1)), readout_rate=1.0)
    run = of.train(net, [[1.0]], [1.0], method=of.ExactFlow(), until=1.0)
    f = solve_ivp(lambda _, wv: (1 - wv[0] * wv[1]) * wv[::-1], (0, 1), [1.0, 0.0],
                  rtol=1e-12, atol=1e-14).y[:, -1].prod()  # fmt: skip
    np.testing.assert_allclose(run.network([[1.0]]), f, rtol=1e-9)


def test_a_unit_that_lost_its_weights_on_the_way_does_not_end_a_run():
    net, X, y = problem(0, 20, [2, 6])
    until = 20 / rate(net, X)
    run = of.train(net, X, y, method=of.ExactFlow(), until=until)
    assert "closed at will" in run.note and run.times[-1] == until


@pytest.mark.parametrize("seed", [5, 26, 36])
def test_samples_on_which_biases_alone_are_read(seed):
    net, X, y = problem(seed, 9, [1, 3, 7], bias=True)
    X = np.round(X)
    y *= 2
    until = 10 / rate(net, X)
    run = of.train(net, X, y, method=of.ExactFlow(), until=until)
    assert run.times[-1] == until


# -- the search -------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_the_first_zero_is_that_of_numpy(seed):
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((rng.integers(2, 9), rng.integers(1, 6)))
    c[0] = abs(c[0])
    roots = [np.roots(column[::-1]) for column in c.T]
    real = [r[(abs(r.imag) < 1e-12) & (r.real > 0) & (r.real < 1.0)].real for r in roots]
    first = min((r.min() for r in real if len(r)), default=np.inf)
    time, which = first_zero(c, 1.0)
    np.testing.assert_allclose(time, first, rtol=1e-9)
    assert which.sum() == np.isfinite(first)


def test_a_zero_that_is_touched_or_nearly_missed():
    touched = np.array([[0.25], [-1.0], [1.0]])  # (t − ½)²
    above = np.array([[1e-14], [0.0], [0.0]])
    assert abs(first_zero(touched, 1.0)[0] - 0.5) < 1e-7
    assert first_zero(touched + above, 1.0)[0] == np.inf
    below = first_zero(touched - above, 1.0)[0]
    np.testing.assert_allclose(below, 0.5 - 1e-7, rtol=1e-7)


# -- runs against others ----------------------------------------------------------------------

NETS = {
    "one layer": (20, [3, 16], {}),
    "many outputs": (20, [4, 12], {"outputs": 3}),
    "biases": (20, [3, 16], {"bias": True}),
    "leaky": (20, [3, 16], {"slope": 0.3}),
    "absolute value": (12, [3, 10], {"slope": -1.0}),
    "two layers": (12, [3, 8, 8], {}),
    "two layers, biases": (12, [3, 8, 8], {"bias": True}),
    "trained readout": (20, [3, 8, 8], {"readout_rate": 1.0, "bias": True}),
    "three layers": (10, [3, 6, 6, 6], {}),
    "three layers, a tie of two": (10, [3, 6, 6, 6], {"bias": True}),
    "three layers, one frozen": (12, [3, 8, 8, 8], {"bias": True}),
}


@pytest.mark.parametrize("name", NETS)
def test_descent_comes_to_it_at_first_order(name):
    n, widths, options = NETS[name]
    net, X, y = problem(11 if "tie" in name else 0, n, widths, **options)
    if "frozen" in name:
        net = of.ReLUNetwork(net.weights, net.readout, biases=net.biases, rates=[1, 0, 1])
    until = 20 / rate(net, X)
    times = np.linspace(0, until, 26)[1:]
    watch = {"f": lambda moment: moment.network(X)}
    exact = of.train(net, X, y, method=of.ExactFlow(), times=times, observe=watch)
    assert len(exact.events) > 2
    np.testing.assert_array_equal(exact.times[1:], times)
    errors = []
    for steps in (2_000, 32_000):
        run = of.train(net, X, y, method=of.GradientDescent(step=until / steps), steps=steps,
                       every=steps // 25, observe=watch)  # fmt: skip
        errors.append(np.linalg.norm(run.observations["f"] - exact.observations["f"]))
    assert 16 * 0.6 < errors[0] / errors[1] < 16 * 1.7, errors


@pytest.mark.thorough
@pytest.mark.parametrize(("seed", "n", "widths"), [(3, 20, [3, 16]), (3, 40, [4, 16])])
def test_each_halving_of_the_step_halves_the_error_with_sliding(seed, n, widths):
    net, X, y = problem(seed, n, widths)
    until = 20 / rate(net, X)
    times = np.linspace(0, until, 201)[1:]
    watch = {"f": lambda moment: moment.network(X)}
    exact = of.train(net, X, y, method=of.ExactFlow(), times=times, observe=watch)
    assert (exact.events["kind"] == "slide in").sum() > 10
    errors = []
    for steps in 8_000 * 2 ** np.arange(5):
        run = of.train(net, X, y, method=of.GradientDescent(step=until / steps), steps=int(steps),
                       every=int(steps) // 200, observe=watch)  # fmt: skip
        errors.append(np.linalg.norm(run.observations["f"] - exact.observations["f"]))
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(1.8 < ratio < 2.2 for ratio in ratios), ratios


def by_hand(net, w, X, y, units):
    """The pre-activations, and the velocity of the weights w; `units` gives a and s of h."""
    ends = np.cumsum([W.size for W in net.weights])[:-1]
    Ws = [p.reshape(W.shape) for p, W in zip(np.split(w, ends), net.weights, strict=True)]
    inputs, hidden, slopes = [X], [], []
    for i, W in enumerate(Ws):
        hidden.append(inputs[-1] @ W.T)
        a, s = units(i, hidden[-1])
        inputs.append(a)
        slopes.append(s)
    p = (inputs[-1] @ net.readout.T - y) @ net.readout
    steps = []
    for i in reversed(range(len(Ws))):
        p = slopes[i] * p
        steps.insert(0, -net.rates[i] * p.T @ inputs[i])
        p = p @ Ws[i]
    return hidden, np.concatenate([step.ravel() for step in steps])


def regularised(net, X, y, until, width):
    """The parameters at a time, of gates that open while a pre-activation passes ±width/2."""

    def units(_, h):
        return np.maximum(h, 0), np.clip(0.5 + h / width, 0, 1)

    start = np.concatenate([W.ravel() for W in net.weights])
    found = solve_ivp(lambda _, w: by_hand(net, w, X, y, units)[1], (0, until), start,
                      method="LSODA", rtol=1e-10, atol=1e-12)  # fmt: skip
    return found.y[:, -1]


@pytest.mark.parametrize(
    ("seed", "n", "widths"), [(0, 12, [3, 6]), (2, 30, [4, 8]), (0, 12, [3, 6, 6])]
)
def test_gates_with_a_width_come_to_it_as_the_width_falls(seed, n, widths):
    net, X, y = problem(seed, n, widths)
    until = 20 / rate(net, X)
    run = of.train(net, X, y, method=of.ExactFlow(), until=until)
    assert (run.events["kind"] == "slide in").sum() >= 3
    errors = [
        abs(regularised(net, X, y, until, width) - parameters(run)).max()
        for width in (1e-3, 1e-4, 1e-5)
    ]
    assert errors[2] < 1e-4
    np.testing.assert_allclose(np.divide(errors[:2], errors[1:]), 10, rtol=0.1)


@pytest.mark.parametrize(("seed", "widths"), [(1, [3, 6, 6]), (4, [3, 6, 6]), (3, [3, 5, 5, 5])])
def test_deep_networks_against_dop853_with_events_found_by_hand(seed, widths):
    net, X, y = problem(seed, 6, widths)
    until = 20 / rate(net, X)
    run = of.train(net, X, y, method=of.ExactFlow(), until=until)
    slides = run.events["time"][run.events["kind"] == "slide in"]
    if len(slides):
        until = 0.99 * slides[0]
        run = of.train(net, X, y, method=of.ExactFlow(), until=until)
    assert len(run.events) >= 2
    w = np.concatenate([W.ravel() for W in net.weights])
    gates = [h > 0 for h in net.fields(X).preactivations]
    t = 0.0
    met = []
    while t < until:
        frozen = [on.copy() for on in gates]

        def units(i, h, frozen=frozen):
            return frozen[i] * h, frozen[i]

        places = [(i, *at) for i, on in enumerate(gates) for at in np.ndindex(on.shape)]
        crossings = []
        for i, sample, unit in places:

            def crossing(_, w, i=i, sample=sample, unit=unit, units=units):
                return by_hand(net, w, X, y, units)[0][i][sample, unit]

            crossing.terminal = True
            crossing.direction = -1 if gates[i][sample, unit] else 1
            crossings.append(crossing)
        found = solve_ivp(lambda _, w, units=units: by_hand(net, w, X, y, units)[1], (t, until), w,
                          method="DOP853", rtol=1e-12, atol=1e-14, events=crossings)  # fmt: skip
        w, t = found.y[:, -1], found.t[-1]
        for (i, sample, unit), times in zip(places, found.t_events, strict=True):
            if len(times):
                gates[i][sample, unit] ^= True
                met.append((i, unit, sample))
    assert run.events[["layer", "unit", "sample"]].tolist() == met
    np.testing.assert_allclose(parameters(run), w, rtol=1e-8, atol=1e-8)


# -- what holds along a run -------------------------------------------------------------------


def test_the_loss_falls_by_the_integral_of_r_K_r_with_the_schur_complement_of_sliding_samples():
    net, X, y = problem(0, 20, [3, 16], outputs=2)
    until = 60 / rate(net, X)
    found = of.train(net, X, y, method=of.ExactFlow(), until=until)
    events = found.events
    assert (events["kind"] == "slide in").sum() >= 3
    ends = np.concatenate([[0.0], np.unique(events["time"]), [until]])
    nodes, weights = np.polynomial.legendre.leggauss(10)
    times = ends[:-1] + np.diff(ends) * 0.5 * (1 + nodes[:, None])
    seen = []
    of.train(net, X, y, method=of.ExactFlow(), times=np.sort(times.ravel()),
             observe={"r": lambda moment: seen.append(moment.residual.copy())})  # fmt: skip
    residuals = np.reshape(seen[1:], (len(ends) - 1, len(nodes), *y.shape))
    gates = (net.fields(X).preactivations[0] > 0).astype(float)
    G = X @ X.T * net.rates[0]
    fallen = 0.0
    rest = list(events)
    for part, begin, length in zip(residuals, ends, np.diff(ends), strict=False):
        while rest and rest[0]["time"] <= begin:
            place = rest[0]["sample"], rest[0]["unit"]
            kind = rest.pop(0)["kind"]
            gates[place] = {"on": 1, "off": 0, "slide in": np.nan}.get(kind, gates[place])
            if kind == "slide out":  # to the side on which the pre-activation then is
                gates[place] = float(leaves_open(net, X, y, place, begin, length))
        K = schur(net.readout, G, gates)
        r = part.reshape(len(nodes), -1)
        power = np.einsum("qa,ab,qb->q", r, K, r)
        fallen += 0.5 * length * (weights @ power)
    np.testing.assert_allclose(found.losses[0] - found.losses[-1], fallen, rtol=1e-9)


def leaves_open(net, X, y, place, begin, length):
    """Whether a pair that stops sliding opens."""
    soon = of.train(net, X, y, method=of.ExactFlow(), until=begin + length / 2)
    return (X @ soon.network.weights[0].T)[place] > 0


def schur(V, G, gates):
    """K (N·k, N·k), a unit with sliding samples adding the Schur complement of its Gram."""
    n, k = len(G), len(V)
    K = np.zeros((n, k, n, k))
    for v, gate in zip(V.T, gates.T, strict=True):
        S = np.isnan(gate)
        on = np.flatnonzero(gate == 1)
        part = G[np.ix_(on, on)]
        if S.any():
            part = part - G[np.ix_(on, S)] @ np.linalg.solve(G[np.ix_(S, S)], G[np.ix_(S, on)])
        for o, p in itertools.product(range(k), repeat=2):
            K[np.ix_(on, [o], on, [p])] += (v[o] * v[p] * part)[:, None, :, None]
    return K.reshape(n * k, n * k)


def replayed(net, X, events, times):
    """The gates at these times by the record: 1 open, 0 closed, NaN sliding or just left."""
    gates = [(h > 0).astype(float) for h in net.fields(X).preactivations]
    rest = list(events)
    for t in times:
        while rest and rest[0]["time"] < t:
            event = rest.pop(0)
            place = event["sample"], event["unit"]
            gates[event["layer"]][place] = {"on": 1.0, "off": 0.0}.get(event["kind"], np.nan)
        yield gates


@given(st.data())
def test_recorded_gates_are_those_of_the_weights(data):
    depth = data.draw(st.integers(1, 3))
    seed = data.draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    widths = [int(rng.integers(2, 5)), *rng.integers(4, 9, depth).tolist()]
    options = {"bias": bool(rng.integers(2)), "slope": float(rng.choice([0.0, 0.0, 0.3]))}
    options |= {"readout_rate": 1.0} if rng.integers(2) else {}
    n = int(rng.integers(1, 13))
    net, X, y = problem(seed, n, widths, int(rng.integers(1, 3)), size=3.0, **options)
    if rng.integers(3) == 0:
        X = np.round(X)[rng.integers(0, n, n)]  # equal samples, and rays
    until = 10.0 ** rng.integers(0, 3) / max(rate(net, X), 1e-3)
    times = np.linspace(0, until, 1001)[1:]
    fields = []
    watch = {"h": lambda moment: fields.append(moment.network.fields(X).preactivations)}
    run = of.train(net, X, y, method=of.ExactFlow(), times=times, observe=watch)
    for hidden, gates in zip(fields[1:], replayed(net, X, run.events, times), strict=True):
        for h, on in zip(hidden, gates, strict=True):
            clear = (abs(h) > 1e-9 * max(1.0, abs(h).max())) & ~np.isnan(on)
            np.testing.assert_array_equal(on[clear], (h > 0)[clear])
    assert np.diff(run.losses).max() <= 1e-9 * run.losses[0]


def test_equal_samples_move_as_one_of_their_weight():
    net, X, y = problem(5, 10, [3, 8])
    until = 20 / rate(net, X)
    twice = of.train(
        net, np.vstack([X, X]), np.vstack([y + 1, y - 1]), method=of.ExactFlow(), until=until
    )
    weighted = of.train(
        net, X, 2**0.5 * y, measurement=2**0.5 * np.eye(10), method=of.ExactFlow(), until=until
    )
    np.testing.assert_allclose(parameters(twice), parameters(weighted), atol=1e-12)
    assert len(twice.events) == 2 * len(weighted.events) > 0


@pytest.mark.parametrize("bias", [False, True])
def test_a_measured_run_on_some_samples_is_the_run_on_those(bias):
    net, X, y = problem(6, 12, [3, 8, 6], bias=bias)
    until = 10 / rate(net, X)
    rows = sp.csr_array(np.eye(12)[::2])
    measured = of.train(net, X, y[::2, 0], measurement=rows, method=of.ExactFlow(), until=until)
    fewer = of.train(net, X[::2], y[::2], method=of.ExactFlow(), until=until)
    np.testing.assert_allclose(parameters(measured), parameters(fewer), atol=1e-10)


def test_units_keep_their_balance_and_files_their_events(tmp_path):
    net, X, y = problem(7, 15, [3, 8, 8], readout_rate=1.0)
    run = of.train(net, sp.csr_array(X), y, method=of.ExactFlow(), until=10 / rate(net, X),
                   observe=[of.observe.Balancedness()])  # fmt: skip
    assert len(run.events) > 3
    assert abs(run.observations["balancedness_drift"]).max() < 1e-9
    run.save(tmp_path / "run.npz")
    np.testing.assert_array_equal(of.Trajectory.load(tmp_path / "run.npz").events, run.events)
    assert of.train(net, X, y, steps=1).events is None


def test_steps_try_no_more_than_events_need():
    net, X, y = problem(0, 40, [4, 16])
    run = of.train(net, X, y, method=of.ExactFlow(), until=20 / rate(net, X))
    assert run.products < 20 * len(np.unique(run.events["time"]))


def test_sliding_pre_activations_stay_at_zero_at_a_loose_tolerance():
    net, X, y = problem(0, 20, [3, 8, 8])
    until = 60 / rate(net, X)
    run, close = (
        of.train(net, X, y, method=of.ExactFlow(tol), until=until) for tol in (1e-4, 1e-10)
    )
    last = {(e["layer"], e["sample"], e["unit"]): e["kind"] for e in run.events}
    slide = [place for place, kind in last.items() if kind == "slide in"]
    hidden = run.network.fields(X).preactivations
    assert len(slide) > 5 and max(abs(hidden[i][sample, unit]) for i, sample, unit in slide) < 1e-9
    np.testing.assert_allclose(parameters(run), parameters(close), atol=1e-5)


# -- errors -----------------------------------------------------------------------------------


def test_a_slide_that_is_not_the_last_of_its_moment_ends_a_run_without_sliding():
    # at the start, unit 0 slides on sample 0, and unit 1 opens on sample 2
    weights = np.array([[-1.0, -1.0, 0.0, 1.0], [0.0, 1.0, -1.0, -1.0]])
    X = np.array([[0.0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    net = of.ReLUNetwork([weights], np.ones((1, 2)))
    with pytest.raises(ArithmeticError, match="unit 0 of layer 1 slides on sample 0 at t = 0:"):
        of.train(net, X, [-9.0, 5, 1, 5], method=of.ExactFlow(sliding=False), until=0.1)


def test_errors_of_a_measurement_come_through_as_they_are(monkeypatch):
    net, X, y = problem(0, 20, [3, 16])
    error = ZeroDivisionError("its own")

    class Failing(of.Operator):
        def _matmat(self, x):
            if settling:
                raise error
            return x.copy()

        _rmatmat = _matmat

    settling = []
    settle = Gates.settle
    monkeypatch.setattr(Gates, "settle", lambda *args: settling.append(1) or settle(*args))
    G = Failing((20, 20), np.float64)
    with pytest.raises(ZeroDivisionError) as info:
        of.train(net, X, y[:, 0], method=of.ExactFlow(), until=1, measurement=G)
    assert info.value is error


def test_errors_say_what_would_do(monkeypatch):
    net, X, y = problem(0, 20, [3, 16])
    until = 60 / rate(net, X)
    with pytest.raises(
        of.DivergenceError, match=r"unit \d+ of layer 1 slides on sample .*sliding=True"
    ):
        of.train(net, X, y, method=of.ExactFlow(sliding=False), until=until)
    with pytest.raises(of.DivergenceError, match="more than events=5 at t = "):
        of.train(net, X, y, method=of.ExactFlow(events=5), until=until)
    with pytest.raises(TypeError, match="float64"):
        single = of.ReLUNetwork.random([3, 4], dtype="float32")
        of.train(single, np.eye(3, dtype="f"), np.ones(3, "f"), method=of.ExactFlow(), until=1)
    with pytest.raises(ValueError, match="quadratic"):
        of.train(net, X, y, method=of.ExactFlow(), until=1, objective="huber")
    with pytest.raises(ValueError, match="eliminate= and gram= are not for it"):
        of.train(net, X, y, method=of.ExactFlow(), until=1, eliminate=True)
    with pytest.raises(ValueError, match=r"ExactFlow\(.* is for one machine: comm= is not for it"):
        of.train(net, X, y, method=of.ExactFlow(), until=1, comm=object())
    with pytest.raises(TypeError, match="sliding must be True or False"):
        of.ExactFlow(sliding=1)
    with pytest.raises(ValueError, match="tol"):
        of.ExactFlow(tol=0)
    monkeypatch.setattr("opflow.dynamics.methods.exact_flow.WORK", 1e6)
    with pytest.raises(ValueError, match=r"may meet .* events.*fewer samples or units"):
        of.train(net, X, y, method=of.ExactFlow(), until=1)
    assert WORK == 1e15
