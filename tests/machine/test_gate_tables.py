"""Products of gates by tables equal their definition, whatever the shapes, engine and threads."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import opflow as of
from opflow.machine import gate_tables, workspace
from opflow.machine import threads as pool
from opflow.operators.gates import pack

ROOT = Path(__file__).parents[2]
TABLES = [name for name in of.gate_engines() if name != "blas"]
needs_extension = pytest.mark.skipif(
    not TABLES, reason="opflow._native is not built: run python native/build.py"
)

shapes = st.tuples(
    st.sampled_from([1, 2, 5, 63, 64, 65, 193, 300]),
    st.sampled_from([1, 4, 7, 8, 33, 64, 70, 129]),
    st.sampled_from([1, 3, 16, 17, 32, 40, 65]),
)
dtypes = st.sampled_from([np.float32, np.float64])


def arrays(shape, columns, dtype, seed):
    """Gates Θ, M (columns, n, c), X (N, c) and r (columns, N)."""
    rng = np.random.default_rng(seed)
    N, n, c = shape
    sizes = ((columns, n, c), (N, c), (columns, N))
    return rng.random((N, n)) < 0.5, *(rng.standard_normal(s).astype(dtype) for s in sizes)


def close(result, formula, terms, dtype, *operands):
    """|error| <= eps · terms · (the formula at absolute values), entry by entry."""
    assert result.dtype == dtype
    exact = formula(*(a.astype(np.float64) for a in operands))
    size = formula(*(np.abs(a).astype(np.float64) for a in operands))
    assert result.shape == exact.shape
    assert (np.abs(result - exact) <= np.finfo(dtype).eps * terms * size).all()


def check_products(shape, columns, dtype, seed):
    gates, M, X, r = arrays(shape, columns, dtype, seed)
    (N, n, c), bits = shape, pack(gates)
    close(gate_tables.times(bits, n, M[0]), lambda g, m: g @ m, n, dtype, gates, M[0])
    close(
        gate_tables.row_dots(bits, n, M, X),
        lambda g, m, x: np.einsum("un,bnc,uc->bu", g, m, x),
        n + c,
        dtype,
        gates,
        M,
        X,
    )
    close(
        gate_tables.weighted_sums(bits, n, X, r),
        lambda g, x, w: np.einsum("un,bu,uc->bnc", g, w, x),
        N + 1,
        dtype,
        gates,
        X,
        r,
    )
    close(gate_tables.weighted_sums(bits, n, X), lambda g, x: (g.T @ x)[None], N, dtype, gates, X)
    close(
        gate_tables.gram_product(bits, n, X, r, M[0, :, 0].copy()),
        lambda g, x, w, v: np.einsum("un,n,vn,bv,vc,uc->bu", g, v**2, g, w, x, x, optimize=True),
        N + n + c + 2,
        dtype,
        gates,
        X,
        r,
        M[0, :, 0],
    )


@needs_extension
@pytest.mark.parametrize("engine", TABLES)
@given(shape=shapes, columns=st.integers(1, 3), dtype=dtypes, seed=st.integers(0, 99))
def test_products_equal_their_definition(engine, shape, columns, dtype, seed):
    with of.gate_options(engine, threads=1):
        check_products(shape, columns, dtype, seed)


@needs_extension
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "columns"),
    [((2500, 600, 70), 1), ((70, 1100, 40), 1), ((9000, 60, 33), 1), ((9000, 9, 2), 50)],
    ids=str,
)
def test_products_of_many_ranges_panels_and_folds_equal_their_definition(shape, columns, dtype):
    with of.gate_options(threads=2):
        check_products(shape, columns, dtype, 0)


@needs_extension
def test_no_result_depends_on_the_threads(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1.0)  # threads for the smallest work
    gates, M, X, r = arrays((9000, 65, 70), 2, np.float32, 1)
    bits, results = pack(gates), []
    for threads in (1, 2, 3, 8, 300):
        with of.gate_options(threads=threads):
            results.append(
                [gate_tables.times(bits, 65, M[0]), gate_tables.row_dots(bits, 65, M, X),
                 gate_tables.weighted_sums(bits, 65, X, r),
                 gate_tables.gram_product(bits, 65, X, r, M[0, :, 0])]
            )  # fmt: skip
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_extension
def test_products_go_on_in_several_python_threads():
    gates, M, _, _ = arrays((3000, 64, 40), 1, np.float64, 2)
    bits, wanted, out = pack(gates), gates @ M[0], [None] * 4

    def work(i):
        out[i] = [gate_tables.times(bits, 64, M[0]) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_allclose(np.array(out), np.broadcast_to(wanted, (4, 5, 3000, 40)), atol=1e-12)


@needs_extension
def test_row_blocks_need_not_divide_the_samples(monkeypatch):
    monkeypatch.setattr(workspace, "WORKSPACE", 5000)
    check_products((301, 70, 33), 2, np.float64, 3)


@needs_extension
@given(shape=shapes, columns=st.integers(1, 3), dtype=dtypes, seed=st.integers(0, 99))
def test_operators_agree_with_blas_to_rounding(shape, columns, dtype, seed):
    gates, M, X, r = arrays(shape, columns, dtype, seed)
    v = M[0, :, 0].copy()
    flat = np.ascontiguousarray(M.reshape(columns, -1).T)
    products = {}
    for engine in (TABLES[0], "blas"):
        with of.gate_options(engine):
            J = of.KhatriRao(of.ScaledGates(gates, v), X)
            C = of.CoActivation(gates, v**2)
            products[engine] = [J @ flat, J.T @ r.T, J @ (J.T @ r.T), C @ r.T, C @ r[0]]
    # Every entry is a sum of products: its size is bounded by that of the largest.
    for a, b in zip(*products.values(), strict=True):
        assert a.dtype == b.dtype == dtype
        top = max(np.abs(a).max(), np.abs(b).max(), np.abs(X).max() * np.abs(r).max())
        terms = shape[0] * sum(shape)
        np.testing.assert_allclose(a, b, rtol=0, atol=np.finfo(dtype).eps * terms * (1 + top))


@needs_extension
@pytest.mark.parametrize("widths", [[6, 39], [6, 9, 5, 41]], ids=str)
@pytest.mark.parametrize("storage", ["cached", "packed"])
def test_kernels_and_steps_do_not_depend_on_the_engine(widths, storage):
    rng = np.random.default_rng(0)
    network = of.ReLUNetwork.random(widths, seed=1)
    X, r = rng.standard_normal((40, 6)), rng.standard_normal((40, 2))
    found = {}
    for engine in (TABLES[0], "blas"):
        with of.gate_options(engine):
            fields = network.fields(X, storage=storage)
            K = of.collective_kernel(fields)
            run = of.train(network, X, r[:, 0], method=of.GradientDescent(1e-2), steps=5)
            J = of.jacobian(fields)
            found[engine] = [K @ r, K.diagonal(), K.block(slice(3), slice(None)), J.T @ r,
                             run.residual, *run.network.weights]  # fmt: skip
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@needs_extension
def test_one_hidden_layer_holds_bits_and_no_conjugates():
    network = of.ReLUNetwork.random([5, 64], scaling="standard", seed=0)
    fields = network.fields(np.random.default_rng(0).standard_normal((200, 5)), storage="packed")
    K = of.collective_kernel(fields)
    K @ np.ones(200)
    assert fields.nbytes == 200 * 64 // 8
    assert isinstance(K.factor.A, of.ScaledGates) and K.factor.A.data is fields.top_bits


@needs_extension
def test_arrays_that_tables_cannot_read_go_through_blas():
    gates, M, X, r = arrays((40, 12, 7), 1, np.float64, 4)
    J = of.KhatriRao(of.ScaledGates(gates, M[0, :, 0]), np.asfortranarray(X))
    np.testing.assert_allclose(
        J.T @ r[0], ((gates * M[0, :, 0]).T @ (r[0][:, None] * X)).ravel(), atol=1e-12
    )
    assert not gate_tables.tabulated(np.dtype(np.float64), X.T)
    assert not gate_tables.tabulated(np.dtype(np.float64), X.view(np.memmap))
    with of.gate_options("blas"):
        assert not gate_tables.tabulated(np.dtype(np.float64), X)


@needs_extension
def test_the_extension_refuses_what_does_not_fit():
    from opflow import _native

    bits, M, out = np.zeros((3, 1), np.uint8), np.ones((5, 2)), np.empty((3, 2))
    arguments = [0, None, 8, 1, 3, 5, 2, 1, bits, M, None, None, out]
    _native.product(*arguments)
    np.testing.assert_array_equal(out, 0)
    for at, value in ((4, 4), (5, 9), (6, 3), (2, 2), (0, 7), (9, M[:, :1].copy()), (7, 2)):
        with pytest.raises(ValueError, match=r"buffer holds|product of kind"):
            _native.product(*arguments[:at], value, *arguments[at + 1 :])
    r, X, v, gram = np.ones(3), np.ones((3, 2)), np.ones(5), np.empty(3)
    arguments_of_gram = [3, None, 8, 1, 3, 5, 2, 1, bits, r, X, v, gram]
    _native.product(*arguments_of_gram)
    for at, value in ((9, None), (10, None), (11, None), (11, r), (12, v)):
        with pytest.raises((TypeError, ValueError), match=r"buffer holds|bytes-like"):
            _native.product(*arguments_of_gram[:at], value, *arguments_of_gram[at + 1 :])
    with pytest.raises(ValueError, match="no engine abacus"):
        _native.product(0, "abacus", *arguments[2:])
    out.flags.writeable = False
    with pytest.raises((BufferError, ValueError), match=r"writ(e|)able|read-only"):
        _native.product(*arguments)


def test_options_are_checked_and_end_with_their_block(monkeypatch):
    before = gate_tables.gate_engine(), pool.count()
    named = r"engine must be one of .*'blas', not 'abacus'"
    with pytest.raises(ValueError, match=named), of.gate_options("abacus"):
        pass
    with pytest.raises(ValueError, match="at least 1, not 0"), of.gate_options(threads=0):
        pass
    with of.gate_options("blas", threads=7):
        with of.gate_options(threads=2):
            assert (gate_tables.gate_engine(), pool.count()) == ("blas", 2)
        assert pool.count() == 7
    assert (gate_tables.gate_engine(), pool.count()) == before
    monkeypatch.setenv("OPFLOW_NUM_THREADS", "3")
    assert pool.count() == 3
    monkeypatch.setenv("OPFLOW_GATES", "abacus")
    with pytest.raises(ValueError, match="OPFLOW_GATES must be one of"):
        gate_tables.gate_engine()


@pytest.mark.thorough
def test_everything_works_without_the_extension():
    code = (
        "import sys; sys.modules['opflow._native'] = None\n"
        "import numpy as np, opflow as of\n"
        "assert of.gate_engines() == ['blas']\n"
        "of.show_config()\n"
        "net = of.ReLUNetwork.random([3, 9], seed=0)\n"
        "K = of.collective_kernel(net.fields(np.eye(3)))\n"
        "C = of.CoActivation(np.eye(3) > 0)\n"
        "print(np.abs(K @ np.ones(3) - K.todense().sum(1)).max() < 1e-14, C @ np.ones(3))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ran.stdout.splitlines()[-1] == "True [1. 1. 1.]"
    assert "blas (of blas)" in ran.stdout


@pytest.mark.thorough
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_c_is_clean_under_sanitizers(sanitizers, tmp_path):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    flags = ["-std=gnu11", "-O1", "-g", "-pthread", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, f"-fsanitize={sanitizers}"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = subprocess.run(
        [*command, str(tmp_path / "empty.c"), "-o", str(tmp_path / "empty")], capture_output=True
    )
    if probe.returncode or subprocess.run([tmp_path / "empty"]).returncode:
        pytest.skip(f"the C compiler has no working -fsanitize={sanitizers}")
    for source in sorted((ROOT / "tests" / "native").glob("*.c")):
        program = tmp_path / source.stem
        subprocess.run([*command, str(source), "-o", str(program), "-lm"], check=True)
        ran = subprocess.run([program], capture_output=True, text=True)
        assert ran.returncode == 0, source.name + ran.stdout + ran.stderr
