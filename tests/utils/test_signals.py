"""Interrupt: a signal is noted, the block ends, and then the signal has its usual effect."""

import os
import signal

import pytest

from clipline.utils.signals import Interrupt


def send(number):
    os.kill(os.getpid(), number)


def test_ctrl_c_waits_for_the_end_of_the_block():
    reached = False
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert interrupt.received is None
        send(signal.SIGINT)
        reached = interrupt.received == signal.SIGINT
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Interrupt():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("not reached")


def test_the_handler_that_was_there_gets_it_afterwards():
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        with Interrupt():
            send(signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            send(signal.SIGHUP)
            assert interrupt.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
