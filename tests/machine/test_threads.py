"""Ranges of rows over threads: every row once, errors told, BLAS as it was."""

import os
import threading
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import opflow as of
from opflow.machine import threads as pool
from opflow.machine import workspace
from opflow.machine.arrays import is_array
from opflow.machine.gate_tables import gate_engine
from opflow.machine.ranks import RowDistribution
from opflow.machine.workspace import workspace_limit
from tests.operators.battery import small_blocks

MANY = 1e12


@pytest.fixture(autouse=True)
def controlled():
    """BLAS has two threads to begin with, whatever the environment says."""
    if pool._blas.threads() is None:
        pytest.skip("the threads of this BLAS cannot be set: rows are not spread")
    with threadpool_limits(2, user_api="blas"):
        yield


def spread(n, work, flops=MANY, *data, threads=3, **options):
    with pool.limited(threads):
        return pool.over_rows(n, work, flops, *data, **options)


@given(n=st.integers(0, 20), threads=st.integers(1, 7))
def test_ranges_cover_all_rows_once_and_results_keep_their_order(n, threads):
    ranges = spread(n, lambda s: (s.start, s.stop), threads=threads)
    assert len(ranges) == max(1, min(n, threads))
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(n))


@given(n=st.integers(0, 20), threads=st.integers(1, 7), fewer=st.integers(0, 7))
def test_items_are_dealt_out_in_turn(n, threads, fewer):
    with pool.limited(threads):
        hands = pool.over_items(lambda: range(n), list, MANY)
        some = pool.over_items(lambda: range(n), list, fewer * pool.SHARE)
    assert hands == [list(range(i, n, threads)) for i in range(threads)]
    assert len(some) == min(max(fewer, 1), threads)
    assert sorted(i for hand in some for i in hand) == list(range(n))


def test_ranges_are_at_work_at_the_same_time_each_with_one_thread():
    meeting = threading.Barrier(3, timeout=30)

    def work(s):
        meeting.wait()
        blas = pool._blas._numbers()
        return threading.get_ident(), pool.count(), max(blas)

    found = spread(9, work)
    assert len({ident for ident, *_ in found}) == 3 and threading.get_ident() in found[0]
    assert all(rest == [1, 1] for _, *rest in found)


def test_ranges_share_the_workspace_and_keep_the_options_of_the_caller():
    def work(s):
        return workspace.workspace_bytes(), gate_engine()

    with of.gate_options("blas"), workspace_limit(6 << 20, spread=3 << 20):
        found = spread(9, work)
        assert workspace.workspace_bytes() == 6 << 20
    assert found == [(3 << 20, "blas")] * 3


@pytest.mark.parametrize(
    "case",
    [
        {"flops": 1e6},
        {"data": [np.ones((9, 2)), "rows on disk"]},
        {"sums": 1e9},
        {"limit": 4 << 20},
        {"limit": 100 << 20, "sums": 2e6},
    ],
    ids=str,
)
def test_one_range_where_several_would_not_pay_or_not_fit(case):
    limit = workspace_limit(case["limit"]) if "limit" in case else workspace_limit(
        workspace.WORKSPACE, workspace.THREAD_MEMORY
    )  # fmt: skip
    before = pool._blas.threads()
    with limit:
        blas = spread(9, lambda s: (s, pool._blas.threads(), pool._blas._users),
                      case.get("flops", MANY), *case.get("data", []),
                      sums=case.get("sums", 0.0))  # fmt: skip
    assert blas == [(slice(0, 9), before, 0)]


def numbers():
    return pool._blas._numbers()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be asked for")
