"""The operators of the hierarchy against the paper's sums over sample pairs."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

import opflow as of
from opflow.machine import workspace as row_blocks
from opflow.relu.grams import slope_mask
from opflow.relu.hierarchy.tangent import FieldTangent
from tests import examples
from tests.operators.battery import OnDisk, small_blocks
from tests.relu.reference import problems, rich, trained

hierarchy = of.hierarchy
PROBLEMS = problems(max_depth=5, max_outputs=3)


def near(got, want, scale=None, tolerance=1e-12):
    """Within `tolerance` of the largest entry of `want` (or of `scale`)."""
    size = np.abs(want if scale is None else scale).max(initial=0)
    assert np.shape(got) == np.shape(want)
    assert np.abs(got - want).max(initial=0) <= tolerance * size + 1e-300


def slopes(network, gates, layer, sample):
    """s^ℓ of one sample."""
    return np.where(gates[layer - 1][sample], 1, network.slopes[layer - 1])


def chain(network, gates, lower, upper, sample):
    """D^upper W^upper … D^{lower+1} W^{lower+1} of one sample."""
    J = np.eye(network.widths[lower])
    for layer in range(lower + 1, upper + 1):
        J = slopes(network, gates, layer, sample)[:, None] * (network.weights[layer - 1] @ J)
    return J


def rise(network, gates, lower, upper, sample):
    """W^upper D^{upper-1} … W^{lower+1} D^lower of one sample."""
    G = np.eye(network.widths[lower])
    for layer in range(lower + 1, upper + 1):
        D = slopes(network, gates, layer - 1, sample)[:, None]
        G = network.weights[layer - 1] @ (D * G)
    return G


def by_output(fields):
    """φ^1, …, φ^L, and 1 for the readout, each (N, k, n)."""
    n, k = fields.samples, fields.network.outputs
    return [phi.reshape(n, k, -1) for phi in fields.conjugates] + [np.tile(np.eye(k), (n, 1, 1))]


def paper_hidden(fields, layer, order, r):
    """−dh^ℓ/dt, sample pair by sample pair, from F."""
    net, phi, n = fields.network, by_output(fields), fields.samples
    out = np.zeros((n, net.widths[layer]))
    for m in range(max(1, layer - order), layer + 1):
        A = fields.activations[m - 1] @ fields.activations[m - 1].T
        A = A + (net.biases[m - 1] is not None)
        for mu, nu in itertools.product(range(n), repeat=2):
            F = hierarchy.pushforward(fields, layer, m, mu, nu).todense()
            out[mu] += net.rates[m - 1] * A[mu, nu] * F @ (phi[layer - 1][nu].T @ r[nu])
    return out


def paper_conjugate(fields, layer, order, r):
    """−dψ^ℓ/dt, sample pair by sample pair, from B in homogeneous coordinates."""
    net, phi, n = fields.network, by_output(fields), fields.samples
    out = np.zeros((n, net.outputs, net.widths[layer]))
    rates = net.layer_rates()
    for m in range(layer + 1, min(len(rates), layer + 1 + order) + 1):
        for mu, nu in itertools.product(range(n), repeat=2):
            B = hierarchy.pullback(fields, layer, m - 1, mu, nu, augmented=True).todense()
            a = np.append(fields.activations[layer][nu], 1.0)
            shared = phi[m - 1][mu] @ phi[m - 1][nu].T @ r[nu]
            out[mu] += rates[m - 1] * np.outer(shared, (B @ a)[:-1])
    return out


def residual(fields, seed=0):
    return np.random.default_rng(seed).standard_normal((fields.samples, fields.network.outputs))


@settings(max_examples=examples(60))
@given(PROBLEMS, st.data())
def test_members_are_products_of_chains(problem, data):
    network, X = problem
    fields = network.fields(X)
    lower = data.draw(st.integers(1, network.depth))
    upper = data.draw(st.integers(lower, network.depth))
    mu, nu = (data.draw(st.integers(0, len(X) - 1)) for _ in range(2))
    J = [chain(network, fields.gates, lower, upper, s) for s in (mu, nu)]
    B = hierarchy.pullback(fields, lower, upper, mu, nu)
    near(B.todense(), J[0].T @ J[1], np.abs(J[0]).T @ np.abs(J[1]))
    near(B.T.todense(), hierarchy.pullback(fields, lower, upper, nu, mu).todense())
    G = [rise(network, fields.gates, lower, upper, s) for s in (mu, nu)]
    F = hierarchy.pushforward(fields, upper, lower, mu, nu)
    near(F.todense(), G[0] @ G[1].T, np.abs(G[0]) @ np.abs(G[1]).T)
    near(F.T.todense(), hierarchy.pushforward(fields, upper, lower, nu, mu).todense())
    for member in (B, F):
        assert member.psd == (mu == nu or lower == upper)
        assert member.symmetric == member.psd


@settings(max_examples=examples(40))
@given(PROBLEMS, st.integers(0, 5), st.integers(0, 59))
@example(rich(4, 2), 5, 0)
@example(trained(4, 2), 5, 0)
@example(rich(4, 3), 1, 0)
@example(rich(4, 1), 1, 2)
@example(rich(5, 2), 5, 4)
@example(trained(5, 2), 5, 4)
def test_velocities_are_the_sums_over_sample_pairs(problem, order, pick):
    network, X = problem
    fields = network.fields(X)
    r = residual(fields)
    layer = 1 + pick % network.depth
    H = hierarchy.hidden_velocity(fields, layer, order)
    Psi = hierarchy.conjugate_velocity(fields, layer, order)
    scale = paper_hidden(fields, layer, 5, r)
    near((H @ r.ravel()).reshape(len(X), -1), want := paper_hidden(fields, layer, order, r),
         np.abs(scale).max() + np.abs(want))  # fmt: skip
    scale = paper_conjugate(fields, layer, 5, r)
    want = paper_conjugate(fields, layer, order, r)
    near((Psi @ r.ravel()).reshape(want.shape), want, np.abs(scale).max() + np.abs(want))


@settings(max_examples=examples(60))
@given(PROBLEMS, st.sampled_from([None, 0, 1, 2, 3, 5]), st.sampled_from([200, 8 << 20]))
@example(rich(5, 2), None, 200)
@example(trained(5, 2), None, 200)
@example(rich(5, 3), 1, 8 << 20)
@example(rich(5, 1), 2, 200)
def test_stacked_velocities_equal_the_compositions_both_ways(problem, order, workspace):
    network, X = problem
    fields = network.fields(X)
    layers = range(1, network.depth + 1)
    want = np.concatenate(
        [hierarchy.hidden_velocity(fields, layer, order).todense() for layer in layers]
        + [hierarchy.conjugate_velocity(fields, layer, order).todense() for layer in layers]
    )
    with small_blocks(workspace):
        V = hierarchy.field_velocities(fields, order)
        assert V.shape == want.shape
        near(V @ np.eye(V.shape[1]), want)
        near(V.T @ np.eye(V.shape[0]), want.T)
        r = residual(fields).ravel()
        near(V @ r, want @ r, np.abs(want) @ np.abs(r))
        assert (V @ np.zeros((V.shape[1], 0))).shape == (V.shape[0], 0)
        assert (V.T @ np.zeros((V.shape[0], 0))).shape == (V.shape[1], 0)
        hidden, conjugate = hierarchy.split(fields, V @ r)
    for layer in layers:
        assert hidden[layer - 1].shape == fields.preactivations[layer - 1].shape
        assert conjugate[layer - 1].shape == fields.conjugates[layer - 1].shape
    assert network.readout_rate is not None or not conjugate[-1].any()


@given(problems(dtype=np.float32, max_depth=4, max_outputs=3), st.sampled_from([None, 1]))
def test_velocities_keep_float32_and_pass_the_dot_test(problem, order):
    network, X = problem
    fields = network.fields(X)
    rng = np.random.default_rng(0)
    ops = [hierarchy.field_velocities(fields, order)]
    for layer in range(1, network.depth + 1):
        ops += [hierarchy.hidden_velocity(fields, layer, order)]
        ops += [hierarchy.conjugate_velocity(fields, layer, order)]
    for op in ops:
        x = rng.standard_normal((op.shape[1], 2)).astype(np.float32)
        u = rng.standard_normal((op.shape[0], 3)).astype(np.float32)
        forward, back = op @ x, op.T @ u
        assert forward.dtype == back.dtype == np.float32
        size = np.linalg.norm(op.astype(float).todense()) if op.shape[0] * op.shape[1] else 0
        bound = 1e-5 * (size * np.linalg.norm(x) * np.linalg.norm(u) + 1e-30)
        assert np.abs(forward.T @ u - x.T @ back).max() <= bound


@given(PROBLEMS)
@example(rich(4, 2))
@example(trained(4, 2))
@example(rich(3, 1))
@example(trained(3, 1))
def test_kernel_is_read_off_the_top_hidden_velocity(problem):
    network, X = problem
    fields = network.fields(X)
    H = hierarchy.hidden_velocity(fields, network.depth)
    K = of.SampleLift(network.readout, len(X)) @ slope_mask(fields, network.depth) @ H
    near(K.todense(), sum(of.layer_kernels(fields)[: network.depth]).todense())
    near((of.BlockDiagonal(by_output(fields)[network.depth - 1]) @ H).todense(), K.todense())


@given(PROBLEMS)
@example(rich(4, 2))
@example(trained(4, 2))
@example(rich(3, 1))
@example(trained(3, 1))
def test_truncation_is_exact_from_order_depth_on_and_counts_gram_factors(problem):
    network, X = problem
    fields = network.fields(X)
    L = network.depth
    exact = hierarchy.field_velocities(fields)
    r = residual(fields).ravel()
    scale = np.abs(exact.todense()) @ np.abs(r)
    near(hierarchy.field_velocities(fields, L) @ r, exact @ r, scale)
    for layer in range(1, L + 1):
        full = hierarchy.hidden_velocity(fields, layer).todense()
        near(hierarchy.hidden_velocity(fields, layer, layer - 1).todense(), full)
        full = hierarchy.conjugate_velocity(fields, layer).todense()
        most = max(len(network.layers()) - layer - 1, 0)
        near(hierarchy.conjugate_velocity(fields, layer, most).todense(), full)


def test_truncation_below_the_depth_leaves_an_error_that_falls():
    net = of.ReLUNetwork.random([6, 40, 40, 40, 40], seed=1)
    fields = net.fields(np.random.default_rng(0).standard_normal((30, 6)))
    r = residual(fields).ravel()
    exact = hierarchy.field_velocities(fields) @ r
    errors = [
        np.linalg.norm(hierarchy.field_velocities(fields, p) @ r - exact) for p in range(5)
    ] / np.linalg.norm(exact)
    assert errors[0] > errors[1] > errors[2] > 1e-3
    assert errors[3] < 1e-14 and errors[4] < 1e-14


def test_describe_shows_the_recursion_of_the_paper():
    fields = of.ReLUNetwork.random([3, 4, 4, 4], seed=0).fields(np.eye(3))
    B = hierarchy.pullback(fields, 1, 3, 0, 2)
    assert B.symbol == "W²ᵀ D²₀ W³ᵀ D³₀ D³₂ W³ D²₂ W²"
    kinds = [type(op).__name__ for op in B.operands]
    assert kinds == ["Adjoint", "Mask", "Adjoint", "Mask", "Mask", "Weight", "Mask", "Weight"]
    text = str(of.describe(hierarchy.hidden_velocity(fields, 2)))
    for part in ("FeatureLift", "Gram", "BlockDiagonal", "SampleLift", "Weight", "Mask"):
        assert part in text


@settings(max_examples=examples(30))
@given(PROBLEMS, st.sampled_from(["pullback", "pushforward"]))
def test_members_report_spectra_traces_and_ranks(problem, kind):
    network, X = problem
    fields = network.fields(X)
    pairs = [(0, 0), (0, len(X) - 1)]
    found = hierarchy.members(fields, pairs, kind=kind)
    assert len(found.layers) == network.depth * (network.depth - 1) // 2
    for i, (lower, upper) in enumerate(found.layers):
        for j, (mu, nu) in enumerate(pairs):
            make = chain if kind == "pullback" else rise
            J = [make(network, fields.gates, lower, upper, s) for s in (mu, nu)]
            dense = J[0].T @ J[1] if kind == "pullback" else J[0] @ J[1].T
            near(found.values[i][j], np.linalg.svd(dense, compute_uv=False))
            near(found.traces[i, j], np.trace(dense), np.abs(dense).sum())
            assert found.ranks[i, j] == np.linalg.matrix_rank(dense)


def test_leading_singular_values_come_from_products():
    fields = of.ReLUNetwork.random([5, 40, 40, 40], seed=0).fields(np.eye(5))
    full = hierarchy.members(fields, [(0, 0), (0, 1)])
    top = hierarchy.members(fields, [(0, 0), (0, 1)], top=3)
    for a, b in zip(itertools.chain(*full.values), itertools.chain(*top.values), strict=True):
        near(b, a[:3], tolerance=1e-10)
    near(top.traces, full.traces)
    assert (top.ranks == -1).all()


def test_leading_singular_values_and_traces_form_no_dense_member():
    import tracemalloc

    n = 600
    fields = of.ReLUNetwork.random([4, n, n, n], seed=0).fields(np.eye(4))
    with small_blocks(1 << 18):
        tracemalloc.start()
        hierarchy.members(fields, [(0, 1)], layers=[(1, 3)], top=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < n * n * 8 / 2


def test_members_of_dead_layers_are_zero():
    fields = of.ReLUNetwork([-np.ones((4, 3)), np.ones((4, 4))], np.ones(4)).fields(np.ones((2, 3)))
    for top in (None, 2):
        found = hierarchy.members(fields, [(0, 1)], top=top)
        assert not found.norms.any() and not found.traces.any()
    assert hierarchy.members(fields, [(0, 1)]).ranks == 0


def test_one_step_member_is_the_weight_gram():
    net = of.ReLUNetwork.random([3, 5, 5], seed=0)
    fields = net.fields(np.random.default_rng(0).standard_normal((4, 3)))
    G = of.WeightGram(net.weights[1], fields.gates[1][0], fields.gates[1][3])
    near(hierarchy.pullback(fields, 1, 2, 0, 3).todense(), G.todense())


@settings(max_examples=examples(60))
@given(PROBLEMS)
@example(rich(4, 2))
@example(trained(4, 2))
@example(rich(3, 1))
@example(trained(3, 1))
def test_kernel_velocity_is_the_product_rule(problem):
    network, X = problem
    fields = network.fields(X)
    r = residual(fields)
    n, k = len(X), network.outputs
    dh, dpsi = hierarchy.split(fields, hierarchy.field_velocities(fields) @ r.ravel())
    layers = of.layer_kernel_velocities(fields, r)
    rates = network.layer_rates()
    want = np.zeros((n * k, n * k))
    for i, layer in enumerate(layers):
        phi = by_output(fields)[i].reshape(n * k, -1)
        dphi = np.zeros_like(phi)
        if i < network.depth:
            s = np.where(fields.gates[i], 1, network.slopes[i])[:, None]
            dphi = -(dpsi[i].reshape(n, k, -1) * s).reshape(n * k, -1)
        a = fields.activations[i]
        da = np.zeros_like(a)
        if i:
            da = -dh[i - 1] * np.where(fields.gates[i - 1], 1, network.slopes[i - 1])
        ones = np.ones((k, k))
        A = np.kron(a @ a.T + (network.layers()[i][1] is not None), ones)
        dA = np.kron(da @ a.T + a @ da.T, ones)
        parts = dA * (phi @ phi.T), A * (dphi @ phi.T + phi @ dphi.T)
        for got, part in zip(layer, parts, strict=True):
            assert got.symmetric
            near(got.todense(), rates[i] * part, np.abs(part).max() + np.abs(A).max()
                 * np.abs(phi @ phi.T).max())  # fmt: skip
            want += rates[i] * part
    dK = of.kernel_velocity(fields, r)
    scale = np.abs(want).max() + np.abs(of.collective_kernel(fields).todense()).max()
    assert dK.symmetric
    near(dK.todense(), want, scale)
    near(dK @ np.eye(n * k), want, scale)
    near(dK.diagonal(), np.diag(want), scale)
    near(sum(a + b for a, b in layers).todense(), want, scale)


def test_kernel_velocity_of_sparse_inputs():
    import scipy.sparse as sp

    X = sp.random_array((20, 30), density=0.2, rng=0, format="csr")
    net = of.ReLUNetwork.random([30, 8, 6], outputs=2, seed=0, bias=True)
    r = np.random.default_rng(0).standard_normal((20, 2))
    sparse, dense = (of.kernel_velocity(net.fields(x), r) for x in (X, X.toarray()))
    near(sparse @ np.eye(40), dense.todense())
    near(sparse.todense(), dense.todense())
    near(sparse.diagonal(), dense.diagonal())
    for side in ("input", "output"):
        G = [of.weight_gram_velocity(net.fields(x), 1, r, side) for x in (X, X.toarray())]
        near(G[0].todense(), G[1].todense())


@settings(max_examples=examples(60))
@given(PROBLEMS)
@example(rich(4, 2))
@example(trained(4, 2))
@example(rich(3, 1))
@example(trained(3, 1))
def test_balancedness_is_conserved_by_the_closed_equations(problem):
    network, X = problem
    fields = network.fields(X)
    r = residual(fields)
    for layer in range(1, network.depth):
        above = of.weight_gram_velocity(fields, layer + 1, r, "input")
        below = of.weight_gram_velocity(fields, layer, r, "output")
        drift = (
            above.diagonal() / network.rates[layer] - below.diagonal() / network.rates[layer - 1]
        )
        b = network.biases[layer - 1]
        if b is not None:
            slope = np.einsum("nk,nki->i", r, by_output(fields)[layer - 1])
            drift += 2 * b * slope
        W = np.abs(network.weights[layer])
        size = (
            2
            * np.abs(fields.activations[layer]).T
            @ (np.einsum("nk,nki->ni", np.abs(r), np.abs(by_output(fields)[layer])) @ W)
        )
        assert np.abs(drift).max() <= 1e-12 * (size.max() + 1e-300) * 100


FIELDS = of.ReLUNetwork.random([2, 3, 3], outputs=2, seed=0).fields(np.ones((4, 2)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: hierarchy.pullback(f, 0, 1, 0, 0), ValueError, "lower must be between 1 and 2"),
        (lambda f: hierarchy.pullback(f, 1, 3, 0, 0), ValueError, "upper must be between 1 and 2"),
        (lambda f: hierarchy.pullback(f, 2, 1, 0, 0), ValueError, "lower must not be above upper"),
        (lambda f: hierarchy.pullback(f, 1, 2, 4, 0), ValueError, "mu must be between 0 and 3"),
        (lambda f: hierarchy.pullback(f, 1, 2, 0, -1), ValueError, "nu must be between 0 and 3"),
        (lambda f: hierarchy.pullback(f, 1, 2, 0.5, 0), TypeError, "mu must be an integer"),
        (lambda f: hierarchy.pullback(f.network, 1, 2, 0, 0), TypeError, "fields must be"),
        (lambda f: hierarchy.pushforward(f, 1, 2, 0, 0), ValueError, "lower must not be above"),
        (lambda f: hierarchy.pushforward(f, 2, 1, 9, 0), ValueError, "mu"),
        (lambda f: hierarchy.pushforward(f, 3, 1, 0, 0), ValueError, "upper must be between 1"),
        (lambda f: hierarchy.pushforward(f, 2, 0, 0, 0), ValueError, "lower must be between 1"),
        (lambda f: hierarchy.members(f, [(0, 0)], layers=[(2, 1)]), ValueError, "must not be"),
        (lambda f: hierarchy.members(f, [(0, 0)], layers=[(1, 3)]), ValueError, "upper"),
        (lambda f: hierarchy.hidden_velocity(f, 3), ValueError, "layer must be between 1 and 2"),
        (lambda f: hierarchy.hidden_velocity(f, 1, -1), ValueError, "order must be at least 0"),
        (lambda f: hierarchy.hidden_velocity(f, True), TypeError, "layer must be an integer"),
        (lambda f: hierarchy.conjugate_velocity(f, 0), ValueError, "layer"),
        (lambda f: hierarchy.conjugate_velocity(f, 1, 1.5), TypeError, "order"),
        (lambda f: hierarchy.field_velocities(f, -2), ValueError, "order"),
        (lambda f: hierarchy.field_velocities(None), TypeError, "fields must be"),
        (lambda f: hierarchy.split(f, np.ones(3)), ValueError, r"stacked has shape \(3,\)"),
        (lambda f: hierarchy.members(f, [(0, 7)]), ValueError, "nu"),
        (lambda f: hierarchy.members(f, [0, 1]), ValueError, r"pairs must hold \(mu, nu\)"),
        (lambda f: hierarchy.members(f, [(0, 1)], layers=[2]), ValueError, "layers must hold"),
        (lambda f: hierarchy.members(f, [(0, 0)], kind="B"), ValueError, "kind"),
        (lambda f: hierarchy.members(f, [(0, 0)], top=0), ValueError, "top"),
        (lambda f: of.kernel_velocity(f, np.ones(4)), ValueError, r"residual has shape \(4,\)"),
        (lambda f: of.kernel_velocity(f, np.ones((4, 2), complex)), TypeError, "complex"),
        (lambda f: of.layer_kernel_velocities(f.network, np.ones((4, 2))), TypeError, "fields"),
        (lambda f: of.weight_gram_velocity(f, 3, np.ones((4, 2))), ValueError, "layer"),
        (lambda f: of.weight_gram_velocity(f, 1, np.ones((4, 2)), "both"), ValueError, "side"),
        (
            lambda f: hierarchy.field_errors(f, f.network.fields(np.ones((3, 2)))),
            ValueError,
            "another network or training set",
        ),
        (
            lambda f: hierarchy.field_errors(
                f, of.ReLUNetwork.random([2, 4, 3], outputs=2, seed=0).fields(np.ones((4, 2)))
            ),
            ValueError,
            "another network",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(FIELDS)


def test_a_product_with_all_velocities_keeps_its_workspace_as_the_samples_grow():
    import tracemalloc

    net = of.ReLUNetwork.random([16, 32, 32], seed=0)
    extra = []
    for n in (40_000, 80_000):
        fields = net.fields(np.random.default_rng(0).standard_normal((n, 16)))
        V, r = hierarchy.field_velocities(fields), np.ones(n)
        assert fields.conjugates
        tracemalloc.start()
        result = V @ r
        extra.append(tracemalloc.get_traced_memory()[1] - result.nbytes)
        tracemalloc.stop()
    assert max(extra) <= 3 * row_blocks.WORKSPACE


def test_the_readout_drives_a_block_without_arrays_of_all_samples():
    import tracemalloc

    net = of.ReLUNetwork.random([2, 3], outputs=2, seed=0, readout_rate="auto")
    tangent = FieldTangent(net.fields(np.ones((100_000, 2))), 1)
    tracemalloc.start()
    drive = tangent._drive(tangent.recursions[1], 1, slice(5, 15), [])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(drive, np.tile(np.eye(2), (10, 1)))
    assert peak <= 100_000


@pytest.mark.parametrize("kind", ["rows", "sparse", "operator"])
def test_velocities_on_inputs_that_are_no_array(kind):
    net, X = rich(3, 2)
    fields, r = net.fields(X), residual(net.fields(X))
    other = net.fields(
        {"rows": OnDisk, "sparse": sp.csr_array, "operator": of.as_operator}[kind](X)
    )
    for layer in (1, 3):
        H = hierarchy.hidden_velocity(fields, layer)
        near(hierarchy.hidden_velocity(other, layer) @ r.ravel(), H @ r.ravel())
        for side in ("input", "output"):
            G = of.weight_gram_velocity(fields, layer, r, side).todense()
            near(of.weight_gram_velocity(other, layer, r, side).todense(), G)
    if kind == "operator":
        with pytest.raises(ValueError, match="read by rows"):
            of.kernel_velocity(other, r)
    else:
        dK = of.kernel_velocity(fields, r).todense()
        near(of.kernel_velocity(other, r).todense(), dK)
