"""The worker's settings: one definition of names, defaults and rules for command, environment and constructor."""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from orbiter.distributed.errors import SettingsError
from orbiter.distributed.limits import (
    EVENT_TTL,
    LEAST_PAYLOAD_BYTES,
    MAX_AGENTS,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_PAYLOAD_BYTES,
    MAX_RESULT_BYTES,
    MAX_STEPS,
    MAX_TASK_RETRIES,
    MAX_TASK_TIMEOUT,
    STREAM_EVENTS,
    TASK_TTL,
)
from orbiter.distributed.models import DEFAULT_QUEUE, validation_message
from orbiter.distributed.names import (
    DEFAULT_NAMESPACE,
    ModelPattern,
    ModulePrefix,
    Namespace,
    WorkerId,
    check_queue_name,
)

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)B?", re.IGNORECASE)


def size_of(value: Any) -> Any:
    """Return the bytes of a size with a unit, such as ``400M`` (of 1000) or ``2GiB`` (of 1024); else the value."""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if found is None else round(float(found[1]) * _UNITS[found[2].upper()])


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size = BeforeValidator(size_of)


def default_worker_id() -> str:
    """Return ``{hostname}-{pid}-{random}``: unique, so that no two processes ever share a claim."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class WorkerSettings(BaseModel):
    """Everything a worker can be told: ``--heartbeat-ttl`` is ``ORBITER_HEARTBEAT_TTL`` and ``heartbeat_ttl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=1, ge=1, le=1024, description="Tasks that run at the same time in this process")
    namespace: Namespace = Field(default=DEFAULT_NAMESPACE, description="First word of all keys in Redis")
    queue: str = Field(default=DEFAULT_QUEUE, validate_default=True, description="Redis Streams queue name")
    worker_id: WorkerId = Field(default_factory=default_worker_id, description="Unique worker identifier")
    heartbeat_ttl: int = Field(
        default=30, ge=1, le=3600, description="Seconds without a heartbeat after which others take this worker's tasks"
    )
    drain_timeout: Seconds = Field(default=25.0, description="Seconds that running tasks get to end after SIGTERM")
    retry_backoff: Seconds = Field(
        default=1.0, description="Longest delay before a task's first retry, seconds; it doubles each time, 0 is none"
    )
    max_retries: int = Field(default=3, ge=0, description="Times that a task runs again after an error")
    max_crashes: int = Field(
        default=3, ge=0, description="Times that a task may crash its process and run again; 0 repeats no lost run"
    )
    max_payload_bytes: int = Field(
        default=MAX_PAYLOAD_BYTES, ge=LEAST_PAYLOAD_BYTES, description="Largest task that is run, bytes of JSON"
    )
    max_result_bytes: int = Field(
        default=MAX_RESULT_BYTES, ge=1_000, description="Largest result that is kept, bytes of JSON"
    )
    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, ge=10_000, description="Largest event, bytes of JSON")
    task_ttl: int = Field(
        default=TASK_TTL, ge=60, le=31_536_000, description="Seconds to keep the record of an ended task"
    )
    event_ttl: int = Field(default=EVENT_TTL, ge=60, le=31_536_000, description="Seconds to keep the events of a task")
    allow_import: tuple[ModulePrefix, ...] = Field(default=(), description="Module prefix that tasks may import from")
    allow_models: tuple[ModelPattern, ...] = Field(
        default=("default",),
        description="Pattern of models that agents may use, such as openai:gpt-5*;"
        " 'default' is test, and the providers whose key is in the worker's environment",
    )
    max_task_timeout: float = Field(
        default=MAX_TASK_TIMEOUT,
        ge=1,
        le=31_536_000,
        allow_inf_nan=False,
        description="Seconds that a task may ask for as its timeout_seconds",
    )
    max_agents: int = Field(default=MAX_AGENTS, ge=1, description="Agents that a task may have, handoffs included")
    max_steps: int = Field(
        default=MAX_STEPS,
        ge=1,
        description="Round trips of an agent, agents of a flow, and handoffs that a task may ask for; so many of each",
    )
    max_task_retries: int = Field(
        default=MAX_TASK_RETRIES,
        ge=0,
        description="Largest max_retries that a task may ask for; --max-retries is allowed in any case",
    )
    max_events: int = Field(
        default=MAX_EVENTS,
        ge=100,
        description="Events after which a run fails; one of more than 10 kB counts once for each 10 kB",
    )
    stream_events: int = Field(
        default=STREAM_EVENTS, ge=100, description="Events that a task's stream keeps, the newest"
    )
    connect_timeout: Seconds = Field(default=30.0, description="Seconds to wait for Redis at start")
    executor: Literal["local", "temporal"] = Field(
        default="local",
        description="How tasks run: local repeats a run whose worker is lost, temporal goes on after its last step",
    )
    isolation: Literal["process", "task", "none"] = Field(
        default="none",
        description="Where user code runs: process is an executor process for several tasks,"
        " task is one for each task, none is the worker's own process",
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="Executor processes that share the tasks; not more than --concurrency"
    )
    max_rss_per_process: Annotated[int, Size] = Field(
        default=350_000_000,
        ge=0,
        description="Memory of an executor process and its children, bytes, above which it is replaced; 0 is no limit",
    )
    max_tasks_per_process: int = Field(
        default=0, ge=0, description="Tasks after which an executor process is replaced; 0 is never"
    )
    stall_timeout: Seconds = Field(
        default=30.0, description="Seconds that a task may block its executor process's event loop until that is killed"
    )
    health_port: int = Field(default=0, ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 is off")
    health_host: str = Field(default="127.0.0.1", description="Address that --health-port binds to")
    instance: str = Field(default="", description="Label shown in listings, such as systemd's %i")

    @field_validator("queue")
    @classmethod
    def _in_namespace(cls, value: str, info: ValidationInfo) -> str:
        # A namespace that breaks its rule is an error of its own.
        return check_queue_name(value, info.data.get("namespace", DEFAULT_NAMESPACE))

    @field_validator("worker_id", mode="before")
    @classmethod
    def _generated_when_empty(cls, value: object) -> object:
        return value or default_worker_id()

    @field_validator("allow_import", "allow_models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        values = value.split(",") if isinstance(value, str) else value
        if not isinstance(values, list | tuple):
            return values
        return tuple(part.strip() for item in values for part in str(item).split(",") if part.strip())

    @classmethod
    def of(cls, **values: object) -> WorkerSettings:
        """Build settings, leaving out what is ``None``.

        Raises:
            SettingsError: A value breaks its rule, or two do not go together.
        """
        try:
            settings = cls.model_validate({name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(validation_message(error)) from None
        # Not a validator: of a file's settings each is checked alone.
        if settings.processes > settings.concurrency:
            raise SettingsError(
                f"processes: {settings.processes} executor processes (--processes) are more than the"
                f" {settings.concurrency} tasks at the same time (--concurrency); lower the one or raise the other"
            )
        return settings
