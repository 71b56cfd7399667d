"""Stopping politely."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tropism.stop import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks_and_the_second_ends_at_once(number, capfd):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert "saving first" in capfd.readouterr().err


def test_outside_the_main_thread_it_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def watch():
        with Stop() as stop:
            seen.append((stop.asked, signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_the_handler_does_not_enter_a_print_that_the_signal_has_interrupted(monkeypatch):
    """A console's lock and buffer are not for a signal handler: it may have come while they were held."""

    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

        flush = write

    with Stop() as stop:
        monkeypatch.setattr("sys.stdout", Busy())
        monkeypatch.setattr("sys.stderr", Busy())
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
