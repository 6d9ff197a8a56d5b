"""Rates: periods are put together, and waits are told from how many tasks are in which place."""

from __future__ import annotations

import pytest

from orbiter.distributed.broker.rates import WAIT_BOUNDS, Counts, Period, quantile, together

PLACES = len(WAIT_BOUNDS) + 1


def waits(**counts: int) -> tuple[int, ...]:
    """Return how many tasks are in which place, given as ``p3=7``."""
    return tuple(counts.get(f"p{place}", 0) for place in range(PLACES))


@pytest.mark.parametrize(
    ("counts", "share", "low", "high"),
    [
        (waits(p0=100), 0.5, 0.0, 0.01),
        (waits(p4=100), 0.5, 0.3, 1.0),
        (waits(p4=100), 0.95, 0.8, 1.0),
        (waits(p4=90, p8=10), 0.5, 0.3, 1.0),
        (waits(p4=90, p8=10), 0.95, 30.0, 100.0),
        # Of those in the last place nothing is known but that they waited longer.
        (waits(p12=1), 0.5, 3600.0, 3600.0),
    ],
)
def test_a_quantile_lies_in_the_place_of_its_task(
    counts: tuple[int, ...], share: float, low: float, high: float
) -> None:
    found = quantile(counts, share)
    assert found is not None
    assert low <= found <= high


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile(waits(), 0.5) is None


def test_counts_are_numbers_in_their_order_or_nothing() -> None:
    assert Counts(7).text() == ""
    assert Counts(7, 1, 2, 3, waits(p12=4)).text() == "1 2 3 0 0 0 0 0 0 0 0 0 0 0 0 4"


def test_minutes_are_put_together_at_whole_multiples() -> None:
    minutes = [Period(60 * at, 1, at, 1, 2, 3, waits(p1=1)) for at in range(13, 31)]
    found = together(minutes, 15)
    assert [period.at // 60 for period in found] == [0, 15, 30]
    assert [period.minutes for period in found] == [2, 15, 1]
    assert found[1] == Period(15 * 60, 15, 29, 15, 30, 45, waits(p1=15))
