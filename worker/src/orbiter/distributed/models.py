"""The wire format: task payloads, task results and events, as every client and worker reads and writes them.

The JSON shapes are those of orbiter-distributed 0.1, so that its clients and workers can share a queue with ours.
Unknown keys are ignored on reading; fields of our own (``seq``, ``attempt``) are additions that 0.1 readers pass over.
"""

from __future__ import annotations

import json
import uuid
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import to_json, to_jsonable_python

from orbiter.distributed.names import DEFAULT_NAMESPACE, TaskId, default_queue
from orbiter.distributed.plain_json import check_depth, check_numbers, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_core import ErrorDetails

T = TypeVar("T")

DEFAULT_QUEUE = default_queue(DEFAULT_NAMESPACE)
DEFAULT_TIMEOUT = 300.0
# Epoch seconds.
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
# Written where they are set.
_OPTIONAL = ("not_before", "max_retries")


class TaskStatus(StrEnum):
    """Where a task is in its life; ``completed``, ``failed`` and ``cancelled`` are final and never change."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRYING = "retrying"
    # Of a record that is none: never written.
    UNREADABLE = "unreadable"

    @property
    def lasting(self) -> bool:
        """Whether there is nothing to wait for: the task has ended, or its record cannot be read."""
        return self in TERMINAL or self is TaskStatus.UNREADABLE

    @property
    def terminal(self) -> bool:
        """Whether a task in this state has ended for good."""
        return self in TERMINAL


TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class InvalidPayloadError(ValueError):
    """A queue entry or a submitted task is not a task; the message names the field and the rule it breaks."""


class PayloadTooLargeError(InvalidPayloadError):
    """A task is larger than what may be put on the queue."""


def validation_message(error: ValidationError) -> str:
    """Return pydantic's findings as one line: ``field: rule; field: rule``."""
    rows = error.errors()
    return "; ".join(f"{'.'.join(str(part) for part in row['loc']) or 'task'}: {broken_rule(row)}" for row in rows)


def broken_rule(row: ErrorDetails) -> str:
    """Return one finding of pydantic's without the prefix that it puts before messages of our own."""
    return row["msg"].removeprefix("Value error, ")


def _without_halves(validate: Callable[[str | bytes], T], text: str | bytes) -> T:
    """Read JSON that could not be read, with the replacement character for each half of a surrogate pair.

    Raises:
        ValidationError: That was not the reason.
    """
    return validate(whole(text if isinstance(text, str) else text.decode("utf-8", "replace")))


