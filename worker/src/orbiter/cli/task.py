"""``orbiter task``: submit tasks, follow, list, cancel and retry them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orbiter.cli.application import LazyGroup
from orbiter.cli.completion import task_ids
from orbiter.cli.event_printer import EventPrinter
from orbiter.cli.failures import Failure, UsageFailure
from orbiter.cli.listing import DEFAULT_CHOICE, Choice, Column, column_options, listing
from orbiter.cli.options import (
    TASK_ID,
    any_queue_option,
    fleet_options,
    json_option,
    namespace,
    open_client,
    queue_filter_option,
    queue_of_task,
    queue_option,
    run,
)
from orbiter.cli.output import print_line
from orbiter.cli.prefixes import not_found, whole_task_id
from orbiter.cli.render import format_ago, format_duration, format_time, print_json, status_text, task_json, task_view
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.inputs import read_inputs
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.records import CancelOutcome
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.models import TaskResult, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis
    from rich.table import Table

    from orbiter.distributed.models import Event


@click.group(
    cls=LazyGroup,
    commands_from={
        "dead": ("orbiter.cli.dead:dead", "Look at tasks that failed for good; retry or drop them."),
        "retry": ("orbiter.cli.dead:retry_task", "Run a failed or cancelled task again."),
        "submit": ("orbiter.cli.submit:submit", "Submit a task, or many at once."),
    },
)
def task() -> None:
    """Submit tasks, follow, list, cancel and retry them."""


_ERROR_SHOWN = 60
_INPUT_SHOWN = 40


@dataclass(frozen=True)
class _Row:
    """A task of the listing.

    Attributes:
        task: Its record.
        input: What it was asked, where that is known.
        now: Redis' clock, from which times are told; ``None`` to tell them as they are.
    """

    task: TaskResult
    input: str
    now: float | None

    def time(self, seconds: float | None) -> str:
        """Return a time for people."""
        return format_time(seconds) if self.now is None else format_ago(seconds, self.now)


_COLUMNS: tuple[Column[_Row], ...] = (
    Column("id", "Task ID", lambda row: row.task.task_id),
    Column("status", "Status", lambda row: status_text(row.task)),
    Column("agent", "Agent", lambda row: row.task.agent_name or "-", rank=1),
    Column("input", "Input", lambda row: _beginning(row.input, _INPUT_SHOWN), wide=True),
    Column("attempt", "Attempt", lambda row: str(row.task.attempt), rank=3),
    Column("error", "Error", lambda row: _beginning(row.task.error, _ERROR_SHOWN), rank=2),
    Column("worker", "Worker", lambda row: row.task.worker_id or "-", rank=6),
    Column("started", "Started", lambda row: row.time(row.task.started_at), rank=5),
    Column("duration", "Duration", lambda row: format_duration(row.task), rank=4),
    Column("created", "Created", lambda row: row.time(row.task.created_at), wide=True),
    Column("completed", "Completed", lambda row: row.time(row.task.completed_at), wide=True),
    Column("queue", "Queue", lambda row: row.task.queue or "-", wide=True),
    Column("retries", "Retries", lambda row: str(row.task.retries), wide=True),
    Column("crashes", "Crashes", lambda row: str(row.task.crashes), wide=True),
    Column("handoffs", "Hand-offs", lambda row: str(row.task.handoffs), wide=True),
    Column("error_type", "Error Type", lambda row: row.task.error_type or "-", wide=True),
)


def _beginning(text: str | None, shown: int) -> str:
    # No more is looked at than can be shown: an input may be a megabyte.
    line = " ".join((text or "-")[: 10 * shown].split())
    return line if len(line) <= shown else f"{line[:shown]}..."


@dataclass(frozen=True)
class Tasks:
    """What a listing shows.

    Attributes:
        tasks: The newest first.
        inputs: Of those of them that have not ended, by id.
        now: Redis' clock, epoch seconds; ``None`` for exact times.
    """

    tasks: Sequence[TaskResult]
    inputs: Mapping[str, str] = field(default_factory=dict)
    now: float | None = None


def tasks_view(found: Tasks, choice: Choice = DEFAULT_CHOICE) -> Table | Text:
    """Return the table of tasks."""
    rows = [_Row(task, found.inputs.get(task.task_id, ""), found.now) for task in found.tasks]
    return listing("Distributed Tasks", _COLUMNS, rows, choice) if rows else Text("No tasks found.")


@task.command("list", cls=Watchable)
@fleet_options
@queue_filter_option
@column_options(_COLUMNS)
@click.option("--status", metavar="STATUS", help=f"Only tasks that are {', '.join(TaskStatus)}.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@click.option("--utc", is_flag=True, help="Show exact times, in UTC, instead of how long ago.")
@watch_option
@json_option
def list_tasks(
    *,
    redis_url: str,
    only_queue: str | None,
    wide: bool,
    columns: tuple[str, ...],
    status: str | None,
    limit: int,
    utc: bool,
    watch: float | None,
    as_json: bool,
) -> None:
    """List tasks, the newest first."""
    wanted = _known_status(status)
    with_inputs = not as_json and ("input" in columns or (wide and not columns))

    async def look(client: Redis) -> Tasks:
        store = TaskStore(redis_url, namespace=namespace(), client=client)
        tasks = await store.list_tasks(wanted, limit, queue=only_queue)
        inputs = await read_inputs(client, Keys(namespace()), tasks) if with_inputs else {}
        return Tasks(tasks, inputs, None if utc or as_json else await redis_time(client))

    draw = partial(tasks_view, choice=Choice(columns, wide=wide))
    view = View(look=look, draw=draw, as_json=lambda found: [task_json(task) for task in found.tasks])
    show(redis_url, view, watch=watch, as_json=as_json)


def _known_status(status: str | None) -> TaskStatus | None:
    if status is None:
        return None
    try:
        return TaskStatus(status.lower())
    except ValueError:
        raise UsageFailure(f"Invalid status: {status}. Valid values: {', '.join(TaskStatus)}") from None


@task.command("status", cls=Watchable)
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@any_queue_option
@watch_option
@json_option
def show_status(task_id: str, redis_url: str, watch: float | None, as_json: bool) -> None:
    """Show everything known of one task; --watch ends when the task has.

    The beginning of an id will do: 4 characters or more that no other task's id begins with. Not with --json.
    """

    async def look(client: Redis) -> _Seen:
        whole = task_id if as_json else await whole_task_id(client, task_id)
        found = await TaskStore(redis_url, namespace=namespace(), client=client).get_status(whole)
        if found is None:
            raise not_found(task_id, exact=as_json)
        return _Seen(found, cancelling=not as_json and await _cancelling(client, found))

    view = View(
        look=look,
        draw=lambda seen: task_view(seen.task, cancelling=seen.cancelling),
        as_json=lambda seen: task_json(seen.task),
        ended=lambda seen: seen.task.status.lasting,
    )
    show(redis_url, view, watch=watch, as_json=as_json)


@dataclass(frozen=True)
class _Seen:
    """A task's record, and whether it runs although somebody has asked to cancel it."""

    task: TaskResult
    cancelling: bool


