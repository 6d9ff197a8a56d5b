"""Tables by the terminal's width, ``--wide`` and ``--columns``."""

from __future__ import annotations

import re
import sys

import pytest

from orbiter.cli import render
from orbiter.cli.listing import Choice
from orbiter.cli.task import Tasks, tasks_view
from orbiter.cli.worker import workers_view
from orbiter.distributed.broker.worker_health import WorkerHealth
from orbiter.distributed.models import TaskResult, TaskStatus

TASK_ID = "7060b89f3d0b4eb394c2a35ca439273d"
FAILED = TaskResult(
    task_id=TASK_ID,
    status=TaskStatus.FAILED,
    agent_name="editor",
    attempt=4,
    error="no such city: " + "x" * 500,
    error_type="LookupError",
    worker_id="web01-1234-a1b2c3d4",
    started_at=1771324215.9,
    completed_at=1771324216.9,
)


ASKED = f"Where is\n Oslo? \x1b]0;title\x07 {'x' * 500}"


def shown(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    choice: Choice,
    *,
    columns: int,
    now: float | None = None,
) -> list[list[str]]:
    """Return the cells of the table on a terminal of that width."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    render.print_view(tasks_view(Tasks([FAILED], {TASK_ID: ASKED}, now), choice))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (50, ["Task ID", "Status"]),
        (80, ["Task ID", "Status", "Agent"]),
        (140, ["Task ID", "Status", "Agent", "Attempt", "Error"]),
        (
            240,
            ["Task ID", "Status", "Agent", "Attempt", "Error", "Worker", "Started", "Duration"],
        ),
    ],
)
def test_a_terminal_gets_the_columns_that_fit_and_ids_in_one_piece(
    width: int, titles: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head, row, *rest = shown(capsys, monkeypatch, Choice(), columns=width)
    assert head == titles
    assert (row[:2], rest) == ([TASK_ID, "failed"], [])


def test_wide_has_every_column_and_named_ones_come_in_their_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = shown(capsys, monkeypatch, Choice(wide=True), columns=400)[0]
    assert {"Error Type", "Queue", "Hand-offs", "Created"} <= set(head)
    chosen = shown(capsys, monkeypatch, Choice(("error_type", "id")), columns=80)
    assert chosen == [["Error Type", "Task ID"], ["LookupError", TASK_ID]]


def test_an_input_is_shown_by_its_beginning_and_inert(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (text,) = shown(capsys, monkeypatch, Choice(("input",)), columns=200)
    assert text.startswith("Where is Oslo? ")
    assert text.endswith("xxx...")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text) < 80


@pytest.mark.parametrize(
    ("now", "cells"),
    [
        (None, ["2026-02-17 10:30:15 UTC", "2026-02-17 10:30:16 UTC"]),
        (1771324276.9, ["1m ago", "1m ago"]),
    ],
)
def test_times_are_exact_or_from_the_clock_of_redis(
    now: float | None, cells: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Choice(("started", "completed"))
    assert shown(capsys, monkeypatch, chosen, columns=80, now=now)[1] == cells


def test_workers_on_a_narrow_terminal_keep_id_and_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    render.print_view(workers_view([WorkerHealth("web01-1234-a1b2c3d4", "running", hostname="web01")]))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    head = next(line for line in printed.splitlines() if "Worker ID" in line)
    assert [cell.strip() for cell in head.strip("│").split("│")][:2] == ["Worker ID", "Status"]
    assert "Hostname" not in head