class TaskPayload(BaseModel):
    """One agent run, as it travels on the queue.

    Attributes:
        task_id: Unique name of the task; submitting the same id twice is one task.
        agent_config: What to run: an agent, a swarm, or ``{"runtime": …}``.
        input: The user's prompt.
        messages: Earlier turns, ``[{"role": "user"|"assistant"|"system", "content": str}, …]``.
        model: Overrides the agent's model when set.
        detailed: Whether steps, usage and tool results are published beside text.
        metadata: Free for the client; ``trace_context`` is reserved.
        created_at: Epoch seconds of submission; 0 when the client did not say.
        timeout_seconds: Limit of one run.
        not_before: Epoch seconds before which it does not run; an addition of ours to the format of 0.1.
        max_retries: Runs repeated after an error, instead of the worker's own limit; likewise.
    """

    # Keys come again in each payload; to look for values among all that were seen costs more than it gains.
    model_config = ConfigDict(frozen=True, extra="ignore", cache_strings="keys")

    task_id: TaskId = Field(default_factory=lambda: uuid.uuid4().hex)
    agent_config: dict[str, Any] = Field(default_factory=dict)
    input: str = ""
    # One finding is enough: half a million of them would be half a gigabyte.
    messages: Annotated[list[dict[str, Any]], FailFast()] = Field(default_factory=list)
    model: str | None = None
    detailed: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: float = Field(default=0.0, allow_inf_nan=False)
    timeout_seconds: float = Field(default=DEFAULT_TIMEOUT, gt=0, allow_inf_nan=False)
    not_before: float | None = Field(default=None, ge=0, le=1e11, allow_inf_nan=False)
    max_retries: int | None = Field(default=None, ge=0, le=1000)

    @property
    def agent_name(self) -> str:
        """The name shown in listings: the agent's, ``swarm(first...)``, or the callable's target."""
        config = self.agent_config
        agents = config.get("agents")
        if isinstance(agents, list):
            first = agents[0].get("name", "?") if agents and isinstance(agents[0], dict) else "?"
            name = f"swarm({first}...)"
        else:
            name = str(config.get("name") or config.get("target") or "")
        # What is no Unicode (half a surrogate pair) could not be written to Redis.
        return name if name.isascii() else name.encode("utf-8", "replace").decode()

    def to_json(self) -> str:
        """Return the queue's form of this task: the keys of 0.1, and of our own those that are set.

        ASCII throughout, so that characters are bytes. What JSON has no form for is written as pydantic does: a model
        as an object, a datetime by ISO 8601.

        Raises:
            InvalidPayloadError: Something in it has no such form either.
        """
        unset = {name for name in _OPTIONAL if getattr(self, name) is None}
        try:
            try:
                text = to_json(self.__dict__, exclude=unset, ensure_ascii=True).decode()
            except ValueError:
                # Half a surrogate pair, which Python's own module can write.
                values = {name: value for name, value in self.__dict__.items() if name not in unset}
                text = json.dumps(values, default=to_jsonable_python)
            check_numbers(text, length=True)
            check_depth(self.__dict__, text)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidPayloadError(f"task {self.task_id}: not JSON: {error}") from None
        return text

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> TaskPayload:
        """Read a task from the fields of a queue entry.

        Raises:
            InvalidPayloadError: There is no field ``payload``, or it holds no task.
        """
        if "payload" not in fields:
            raise InvalidPayloadError("the entry has no field 'payload'")
        return cls.from_json(fields["payload"])

    @classmethod
    def from_json(cls, text: str | bytes) -> TaskPayload:
        """Read a task from the queue.

        Raises:
            InvalidPayloadError: The text is not JSON, not an object, or a field has a wrong type.
        """
        try:
            task = cls.model_validate_json(text)
        except ValidationError as error:
            try:
                task = _without_halves(cls.model_validate_json, text)
            except ValidationError:
                raise InvalidPayloadError(validation_message(error)) from None
            # Another id would be another task.
            if "\ufffd" in task.task_id:
                raise InvalidPayloadError(validation_message(error)) from None
        try:
            check_numbers(text)
        except ValueError as error:
            raise InvalidPayloadError(f"not JSON: {error}") from None
        return task


class TaskResult(BaseModel):
    """What is known of a task: its hash ``{namespace}:task:{id}``, decoded.

    Times are epoch seconds. ``retries`` counts runs repeated after an error, ``handoffs`` those handed to another
    worker by a drain, ``losses`` those that ended without an outcome, as their process or worker died, ``crashes``
    those of them that are charged to the task. ``last_loss`` says what the last one died of. ``unreadable`` says which
    fields of the record cannot be read, and why; they have their defaults.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str = ""
    status: TaskStatus = TaskStatus.PENDING
    result: dict[str, Any] | None = None
    error: str | None = None
    started_at: Moment | None = None
    completed_at: Moment | None = None
    worker_id: str | None = None
    retries: int = 0
    attempt: int = 0
    crashes: int = 0
    losses: int = 0
    last_loss: str | None = None
    handoffs: int = 0
    created_at: Moment | None = None
    queue: str | None = None
    agent_name: str | None = None
    error_type: str | None = None
    next_attempt_at: Moment | None = None
    unreadable: str | None = None

    @property
    def duration(self) -> float | None:
        """Seconds from the start of the last run to its end, or ``None`` while there is none."""
        if self.started_at is None or self.completed_at is None:
            return None
        return self.completed_at - self.started_at

    @property
    def wait_time(self) -> float | None:
        """Seconds from submission to the start of the last run."""
        if self.started_at is None or not self.created_at:
            return None
        return max(0.0, self.started_at - self.created_at)


class Usage(BaseModel):
    """Tokens of one model request, or of several added up."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class _Event(BaseModel):
    """What all events share.

    Attributes:
        seq: Position of the event within its attempt, from 1; 0 from an 0.1 worker. Written behind the event's own
            fields, as 0.1 readers expect ``type`` first.
        attempt: Which run of the task it belongs to, from 1; 0 from an 0.1 worker.
        entry_id: Where it stands on the stream, when it was read from there.
    """

    model_config = ConfigDict(extra="ignore")

    seq: int = Field(default=0, exclude=True)
    attempt: int = Field(default=0, exclude=True)
    entry_id: str = Field(default="", exclude=True)

    def values(self, *, seq: int | None = None, attempt: int | None = None) -> dict[str, Any]:
        """Return what :meth:`to_json` writes."""
        values = self.model_dump()
        values["seq"] = self.seq if seq is None else seq
        values["attempt"] = self.attempt if attempt is None else attempt
        return values

    def to_json(self, *, seq: int | None = None, attempt: int | None = None) -> str:
        """Return the event's form on the stream and the channel, with another place in it if that is given.

        Raises:
            ValueError: Something in it has no form in JSON.
        """
        values = self.values(seq=seq, attempt=attempt)
        text = whole(json.dumps(values, allow_nan=False))
        check_depth(values, text)
        return text


