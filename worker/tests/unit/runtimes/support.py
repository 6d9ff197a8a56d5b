"""What the tests of the runtimes share."""

from __future__ import annotations

import time
from typing import Any

from orbiter.distributed.models import Event, TaskPayload, TextEvent
from orbiter.distributed.runtimes import RunContext
from orbiter.distributed.runtimes.imports import ImportGuard

HERE = "tests.unit.runtimes.targets"
GUARD = ImportGuard(["tests"])


class Run:
    """A context, and what was emitted into it."""

    def __init__(self, config: dict[str, Any] | None = None, **payload: Any) -> None:
        self.events: list[Event] = []
        self.context = RunContext(
            payload=TaskPayload(agent_config=config or {}, **payload),
            attempt=2,
            emit=self._emit,
            guard=GUARD,
            deadline=time.time() + 60,
        )

    def _emit(self, event: Event | str) -> None:
        self.events.append(TextEvent(text=event) if isinstance(event, str) else event)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))

    def kinds(self) -> list[str]:
        """Types in order, a run of text deltas once; step and status with their status."""
        kinds: list[str] = []
        for event in self.events:
            kind = event.type
            if event.type in ("step", "status"):
                kind = f"{event.type} {event.status}"
            if kind != "text" or kinds[-1:] != ["text"]:
                kinds.append(kind)
        return kinds
