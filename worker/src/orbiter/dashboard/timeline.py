"""Timeline: a task's events as a page shows them: its attempts, the text that came, and rows for all else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orbiter.dashboard.view import cut, pretty
from orbiter.distributed.models import (
    ErrorEvent,
    ReasoningEvent,
    StatusEvent,
    StepEvent,
    TextEvent,
    ToolCallEvent,
    ToolResultEvent,
    UsageEvent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orbiter.distributed.models import Event, TaskResult


# Attempts that a page shows, the last ones. The number in a record is whatever a client wrote there.
MOST_ATTEMPTS = 50


@dataclass(slots=True)
class Attempt:
    """One run of a task, as its events and its record tell.

    Attributes:
        number: Which run, from 1.
        began: Epoch seconds of its start or first event.
        ended: Epoch seconds of its last event.
        outcome: How it ended, in a word.
        detail: The same in a sentence.
        worker: Who ran it, where that is known.
        events: How many events of it are shown.
    """

    number: int
    began: float | None = None
    ended: float | None = None
    outcome: str = "running"
    detail: str = ""
    worker: str = ""
    events: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """An event as a row.

    Attributes:
        kind: What happened, in a word.
        title: What it is about.
        at: Epoch seconds.
        tone: ``good``, ``bad`` or empty.
        body: More of it.
    """

    kind: str
    title: str
    at: float
    tone: str = ""
    body: str = ""


def attempts_of(events: Sequence[Event], task: TaskResult) -> list[Attempt]:
    """Return a task's last attempts; of one that left no event only the number is known."""
    found: dict[int, Attempt] = {}
    for event in events:
        number = max(1, event.attempt)
        attempt = found.setdefault(number, Attempt(number, began=moment_of(event)))
        attempt.ended = moment_of(event)
        attempt.events += 1
        if isinstance(event, ErrorEvent):
            attempt.outcome, attempt.detail = "retrying" if event.recoverable else "failed", event.error
        elif isinstance(event, StatusEvent) and event.status in {"completed", "cancelled", "error"}:
            attempt.outcome = "failed" if event.status == "error" else event.status
            attempt.detail = attempt.detail or event.message
    for number in range(max(1, task.attempt - MOST_ATTEMPTS + 1), task.attempt + 1):
        found.setdefault(number, Attempt(number, outcome="no events"))
    _add_losses([found[number] for number in sorted(found) if number < task.attempt], task)
    _add_record(found, task)
    return [found[number] for number in sorted(found)[-MOST_ATTEMPTS:]]


def _add_losses(earlier: Sequence[Attempt], task: TaskResult) -> None:
    """Say of attempts that left no outcome what became of them, as far as the record knows: it has the last loss."""
    open_ones = [attempt for attempt in earlier if attempt.outcome in {"running", "no events"}]
    # As many as were lost: then none was handed over, or has events that are gone.
    lost = len(open_ones) == task.losses
    for attempt in open_ones:
        if lost:
            attempt.outcome, attempt.detail = "lost", ""
        elif attempt.outcome == "running":
            attempt.outcome = "ended without an outcome"
            attempt.detail = "lost, or handed to another worker by a drain"
            attempt.detail += f"; the last loss: {task.last_loss}" if task.last_loss else ""
    if lost and open_ones:
        open_ones[-1].detail = task.last_loss or ""


def _add_record(found: dict[int, Attempt], task: TaskResult) -> None:
    """Say of the last attempt what the record says."""
    last = found.get(task.attempt)
    if last is None:
        return
    last.began = task.started_at or last.began
    last.worker = task.worker_id or ""
    if task.status.terminal:
        last.outcome, last.ended = task.status.value, task.completed_at
        last.detail = task.error or last.detail
    elif task.status.value in {"running", "retrying"}:
        last.outcome = task.status.value
        last.ended = None if task.status.value == "running" else last.ended


def text_of(events: Sequence[Event], attempt: int) -> str:
    """Return the text that an attempt has said so far."""
    return cut(
        "".join(event.text for event in events if isinstance(event, TextEvent) and event.attempt in {0, attempt})
    )


def rows_of(events: Sequence[Event]) -> list[Row]:
    """Return events, but text, as rows."""
    return [row for row in map(row_of, events) if row is not None]


def row_of(event: Event) -> Row | None:
    """Return an event as a row; ``None`` for text."""
    return None if isinstance(event, TextEvent | ReasoningEvent) else _row(event, moment_of(event))


def _row(event: Event, at: float) -> Row | None:
    row: Row | None = None
    match event:
        case ToolCallEvent():
            row = Row("tool call", event.tool_name, at)
        case ToolResultEvent():
            took = f"{event.duration_ms:.0f} ms"
            body = f"arguments: {pretty(event.arguments)}\n{'result' if event.success else 'error'}: "
            body += cut(event.result if event.success else event.error or "")
            row = Row("tool result", f"{event.tool_name}, {took}", at, "good" if event.success else "bad", body)
        case StepEvent():
            tokens = f", {event.usage.total_tokens} tokens" if event.usage else ""
            row = Row("step", f"{event.step_number} {event.status}, {event.agent_name}{tokens}", at)
        case ErrorEvent():
            after = "; it will run again" if event.recoverable else ""
            row = Row("error", f"{event.error_type}{after}", at, "bad", cut(event.error))
        case StatusEvent():
            tone = {"completed": "good", "error": "bad"}.get(event.status, "")
            named = f"{event.status}, {event.error_type}" if event.error_type else event.status
            row = Row("status", named, at, tone, cut(event.message))
        case UsageEvent():
            usage = event.usage
            model = f", {event.model}" if event.model else ""
            row = Row("usage", f"{usage.input_tokens} tokens in, {usage.output_tokens} out{model}", at)
    return row


def moment_of(event: Event) -> float:
    """Return when an event was written, epoch seconds."""
    milliseconds = event.entry_id.partition("-")[0]
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else 0.0