class TextEvent(_Event):
    """A piece of the answer."""

    type: Literal["text"] = "text"
    text: str
    agent_name: str = ""


class ReasoningEvent(_Event):
    """A piece of the model's reasoning."""

    type: Literal["reasoning"] = "reasoning"
    text: str
    agent_name: str = ""


class ToolCallEvent(_Event):
    """The model asked for a tool."""

    type: Literal["tool_call"] = "tool_call"
    tool_name: str
    tool_call_id: str
    agent_name: str = ""


class ToolResultEvent(_Event):
    """A tool returned or failed."""

    type: Literal["tool_result"] = "tool_result"
    tool_name: str
    tool_call_id: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    result: str = ""
    error: str | None = None
    success: bool = True
    duration_ms: float = 0.0
    agent_name: str = ""


class StepEvent(_Event):
    """One model round trip, started or completed."""

    type: Literal["step"] = "step"
    step_number: int
    agent_name: str
    status: Literal["started", "completed"]
    started_at: float
    completed_at: float | None = None
    usage: Usage | None = None


class ErrorEvent(_Event):
    """Something failed; ``recoverable`` says whether the task will be run again."""

    type: Literal["error"] = "error"
    error: str
    error_type: str
    agent_name: str = ""
    step_number: int | None = None
    recoverable: bool = False


class StatusEvent(_Event):
    """A change of state. ``completed``, ``cancelled`` and ``error`` are final: one of them ends every stream.

    Attributes:
        error_type: Class name of the error that ``message`` is of; written only where there is one.
    """

    type: Literal["status"] = "status"
    status: Literal["starting", "running", "waiting_for_tool", "completed", "cancelled", "error"]
    agent_name: str = ""
    message: str = ""
    error_type: str = ""

    def values(self, *, seq: int | None = None, attempt: int | None = None) -> dict[str, Any]:
        """Return what :meth:`to_json` writes."""
        values = super().values(seq=seq, attempt=attempt)
        if not self.error_type:
            del values["error_type"]
        return values


class UsageEvent(_Event):
    """Tokens of one step."""

    type: Literal["usage"] = "usage"
    usage: Usage
    agent_name: str = ""
    step_number: int = 0
    model: str = ""


Event = TextEvent | ReasoningEvent | ToolCallEvent | ToolResultEvent | StepEvent | ErrorEvent | StatusEvent | UsageEvent
FINAL_STATUSES = frozenset({"completed", "cancelled", "error"})
_EVENT_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


class NotAnEventError(TypeError):
    """User code has emitted what is no event; it would again."""


def emitted_event(item: Event | str, *, agent_name: str = "") -> Event:
    """Return what user code emitted as an event; a string is text, of ``agent_name``.

    Raises:
        NotAnEventError: It is neither, or its text is none.
    """
    if isinstance(item, str):
        return TextEvent(text=item, agent_name=agent_name)
    if not isinstance(item, Event):
        raise NotAnEventError(f"emitted {type(item).__name__}: neither an event nor a string")
    if isinstance(item, TextEvent) and not isinstance(item.text, str):
        raise NotAnEventError(f"emitted an event whose text is a {type(item.text).__name__}, not a string")
    return item


def event_from_json(text: str | bytes) -> Event:
    """Decode one event.

    Raises:
        pydantic.ValidationError: The type is unknown or a field is wrong.
    """
    try:
        return _EVENT_ADAPTER.validate_json(text)
    except ValidationError:
        return _without_halves(_EVENT_ADAPTER.validate_json, text)


def is_final(event: Event) -> bool:
    """Tell whether this event ends its stream."""
    return isinstance(event, StatusEvent) and event.status in FINAL_STATUSES
