"""From ``agent_config`` to something that runs: the registry of runtimes and what a run is given.

A runtime is a class registered under the entry point group ``orbiter.runtimes``; ``agent_config["runtime"]`` names it,
and without that key the ``agent`` runtime (pydantic-ai) takes the task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from orbiter.distributed.errors import ConfigurationError, text_of
from orbiter.distributed.limits import LARGEST_CHECKPOINT, LARGEST_DURABLE, SMALL_CHECKPOINT
from orbiter.distributed.plain_json import json_text, quoted_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orbiter.distributed.models import Event, TaskPayload
    from orbiter.distributed.runtimes.imports import ImportGuard


class CancellationToken:
    """Tells code that is running whether it should stop; safe to read from any thread."""

    def __init__(self) -> None:
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether cancellation was asked for."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask for cancellation; asking again changes nothing."""
        self._cancelled = True


class Journal(Protocol):
    """What outlives a run where tasks run durably: finished steps of agents, and a callable's checkpoint."""

    checkpoint: Any

    def scope(self, name: str) -> str:
        """Return a name for steps, another one at each call."""

    def replay(self, key: str) -> Any:
        """Return what an earlier run kept of a step, or ``None``."""

    async def append(self, key: str, value: Any) -> None:
        """Keep what a step gave, JSON; returns once it is kept."""

    def save(self, checkpoint: Any) -> None:
        """Keep a checkpoint, JSON."""


@dataclass(slots=True, kw_only=True)
class RunContext:
    """What one run of a task is given.

    Attributes:
        payload: The task as submitted.
        attempt: Which run this is, from 1.
        emit: Publishes an event (or a string, as text). Returns at once; callable from any thread.
        token: Becomes cancelled when the run should stop.
        deadline: Epoch seconds at which the run is stopped.
        guard: Decides what the task may import.
        journal: What outlives this run, or ``None`` where nothing does.
        pace: Returns when more may be emitted, where that is limited.
        spend: Counts an answer of a model: its name, whose it is, tokens in, tokens out. Callable from any thread.
    """

    payload: TaskPayload
    attempt: int
    emit: Callable[[Event | str], None]
    guard: ImportGuard
    deadline: float
    token: CancellationToken = field(default_factory=CancellationToken)
    journal: Journal | None = None
    pace: Callable[[], Awaitable[None]] | None = None
    spend: Callable[[str, str, int, int], None] = lambda *_: None

    @property
    def checkpoint(self) -> Any:
        """What an earlier run of the task saved last, or ``None``; always ``None`` in local execution."""
        return self.journal.checkpoint if self.journal else None

    def save(self, checkpoint: Any) -> None:
        """Save JSON for the next run of this task, should this one be lost; nothing is kept in local execution.

        Raises:
            ConfigurationError: It is not JSON, or more than Temporal takes beside the task.
        """
        if not self.journal:
            return
        size = len(json_text(checkpoint, "the checkpoint"))
        if size > SMALL_CHECKPOINT:
            most = min(LARGEST_CHECKPOINT, LARGEST_DURABLE - quoted_size(self.payload.to_json()))
            if size > most:
                raise ConfigurationError(
                    f"checkpoint: {size} bytes as JSON are more than the {most} that Temporal takes beside this task;"
                    " store it elsewhere and save where"
                )
        self.journal.save(checkpoint)

    @property
    def input(self) -> str:
        """The user's prompt."""
        return self.payload.input

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Earlier turns."""
        return self.payload.messages

    @property
    def metadata(self) -> dict[str, Any]:
        """What the client attached."""
        return self.payload.metadata

    @property
    def options(self) -> dict[str, Any]:
        """``agent_config["options"]``."""
        return dict(self.payload.agent_config.get("options") or {})

    @property
    def cancelled(self) -> bool:
        """Whether the run should stop."""
        return self.token.cancelled


class Runtime(Protocol):
    """Runs one kind of ``agent_config``; one instance runs every task that has the same, also at the same time."""

    def __init__(self, config: dict[str, Any], guard: ImportGuard) -> None:
        """Check the configuration and import what it names.

        Raises:
            ConfigurationError: It can never run; the task fails at once and is not retried.
        """

    async def run(self, context: RunContext) -> dict[str, Any]:
        """Run to the end, emitting events; return the task's result, an object with at least ``output``."""


@cache
def _registered() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group="orbiter.runtimes")}


def runtime_for(payload: TaskPayload, guard: ImportGuard) -> Runtime:
    """Return the runtime that this task asks for, ready to run.

    Raises:
        ConfigurationError: The runtime is unknown or the configuration is wrong.
    """
    name = payload.agent_config.get("runtime", "agent")
    known = _registered()
    if name not in known:
        raise ConfigurationError(f"agent_config.runtime: {name!r} is unknown; known are {', '.join(sorted(known))}")
    try:
        factory = known[name].load()
    except BaseException as error:
        raise ConfigurationError(
            f"agent_config.runtime: {name!r} cannot be loaded: {type(error).__name__}: {text_of(error)}"
        ) from error
    runtime: Runtime = factory(payload.agent_config, guard)
    return runtime
