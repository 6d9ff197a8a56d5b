"""`orbiter top`: what it shows at which width, and what it says where it cannot be drawn."""

from __future__ import annotations

import sys

import pytest
from rich.cells import cell_len

from orbiter.cli.top.command import screen
from orbiter.cli.top.looks import Look
from orbiter.cli.top.rows import FLEET, PADDING, TASKS, fitted, layout, queue_lines
from orbiter.distributed.client.overview import Period, QueueInfo, TaskPage
from orbiter.distributed.errors import MissingExtraError, how_to_install


@pytest.mark.parametrize("columns", [FLEET, TASKS], ids=["fleet", "tasks"])
@pytest.mark.parametrize("width", [79, 100, 159, 400])
def test_columns_fit_the_width(columns: tuple, width: int) -> None:
    found = layout(columns, width)
    assert sum(cells + 2 * PADDING for _, cells in found) <= width
    assert {column for column in columns if not column.rank} <= {column for column, _ in found}
    assert all(column.width <= cells <= column.most for column, cells in found)


def test_more_width_shows_more_columns() -> None:
    assert len(layout(FLEET, 79)) < len(layout(FLEET, 159)) == len(FLEET)
    assert [column.rank for column, _ in layout(FLEET, 10)] == [0] * 7


@pytest.mark.parametrize("text", ["short", "a" * 50, "\u4f60" * 30, "[b]a[/b]" * 5, "\x1b[31m\u202e" * 9, ""])
def test_a_cell_is_one_inert_line_of_its_width(text: str) -> None:
    found = fitted(text, 12)
    assert cell_len(found.plain) <= 12
    assert found.plain.isprintable()
    assert not found.spans


def test_rates_are_of_whole_minutes_and_of_the_hour() -> None:
    minutes = [Period(60, started=1, ended=1), Period(120, started=5, ended=4, failed=2), Period(180, started=7)]
    look = Look(200.0, (), 0, QueueInfo("q", waiting=3, oldest_waiting=4.6), minutes, TaskPage())
    waiting, _, minute, hour = queue_lines(look)
    assert "waiting 3 (oldest 4.6s)" in waiting
    assert "started 5  ended 4  failed 2" in minute
    assert "started 13  ended 5  failed 2" in hour
    assert look.hour.wait(0.5) is None


def test_without_its_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "orbiter.cli.top.app", raising=False)
    for name in [name for name in sys.modules if name == "textual" or name.startswith("textual.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    with pytest.raises(MissingExtraError) as missing:
        screen()
    assert how_to_install("top") in str(missing.value)
