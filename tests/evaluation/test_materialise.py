"""Every evaluation is one operator, priced and within its budget; none is formed unless asked."""

import re
import tracemalloc
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.evaluation.sides import kernels
from opflow.machine import threads
from opflow.machine import workspace as row_blocks
from opflow.operators.gates import ScaledGates
from opflow.operators.tiles import tiled_cost, tiled_product

RATES = of.MachineProfile()


@pytest.fixture
def kernel():
    rng = np.random.default_rng(8)
    X, gates = rng.standard_normal((30, 4)), rng.random((30, 20)) < 0.5
    return of.Hadamard(of.Gram(X), of.CoActivation(gates)) + 0.1 * of.Identity(30)


@pytest.mark.parametrize("workspace", [100, 8 << 20])
def test_every_way_gives_the_same_products(kernel, monkeypatch, workspace):
    monkeypatch.setattr(row_blocks, "WORKSPACE", workspace)
    X = np.random.default_rng(9).standard_normal((30, 5))
    want = kernel @ X
    for how in ("factored", "tiled", "dense", "packed"):
        op = of.materialise(kernel, how=how)
        assert op.psd
        assert op.dtype == kernel.dtype
        np.testing.assert_allclose(op @ X, want, rtol=0, atol=1e-13 * abs(want).max() * 30)


def test_how_names_the_class(kernel):
    assert of.materialise(kernel, how="factored") is kernel
    assert type(of.materialise(kernel, how="tiled")) is of.Tiled
    assert type(of.materialise(kernel, how="dense")) is of.Matrix
    assert type(of.materialise(kernel, how="packed")) is of.PackedSymmetric


def test_a_dense_symmetric_operator_is_symmetric_to_the_last_bit(kernel, monkeypatch):
    monkeypatch.setattr(row_blocks, "WORKSPACE", 700)
    A = of.materialise(kernel, how="dense").data
    assert (A == A.T).all()


def test_without_a_plan_the_operator_stays_as_it_is(kernel):
    assert of.materialise(kernel) is kernel


def test_the_cost_model_forms_a_small_wide_kernel_and_leaves_a_large_narrow_one():
    wide, narrow = of.Gram(np.ones((50, 400))), of.Gram(np.ones((2000, 2)))
    assert type(of.materialise(wide, products=1000)) is of.Matrix
    assert of.materialise(narrow, products=10) is narrow
    assert type(of.materialise(wide, products=1000, memory=100.0)) is not of.Matrix


def test_one_product_never_pays_for_forming(kernel):
    assert of.materialise(kernel, products=1) is kernel


def test_dense_over_the_budget_is_refused_before_it_is_allocated():
    column = np.ones((10**6, 1))
    huge = of.Gram(column)
    tracemalloc.start()
    try:
        for form in (
            lambda: of.materialise(huge, how="dense", memory="1GB"),
            lambda: huge.todense(memory="1GB"),
            lambda: of.KhatriRao(column, np.broadcast_to(1.0, (10**6, 999))).todense(memory=1e9),
        ):
            tracemalloc.reset_peak()
            with pytest.raises(MemoryError, match="GB"):
                form()
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("arguments, match", [
    ({"how": "fast"}, "how must be"),
    ({"products": 0}, "products must be"),
    ({"products": 2, "columns": 0}, "columns must be"),
    ({"how": "dense", "memory": "lots"}, "memory must be"),
    ({"how": "dense", "memory": -1.0}, "memory must be"),
    ({"products": 2, "memory": "lots"}, "memory must be"),
    ({"how": "transport"}, "how must be one of 'factored', 'gram', 'tiled', 'dense'"),
])  # fmt: skip
def test_bad_arguments_are_named(kernel, arguments, match):
    with pytest.raises(ValueError, match=match):
        of.materialise(kernel, **arguments)


