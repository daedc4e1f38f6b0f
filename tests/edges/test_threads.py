"""Results have one value, bit for bit, in whatever thread or process they are computed.

And BLAS has afterwards the threads that it had.
"""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import opflow as of
from opflow.machine import threads

from .bits import digest, digests, spread_wide
from .catalogue import ENTRIES, Problem

CASES = [(name, kind) for name, found in ENTRIES.items() for kind in found.kinds]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def spread():
    """The smallest products are spread over threads, and nothing is left changed."""
    with threadpool_limits(2, user_api="blas"):
        blas = [threads.count(), *threads._blas._numbers()]
        with spread_wide():
            yield
        assert [threads.count(), *threads._blas._numbers()] == blas


def in_another_thread(work):
    with ThreadPoolExecutor(1) as one:
        return one.submit(work).result()


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda x: x)
def test_a_result_is_the_same_in_another_thread_and_in_several_at_once(name, kind):
    def found():
        return digest(ENTRIES[name](Problem(kind)))

    wanted = found()
    assert in_another_thread(found) == wanted
    together = threading.Barrier(3, timeout=60)

    def at_once(_):
        together.wait()
        return found()

    with ThreadPoolExecutor(3) as three:
        assert list(three.map(at_once, range(3))) == [wanted] * 3


def test_a_product_large_enough_for_a_threaded_blas_is_the_same_in_any_thread():
    rng = np.random.default_rng(0)
    net = of.ReLUNetwork.random([40, 300, 200], seed=1)
    fields = net.fields(rng.standard_normal((1500, 40)))
    r = rng.standard_normal((1500, 3))

    def products():
        return [(of.collective_kernel(fields, route=route) @ r).tobytes()
                for route in ("cached", "transport")]  # fmt: skip

    wanted = products()
    assert in_another_thread(products) == wanted
    with ThreadPoolExecutor(3) as three:
        assert list(three.map(lambda _: products(), range(6))) == [wanted] * 6


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("call", ["everything", "amid"])
def test_a_child_process_computes_the_same(call):
    done = subprocess.run(
        [sys.executable, "-m", "tests.edges.bits", call], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_digests_tell_results_apart():
    some = digests(["trace", "solve"])
    assert digests(["trace", "solve"]) == some and len(set(some.values())) == len(some)
