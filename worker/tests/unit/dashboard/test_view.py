"""What a page shows is inert, and short enough to read."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from orbiter.dashboard.view import ago, count, cut, pretty, quote_query, share, shown, size, span

ESCAPE = "\x1b[31m"
TURNED = "\u202egnp.exe"


@pytest.mark.parametrize("text", [ESCAPE, TURNED, "\x00", "\u200b", "\ud800", "\x9b1m", "\u2066"])
def test_what_no_reader_sees_is_shown_as_its_escape(text: str) -> None:
    found = shown(f"a{text}b")
    assert found.isascii()
    assert found.startswith("a\\")


def test_lines_stay_lines() -> None:
    assert shown("a\n\tb") == "a\n\tb"


def test_only_text_is_changed() -> None:
    assert shown(None) == ""
    assert shown(3) == 3
    assert shown(Markup("<b>")) == "<b>"


def test_queries_hold_any_text() -> None:
    assert quote_query(id="a/../b?&=#\n<", none=None, empty="") == "id=a%2F..%2Fb%3F%26%3D%23%0A%3C"
    assert quote_query(id="\ud800") == "id=%3F"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0012, "1 ms"), (2.34, "2.3 s"), (90, "90 s"), (200, "3 min"), (10_000, "3 h"), (None, "–")]
)
def test_spans_have_their_largest_unit(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_spans_of_no_number_are_none() -> None:
    assert span(float("nan")) == span(float("inf")) == "–"


def test_times_are_relative() -> None:
    assert [ago(moment, 1000.0) for moment in (999.5, 990, 1060)] == ["now", "10 s ago", "in 60 s"]


def test_bytes_have_their_largest_unit() -> None:
    assert [size(number) for number in (0, 999, 93_200_000, 10**18)] == ["–", "999 B", "93.2 MB", "1e+06 TB"]


def test_bars_stay_within_their_width() -> None:
    assert [share(part, whole) for part, whole in ((3, 6), (9, 6), (1, 0))] == ["50.0", "100.0", "0.0"]


def test_long_texts_are_cut() -> None:
    assert len(cut("x" * 10_000_000)) < 21_000


def test_what_is_long_is_not_indented() -> None:
    assert pretty({"a": 1}) == '{\n  "a": 1\n}'
    assert "\n" not in pretty(list(range(100_000)))


def test_thousands_stand_apart_by_a_space_that_is_seen_as_one() -> None:
    assert shown(count(1_234_567)) == "1\u202f234\u202f567"
