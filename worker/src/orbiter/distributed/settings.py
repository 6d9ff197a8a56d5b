"""The worker's settings: one definition of names, defaults and rules for command, environment and constructor."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orbiter.distributed.lua import EVENT_TTL, TASK_TTL
from orbiter.distributed.models import DEFAULT_QUEUE, MAX_EVENT_BYTES, validation_message

NAME_PATTERN = r"^[A-Za-z0-9_.:@-]{1,128}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SettingsError(ValueError):
    """A setting breaks its rule; the message names the setting, the rule and the value."""


def default_worker_id() -> str:
    """Return ``{hostname}-{pid}-{random}``: unique, so that no two processes ever share a claim."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def payload_limit() -> int:
    """Return the largest task that a client submits here, bytes: ``ORBITER_MAX_PAYLOAD_BYTES``, or the default.

    Raises:
        SettingsError: The variable is no such number.
    """
    text = os.environ.get("ORBITER_MAX_PAYLOAD_BYTES")
    return WorkerSettings.of(max_payload_bytes=text or None).max_payload_bytes


class WorkerSettings(BaseModel):
    """Everything a worker can be told: ``--heartbeat-ttl`` is ``ORBITER_HEARTBEAT_TTL`` and ``heartbeat_ttl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=1, ge=1, le=1024, description="Tasks that run at the same time in this process")
    queue: Name = Field(default=DEFAULT_QUEUE, description="Redis Streams queue name")
    worker_id: Name = Field(default_factory=default_worker_id, description="Unique worker identifier")
    heartbeat_ttl: int = Field(default=30, ge=1, le=3600, description="Lease and heartbeat lifetime, seconds")
    drain_timeout: Seconds = Field(default=25.0, description="Seconds that running tasks get to end after SIGTERM")
    retry_backoff: Seconds = Field(default=1.0, description="Base of the retry delay, seconds; 0 retries at once")
    max_retries: int = Field(default=3, ge=0, description="Runs repeated after an error")
    max_crashes: int = Field(default=3, ge=0, description="Runs repeated after a lost worker")
    max_payload_bytes: int = Field(default=1_000_000, ge=1_000, description="Largest task that is run, bytes of JSON")
    max_result_bytes: int = Field(default=1_000_000, ge=1_000, description="Largest result that is kept, bytes of JSON")
    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, ge=10_000, description="Largest event, bytes of JSON")
    task_ttl: int = Field(
        default=TASK_TTL, ge=60, le=31_536_000, description="Seconds to keep the record of an ended task"
    )
    event_ttl: int = Field(default=EVENT_TTL, ge=60, le=31_536_000, description="Seconds to keep the events of a task")
    allow_import: tuple[str, ...] = Field(default=(), description="Module prefix that tasks may import from")
    connect_timeout: Seconds = Field(default=30.0, description="Seconds to wait for Redis at start")
    executor: Literal["local", "temporal"] = Field(default="local", description="Execution backend")
    health_port: int = Field(default=0, ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 is off")
    health_host: str = Field(default="127.0.0.1", description="Address that --health-port binds to")
    instance: str = Field(default="", description="Label shown in listings, such as systemd's %i")

    @field_validator("worker_id", mode="before")
    @classmethod
    def _generated_when_empty(cls, value: object) -> object:
        return value or default_worker_id()

    @field_validator("allow_import", mode="before")
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
            SettingsError: A value breaks its rule.
        """
        try:
            return cls.model_validate({name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(validation_message(error)) from None
