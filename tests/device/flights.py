"""Streams, events and copies in flight, each as late as CUDA may make it.

Part of the stand-in.  The device computes at once, on the default stream; a copy on another stream
moves nothing until somebody waits for it, and until then its target is poison that cannot be
touched.  Raised as :class:`Hazard` is what on a device would be a race:

* a block is used before the stream that computes has waited for its copy;
* page-locked memory is written to, sent again or given back before the *host* has waited for the
  copy from it (that the device has waited says nothing to the host);
* a copy starts without waiting for the work that may have used the memory of its target before;
* the memory of a target is given back while the copy into it moves;
* memory that is not page-locked, or a stream that waits for the default one: nothing would overlap.
"""

import itertools
import time
import weakref

import numpy as np
from numpy.lib.array_utils import byte_bounds


class Hazard(RuntimeError):
    """What would be a race on a device."""


#: hazards seen by finalisers, which cannot raise
HAZARDS: list[str] = []
#: copies that the host has not waited for
FLIGHTS: list["Flight"] = []
_ticks = itertools.count(1)
_page_locked: dict[int, weakref.ref] = {}


def tick() -> int:
    """The time on the default stream: of an allocation, or of an event recorded there."""
    return next(_ticks)


class Flight:
    """A copy from page-locked memory to the device."""

    def __init__(self, source, target) -> None:
        self.source, self.target, self.sent = source, target, source.copy()
        self.arrived = self.released = False

    def unspoilt(self) -> None:
        if not np.array_equal(self.source, self.sent, equal_nan=True):
            raise Hazard("page-locked memory was written to while it was copied")

    def deliver(self) -> None:
        """The stream that computes waited."""
        if not self.arrived:
            self.unspoilt()
            self.target[...] = self.source
            self.arrived = True

    def release(self) -> None:
        """The host waited."""
        if not self.released:
            self.deliver()
            self.unspoilt()
            self.released = True
            FLIGHTS.remove(self)


def under_way() -> int:
    """How many copies nobody has waited for."""
    return sum(not f.arrived for f in FLIGHTS)


def forget() -> None:
    """After a hazard that a test wanted to see: nothing flies, nothing was seen."""
    for f in FLIGHTS:
        f.arrived = f.released = True
    FLIGHTS.clear()
    HAZARDS.clear()


def touch(array) -> None:
    """An array on the device is read or written by the stream that computes."""
    for f in FLIGHTS:
        if not f.arrived and np.may_share_memory(f.target, array):
            raise Hazard("a block is used before the copy into it was waited for")


def empty_pinned(shape, dtype=float, order="C"):
    """Page-locked memory."""
    made = np.empty(shape, dtype, order)
    made.fill(np.nan)
    _page_locked[id(made)] = weakref.ref(made)

    weakref.finalize(made, _given_back, id(made), byte_bounds(made)).atexit = False
    return made


def _given_back(key: int, ends: tuple[int, int]) -> None:
    _page_locked.pop(key, None)
    if any(ends[0] <= byte_bounds(f.source)[0] < ends[1] for f in FLIGHTS):
        HAZARDS.append("page-locked memory was given back while it was copied")


def _root(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def launch(wrapper, target, source, stream, born: int) -> None:
    """Copy `source` into the device array `wrapper` of memory `target`, sometime."""
    if not isinstance(stream, Stream) or stream is NULL:
        raise NotImplementedError("a copy on the default stream")
    if not isinstance(source, np.ndarray):
        raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
    if source.dtype != target.dtype or source.shape != target.shape:
        raise ValueError(f"{source.dtype} of shape {source.shape} into {target.dtype} of "
                         f"{target.shape}")  # fmt: skip
    root = _root(source)
    known = _page_locked.get(id(root))
    if known is None or known() is not root or not source.flags.c_contiguous:
        raise Hazard("the host memory of an asynchronous copy is not page-locked")
    if any(np.may_share_memory(f.source, source) for f in FLIGHTS):
        raise Hazard("page-locked memory is sent again before the host waited for its last copy")
    if stream.seen < born:
        raise Hazard("the copy does not wait for the work that used the memory of its target")
    # A view that does not keep the memory's owner alive, which is whose end is watched.
    address, flags = source.__array_interface__["data"][0], source.dtype.str
    loose = np.asarray(_Loose(address, source.shape, flags))
    flight = Flight(loose, target)
    target.fill(np.nan)
    FLIGHTS.append(flight)
    stream.flights.append(flight)

    def given_back() -> None:
        if not flight.arrived:
            HAZARDS.append("device memory was given back while a copy moved into it")

    weakref.finalize(wrapper, given_back).atexit = False


class _Loose:
    def __init__(self, address, shape, dtype) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype,
                                    "version": 3}  # fmt: skip


class Event:
    """A mark in a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False) -> None:
        self._stream, self._tick, self._flights = None, 0, ()
        self._timing, self._time = not disable_timing, 0.0

    def record(self, stream=None) -> None:
        (stream or NULL).record(self)

    @property
    def done(self) -> bool:
        return all(f.released for f in self._flights)

    def synchronize(self) -> None:
        for f in self._flights:
            f.release()


def get_elapsed_time(start_event, end_event) -> float:
    """Milliseconds between two events; what they mark has been done at once."""
    for event in (start_event, end_event):
        if not event._timing or event._stream is None:
            raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1e3 * (end_event._time - start_event._time)


class Stream:
    """A queue of copies; what the default one queues is done at once."""

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None) -> None:
        if not (null or non_blocking):
            raise Hazard("a blocking stream waits for the default one: nothing would overlap")
        self.ptr, self.flights = 0, []
        self.seen = 0  # time on the default stream up to which this one has waited

    def record(self, event=None):
        event = Event() if event is None else event
        self.flights = [f for f in self.flights if not f.released]
        event._stream, event._flights = self, tuple(self.flights)
        event._tick = tick() if self is NULL else self.seen
        event._time = time.perf_counter()
        return event

    def wait_event(self, event) -> None:
        if event._stream is None:
            raise Hazard("an event that was never recorded is waited for: nothing is")
        self.seen = max(self.seen, event._tick)
        if self is NULL:
            for f in event._flights:
                f.deliver()

    def synchronize(self) -> None:
        self.record().synchronize()


NULL = Stream.null = Stream(null=True)


def get_current_stream(device_id=None) -> Stream:
    return NULL


class MemoryPool:
    """What CuPy keeps for reuse, as a test says."""

    free, used, limit = 0, 0, 0

    def free_bytes(self) -> int:
        return self.free

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.free + self.used

    def get_limit(self) -> int:
        return self.limit

    def set_limit(self, size=None, fraction=None) -> None:
        self.limit = size or 0

    def free_all_blocks(self, stream=None) -> None:
        self.free = 0


POOL = MemoryPool()
