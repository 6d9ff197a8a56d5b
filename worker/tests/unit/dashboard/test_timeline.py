"""A task's events as its page shows them."""

from __future__ import annotations

from orbiter.dashboard.timeline import MOST_ATTEMPTS, attempts_of, row_of, rows_of, text_of
from orbiter.distributed.models import (
    ErrorEvent,
    Event,
    StatusEvent,
    TaskResult,
    TaskStatus,
    TextEvent,
    ToolResultEvent,
)


def at(event: Event, moment: int, attempt: int = 1) -> Event:
    event.entry_id, event.attempt = f"{moment}000-0", attempt
    return event


def test_attempts_are_told_by_events_and_the_record() -> None:
    events = [
        at(TextEvent(text="a"), 10),
        at(ErrorEvent(error="429", error_type="RateLimited", recoverable=True), 12),
        at(TextEvent(text="b"), 20, 2),
        at(StatusEvent(status="completed"), 25, 2),
    ]
    task = TaskResult(
        status=TaskStatus.COMPLETED, attempt=2, started_at=19.5, completed_at=25.0, worker_id="w1", retries=1
    )
    first, second = attempts_of(events, task)
    assert (first.outcome, first.detail, first.began, first.ended) == ("retrying", "429", 10.0, 12.0)
    assert (second.outcome, second.worker, second.began, second.ended) == ("completed", "w1", 19.5, 25.0)


def test_attempts_that_were_lost_say_so_and_the_last_one_why() -> None:
    record = {"status": TaskStatus.RUNNING, "attempt": 3, "started_at": 30.0, "last_loss": "its worker w1 was lost"}
    first, silent, now = attempts_of([at(TextEvent(text="a"), 10)], TaskResult(**record, losses=2))
    assert (first.outcome, first.detail) == ("lost", "")
    assert (silent.outcome, silent.detail) == ("lost", "its worker w1 was lost")
    assert (now.outcome, now.began, now.ended) == ("running", 30.0, None)


def test_which_attempt_was_lost_is_not_made_up_where_one_was_handed_over() -> None:
    record = {"status": TaskStatus.RUNNING, "attempt": 3, "started_at": 30.0, "last_loss": "killed by signal 9"}
    first, silent, _ = attempts_of([at(TextEvent(text="a"), 10)], TaskResult(**record, losses=1, handoffs=1))
    assert first.outcome == "ended without an outcome"
    assert "by a drain; the last loss: killed by signal 9" in first.detail
    assert (silent.outcome, silent.detail) == ("no events", "")


def test_however_many_attempts_a_record_claims_the_last_ones_are_shown() -> None:
    task = TaskResult(status=TaskStatus.RUNNING, attempt=2_000_000_000)
    shown = attempts_of([at(TextEvent(text="a"), 10, number) for number in range(1, 200)], task)
    assert [attempt.number for attempt in shown] == list(range(2_000_000_000 - MOST_ATTEMPTS + 1, 2_000_000_001))
    assert shown[-1].outcome == "running"


def test_the_text_is_that_of_the_attempt() -> None:
    events = [at(TextEvent(text="old"), 1), at(TextEvent(text="new "), 2, 2), at(TextEvent(text="text"), 3, 2)]
    assert text_of(events, 2) == "new text"
    assert rows_of(events) == []


def test_tools_show_arguments_result_and_duration() -> None:
    row = row_of(
        at(ToolResultEvent(tool_name="f", tool_call_id="1", arguments={"a": 1}, result="r", duration_ms=12), 1)
    )
    assert row is not None
    assert (row.kind, row.tone) == ("tool result", "good")
    assert "12 ms" in row.title
    assert '"a": 1' in row.body
    assert "r" in row.body
