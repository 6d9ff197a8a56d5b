"""``orbiter task``: submit tasks, follow, list, cancel and retry them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orbiter.cli.application import LazyGroup
from orbiter.cli.completion import task_ids
from orbiter.cli.event_printer import EventPrinter
from orbiter.cli.failures import Failure
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
from orbiter.cli.render import print_json, task_json, task_view, tasks_view
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.records import CancelOutcome
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.models import TaskResult, TaskStatus

if TYPE_CHECKING:
    from redis.asyncio import Redis

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


@task.command("list", cls=Watchable)
@fleet_options
@queue_filter_option
@click.option("--status", metavar="STATUS", help=f"Only tasks that are {', '.join(TaskStatus)}.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@watch_option
@json_option
def list_tasks(
    *, redis_url: str, only_queue: str | None, status: str | None, limit: int, watch: float | None, as_json: bool
) -> None:
    """List tasks, the newest first."""
    wanted = _known_status(status)

    async def look(client: Redis) -> list[TaskResult]:
        store = TaskStore(redis_url, namespace=namespace(), client=client)
        return await store.list_tasks(wanted, limit, queue=only_queue)

    view = View(look=look, draw=tasks_view, as_json=lambda tasks: [task_json(found) for found in tasks])
    show(redis_url, view, watch=watch, as_json=as_json)


def _known_status(status: str | None) -> TaskStatus | None:
    if status is None:
        return None
    try:
        return TaskStatus(status.lower())
    except ValueError:
        raise Failure(f"Invalid status: {status}. Valid values: {', '.join(TaskStatus)}") from None


@task.command("status", cls=Watchable)
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@any_queue_option
@watch_option
@json_option
def show_status(task_id: str, redis_url: str, watch: float | None, as_json: bool) -> None:
    """Show everything known of one task; --watch ends when the task has."""

    async def look(client: Redis) -> TaskResult:
        found = await TaskStore(redis_url, namespace=namespace(), client=client).get_status(task_id)
        if found is None:
            raise Failure(f"Task not found: {task_id}")
        return found

    view = View(look=look, draw=task_view, as_json=task_json, ended=lambda found: found.status.lasting)
    show(redis_url, view, watch=watch, as_json=as_json)


@task.command("cancel")
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@queue_option
@json_option
def cancel(task_id: str, redis_url: str, queue: str, as_json: bool) -> None:
    """Cancel a task that waits or runs; exit 1 if there is nothing to cancel."""
    outcome, found = run(redis_url, _cancel(redis_url, queue, task_id))
    ended = found.status if found else None
    done = outcome in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED) or ended is TaskStatus.CANCELLED
    if as_json:
        print_json({"task_id": task_id, "outcome": outcome.value, "status": ended.value if ended else None})
        if not done:
            raise click.exceptions.Exit(1)
        return
    if outcome is CancelOutcome.UNKNOWN:
        raise Failure(f"Task not found: {task_id}")
    if outcome is CancelOutcome.FINISHED and not done:
        raise Failure(f"Task {task_id} has already ended: {ended or 'unknown'}.")
    if outcome is CancelOutcome.REQUESTED and ended is not TaskStatus.CANCELLED:
        print_line(f"Task {task_id} is running; its worker has been asked to cancel it.")
    else:
        print_line(f"Task {task_id} cancelled.")


async def _cancel(redis_url: str, queue: str, task_id: str) -> tuple[CancelOutcome, TaskResult | None]:
    async with open_client(redis_url, queue) as client:
        name = await queue_of_task(client.redis, task_id, queue)
        broker = broker_for(redis_url, queue_name=name, namespace=client.namespace, client=client.redis)
        outcome = await broker.cancel(task_id)
        return outcome, await client.status(task_id)


@task.command("events")
@click.argument("task_id", type=TASK_ID, shell_complete=task_ids)
@fleet_options
@any_queue_option
@click.option("--follow", "-f", is_flag=True, help="Go on with live events until the task has ended.")
@json_option
def events(task_id: str, redis_url: str, follow: bool, as_json: bool) -> None:
    """Show a task's events (kept for an hour); with --json one object a line."""
    if not run(redis_url, _events(redis_url, task_id, follow=follow, as_json=as_json)):
        raise Failure(f"Task not found: {task_id}")


async def _events(redis_url: str, task_id: str, *, follow: bool, as_json: bool) -> bool:
    """Print the events; tell whether task or events are known."""
    async with open_client(redis_url) as client:
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


def show_event(printer: EventPrinter, event: Event, *, as_json: bool) -> None:
    """Print one event, for a person or as a line of JSON."""
    if as_json:
        print_json(event.values(), indent=None)
    else:
        printer.show(event)
