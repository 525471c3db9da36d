"""Signals become a request to stop."""

from __future__ import annotations

import signal

import pytest

from training.trainer.stop import Stopped, listen_for_stop


def test_signals_become_a_request_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen_for_stop() as stop:
        stop.check(stop.votes())
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check(stop.votes())
        assert stop.exit_code == 0
    assert signal.getsignal(signal.SIGTERM) is before
    with listen_for_stop() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check(stop.votes())
        assert stop.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
