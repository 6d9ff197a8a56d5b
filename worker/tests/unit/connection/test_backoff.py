"""Pauses between tries."""

from __future__ import annotations

from orbiter.distributed.connection.backoff import Backoff


def test_pauses_double_up_to_the_longest_with_half_of_each_by_chance() -> None:
    backoff = Backoff(0.1, 0.5)
    for limit in (0.1, 0.2, 0.4, 0.5, 0.5):
        assert limit / 2 <= backoff.pause() <= limit


def test_pauses_begin_anew_after_a_success() -> None:
    backoff = Backoff(0.1, 10)
    for _ in range(8):
        backoff.pause()
    backoff.reset()
    assert backoff.pause() <= 0.1


def test_pauses_of_many_differ() -> None:
    assert len({Backoff(1, 10).pause() for _ in range(20)}) > 10