@pytest.mark.parametrize("failing", [False, True])
def test_threads_begin_on_cores_of_their_own_and_may_move(failing, monkeypatch):
    before = os.sched_getaffinity(0)
    if len(before) < 2 or pool._getcpu()() < 0:
        pytest.skip("one core, or nobody says which")
    confined, real = [], os.sched_setaffinity

    def seen(who, cores):
        confined.append((threading.get_ident(), tuple(cores)))
        real(who, cores)

    def work(s):
        if failing:
            raise RuntimeError("out of luck")
        return os.sched_getaffinity(0)

    monkeypatch.setattr(os, "sched_setaffinity", seen)
    with pytest.raises(RuntimeError) if failing else nullcontext():
        assert spread(9, work, threads=2) == [before, before]
    assert os.sched_getaffinity(0) == before
    assert [len(cores) for _, cores in confined].count(len(before)) == 2
    begun = {who: cores for who, cores in confined if len(cores) == 1}
    assert len(begun) == len(set(begun.values())) == 2


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_of_any_range_is_raised_once_all_have_ended(failing):
    ended, before = [], numbers()

    def work(s):
        if s.start == 3 * failing:
            raise RuntimeError("out of luck")
        threading.Event().wait(0.05)
        ended.append(s.start)

    with pytest.raises(RuntimeError, match="out of luck"):
        spread(9, work)
    assert sorted(ended) == sorted({0, 3, 6} - {3 * failing})
    assert numbers() == before


@pytest.mark.parametrize("swapped", [False, True])
def test_an_operand_that_gives_no_rows_is_applied_whole(swapped):
    rng = np.random.default_rng(0)
    A, mask = rng.standard_normal((6, 6)), of.Mask(np.array([1, 0, 1, 1, 0, 1], dtype=bool))
    pair = (mask, A) if swapped else (A, mask)
    K = of.KhatriRao(*pair)
    left, right = (x if x is A else mask.todense() for x in pair)
    want = np.array([np.kron(a, b) for a, b in zip(left, right, strict=True)])
    with small_blocks(100):  # and so on three threads
        np.testing.assert_allclose(K @ np.eye(36), want, atol=1e-14)
        np.testing.assert_allclose(K.T @ np.eye(6), want.T, atol=1e-14)


def test_blas_has_its_threads_again_once_the_last_user_has_left():
    before, blas = numbers(), pool._blas
    first, second = blas.single(), blas.single()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert numbers() == [1] * len(before) and blas.threads() == max(before)
    second.__exit__(None, None, None)
    assert numbers() == before


@pytest.mark.parametrize("find, algebra", [
    (lambda op: of.spectral.eigsh(op, 3, method="lanczos"), "gram"),
    (lambda op: of.spectral.largest_eigenvalue(op, tol=1e-8), "total"),
])  # fmt: skip
def test_blas_is_quiet_between_products_and_has_its_threads_in_them(find, algebra, monkeypatch):
    """Its idle threads would be in the way of those of the next product."""
    within, between = set(), set()
    product, sums = of.Matrix._matmat, getattr(RowDistribution, algebra)

    def matmat(op, X):
        within.update(numbers())
        return product(op, X)

    def complete(*arrays):
        if arrays[-1].ndim > 1:
            between.update(numbers())
        return sums(*arrays)

    monkeypatch.setattr(pool, "ALONE", 0)
    monkeypatch.setattr(of.Matrix, "_matmat", matmat)
    monkeypatch.setattr(RowDistribution, algebra, complete)
    find(of.Matrix(np.diag(np.arange(1.0, 301.0)), symmetric=True))
    assert (within, between) == (set(numbers()), {1})


def test_blas_has_its_threads_again_whichever_thread_leaves_last():
    before, blas = numbers(), pool._blas
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def other():
        with blas.single():
            seen.append(numbers())
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with blas.single():
        thread.start()
        inside.wait(30)
    leave.set()
    thread.join()
    assert seen == [[1] * len(before)] and numbers() == before


@pytest.mark.parametrize("limits", [(None, 1), (None, 2), (2, 1), (1, None)], ids=str)
def test_a_limit_of_the_caller_stays_in_whatever_thread(limits):
    before, found = numbers(), []

    def work(s):
        return max(numbers())

    def in_another_thread():
        with threadpool_limits(limits[1], user_api="blas"):
            at = numbers()
            found.append((spread(9, work), at == numbers(), pool._blas.threads() == max(at)))

    with threadpool_limits(limits[0], user_api="blas"):
        held = numbers()
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join()
        assert numbers() == held and spread(9, work) == [1, 1, 1] and numbers() == held
    assert found == [([1, 1, 1], True, True)] and numbers() == before


