"""What workflows and activities say to each other, and the names under which Temporal knows them.

Histories hold these for as long as workflows run: add fields with defaults, rename or remove none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TASK_QUEUE = "orbiter-tasks"
WORKFLOW = "AgentExecutionWorkflow"
EXECUTE = "execute_agent_activity"
RECORD = "record_activity"
STEP = "step"


def workflow_id(task_id: str, queue_id: str) -> str:
    """Return the id of a task's workflow. Two fleets in one namespace may have tasks of the same id."""
    return f"orbiter-task-{task_id}-{queue_id}"


def task_queue(name: str, queue_id: str) -> str:
    """Return the task queue of a queue's workers: who has another Redis, or another queue, polls another one."""
    return f"{name}-{queue_id}"


@dataclass
class Plan:
    """What a workflow is told beside the task.

    Attributes:
        queue: The task's queue.
        timeout: Seconds that one run may take.
        max_retries: Runs repeated after an error.
        max_crashes: Runs repeated after a lost worker.
        retries: How many runs had ended in an error before.
        backoff: Base of the delay after a run that took too long, seconds.
        heartbeat: Seconds of silence after which a run counts as lost.
    """

    queue: str = "orbiter:tasks"
    timeout: float = 300.0
    max_retries: int = 3
    max_crashes: int = 3
    retries: int = 0
    backoff: float = 1.0
    heartbeat: float = 30.0


@dataclass
class Run:
    """One run of a task, as its activity is told.

    Attributes:
        queue: The task's queue.
        number: Which run in this workflow, from 1.
        crashed: Whether the one before lost its worker.
        checkpoint: What a callable saved last.
        last: Whether an error in it fails the task.
    """

    queue: str = "orbiter:tasks"
    number: int = 1
    crashed: bool = False
    checkpoint: Any = None
    last: bool = False


@dataclass
class Ending:
    """How a run has ended.

    Attributes:
        kind: ``completed``, ``failed`` (for good), ``cancelled``; ``error`` (worth another run), ``handed back``,
            ``lost`` (its worker); or ``over``: the task had ended before.
        value: The result as JSON, or the error's text.
        error_type: Class name of the error.
        delay: Seconds until the next run.
        checkpoint: What a callable saved last.
    """

    kind: str
    value: str = ""
    error_type: str = ""
    delay: float = 0.0
    checkpoint: Any = None


@dataclass
class Record:
    """What is to be recorded of a run: its end, or that the task runs again.

    Attributes:
        queue: The task's queue.
        number: The run.
        status: ``completed``, ``failed``, ``cancelled``; ``retrying`` or ``pending``.
        value: The result as JSON, or the error's text.
        error_type: Class name of the error.
        delay: Seconds until the next run.
    """

    queue: str
    number: int
    status: str
    value: str = ""
    error_type: str = ""
    delay: float = 0.0
