"""Errors that decide what becomes of a task: run again, or end at once with a reason a person can act on."""

from __future__ import annotations


class OrbiterError(Exception):
    """Base of every error that Orbiter raises on purpose."""


class ConfigurationError(OrbiterError):
    """The task can never succeed as it stands (wrong ``agent_config``, refused import, unknown tool): not retried."""


class ImportRefusedError(ConfigurationError):
    """A message named code that the operator has not allowed; the text names the path and the option."""


class MissingExtraError(ConfigurationError):
    """A library that the task needs is not installed; the text names the extra that brings it."""


class ResultTooLargeError(ConfigurationError):
    """A run returned more than is kept; it would again."""


class TransientError(OrbiterError):
    """Worth another run, not before ``retry_after`` seconds where the far side asked for that."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TransferredError(OrbiterError):
    """Not a failure: Temporal has accepted the task and runs it from now on."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"runs as workflow {workflow_id}")
        self.workflow_id = workflow_id


class HandedBackError(OrbiterError):
    """This worker cannot take the task now: another one should, free of charge."""


class RedisUnavailableError(OrbiterError):
    """Redis could not be reached within the time allowed."""
