"""When a task may begin, as it is typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.cli.moment import read_moment
from orbiter.distributed.client.payloads import epoch_seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("+30s", 30), ("+5m", 300), ("+2h", 7200), ("+1d", 86400), ("+0.5s", 0.5)]
)
def test_so_long_from_now_is_counted_by_the_clock_that_decides(text: str, seconds: float) -> None:
    moment = read_moment(text)
    assert moment == timedelta(seconds=seconds)
    # Not by this machine's.
    assert epoch_seconds(moment, now=1000.0) == 1000 + seconds


@pytest.mark.parametrize(
    "text", ["2026-02-17T10:30:15Z", "2026-02-17T11:30:15+01:00", "2026-02-17 10:30:15+00:00", "20260217T103015Z"]
)
def test_a_date_with_its_zone(text: str) -> None:
    moment = read_moment(text)
    assert moment == datetime.fromtimestamp(1771324215, tz=UTC)
    assert epoch_seconds(moment, now=1000.0) == 1771324215


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-02-17T10:30:15", "names no zone"),
        ("2026-02-17", "names no zone"),
        ("tomorrow", "must be written +30s"),
        ("+5", "must be written +30s"),
        ("+5w", "must be written +30s"),
        ("30s", "must be written +30s"),
        ("", "must be written +30s"),
    ],
)
def test_anything_else_says_how_to_write_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        read_moment(text)


@given(st.text(max_size=20))
def test_any_text_is_a_moment_or_a_named_error(text: str) -> None:
    try:
        assert isinstance(read_moment(text), datetime | timedelta)
    except ValueError as error:
        assert repr(text) in str(error)
