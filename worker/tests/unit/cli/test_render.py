"""What the commands print, without a server."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orbiter.cli import render
from orbiter.cli.event_printer import EventPrinter, describe
from orbiter.cli.task import Tasks, tasks_view
from orbiter.distributed.inert import inert
from orbiter.distributed.models import (
    ErrorEvent,
    StatusEvent,
    TaskResult,
    TaskStatus,
    TextEvent,
    ToolCallEvent,
    ToolResultEvent,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.25, "250ms"),
        (0.9996, "1.0s"),
        (1, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1.0m"),
        (90, "1.5m"),
        (-3, "0ms"),
    ],
)
def test_durations_read_as_in_the_guide(seconds: float, text: str) -> None:
    assert render.format_seconds(seconds) == text


@given(st.floats(min_value=-10, max_value=1e9))
def test_every_duration_has_one_of_three_forms(seconds: float) -> None:
    assert re.fullmatch(r"\d{1,3}ms|\d{1,2}\.\ds|\d+\.\dm", render.format_seconds(seconds))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1000.0, "0s ago"),
        (940.5, "59s ago"),
        (940.0, "1m ago"),
        (1000.0 - 3599, "59m ago"),
        (1000.0 - 7200, "2h ago"),
        (1000.0 - 86_400 * 3.5, "3d ago"),
        (1005.0, "in 5s"),
        (1000.0 + 90, "in 1m"),
        (None, "-"),
        (float("inf"), "-"),
    ],
)
def test_a_time_is_told_by_how_long_ago_it_was(seconds: float | None, text: str) -> None:
    assert render.format_ago(seconds, 1000.0) == text


def test_times_are_utc_and_absent_ones_a_dash() -> None:
    assert render.format_time(1771324215.9) == "2026-02-17 10:30:15 UTC"
    assert render.format_time(None) == "-"


@given(st.floats())
def test_no_number_breaks_a_time(seconds: float) -> None:
    assert render.format_time(seconds)


def test_the_duration_column_tells_running_from_never_started() -> None:
    assert render.format_duration(TaskResult(status=TaskStatus.RUNNING, started_at=1.0)) == "running..."
    assert render.format_duration(TaskResult()) == "-"
    assert render.format_duration(TaskResult(status=TaskStatus.RETRYING, started_at=1.0)) == "-"
    assert render.format_duration(TaskResult(status=TaskStatus.FAILED, started_at=1.0, completed_at=2.5)) == "1.5s"


@given(st.text())
def test_nothing_printed_can_steer_the_terminal(text: str) -> None:
    assert inert(text).isprintable()


def test_markup_in_an_error_is_shown_and_escapes_are_not_executed(capsys: pytest.CaptureFixture[str]) -> None:
    task = TaskResult(task_id="t1", status=TaskStatus.FAILED, error="[red]gone[/red] \x1b[2J", retries=3)
    render.print_task(task)
    shown = capsys.readouterr().out
    assert "[red]gone[/red] \\x1b[2J" in shown
    assert "\x1b" not in shown
    assert re.search(r"^  Retries: +3$", shown, re.MULTILINE)


def test_losses_are_shown_and_what_the_last_one_was(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_task(TaskResult(task_id="t1", crashes=1, losses=2, last_loss="killed by signal 11 \x1b[2J"))
    shown = capsys.readouterr().out
    assert re.search(r"^  Crashes: +1$\n^  Losses: +2$", shown, re.MULTILINE)
    assert re.search(r"^  Last loss: +killed by signal 11 \\x1b\[2J$", shown, re.MULTILINE)
    render.print_task(TaskResult(task_id="t2"))
    assert "Last loss" not in capsys.readouterr().out
    assert (
        render.task_json(TaskResult(losses=2, last_loss="gone")).items() >= {"losses": 2, "last_loss": "gone"}.items()
    )


def test_a_long_result_is_cut_at_200_characters(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_task(TaskResult(task_id="t1", status=TaskStatus.COMPLETED, result={"output": "x" * 500}))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  Result:")]
    assert line.endswith("x...")
    assert len(line.split(maxsplit=1)[1]) == 203


def test_a_piped_table_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    task = TaskResult(task_id="t" * 190, worker_id="w" * 120, status=TaskStatus.RUNNING, started_at=1.0)
    render.print_view(tasks_view(Tasks([task])))
    shown = capsys.readouterr().out
    assert "t" * 190 in shown
    assert "w" * 120 in shown
    assert "┌" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal_unless_refused(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    render.console().print(render.status_text(TaskResult(status=TaskStatus.FAILED)))
    assert ("\x1b[31m" in terminal.getvalue()) is coloured


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_task_json_has_times_as_numbers() -> None:
    task = TaskResult(task_id="t", status=TaskStatus.COMPLETED, created_at=1.0, started_at=2.0, completed_at=4.5)
    value = json.loads(json.dumps(render.task_json(task)))
    assert (value["status"], value["duration"], value["wait_time"]) == ("completed", 2.5, 1.0)


def test_events_break_the_answer_into_lines_of_their_own() -> None:
    output = io.StringIO()
    printer = EventPrinter(Console(file=output, width=1000, markup=False, highlight=False))
    for event in (
        TextEvent(text="Let me "),
        TextEvent(text="look [bold]\n"),
        TextEvent(text="now"),
        ToolCallEvent(tool_name="weather", tool_call_id="1"),
        ToolResultEvent(
            tool_name="weather", tool_call_id="1", arguments={"city": "Oslo"}, result="rain", duration_ms=5
        ),
        ErrorEvent(error="no", error_type="RuntimeError", recoverable=True, attempt=1),
        TextEvent(text="again", attempt=2),
        StatusEvent(status="completed", attempt=2),
    ):
        printer.show(event)
    printer.close()
    assert output.getvalue().splitlines() == [
        "Let me look [bold]",
        "now",
        "-> weather",
        '<- weather({"city": "Oslo"}) 5ms: rain',
        "error: RuntimeError: no (will be run again)",
        "attempt 2",
        "again",
        "status completed",
    ]


def test_a_failed_tool_says_why() -> None:
    event = ToolResultEvent(tool_name="t", tool_call_id="1", success=False, error="boom\nbang")
    assert describe(event).plain == "<- t() 0ms failed: boom\\nbang"
