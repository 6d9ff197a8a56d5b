"""Endings: why a run is stopped, what an executor returns, and what a run can end in.

Settler and meter match every case.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class StopReason(StrEnum):
    """Why a run is stopped from outside."""

    CANCELLED = "cancelled"
    # Written so in the histories of durable runs.
    REQUEUED = "handed back"
    TIMED_OUT = "timed out"
    OVER_LIMIT = "over its limit"
    LOST = "lost"


@dataclass(slots=True)
class Completed:
    """The run returned a result: JSON text of an object with a key ``output``, or ``null``."""

    text: str


@dataclass(slots=True)
class Failed:
    """The run ended in an error; the retry policy says whether the task runs again."""

    error: BaseException


@dataclass(slots=True)
class Requeued:
    """The task goes back to the queue, uncharged: it did not run here, or was stopped for another worker to run it."""

    reason: str = ""


@dataclass(slots=True)
class Delegated:
    """Somebody else runs the task from now on, and records its end."""

    workflow_id: str


@dataclass(slots=True)
class Died:
    """The executor process that ran it died.

    Attributes:
        reason: What it died of, in words.
        error_type: Class name of the error by which the task fails, if it is given up.
        guilty: Whether the task is to blame, if it ran alone.
        host: Whether the host is to blame, not the task.
    """

    reason: str
    error_type: str
    guilty: bool
    host: bool


@dataclass(slots=True)
class Cancelled:
    """The run was stopped because the task is not wanted any more."""


@dataclass(slots=True)
class Lost:
    """The claim is another worker's by now, or may be: nothing is recorded of the run."""


# What an executor returns, and what a run can end in.
Execution: TypeAlias = Completed | Failed | Requeued | Delegated | Died
Ending: TypeAlias = Execution | Cancelled | Lost
