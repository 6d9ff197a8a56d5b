"""Again: the form that submits a task once more, with changes, and what becomes of it: a task by the client's rules."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from orbiter.dashboard.guard import LONGEST_BODY
from orbiter.dashboard.pages import WITHIN, NotFoundError, moment_in
from orbiter.distributed.client.payloads import describe
from orbiter.distributed.models import DEFAULT_TIMEOUT, TaskPayload
from orbiter.distributed.names import check_queue_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orbiter.distributed.client.overview import Overview, TaskView

# What a form has beside its fields: token, the old task's id, names of fields.
_AROUND = 4096
# A field, and what helps where it breaks its rule.
REMEDIES = {
    "agent_config": 'Write a JSON object, such as {"name": "helper", "model": "test"}',
    "input": 'Write a JSON string, such as "one\\ntwo"',
    "messages": 'Write a JSON array, such as [{"role": "user", "content": "Hello"}], or nothing',
    "metadata": 'Write a JSON object, such as {"customer": "c-1"}, or nothing',
    "model": "Write provider:model, or nothing for the agent's own",
    "timeout_seconds": "Write seconds, such as 300",
    "max_retries": "Write a whole number from 0 on, or nothing for the workers' own limit",
    "not_before": "Write a time, UTC, such as 2026-01-31T12:00, or nothing",
    "queue": "Write the name of a queue, such as orbiter:tasks",
    "task_id": "Write another one, or nothing for a new one",
}
_FIELD = re.compile(r"[a-z_]+(?=[.:])")


class FieldError(ValueError):
    """What was typed makes no task; the message names the field, the rule and the remedy.

    Args:
        message: Field and rule.

    Attributes:
        field: The field of the form; empty where it is about all of it.
    """

    def __init__(self, message: str) -> None:
        named = _FIELD.match(message)
        self.field = named[0] if named and named[0] in REMEDIES else ""
        remedy = f". {REMEDIES[self.field]}" if self.field else ""
        super().__init__(f"{message.rstrip('.')}{remedy}.")


async def prefilled(overview: Overview, task_id: str) -> dict[str, str]:
    """Return the fields of the form for a task, as what was submitted has them.

    Raises:
        InvalidNameError: No task can have this id.
        NotFoundError: There is none.
        redis.RedisError: Redis cannot be reached or refuses.
        TimeoutError: It does not answer.
    """
    async with asyncio.timeout(WITHIN):
        view = await overview.task(task_id)
    if view is None:
        raise NotFoundError("There is no task of this id, so nothing to submit again.")
    return _fields(view, overview)


def _fields(view: TaskView, overview: Overview) -> dict[str, str]:
    task, payload = view.task, view.payload
    kept = payload or TaskPayload(
        agent_config={"name": task.agent_name or "", "model": ""}, timeout_seconds=DEFAULT_TIMEOUT
    )
    # The old task's trace is not the new one's.
    metadata = {key: value for key, value in kept.metadata.items() if key != "trace_context"}
    return {
        "id": task.task_id,
        # A form that is sent twice is one task.
        "task_id": uuid.uuid4().hex,
        "queue": task.queue or overview.queue,
        "agent_config": as_json(kept.agent_config),
        **written(kept.input),
        "messages": as_json(kept.messages) if kept.messages else "",
        "metadata": as_json(metadata) if metadata else "",
        "model": kept.model or "",
        "detailed": "1" if kept.detailed else "",
        "timeout_seconds": f"{kept.timeout_seconds:.15g}",
        "max_retries": "" if kept.max_retries is None else str(kept.max_retries),
        "not_before": "",
        "gone": "" if payload else "1",
    }


def typed_in(fields: Mapping[str, list[str]]) -> dict[str, str]:
    """Return what a browser sent, each field once; it ends lines with CR LF."""
    names = ("id", *REMEDIES, "input_is", "detailed", "gone")
    return {name: "".join(fields.get(name, [])).replace("\r\n", "\n") for name in names}


def shown_again(typed: Mapping[str, str]) -> dict[str, str]:
    """Return what was typed as the form shows it once more: nothing of it is lost."""
    texts = {name: seen(typed[name]) for name in ("agent_config", "messages", "metadata")}
    if typed["input_is"] == "json":
        return {**typed, **texts, "input": seen(typed["input"])}
    return {**typed, **texts, **written(typed["input"])}


def too_large(fields: Mapping[str, str]) -> int:
    """Return how many bytes the form would send, where these are more than the dashboard takes; 0 otherwise."""
    length = len(urlencode(fields)) + _AROUND
    return length if length > LONGEST_BODY else 0


def task_asked_for(typed: Mapping[str, str], overview: Overview) -> tuple[TaskPayload, str]:
    """Return the task that a form asks for, and its queue.

    Raises:
        FieldError: A field breaks its rule.
    """
    # Texts of numbers: the client's own rules say what is none.
    numbers: dict[str, Any] = {
        "timeout": typed["timeout_seconds"].strip(),
        "max_retries": typed["max_retries"].strip() or None,
    }
    try:
        queue = _queue(typed["queue"].strip() or overview.queue, overview.namespace)
        payload = describe(
            _object("agent_config", typed["agent_config"]),
            _input(typed),
            messages=_messages(typed["messages"]),
            metadata=_object("metadata", typed["metadata"] or "{}"),
            detailed=bool(typed["detailed"]),
            task_id=typed["task_id"].strip() or None,
            not_before=moment_in("not_before", typed["not_before"].strip()),
            **numbers,
        )
    except ValueError as error:
        raise error if isinstance(error, FieldError) else FieldError(str(error)) from None
    return payload.model_copy(update={"model": typed["model"].strip() or None}), queue


def _queue(name: str, namespace: str) -> str:
    try:
        return check_queue_name(name, namespace)
    except ValueError as error:
        raise FieldError(f"queue: {error}") from None


def _input(typed: Mapping[str, str]) -> str:
    if typed["input_is"] != "json":
        return typed["input"]
    text = _parsed("input", typed["input"])
    if not isinstance(text, str):
        raise FieldError(f"input: must be a JSON string, not {_kind(text)}")
    return text


def _object(name: str, text: str) -> dict[str, Any]:
    found = _parsed(name, text)
    if not isinstance(found, dict):
        raise FieldError(f"{name}: must be a JSON object, not {_kind(found)}")
    return found


def _messages(text: str) -> list[dict[str, Any]]:
    found = _parsed("messages", text or "[]")
    if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
        raise FieldError("messages: must be a JSON array of objects")
    return found


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FieldError(f"{name}: not JSON: line {error.lineno} column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{name}: not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def as_json(value: Any) -> str:
    """Return a value as JSON that people can read, and that says the same once it is read again."""
    return seen(json.dumps(value, indent=2, ensure_ascii=False))


def written(text: str) -> dict[str, str]:
    """Return an input as the form has it: as JSON where a field for text would show or send another one."""
    plain = all(char.isprintable() or char in "\n\t" for char in text)
    return {"input": text if plain else as_json(text), "input_is": "text" if plain else "json"}


def seen(text: str) -> str:
    r"""Return JSON with everything escaped that nobody would see: ``\u202e`` is the same to JSON, and can be read."""
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