async def _cancelling(client: Redis, task: TaskResult) -> bool:
    if task.status is not TaskStatus.RUNNING:
        return False
    asked: Any = await client.hget(Keys(namespace()).task(task.task_id), "cancel_requested_at")
    return bool(asked)


@task.command("cancel")
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@queue_option
@json_option
def cancel(task_id: str, redis_url: str, queue: str, as_json: bool) -> None:
    """Cancel a task that waits or runs; exit 1 where it is unknown or has ended otherwise.

    The beginning of a generated id will do: 4 characters or more that no other task's id begins with. Not with --json.
    """
    task_id, outcome, found = run(redis_url, _cancel(redis_url, queue, task_id, exact=as_json))
    ended = found.status if found else None
    done = outcome in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED) or ended is TaskStatus.CANCELLED
    if as_json:
        print_json({"task_id": task_id, "outcome": outcome.value, "status": ended.value if ended else None})
        if not done:
            raise click.exceptions.Exit(1)
        return
    if outcome is CancelOutcome.UNKNOWN:
        raise not_found(task_id)
    if outcome is CancelOutcome.FINISHED and not done:
        raise Failure(f"Task {task_id} has already ended: {ended or 'unknown'}.")
    if outcome is CancelOutcome.REQUESTED and ended is not TaskStatus.CANCELLED:
        print_line(f"Task {task_id} is running; its worker has been asked to cancel it.")
    elif outcome is CancelOutcome.FINISHED:
        print_line(f"Task {task_id} has been cancelled already.")
    else:
        print_line(f"Task {task_id} cancelled.")


async def _cancel(
    redis_url: str, queue: str, task_id: str, *, exact: bool
) -> tuple[str, CancelOutcome, TaskResult | None]:
    """Return the whole id, what became of the request, and the task's record."""
    async with open_client(redis_url, queue) as client:
        task_id = task_id if exact else await whole_task_id(client.redis, task_id, changes=True)
        name = await queue_of_task(client.redis, task_id, queue)
        broker = broker_for(redis_url, queue_name=name, namespace=client.namespace, client=client.redis)
        outcome = await broker.cancel(task_id)
        return task_id, outcome, await client.status(task_id)


@task.command("events")
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@any_queue_option
@click.option("--follow", "-f", is_flag=True, help="Go on with live events until the task has ended.")
@json_option
def events(task_id: str, redis_url: str, follow: bool, as_json: bool) -> None:
    """Show a task's events (kept for an hour); with --json one object a line.

    The beginning of an id will do: 4 characters or more that no other task's id begins with. Not with --json.
    """
    if not run(redis_url, _events(redis_url, task_id, follow=follow, as_json=as_json)):
        raise not_found(task_id, exact=as_json)


async def _events(redis_url: str, task_id: str, *, follow: bool, as_json: bool) -> bool:
    """Print the events; tell whether task or events are known."""
    async with open_client(redis_url) as client:
        if not as_json:
            task_id = await whole_task_id(client.redis, task_id, known=partial(_has_events, client.redis))
        known = await client.status(task_id) is not None
        if follow and not known:
            return False
        seen = False
        printer = EventPrinter()
        async for event in client.stream(task_id) if follow else client.events.replay(task_id):
            seen = True
            show_event(printer, event, as_json=as_json)
        printer.close()
        return known or seen


async def _has_events(client: Redis, task_id: str) -> bool:
    return bool(await client.exists(Keys(namespace()).event_stream(task_id)))


def show_event(printer: EventPrinter, event: Event, *, as_json: bool) -> None:
    """Print one event, for a person or as a line of JSON."""
    if as_json:
        print_json(event.values(), indent=None)
    else:
        printer.show(event)
