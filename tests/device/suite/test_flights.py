"""The stand-in sees races, whichever wait a stream of rows would forget."""

import gc
from pathlib import Path

import cupy
import numpy as np
import pytest

import opflow as of
from opflow.machine import streams
from opflow.machine.streams import prefetched
from tests.device.counting import STAND_IN

if not STAND_IN:
    pytest.skip("a device does not tell of its races", allow_module_level=True)

from cupyx import empty_pinned

from tests.device import flights
from tests.device.flights import Hazard


@pytest.fixture(autouse=True)
def settled():
    yield
    flights.forget()


@pytest.fixture
def sent():
    """A block in flight, its page-locked memory, its stream and the event of its arrival."""
    pinned = empty_pinned((3,), dtype=np.float64)
    pinned[:] = 1
    stream, block = cupy.cuda.Stream(non_blocking=True), cupy.empty(3)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    block.set(pinned, stream=stream)
    return block, pinned, stream, stream.record()


def test_a_block_arrives_when_it_was_waited_for(sent) -> None:
    block, _, _, done = sent
    with pytest.raises(Hazard, match="used before"):
        block + 1
    with pytest.raises(Hazard, match="used before"):
        block[0] = 1
    assert not done.done
    cupy.cuda.get_current_stream().wait_event(done)
    assert float(block.sum()) == 3
    assert not done.done  # to the host that says nothing
    done.synchronize()
    assert done.done


def test_page_locked_memory_is_the_copys_until_the_host_waited(sent) -> None:
    _, pinned, stream, done = sent
    other = cupy.empty(3)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    cupy.cuda.get_current_stream().wait_event(done)
    with pytest.raises(Hazard, match="sent again"):
        other.set(pinned, stream=stream)
    pinned[0] = 5
    with pytest.raises(Hazard, match="written to"):
        done.synchronize()


@pytest.fixture
def seen():
    """Hazards that finalisers saw, which are then forgotten."""
    yield flights.HAZARDS
    flights.HAZARDS.clear()


def test_memory_given_back_in_flight_is_seen(seen) -> None:
    pinned, stream = empty_pinned((2,)), cupy.cuda.Stream(non_blocking=True)
    pinned[:] = 1
    for gone in ("device", "page-locked"):
        block = cupy.empty(2)
        stream.wait_event(cupy.cuda.get_current_stream().record())
        block.set(pinned, stream=stream)
        if gone == "device":
            del block
            stream.synchronize()
        else:
            del pinned
        assert f"{gone} memory was given back" in seen.pop()
    stream.synchronize()


def test_a_copy_waits_for_the_work_that_used_the_memory_before() -> None:
    pinned, stream = empty_pinned((2,)), cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    block = cupy.empty(2)  # after the event: its memory may be that of a later free
    with pytest.raises(Hazard, match="does not wait for the work"):
        block.set(pinned, stream=stream)


def test_nothing_would_overlap_without_page_locked_memory_and_a_stream_of_its_own() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with pytest.raises(Hazard, match="not page-locked"):
        cupy.empty(2).set(np.ones(2), stream=stream)
    with pytest.raises(Hazard, match="blocking stream"):
        cupy.cuda.Stream()
    with pytest.raises(Hazard, match="never recorded"):
        stream.wait_event(cupy.cuda.Event())


def a_pass(rows) -> None:
    slices = [slice(i, i + 2) for i in range(0, 8, 2)]
    for s in prefetched(slices, rows):
        assert (rows[s].get() == np.arange(16.0).reshape(8, 2)[s]).all()


FORGOTTEN = {
    "the device does not wait for a block": (
        "self._xp.cuda.get_current_stream().wait_event(done)\n        if", "if", "used before"),
    "the host does not wait for its buffer": (
        "self._sent[i].synchronize()", "pass", "sent again"),
    "a copy does not wait for the work before": (
        "self._stream.wait_event(xp.cuda.get_current_stream().record(_event(xp)))", "pass",
        "does not wait for the work"),
    "the work before is marked before the memory is had": (
        "block = xp.empty(rows.shape, dtype=self.dtype)\n        "
        "self._stream.wait_event(xp.cuda.get_current_stream().record(_event(xp)))",
        "self._stream.wait_event(xp.cuda.get_current_stream().record(_event(xp)))\n        "
        "block = xp.empty(rows.shape, dtype=self.dtype)", "does not wait for the work"),
    "the end of a copy is marked before it": (
        "if block.size:", "done = self._stream.record(_event(xp))\n        if block.size:",
        "used before"),
    "the memory is not page-locked": ("self._page_locked(rows)", "rows.copy()", "not page-locked"),
    "the stream waits for the default one": ("non_blocking=True", "", "blocking stream"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_wait_that_is_forgotten_is_caught(what) -> None:
    right, wrong, message = FORGOTTEN[what]
    scope = broken(right, wrong, first="end of a copy" in what)
    a_pass(of.Streamed(np.arange(16.0).reshape(8, 2)))
    rows = scope["Streamed"](np.arange(16.0).reshape(8, 2))
    with pytest.raises(Hazard, match=message):
        for s in scope["prefetched"]([slice(i, i + 2) for i in range(0, 8, 2)], rows):
            rows[s].get()
    flights.forget()
    del rows
    flights.forget()


def broken(right: str, wrong: str, first: bool = False) -> dict:
    """The module with one line changed."""
    text = Path(streams.__file__).read_text()
    assert text.count(right) == 1
    text = text.replace(right, wrong)
    if first:  # and not again after it
        head, _, tail = text.rpartition("        done = self._stream.record(_event(xp))\n")
        text = head + tail
    scope = {"__name__": "opflow.streams_broken"}
    exec(compile(text, "opflow/machine/streams.py", "exec"), scope)
    return scope


@pytest.mark.parametrize("right, wrong, message", [
    ("weakref.finalize(self, _sent, self._sent, self._buffers)", "pass", "page-locked memory"),
    ("self._xp.cuda.get_current_stream().wait_event(self._coming[2])", "pass", "device memory"),
])  # fmt: skip
def test_what_moves_when_a_pass_ends_is_waited_for(right, wrong, message, seen) -> None:
    for scope in (vars(streams), broken(right, wrong)):
        rows = scope["Streamed"](np.ones((6, 2)))
        for s in scope["prefetched"]([slice(0, 2), slice(2, 4), slice(4, 6)], rows):
            rows[s]
            break
        if "device" in message:
            del s  # the pass ends, the rows stay
        else:
            for s in scope["prefetched"]([slice(0, 2)], rows):
                rows[s]
            del rows, s
        gc.collect()
        if scope is vars(streams):
            assert not seen
    assert any(message in text for text in seen)
