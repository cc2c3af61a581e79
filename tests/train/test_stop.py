"""A run that is asked to stop is told so by a flag; asked twice, it ends at once."""

import os
import signal
import threading
import time

import pytest

from bench.train import stop

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def forgotten():
    yield
    stop.forget()


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_interrupts_nothing(number):
    before = handlers()
    with stop.listening():
        signal.raise_signal(number)
        assert stop.asked()
        with pytest.raises(stop.Stopped):
            stop.check()
    assert handlers() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_again_it_ends_at_once(number, monkeypatch):
    monkeypatch.setattr(stop, "TWICE_S", 0.01)
    with stop.listening():
        signal.raise_signal(number)
        time.sleep(0.02)
        with pytest.raises(KeyboardInterrupt) as end:
            signal.raise_signal(number)
    assert not isinstance(end.value, stop.Stopped)


def test_one_request_that_is_delivered_twice_is_one():
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked()


def test_usr2_may_come_any_number_of_times(monkeypatch):
    monkeypatch.setattr(stop, "TWICE_S", -1.0)
    with stop.listening():
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked()


def test_signals_that_a_runner_handles_are_left_to_it(monkeypatch):
    heard = []
    monkeypatch.setattr(stop, "_on_signal", lambda number, frame: heard.append(number))
    before = signal.signal(signal.SIGUSR2, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        with stop.listening():
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGINT]


def test_a_stop_is_over_when_it_was_obeyed_and_stays_when_it_was_not_seen():
    with stop.listening():
        stop.ask()
    assert stop.asked()
    with pytest.raises(stop.Stopped), stop.listening():
        stop.check()
    assert not stop.asked()


def test_outside_the_main_thread_nothing_is_installed():
    before, found = handlers(), []

    def listen():
        with stop.listening():
            found.extend(handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == before


def test_it_is_time_to_save_every_so_often_and_when_asked(monkeypatch):
    monkeypatch.setenv("BENCH_SAVE_S", "0")
    assert stop.Clock().due()
    monkeypatch.delenv("BENCH_SAVE_S")
    clock = stop.Clock()
    assert not clock.due()
    stop.ask()
    assert clock.due()


def test_listen_stays_for_the_life_of_a_worker():
    pid = os.fork()
    if pid == 0:  # the child: its handlers are its own
        stop.listen()
        with stop.listening():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        os._exit(0 if stop.asked() else 1)
    assert os.waitpid(pid, 0)[1] == 0