@pytest.mark.parametrize("memory, size", [
    ("2GB", 2e9), ("2GiB", 2.0 * 2**30), ("512 KiB", 2.0**19), (1e6, 1e6), ("7", 7.0),
    ("1.5e3MB", 1.5e9), ("3T", 3e12), ("4gb", 4e9), ("4gib", 2.0**32), ("512mIb", 2.0**29),
    (" 4 Gb ", 4e9), ("1E9", 1e9), (".5k", 500.0), (np.float32(64), 64.0), (np.int64(7), 7.0),
])  # fmt: skip
def test_memory_is_parsed(memory, size):
    assert row_blocks.parse_memory(memory) == size


@pytest.mark.parametrize("memory, error", [
    (True, TypeError), (np.True_, TypeError), ([4e9], TypeError), (b"4GB", TypeError),
    ("", ValueError), (".", ValueError), ("GB", ValueError), ("1.2.3GB", ValueError),
    ("4GBs", ValueError), ("-4GB", ValueError), (float("nan"), ValueError), (0, ValueError),
])  # fmt: skip
def test_what_is_no_size_is_refused(memory, error):
    with pytest.raises(error, match="memory must be"):
        row_blocks.parse_memory(memory)


def peak_of(function):
    function()  # BLAS and caches warm up first
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("N", [5_000, 20_000])
def test_a_default_product_stays_within_the_workspace(N):
    rng = np.random.default_rng(10)
    X, phi = rng.random((N, 16), dtype=np.float32), rng.random((N, 32), dtype=np.float32)
    gates = phi > 0.5
    r = rng.random((N, 1), dtype=np.float32)
    for K in (
        of.Hadamard(of.Gram(X), of.Gram(phi)),
        of.Hadamard(of.Gram(X), of.CoActivation(gates)),
        of.Gram(X) + of.Identity(N),
        of.Tiled(of.Hadamard(of.Gram(X), of.Gram(phi))) if N <= 5_000 else of.CoActivation(gates),
    ):
        peak = peak_of(lambda K=K: K @ r)
        assert peak < 2.5 * row_blocks.WORKSPACE + 8 * r.nbytes
        assert peak_of(K.diagonal) < 2.5 * row_blocks.WORKSPACE + 8 * r.nbytes


def test_the_peak_does_not_grow_with_the_number_of_samples():
    def peak(N):
        K = of.Hadamard(of.Gram(np.ones((N, 8))), of.Gram(np.ones((N, 64))))
        r = np.ones(N)
        return peak_of(lambda: K @ r) - 4 * r.nbytes

    assert peak(80_000) < peak(20_000) + 2e6


def test_what_is_kept_is_written_to_fresh_memory():
    K = of.Gram(np.ones((500, 4000)))
    for fresh, best in ((1e12, "dense"), (1e5, "factored")):  # 2 MB: at once, or in 20 s
        profile = of.MachineProfile(fresh=fresh)
        assert of.candidates(K, products=100, profile=profile)[0].how == best


# -- the Gram side ----------------------------------------------------------------------------


