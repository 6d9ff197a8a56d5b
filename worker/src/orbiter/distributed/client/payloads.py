"""From what a caller says of a task to the payload that is put on the queue."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.models import InvalidPayloadError, TaskPayload, validation_message
from orbiter.distributed.runtimes.submitted import check_agent, check_turns

if TYPE_CHECKING:
    from collections.abc import Sequence


class Agent(Protocol):
    """Anything that can describe itself as an ``agent_config``."""

    def to_dict(self) -> dict[str, Any]:
        """Return the ``agent_config``."""


def describe(
    agent: Agent | Mapping[str, Any],
    text: str,
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    detailed: bool = False,
    timeout: float = 300.0,
    metadata: Mapping[str, Any] | None = None,
    task_id: str | None = None,
    not_before: float | datetime | timedelta | None = None,
    max_retries: int | None = None,
) -> TaskPayload:
    """Return the payload; the arguments are those of :meth:`~orbiter.distributed.client.client.Client.submit`.

    Raises:
        InvalidPayloadError: An argument breaks its rule, or a key of the agent is unknown.
        ValueError: ``not_before`` has no time zone.
        TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
    """
    values: dict[str, Any] = {
        "agent_config": agent_config(agent),
        "input": text,
        "messages": _turns(messages),
        "detailed": detailed,
        "metadata": _object(metadata or {}, "metadata", {"team": "docs"}),
        "created_at": time.time(),
        "timeout_seconds": timeout,
        "not_before": epoch_seconds(not_before, now=time.time()),
        "max_retries": max_retries,
    }
    if task_id is not None:
        values["task_id"] = task_id
    try:
        payload = TaskPayload(**values)
        check_agent(payload.agent_config)
        check_turns(payload.agent_config, payload.messages)
    except ValidationError as error:
        raise InvalidPayloadError(validation_message(error)) from None
    except ConfigurationError as error:
        raise InvalidPayloadError(str(error)) from None
    return payload


def _turns(messages: object) -> list[dict[str, Any]]:
    """Return earlier turns as a payload has them."""
    example = {"role": "user", "content": "Hello"}
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages or (), Iterable):
        raise InvalidPayloadError(f"messages: must be a list of turns such as {example}, not {type(messages).__name__}")
    turns: Iterable[object] = messages or ()  # type: ignore[assignment]
    return [_object(turn, f"messages.{number}", example) for number, turn in enumerate(turns)]


def _object(value: object, name: str, example: dict[str, str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidPayloadError(f"{name}: must be a dict such as {example}, not {type(value).__name__}")
    return dict(value)


def check_many(inputs: object, keywords: Mapping[str, Any]) -> None:
    """Check what ``submit_many()`` was called with.

    Raises:
        TypeError: ``inputs`` is one text, or nothing that can be iterated.
        ValueError: ``task_id`` was given.
    """
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable | AsyncIterable):
        kind = type(inputs).__name__
        raise TypeError(f"inputs: a {kind} is no iterable of texts; write [text] for one task, or use submit()")
    if "task_id" in keywords:
        raise ValueError("task_id names one task: submit_many() makes one for each input")


def another(task: TaskPayload, text: str) -> TaskPayload:
    """Return a task like this one, with an id and an input of its own.

    Raises:
        InvalidPayloadError: The input is not text.
    """
    if not isinstance(text, str):
        raise InvalidPayloadError(f"input: Input should be a valid string, not {type(text).__name__}")
    # Not validated again: what differs is known to be right.
    return task.model_copy(update={"task_id": uuid.uuid4().hex, "input": text, "created_at": time.time()})


def epoch_seconds(moment: float | datetime | timedelta | None, *, now: float) -> float | None:
    """Return a moment as epoch seconds.

    Raises:
        ValueError: It is a datetime without a time zone, or a text.
    """
    if isinstance(moment, timedelta):
        return now + moment.total_seconds()
    if isinstance(moment, str):
        raise InvalidPayloadError(
            f"not_before: {moment!r} is a text; write timedelta(...), datetime.now(UTC) or epoch seconds"
        )
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"not_before: {moment!r} has no time zone; write timedelta(...) or datetime.now(UTC)")
    return moment.timestamp()


def agent_config(agent: Agent | Mapping[str, Any]) -> dict[str, Any]:
    """Return what an agent says of itself.

    Raises:
        TypeError: It is neither a mapping nor has ``to_dict()``.
    """
    if isinstance(agent, Mapping):
        return dict(agent)
    to_dict = getattr(agent, "to_dict", None)
    if not callable(to_dict):
        raise TypeError(f"agent must be a dict or have to_dict(), not {type(agent).__name__}")
    return dict(to_dict())
