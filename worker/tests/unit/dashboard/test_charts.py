"""Charts: shapes stay in their place, and say in words what they show."""

from __future__ import annotations

import re

import pytest

from orbiter.dashboard.charts import SPANS, draw
from orbiter.distributed.client.overview import Deploy, Period

# Redis' clock: 20 s after a minute that begins a quarter of an hour.
NOW = 1_800_000_020.0
LAST = 1_800_000_000
# Ten tasks waited up to 0.3 s, and one up to 100 s.
WAITS = (0, 0, 0, 10, 0, 0, 0, 0, 1, 0, 0, 0, 0)


def minutes(number: int = 60, **counts: int) -> list[Period]:
    """Return the last minutes, of which only that before now has counts."""
    counted = Period(LAST - 60, 1, waits=WAITS, **counts)
    found = [Period(LAST - 60 * (number - 1 - at)) for at in range(number)]
    return [counted if period.at == counted.at else period for period in found]


def numbers(path: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+\.?\d*", path)]


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("counts", [{}, {"started": 7, "ended": 5, "failed": 2, "depth": 123_456}])
def test_shapes_stay_within_their_place(name: str, counts: dict[str, int]) -> None:
    drawn = draw(minutes(SPANS[name][0], **counts), [], name=name, now=NOW)
    assert [chart.id for chart in drawn.charts] == ["tasks", "waits", "depth"]
    for chart in drawn.charts:
        assert all(-0.01 <= number <= 100.01 for shape in chart.shapes for number in numbers(shape.path)), chart
        assert chart.columns[0].x == 0
        assert chart.columns[-1].x + chart.columns[-1].width == pytest.approx(100)


def test_failed_tasks_stand_on_the_others_below_the_top_of_the_axis() -> None:
    drawn = draw(minutes(started=5, ended=8, failed=2), [], name="hour", now=NOW)
    well, failed, started = drawn.charts[0].shapes
    assert drawn.charts[0].axis == ("10", "5", "0")
    # From the foot to six of ten, from there to eight; the line is at five.
    assert re.fullmatch(r"M[\d.]+ 100.00V40.00h[\d.]+V100.00z", well.path)
    assert re.fullmatch(r"M[\d.]+ 40.00V20.00h[\d.]+V40.00z", failed.path)
    assert re.fullmatch(r"M[\d.]+ 50.00V50.00H[\d.]+", started.path)


def test_words_say_what_the_shapes_do() -> None:
    drawn = draw(minutes(started=11, ended=8, failed=2, depth=40), [], name="hour", now=NOW)
    tasks, waits, depth = drawn.charts
    assert "11 started, 8 ended, 2" in tasks.summary
    assert waits.columns[-2].text.startswith("1 min ago: half up to ")
    assert depth.columns[-2].text == "1 min ago: 40 waited"
    assert depth.columns[-1].text == "now: no worker was there"
    row = drawn.rows[1]
    assert (row.at, row.started, row.ended, row.failed, row.depth) == (LAST - 60, 11, 8, 2, 40)
    assert 0.1 <= (row.usual or 0) <= 0.3
    assert 30 <= (row.longest or 0) <= 100


def test_a_column_of_a_day_shows_tasks_a_minute() -> None:
    drawn = draw(minutes(1440, started=30, ended=15), [], name="day", now=NOW)
    # A quarter of an hour, and of the last one less than a minute until now.
    assert [(row.started, row.ended) for row in drawn.rows[:2]] == [(0, 0), (2, 1)]


def test_nothing_counted_is_told_from_nothing_done() -> None:
    assert not draw([Period(LAST - 60 * at) for at in range(59, -1, -1)], [], name="hour", now=NOW).known
    assert draw(minutes(), [], name="hour", now=NOW).known


def test_deploys_are_marks_where_they_are_in_the_time_shown() -> None:
    first = LAST - 59 * 60
    deploys = [
        Deploy("c", "drain", "bob", began=LAST + 60),
        Deploy("b", "site", "anna", began=first + 900.0, ended=first + 1800.0, outcome="failed"),
        Deploy("a", "site", "anna", began=first - 60.0, ended=first + 3600.0, outcome="ended"),
        Deploy("0", "site", "anna", began=first - 600.0, outcome="interrupted"),
    ]
    marks = draw(minutes(), deploys, name="hour", now=NOW).marks
    # The third one began before.
    assert [(mark.number, mark.x, mark.width) for mark in marks] == [(1, 100, 0), (2, 25, 25), (3, 0, 100)]
    assert (marks[1].text, marks[1].bad) == ("site by anna: failed", True)


def test_a_page_stays_the_same_for_the_rest_of_a_minute() -> None:
    drawn = [draw(minutes(started=3), [], name="hour", now=NOW + seconds) for seconds in (0, 39.9)]
    assert drawn[0] == drawn[1]
