"""A packed matrix is the dense one in half the memory: entries, products, budgets and choices."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.evaluation import packed
from opflow.evaluation.packed import FEW, HEIGHT, packed_size
from opflow.machine import threads
from opflow.machine import workspace as row_blocks
from opflow.machine.native import native

RATES = of.MachineProfile()
ENGINES = [None] + [native] * bool(native and native.multiplies_packed)
orders = st.sampled_from([1, 2, HEIGHT - 1, HEIGHT, HEIGHT + 1, 2 * HEIGHT, 3 * HEIGHT + 7])


def problem(n, dtype=np.float64, seed=0):
    """A packed matrix that is not PSD, and its dense reference in float64."""
    rng = np.random.default_rng(seed)
    F, w = rng.standard_normal((n, 6)).astype(dtype), rng.standard_normal(6).astype(dtype)
    w[0] = -abs(w[0])
    return of.materialise(of.Gram(F, w), how="packed"), (F.astype(float) * w) @ F.T.astype(float)


@given(
    n=orders, columns=st.sampled_from([0, 1, 2, 3, 4, 5, FEW, FEW + 1]),
    dtype=st.sampled_from([np.float32, np.float64]), engine=st.sampled_from(ENGINES),
    operand=st.sampled_from([np.float32, np.float64]), workspace=st.sampled_from([2_000, 8 << 20]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_products_and_entries_are_those_of_the_dense_matrix(
    n, columns, dtype, engine, operand, workspace, seed
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_blocks, "WORKSPACE", workspace)
        op, A = problem(n, dtype, seed)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, columns)).astype(operand)
    rounding = np.finfo(dtype).eps * max(abs(A).max(), 1e-3)
    D = op.todense()
    assert D.dtype == dtype
    assert (D == D.T).all()
    np.testing.assert_allclose(D, A, rtol=0, atol=30 * rounding)
    np.testing.assert_array_equal(op.diagonal(), D.diagonal())
    assert op.trace() == pytest.approx(np.trace(D), abs=30 * n * rounding)
    some = rng.integers(-n, n, 5)
    for rows, cols in [(some, slice(None)), (slice(n // 3, n), some), (some, some[:2]),
                       (slice(None, None, -2), slice(n // 2)), (slice(1, 1), slice(None)),
                       (slice(n // 4, n), slice(n // 2, n)),
                       (rng.random(n) < 0.5, slice(None))]:  # fmt: skip
        np.testing.assert_array_equal(op.block(rows, cols), D[rows][:, cols])
    np.testing.assert_array_equal(op.rows(slice(n // 2, None)), D[n // 2 :])
    np.testing.assert_array_equal(op.rows(some), D[some])
    exact = D.astype(float) @ X  # of the entries as they are stored
    bound = np.finfo(np.result_type(dtype, operand)).eps * (n + 10) * abs(D).max() * abs(X).sum(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "native", engine)
        again = pickle.loads(pickle.dumps(op))
        *products, same = op @ X, op.H @ X, again @ X
    for got in products:
        assert got.dtype == np.result_type(dtype, operand)
        assert (abs(got - exact) <= bound).all()
    np.testing.assert_array_equal(same, got)
    assert (again.symmetric, again.psd, again.symbol) == (True, False, op.symbol)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_add_their_sums(engine, monkeypatch):
    monkeypatch.setattr(threads, "SHARE", 1.0)
    monkeypatch.setattr(packed, "native", engine)
    op, A = problem(3 * HEIGHT + 5)
    X = np.random.default_rng(1).standard_normal((len(A), 3))
    found = []
    for count in (1, 2, 3):
        with of.gate_options(threads=count):
            found.append(op @ X)
            np.testing.assert_allclose(problem(len(A))[0].data, op.data, rtol=0, atol=1e-13)
    for got in found:
        np.testing.assert_allclose(got, A @ X, rtol=0, atol=1e-12 * abs(A @ X).max())


def test_a_block_of_a_psd_operator_stays_psd_and_half_is_stored():
    n = 1000
    op = of.materialise(of.Gram(np.ones((n, 2))), how="packed")
    assert op.psd
    assert op.data.size == packed_size(n) <= n * n / 2 + n * HEIGHT / 2
    assert op.cost(0).bytes == op.data.nbytes
    assert op.cost(3).flops == of.Matrix(op.todense()).cost(3).flops


@pytest.mark.parametrize("dtype, widest", [(np.float32, 512), (np.float64, 256)])
def test_tiles_are_as_wide_as_small_products_allow(dtype, widest):
    op = of.PackedSymmetric(np.ones(1, dtype), 1)
    assert [op.width(b) for b in (0, 1, 8, 41, 1000)] == [widest] * 5
    for b in range(1, 41):
        assert 190 < op.width(b) <= min(widest, 1e6 / (HEIGHT * b))


@pytest.mark.skipif(len(ENGINES) == 1, reason="the extension is not built, or not for this machine")
def test_the_extension_is_given_what_it_expects():
    op, A = problem(HEIGHT + 3)
    X = np.random.default_rng(1).standard_normal((HEIGHT + 3, 2))
    scattered = of.PackedSymmetric(np.repeat(op.data, 2)[::2], HEIGHT + 3)  # BLAS takes it
    np.testing.assert_allclose(scattered @ X, A @ X, rtol=0, atol=1e-12 * abs(A @ X).max())
    XT = np.zeros((2, 2 * HEIGHT))
    right = [8, HEIGHT + 3, 2, 0, 1, 1, op.data, XT, np.zeros_like(XT)]
    native.packed(*right)
    for at, wrong in ((0, 2), (1, 0), (1, HEIGHT), (2, 0), (2, 3), (3, -1), (4, 2), (5, 0),
                      (6, op.data[1:]), (7, XT[:1]), (8, XT[:1])):  # fmt: skip
        with pytest.raises(ValueError, match=r"packed product|a buffer holds"):
            native.packed(*right[:at], wrong, *right[at + 1 :])


def test_tiles_that_end_amid_a_block_leave_no_entry_out(monkeypatch):
    monkeypatch.setattr(row_blocks, "WORKSPACE", 100_000)
    W = np.random.default_rng(0).standard_normal((2 * HEIGHT + 9, 20))
    op = of.Gram(of.Matrix(W) @ of.Matrix(W.T @ W / 100))
    np.testing.assert_allclose(of.materialise(op, how="packed").todense(), op.todense(), atol=1e-9)


@pytest.mark.parametrize("call, match", [
    (lambda: of.PackedSymmetric(np.ones(5), 2), r"data must have the shape \(4,\).*order 2"),
    (lambda: of.PackedSymmetric(np.ones((2, 2)), 2), "data must have the shape"),
    (lambda: of.materialise(of.Matrix(np.eye(3)), how="packed"), "known to be symmetric"),
])  # fmt: skip
def test_what_is_no_packed_matrix_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# -- the choice and the budget ---------------------------------------------------------------------


@pytest.mark.parametrize("n, memory, kind", [
    (600, 4e6, of.Matrix), (600, 2.3e6, of.PackedSymmetric), (600, 1.5e6, None),
])  # fmt: skip
@pytest.mark.parametrize("ask", [{"how": "dense"}, {"products": 1000, "profile": RATES}])
def test_memory_picks_packed_where_dense_does_not_fit(n, memory, kind, ask, monkeypatch):
    monkeypatch.setattr(row_blocks, "WORKSPACE", 100_000)
    K = of.Gram(np.random.default_rng(0).standard_normal((n, 900)))
    want = K @ np.ones(n)
    if kind is None and "how" in ask:
        with pytest.raises(MemoryError, match="GB"):
            of.materialise(K, memory=memory, **ask)
        return
    with of.gate_options(threads=1):
        tracemalloc.start()
        try:
            op = of.materialise(K, memory=memory, **ask)
            got = op @ np.ones(n)
            assert tracemalloc.get_traced_memory()[1] <= memory + 150_000
        finally:
            tracemalloc.stop()
    assert type(op) is kind or (kind is None and op is K)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * abs(want).max())


def test_what_packed_holds_is_as_predicted():
    K = of.Gram(np.random.default_rng(0).standard_normal((700, 30)))
    X = np.ones((700, 3))
    (form,) = (f for f in of.candidates(K, 5, 3, 3e6, RATES) if f.how == "packed")
    tracemalloc.start()
    try:
        of.materialise(K, how="packed", memory=form.held) @ X
        assert tracemalloc.get_traced_memory()[1] <= form.held + 150_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("memory, way", [("1GB", "dense"), (7.5e6, "packed")])
def test_eigsh_takes_the_packed_form_where_dense_does_not_fit(memory, way):
    F = np.random.default_rng(2).standard_normal((800, 3000)) * np.geomspace(1, 1e-2, 3000)
    with of.gate_options(threads=1):
        pairs = of.spectral.eigsh(of.Gram(F), 12, method="lanczos", memory=memory, tol=1e-6)
    assert (pairs.how, pairs.converged) == (f"lanczos, {way}", True)
    values = np.linalg.svd(F, compute_uv=False)[:12] ** 2
    np.testing.assert_allclose(pairs.eigenvalues, values, rtol=1e-10)


def test_spectral_functions_take_a_packed_operator():
    op, A = problem(2 * HEIGHT + 3)
    values = np.linalg.eigvalsh(A)[::-1]
    for method, how in (("lanczos", "lanczos, as given"), ("lapack", "lapack, dense")):
        pairs = of.spectral.eigsh(op, 3, which="LA", method=method)
        assert pairs.how == how
        np.testing.assert_allclose(pairs.eigenvalues, values[:3], atol=1e-12 * values[0])
    x = np.random.default_rng(0).standard_normal(len(A))
    solved = of.spectral.solve(op @ op + of.Identity(len(A)), x).x
    np.testing.assert_allclose(A @ (A @ solved) + solved, x, atol=1e-6 * abs(x).max())
