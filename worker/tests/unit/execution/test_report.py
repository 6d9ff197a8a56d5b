"""Report: an error that crosses a process border."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orbiter.distributed.errors import ConfigurationError, RunError, TransientError, describe, kind_of
from orbiter.distributed.execution.report import packed, unpacked
from orbiter.distributed.execution.retry import delay_before_retry, never_again, worth_another_run


class UnspeakableError(Exception):
    """Whose text cannot be had."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such thing"),
        ConfigurationError("runtime: unheard-of"),
        TransientError("later", retry_after=7),
        TransientError("later"),
        TimeoutError(),
        UnspeakableError(),
        ValueError("half a pair: \ud83d"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_is_the_same_behind_the_border(error: BaseException) -> None:
    found = unpacked(packed(error))
    assert isinstance(found, RunError)
    assert kind_of(found) == kind_of(error) == type(error).__name__
    assert describe(found) == describe(error)
    assert never_again(found) == never_again(error)
    for retries in (0, 3):
        assert worth_another_run(found, retries, None, 3) == worth_another_run(error, retries, None, 3)
    assert delay_before_retry(found, 0, 0) == delay_before_retry(error, 0, 0)


@pytest.mark.parametrize("asked", ["soon", math.nan, math.inf, object(), -5, None, True])
def test_odd_wait_means_the_same_behind_the_border(asked: Any) -> None:
    error = TransientError("x", retry_after=asked)
    assert delay_before_retry(unpacked(packed(error)), 0, 0) == delay_before_retry(error, 0, 0)


def test_long_name_of_an_error_is_cut() -> None:
    error = type("E" * 500, (Exception,), {})("x")
    assert kind_of(unpacked(packed(error))) == "E" * 200


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"{}", b"7", b'["text"]', b'["text", "kind", "yes", null]', b'[1, "kind", true, null]'],
)
def test_bytes_that_are_no_report_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        unpacked(data)


def test_wait_that_is_no_number_is_passed_over() -> None:
    assert unpacked(b'["text", "kind", false, "soon"]').retry_after is None
    assert unpacked(b'["text", "kind", false, true]').retry_after is None
    assert unpacked(b'["text", "kind", false, 3]').retry_after == 3
