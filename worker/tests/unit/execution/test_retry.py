"""Retry policy: whether a failed attempt runs again, and when."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orbiter.distributed.errors import ConfigurationError, TransientError
from orbiter.distributed.execution.retry import (
    BACKOFF_CAP,
    LONGEST_ASKED,
    delay_before_retry,
    never_again,
    worth_another_run,
)
from orbiter.distributed.models import InvalidPayloadError


@pytest.mark.parametrize(
    ("retries", "wanted", "limit", "again"),
    [(0, None, 1, True), (1, None, 1, False), (1, 2, 0, True), (0, 0, 3, False), (0, None, 0, False)],
)
def test_retry_budget_is_the_tasks_own_or_the_workers(
    retries: int, wanted: int | None, limit: int, again: bool
) -> None:
    assert worth_another_run(ValueError(), retries, wanted, limit) is again


@pytest.mark.parametrize("error", [ConfigurationError("x"), InvalidPayloadError("x")], ids=lambda e: type(e).__name__)
def test_retry_is_refused_where_the_error_would_come_again(error: Exception) -> None:
    assert never_again(error)
    assert not worth_another_run(error, 0, 10, 10)


@pytest.mark.parametrize("retries", [0, 1, 5, 6, 70])
def test_retry_delay_stays_below_an_exponential_cap(retries: int) -> None:
    cap = min(BACKOFF_CAP, 2.0**retries)
    delays = [delay_before_retry(ValueError(), retries, 1.0) for _ in range(300)]
    assert 0 <= min(delays) < cap / 4
    assert cap * 3 / 4 < max(delays) <= cap


def test_retry_comes_at_once_without_a_backoff() -> None:
    assert delay_before_retry(ValueError(), 5, 0) == 0


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(120, 120), (1e9, LONGEST_ASKED), (math.nan, 0), (math.inf, 0), ("soon", 0), (None, 0)],
    ids=str,
)
def test_retry_waits_for_what_the_far_side_asked(asked: Any, delay: float) -> None:
    assert delay_before_retry(TransientError("busy", retry_after=asked), 3, 0) == delay
