import os
import signal
import threading

import pytest

from opflow.dynamics.storage.signals import Signals

BOTH = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def handled():
    """What reached the handlers from before."""
    seen = []
    before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in BOTH}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_is_a_request_and_the_second_falls_through(handled, number):
    outside = [signal.getsignal(n) for n in BOTH]
    with Signals() as signals:
        assert signals.stop == ""
        os.kill(os.getpid(), number)
        assert signals.stop == number.name and handled == []
        os.kill(os.getpid(), number)
        assert handled == [number]
    assert [signal.getsignal(n) for n in BOTH] == outside


def test_one_of_each_kind_are_both_requests(handled):
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.stop == "SIGINT" and handled == []


def test_a_second_ctrl_c_is_a_keyboard_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_is_ignored_stays_so(handled):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop == ""


def test_another_thread_leaves_the_handlers_alone(handled):
    inside = []

    def work():
        with Signals() as signals:
            inside.extend([signal.getsignal(n) for n in BOTH])
            inside.append(signals.stop)

    outside = [signal.getsignal(n) for n in BOTH]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [*outside, ""]


@pytest.mark.parametrize("number", BOTH)
def test_at_once_every_signal_is_an_interrupt_known_by_name(handled, number):
    with Signals(at_once=True) as outer:
        with Signals():
            os.kill(os.getpid(), number)
        assert outer.last == number.name and outer.stop == ""
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert outer.stop == number.name
    assert handled == []
