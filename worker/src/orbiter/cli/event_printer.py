"""Shows a task's events to a person: the answer as it comes, everything else as short lines between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.text import Text

from orbiter.cli.render import console, format_seconds
from orbiter.distributed.errors import TEXT_CAP
from orbiter.distributed.inert import inert
from orbiter.distributed.models import (
    ErrorEvent,
    Event,
    ReasoningEvent,
    StatusEvent,
    StepEvent,
    TextEvent,
    ToolCallEvent,
    ToolResultEvent,
    UsageEvent,
)

if TYPE_CHECKING:
    from rich.console import Console

_EXCERPT = 120


class EventPrinter:
    """Prints events in order and keeps track of whether a line is open."""

    def __init__(self, output: Console | None = None) -> None:
        self._console = output or console()
        self._line_open = False
        self._attempt = 0

    def show(self, event: Event) -> None:
        """Print one event."""
        if event.attempt > self._attempt:
            if event.attempt > 1:
                self._line(Text(f"attempt {event.attempt}", style="magenta"))
            self._attempt = event.attempt
        if isinstance(event, TextEvent | ReasoningEvent):
            self._flow(event.text, style="dim" if isinstance(event, ReasoningEvent) else "")
        else:
            self._line(describe(event))

    def close(self) -> None:
        """End the line that is open, if any."""
        if self._line_open:
            self._console.print()
            self._line_open = False

    def _flow(self, text: str, *, style: str) -> None:
        if text:
            self._console.print(Text(inert(text, keep="\n\t"), style=style), end="", soft_wrap=True)
            self._line_open = not text.endswith("\n")

    def _line(self, text: Text) -> None:
        self.close()
        self._console.print(text, soft_wrap=True)


def describe(event: Event) -> Text:  # noqa: PLR0911 - one for each kind of event
    """Return one short line that tells the event."""
    match event:
        case TextEvent() | ReasoningEvent():
            return Text(_excerpt(event.text))
        case ToolCallEvent():
            return Text(f"-> {_excerpt(event.tool_name)}", style="cyan")
        case ToolResultEvent():
            call = f"{_excerpt(event.tool_name)}({_excerpt(json.dumps(event.arguments)) if event.arguments else ''})"
            took = format_seconds(event.duration_ms / 1000)
            if event.success:
                return Text(f"<- {call} {took}: {_excerpt(event.result)}", style="cyan")
            return Text(f"<- {call} {took} failed: {_excerpt(event.error or '')}", style="red")
        case StepEvent():
            tokens = f", {event.usage.total_tokens} tokens" if event.usage else ""
            return Text(f"step {event.step_number} {event.status}{tokens}", style="dim")
        case UsageEvent():
            usage = event.usage
            return Text(f"usage: {usage.input_tokens} tokens in, {usage.output_tokens} out", style="dim")
        case ErrorEvent():
            again = " (will be run again)" if event.recoverable else ""
            return Text(
                f"error: {_excerpt(event.error_type)}: {inert(event.error, limit=TEXT_CAP)}{again}", style="red"
            )
        case StatusEvent():
            parts = [_excerpt(event.error_type)] if event.error_type else []
            parts += [inert(event.message, limit=TEXT_CAP)] if event.message not in {"", event.error_type} else []
            return Text(": ".join([f"status {event.status}", *parts]), style="dim")


def _excerpt(text: str) -> str:
    # What is shown of it is a part of its beginning.
    line = inert(text[: _EXCERPT + 1])
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}..."