def test_a_number_that_another_has_set_meanwhile_is_left(monkeypatch):
    blas = fake_blas(monkeypatch, Shared(8))
    library = blas._libraries()[0][0]
    with blas.single():
        library.set_num_threads(3)
    assert blas._numbers() == [3]


class Shared:
    """A BLAS library with a number for the process."""

    internal_api = "fake"
    obeys = True

    def __init__(self, number):
        self.number = number

    def get_num_threads(self):
        return self.number

    def set_num_threads(self, number):
        self.number = number if self.obeys else self.number


class OfThread(threading.local):
    """One with a number for each thread, as with OpenMP."""

    internal_api = "fake"
    number = 8
    get_num_threads, set_num_threads = Shared.get_num_threads, Shared.set_num_threads
    obeys = True


def fake_blas(monkeypatch, *libraries):
    blas = pool.Blas()
    blas._known = [(library, library.set_num_threads) for library in libraries]
    monkeypatch.setattr(pool, "_blas", blas)
    return blas


def test_a_library_with_a_number_for_each_thread_is_held_in_each_and_has_its_own_again(monkeypatch):
    blas = fake_blas(monkeypatch, Shared(8), OfThread())
    meeting = threading.Barrier(6, timeout=30)
    found = []

    def work(s):
        meeting.wait()
        return numbers()

    def other():
        blas._libraries()[1][0].set_num_threads(5)
        found.append((spread(9, work), numbers()[1]))

    thread = threading.Thread(target=other)
    thread.start()
    assert spread(9, work) == [[1, 1]] * 3
    thread.join()
    assert found == [([[1, 1]] * 3, 5)] and numbers() == [8, 8]


def test_rows_are_not_spread_where_a_library_cannot_be_held(monkeypatch):
    stubborn = Shared(8)
    stubborn.obeys = False
    blas = fake_blas(monkeypatch, Shared(8), stubborn)
    assert spread(9, lambda s: (s, blas._users, numbers())) == [(slice(0, 9), 0, [8, 8])]


def test_threads_are_those_asked_for_or_of_the_environment_or_of_blas(monkeypatch):
    monkeypatch.delenv("OPFLOW_NUM_THREADS", raising=False)
    assert pool.count() == pool._blas.threads()
    monkeypatch.setenv("OPFLOW_NUM_THREADS", "5")
    assert pool.count() == 5
    with of.gate_options(threads=4):
        assert pool.count() == 4


@given(
    threads=st.integers(2, 6), N=st.integers(1, 12), widths=st.lists(st.integers(1, 5), min_size=1,
    max_size=3), outputs=st.integers(1, 2), bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_fields_products_and_steps_do_not_depend_on_the_threads(
    threads, N, widths, outputs, bias, seed
):
    rng = np.random.default_rng(seed)
    net = of.ReLUNetwork.random([4, *widths], outputs=outputs, seed=rng)
    if bias:
        net = of.ReLUNetwork(net.weights, net.readout,
                             biases=[rng.standard_normal(w) for w in widths])  # fmt: skip
    X, y = rng.standard_normal((N, 4)), rng.standard_normal((N, outputs))
    r = rng.standard_normal((N * outputs, 3))

    def results():
        fields = net.fields(X)
        K, again = (of.collective_kernel(fields, route=way) for way in ("cached", "transport"))
        run = of.train(net, X, y, steps=3, method=of.GradientDescent(step=1e-3), eliminate=False)
        return [*fields.activations[1:], *fields.conjugates, K @ r, again @ r, *run.network.weights,
                *filter(is_array, run.network.biases), run.residual,
                np.array(run.losses)]  # fmt: skip

    with of.gate_options(threads=1):
        wanted = results()
    with small_blocks(1000), of.gate_options(threads=threads):
        found = results()
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11 * max(1.0, abs(a).max()))