@given(
    n=st.integers(1, 9), k=st.integers(1, 4), p=st.integers(1, 40), q=st.integers(1, 5),
    columns=st.integers(1, 4), dtype=st.sampled_from([np.float32, np.float64]),
    workspace=st.sampled_from([32, 400, 8 << 20]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_both_ways_of_the_gram_side_are_its_definition(n, k, p, q, columns, dtype, workspace, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((n, k, p)).astype(dtype), rng.standard_normal((n, q)).astype(dtype)
    X = rng.standard_normal((n * k, columns)).astype(dtype)
    op = of.GramSide(A, of.Matrix(B @ B.T, psd=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "WORKSPACE", workspace)
        ways = [op._sweep(X), tiled_product(op, X), op @ X]
    flat, G = A.reshape(n * k, p).astype(float), np.kron(B.astype(float) @ B.T, np.ones((k, k)))
    bound = (abs(flat) @ abs(flat).T * abs(G)) @ abs(X)
    for got in ways:
        assert got.dtype == dtype
        error = abs(got - (flat @ flat.T * G) @ X)
        assert (error <= 4 * np.finfo(dtype).eps * (n * k + p + q) * bound).all()


def test_the_gram_side_takes_the_way_of_fewer_flops():
    A, G = np.ones((40, 8)), of.Matrix(np.ones((40, 40)), psd=True)
    one, six = of.GramSide(A, G), of.GramSide(np.ones((40, 6, 8)), G)
    assert one.cost(2).flops == tiled_cost(one, 2).flops < one._swept_cost(2).flops
    assert six.cost(2).flops == six._swept_cost(2).flops < tiled_cost(six, 2).flops
    assert six._swept_cost(2).flops == 2 * 40 * 40 * 8 * 2 + 4 * 240 * 8 * 2


@pytest.mark.parametrize("A, gram, match", [
    (np.ones((3, 2)), of.Matrix(np.ones((3, 3))), "gram must be known to be symmetric"),
    (np.ones((3, 2)), np.ones((3, 3)), "gram must be known to be symmetric"),
    (np.ones((4, 2)), of.Identity(3), "A has 4 rows.*order of gram, 3"),
    (np.ones((2, 2)), of.Identity(3), "A has 2 rows.*order of gram, 3"),
])  # fmt: skip
def test_the_gram_side_says_what_is_wrong(A, gram, match):
    with pytest.raises(ValueError, match=match):
        of.GramSide(A, gram)


def test_each_kernel_of_a_sum_is_taken_its_own_way():
    rng = np.random.default_rng(11)
    wide = of.Gram(of.KhatriRao(rng.random((60, 30)), rng.random((60, 500))), symbol="wide")
    thin = of.Gram(of.KhatriRao(rng.random((60, 2)), rng.random((60, 3))), symbol="thin")
    K = 2 * wide + thin + of.Identity(60)
    x = rng.random((60, 3))
    asked = of.materialise(K, how="gram")
    assert [type(kernel) for kernel in asked.operands] == [of.Scaled, of.GramSide, of.Identity]
    assert asked.operands[0].operands[0].gram.data.shape == (60, 60)
    assert asked.operands[0].operands[0].A.shape == (60, 30)  # the wider side's Gram is kept
    chosen = of.materialise(K, products=1000, memory=60 * 60 * 8 * 5, profile=RATES)
    for op in (asked, chosen):
        assert op.psd
        np.testing.assert_allclose(op @ x, K @ x, rtol=1e-12)
        assert str(op.symbol) == str(K.symbol)


def test_only_the_kernels_that_pay_keep_a_gram():
    rng = np.random.default_rng(12)
    outputs = 8  # a dense matrix would be 64 times a Gram
    wide = of.Gram(of.KhatriRao(rng.random((60, outputs, 30)), rng.random((60, 900))))
    thin = of.Gram(of.KhatriRao(rng.random((60, outputs, 4)), rng.random((60, 3))))
    K = wide + thin
    op = of.materialise(K, products=500, profile=RATES)
    assert [type(term) for term in op.operands] == [of.GramSide, of.Gram]
    assert op.operands[1] is thin
    x = rng.random(480)
    np.testing.assert_allclose(op @ x, K @ x, rtol=1e-12)


def test_the_gram_side_needs_a_kernel_and_room():
    with pytest.raises(ValueError, match="how='gram' needs a Gram of a Khatri–Rao product"):
        of.materialise(of.Gram(np.ones((5, 2))), how="gram")
    weighted = of.Gram(of.KhatriRao(np.ones((5, 2)), np.ones((5, 2))), np.ones(4))
    with pytest.raises(ValueError, match="how='gram' needs"):
        of.materialise(weighted, how="gram")
    column = np.ones((10**6, 1))
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match="order 1000000 takes"):
            of.materialise(of.Gram(of.KhatriRao(column, column)), how="gram", memory="1GB")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


# -- the choice -------------------------------------------------------------------------------


def ones(n, m, k=1):
    return np.broadcast_to(np.float32(1), (n, m) if k == 1 else (n, k, m))


def prices(op, products, columns=1, memory="64GB", profile=RATES):
    return {c.how: c for c in of.candidates(op, products, columns, memory, profile)}


def test_the_flops_are_those_of_the_formulas():
    n, m, c = 3000, 700, 5
    form = prices(of.Gram(ones(n, m)), 1, c)
    assert form["factored"].product == 4 * n * m * c
    assert form["factored"].setup == form["tiled"].setup == 0
    assert form["dense"].setup == n * n * m
    assert form["dense"].product == 2 * n * n * c
    assert form["tiled"].product == n * n * m + 2 * n * n * c
    p, q = 20, 300
    kernel = prices(of.Gram(of.KhatriRao(ones(n, p), ones(n, q))), 1, c)
    assert kernel["gram"].setup == n * n * q
    assert kernel["gram"].product == pytest.approx(n * n * p + 2 * n * n * c, rel=0.05)


def test_sparse_data_is_priced_by_its_entries():
    X = sp.random(400, 5000, 0.01, format="csr", rng=np.random.default_rng(0))
    cost = of.Gram(X).cost(3)
    assert cost.flops == cost.sparse == 4 * X.nnz * 3
    kernel = of.KhatriRao(np.ones((800, 7)), X)
    assert kernel.cost(3).sparse == 2 * X.nnz * 7 * 3
    slow, fast = (prices(of.Gram(X), 1, 3, profile=of.MachineProfile(sparse=r)) for r in (1e6, 1e9))
    gain = slow["factored"].seconds - fast["factored"].seconds
    assert gain == pytest.approx(cost.sparse * (1e-6 - 1e-9))
    counts = np.bincount(X.indices, minlength=5000).astype(float)
    assert of.Matrix(X).pairs == (counts**2).sum()


@pytest.mark.skipif(of.gate_engines() == ["blas"], reason="the extension is not built")
def test_gate_products_are_priced_as_such():
    theta = np.random.default_rng(0).random((2000, 512)) < 0.5
    scaled = ScaledGates(theta, np.ones(512, np.float32))
    X = np.broadcast_to(np.float32(1), (2000, 784)).copy()
    kernel = of.KhatriRao(scaled, X)
    cost, gemm = kernel.cost(3), 2.0 * 2000 * 512 * 784 * 3
    assert cost.gates == gemm and cost.flops == pytest.approx(gemm, rel=0.01)
    assert of.Gram(kernel).cost(3).gates == 2 * gemm
    assert of.CoActivation(theta).cost(3).gates == of.CoActivation(theta).cost(3).flops
    with of.gate_options("blas"):
        assert kernel.cost(3).gates == of.CoActivation(theta).cost(3).gates == 0
    # What does not go through tables: dense conjugates, several outputs, inputs not in memory.
    others = (theta.astype(np.float32), X), (scaled, X[:1000]), (scaled, of.Matrix(X.T).T)
    assert [of.KhatriRao(*pair).cost(3).gates for pair in others] == [0, 0, 0]


@pytest.mark.skipif(of.gate_engines() == ["blas"], reason="the extension is not built")
def test_faster_gates_keep_a_kernel_factored():
    theta = np.random.default_rng(0).random((2000, 512)) < 0.5
    X = np.broadcast_to(np.float32(1), (2000, 784)).copy()
    K = of.Gram(of.KhatriRao(ScaledGates(theta, np.ones(512, np.float32)), X))
    slow, fast = (of.candidates(K, 2, profile=of.MachineProfile(gates=g)) for g in (1.0, 2.3))
    assert [forms[0].how for forms in (slow, fast)] == ["dense", "factored"]


@pytest.mark.parametrize("op, products, columns, memory, best", [
    (of.Gram(ones(1000, 50_000)), 20, 256, "64GB", "dense"),
    (of.Gram(ones(20_000, 100)), 3, 256, "64GB", "factored"),
    (of.Gram(ones(4000, 784)), 20, 256, "64GB", "factored"),
    (of.Gram(of.KhatriRao(ones(2000, 512), ones(2000, 784))), 300, 1, "64GB", "dense"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 3, 1, "64GB", "factored"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 500, 1, "64GB", "dense"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 100, 8, "64GB", "packed"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 100, 24, "64GB", "packed"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 100, 64, "64GB", "dense"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 500, 1, "1GB", "packed"),
    (of.Gram(of.KhatriRao(ones(20_000, 512), ones(20_000, 784))), 500, 1, "800MB", "factored"),
    (of.Gram(of.KhatriRao(ones(2000, 512), ones(2000, 784))), 2, 64, "15MB", "packed"),
    (of.Gram(of.KhatriRao(ones(2000, 512), ones(2000, 784))), 2, 64, "9MB", "tiled"),
    (of.Gram(of.KhatriRao(ones(1000, 256, 10), ones(1000, 20_000))), 20, 1, "64GB", "gram"),
    (of.Gram(of.KhatriRao(ones(1000, 256, 10), ones(1000, 20_000))), 20, 1, "3MB", "factored"),
])  # fmt: skip
def test_clear_cases_are_decided_as_they_should(op, products, columns, memory, best):
    with of.gate_options(threads=1):  # others hold tiles of their own
        forms = of.candidates(op, products, columns, memory, RATES)
    assert [f.seconds for f in forms] == sorted(f.seconds for f in forms)
    chosen = next((f.how for f in forms if f.fits), "factored")
    assert chosen == best


def test_sparsity_decides():
    X = sp.random(2000, 5000, 1e-3, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    sparse, dense = of.Gram(X), of.Gram(ones(2000, 5000))
    assert of.materialise(sparse, products=10, columns=256, profile=RATES) is sparse
    forms = prices(dense, 10, 256)
    assert forms["dense"].seconds < forms["factored"].seconds


def test_an_alternative_of_the_operator_is_a_candidate():
    slow, fast = of.Gram(np.ones((400, 300))), of.Gram(np.ones((400, 2)))
    slow._alternatives = {"narrow": partial(lambda op: op, fast)}
    assert prices(slow, 3)["narrow"].product == fast.cost().flops
    assert of.materialise(slow, products=3, profile=RATES) is fast
    assert of.materialise(slow, how="narrow") is fast
    assert fast.alternatives() == {}


def test_the_collective_kernel_can_go_by_transport():
    rng = np.random.default_rng(13)
    net = of.ReLUNetwork.random([6, 5, 4], outputs=30, seed=0, dtype=np.float32)
    fields = net.fields(rng.standard_normal((50, 6), dtype=np.float32))
    K = of.collective_kernel(fields, route="cached")
    assert {f.how for f in of.candidates(K, 3, profile=RATES)} == {
        "factored", "gram", "tiled", "dense", "transport"
    }  # fmt: skip
    by_transport = of.materialise(K, products=1, profile=RATES)
    assert kernels(K) and not kernels(by_transport)
    x = rng.standard_normal((1500, 2), dtype=np.float32)
    np.testing.assert_allclose(by_transport @ x, K @ x, rtol=0, atol=2e-5 * abs(K @ x).max())
    deep = prices(by_transport, 1)
    assert deep["dense"].setup < 1500**2 * 100  # priced by its sub-blocks, not by products


def test_explain_shows_every_candidate_and_what_was_chosen(kernel, capsys):
    op = of.materialise(kernel, products=7, columns=3, explain=True, profile=RATES)
    out = capsys.readouterr().out
    assert "7 products of 3 columns, 30 × 30 float64" in out
    lines = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert set(lines) == {"factored", "tiled", "dense", "gram"}
    (how,) = (how for how, line in lines.items() if line.endswith("chosen"))
    plain = of.materialise(kernel, products=7, columns=3, profile=RATES)
    assert type(op) is type(plain) is type(of.materialise(kernel, how=how))
    assert capsys.readouterr().out == ""
    for how in ("tiled", None):
        op = of.materialise(kernel, how=how, explain=True, memory=1e5, profile=RATES)
        out = capsys.readouterr().out
        assert re.search(f"{how or 'factored'} .* chosen", out)
        assert "1 product of 1 column," in out
    assert op is kernel
    of.materialise(kernel, products=np.int64(7), explain=True, memory=10.0, profile=RATES)
    assert capsys.readouterr().out.count("over the budget") == 4


# -- the budget -------------------------------------------------------------------------------


def operators_to_form(tmp_path):
    rng = np.random.default_rng(14)
    n = 500
    stored = np.memmap(tmp_path / "X", np.float32, "w+", shape=(n, 40))
    stored[:] = rng.random((n, 40))
    F, B = rng.random((n, 30)), rng.random((n, 20))
    W, gates = of.Weight(rng.random((60, n))), rng.random((n, 400)) < 0.5
    sums = of.Gram(F) + 0.5 * of.Gram(of.KhatriRao(F, B)) + of.Identity(n)
    return {
        "dense": of.Gram(F),
        "weighted": of.Gram(F, rng.random(30)),
        "memmap": of.Gram(stored),
        "sparse": of.Gram(sp.random(n, 900, 0.02, format="csr", rng=rng)),
        "packed gates": of.CoActivation(gates),
        "kernel": of.Gram(of.KhatriRao(F, B)),
        "outputs": of.Gram(of.KhatriRao(rng.random((n // 2, 2, 30)), B[: n // 2])),
        "sum": sums,
        "hadamard": of.Hadamard(of.Matrix(rng.random((n, n))), of.Gram(F)),
        "congruence": W.T @ of.Mask(gates[:60, 0]) @ W,
        "jacobian": of.KhatriRao(F, rng.random((n, 5))),
        "velocity": of.GramVelocity(F, rng.random((n, 30))),
        "gram side": of.GramSide(F, of.Matrix(np.eye(n), psd=True)),
        "transport": of.collective_kernel(
            of.ReLUNetwork.random([40, 8, 6], seed=0, dtype=np.float32).fields(stored),
            route="transport",
        ),
    }


threads.count()  # threadpoolctl is imported on first use, and would be counted
#: bytes of Python objects, and of the buffers NumPy broadcasts through, whatever the sizes
SMALL = 150_000


@pytest.mark.parametrize("workspace", [20_000, 1_000_000])
def test_what_a_candidate_holds_is_never_more_than_was_said(tmp_path, monkeypatch, workspace):
    monkeypatch.setattr(row_blocks, "WORKSPACE", workspace)
    wrong = []
    for name, op in operators_to_form(tmp_path).items():
        x = np.ones((op.shape[1], 3), dtype=op.dtype)
        for form in of.candidates(op, 5, 3, profile=RATES):
            peak = peak_of(lambda op=op, form=form, x=x: of.materialise(op, how=form.how) @ x)
            if peak > form.held + SMALL:
                wrong.append(f"{name}, {form.how}: {peak:,} of {form.held:,.0f}")
    assert not wrong


@pytest.mark.thorough
def test_forming_keeps_to_the_budget_or_refuses(tmp_path):
    for name, op in operators_to_form(tmp_path).items():
        want = op.todense()
        size = want.nbytes
        del want
        formed = 0
        for budget in (0.99 * size, size + 50_000, 1.1 * size, 1.5 * size, 3 * size):
            form = partial(of.materialise, op, how="dense", memory=budget)
            try:
                peak = peak_of(form)
            except MemoryError as error:
                assert "GB" in str(error)
                continue
            formed += 1
            assert peak <= budget + SMALL, f"{name}: {peak:,} of {budget:,.0f}"
            np.testing.assert_allclose(form().todense(), op.todense(), rtol=1e-5)
        # a symmetric matrix that does not fit is packed
        assert 1 <= formed <= 4 + op.symmetric, f"{name} was formed {formed} times"


def test_the_choice_keeps_to_the_budget(tmp_path):
    for op in operators_to_form(tmp_path).values():
        for budget in (1e3, 1e5, 1e6, 3e6, 1e8):
            for products in (1, 1000):
                if not any(f.fits for f in of.candidates(op, products, 1, budget, RATES)):
                    assert of.materialise(op, products=products, memory=budget, profile=RATES) is op
                    continue
                peak = peak_of(partial(of.materialise, op, products=products, memory=budget,
                                       profile=RATES))  # fmt: skip
                assert peak <= budget + SMALL
