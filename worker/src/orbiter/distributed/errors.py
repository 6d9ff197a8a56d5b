"""Errors that decide what becomes of a task: run again, or end at once with a reason a person can act on."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from orbiter.distributed.secrecy import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TEXT_CAP = 10_000
NAME_CAP = 200
_PACKAGE = "orbiter-distributed"
# What the role orbiter.fleet.release puts into the environment that it makes on a host.
_IN_A_RELEASE = "sbom.cdx.json"
_name_of_class: Callable[[type], str] = type.__dict__["__name__"].__get__


class OrbiterError(Exception):
    """Base of every error that Orbiter raises on purpose."""


class SettingsError(ValueError):
    """A setting breaks its rule; the message names the setting, the rule and the value."""


class ConfigurationError(OrbiterError):
    """The task can never succeed as it stands (wrong ``agent_config``, refused import, unknown tool): not retried."""


class ImportRefusedError(ConfigurationError):
    """A message named code that the operator has not allowed; the text names the path and the option."""


class ModelRefusedError(ConfigurationError):
    """A task asks for a model that the operator has not allowed; the text names the model, the rule and the option."""


class TaskLimitError(ConfigurationError):
    """A task asks for more than the operator allows; the text names the limit and the option."""


class MissingExtraError(ConfigurationError):
    """A library that the task needs is not installed; the text names the extra that brings it, and how to get it."""


class ResultTooLargeError(ConfigurationError):
    """A run returned more than is kept; it would again."""


class TransientError(OrbiterError):
    """Worth another run, not before ``retry_after`` seconds where the far side asked for that."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RunError(OrbiterError):
    """What a run in an executor process ended in.

    Attributes:
        error_type: Class name of the error there.
        final: Whether another run would end in the same error.
        retry_after: Seconds that the far side asked for, or ``None``.
    """

    def __init__(self, text: str, error_type: str, *, final: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.error_type = error_type
        self.final = final
        self.retry_after = retry_after


class WorkerIdTakenError(OrbiterError):
    """Another process beats, or lately did, under this worker's id.

    Attributes:
        life: What tells that process from others under the id; empty for a release that knows of none.
        hostname: Its host.
        pid: Its process id there, as text; empty where it is not known.
        last_heartbeat: When it beat last, epoch seconds by Redis' clock, as text.
    """

    def __init__(self, worker_id: str, life: str, hostname: str, pid: str, last_heartbeat: str) -> None:
        self.life, self.hostname, self.pid, self.last_heartbeat = life, hostname, pid, last_heartbeat
        super().__init__(
            f"worker_id: {worker_id!r} is in use by {self.holder}; every worker needs an id of its own."
            " Give another --worker-id (ORBITER_WORKER_ID), or none: then one is made."
            " List workers: orbiter worker list"
        )

    @property
    def holder(self) -> str:
        """The process that has the id, as words."""
        return f"process {self.pid or '(unknown)'} on host {self.hostname or '(unknown)'}"


class RedisUnavailableError(OrbiterError):
    """Redis could not be reached within the time allowed."""


def text_of(error: BaseException) -> str:
    """Return an error's text without secrets, cut where it is very long; nothing where the error cannot tell."""
    try:
        text = str(error)[: 10 * TEXT_CAP]
    except BaseException:  # noqa: BLE001 - code of the error's author, which may raise anything
        return ""
    text = hide(text)[:TEXT_CAP]
    # What is no Unicode (half a surrogate pair) could not be written to Redis.
    return text.encode("utf-8", "replace").decode()


def kind_of(error: BaseException) -> str:
    """Return the class name of an error, also where it was raised in an executor process."""
    if isinstance(error, RunError):
        return error.error_type
    # Not by a metaclass of its author's; and what is no Unicode could not be written to Redis.
    return _name_of_class(type(error))[:NAME_CAP].encode("utf-8", "replace").decode()


def describe(error: BaseException) -> str:
    """Return an error's text, or its class name where it has none."""
    return text_of(error) or kind_of(error)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name nearest to a wrong one, with a space behind it; nothing if none is near."""
    every = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), every, n=1)
    return f"did you mean {every[close[0]]}? " if close else ""


def how_to_install(extra: str) -> str:
    """Return what installs an extra of this package where it was installed from: a directory, a wheel, or an index."""
    if (Path(sys.prefix) / _IN_A_RELEASE).exists():
        return f"add {extra} to worker_extras in the fleet's inventory, and deploy a new release"
    origin = _origin()
    url = str(origin.get("url", ""))
    if not url.startswith("file://"):
        return f"pip install '{_PACKAGE}[{extra}]'"
    if "dir_info" not in origin:
        return f"pip install '{_PACKAGE}[{extra}] @ {url}'"
    editable = "--editable " if origin["dir_info"].get("editable") else ""
    return f"pip install {editable}'{unquote(url.removeprefix('file://'))}[{extra}]'"


def _origin() -> dict[str, Any]:
    """Return what pip noted of where this package came from (PEP 610); nothing where it came from an index."""
    from importlib.metadata import PackageNotFoundError, distribution  # noqa: PLC0415 - 40 ms that only this needs

    try:
        noted = json.loads(distribution(_PACKAGE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
