"""``orbiter task``: submit tasks, follow, list and cancel them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orbiter.cli.application import Failure, LazyGroup
from orbiter.cli.event_printer import EventPrinter
from orbiter.cli.options import json_option, open_redis, redis_url_option, run
from orbiter.cli.render import print_json, print_task, print_tasks, task_json
from orbiter.distributed.broker import TaskBroker
from orbiter.distributed.claims import CancelOutcome
from orbiter.distributed.events import EventSubscriber
from orbiter.distributed.models import TaskResult, TaskStatus
from orbiter.distributed.store import TaskStore

if TYPE_CHECKING:
    from orbiter.distributed.models import Event


@click.group(
    cls=LazyGroup,
    commands_from={"submit": ("orbiter.cli.submit:submit", "Submit a task, or many at once.")},
)
def task() -> None:
    """Submit tasks, follow, list and cancel them."""


@task.command("list")
@redis_url_option
@click.option("--status", metavar="STATUS", help=f"Only tasks that are {', '.join(TaskStatus)}.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@json_option
def list_tasks(redis_url: str, status: str | None, limit: int, as_json: bool) -> None:
    """List tasks, the newest first."""
    tasks = run(redis_url, _list(redis_url, _known_status(status), limit))
    if as_json:
        print_json([task_json(found) for found in tasks])
    elif not tasks:
        click.echo("No tasks found.")
    else:
        print_tasks(tasks)


def _known_status(status: str | None) -> TaskStatus | None:
    if status is None:
        return None
    try:
        return TaskStatus(status.lower())
    except ValueError:
        raise Failure(f"Invalid status: {status}. Valid values: {', '.join(TaskStatus)}") from None


async def _list(redis_url: str, status: TaskStatus | None, limit: int) -> list[TaskResult]:
    async with open_redis(redis_url) as client:
        store = TaskStore(redis_url, client=client)
        await store.connect()
        return await store.list_tasks(status=status, limit=limit)


@task.command("status")
@click.argument("task_id")
@redis_url_option
@json_option
def show_status(task_id: str, redis_url: str, as_json: bool) -> None:
    """Show everything known of one task."""
    found = run(redis_url, _status(redis_url, task_id))
    if found is None:
        raise Failure(f"Task not found: {task_id}")
    if as_json:
        print_json(task_json(found))
    else:
        print_task(found)


async def _status(redis_url: str, task_id: str) -> TaskResult | None:
    async with open_redis(redis_url) as client:
        store = TaskStore(redis_url, client=client)
        await store.connect()
        return await store.get_status(task_id)


@task.command("cancel")
@click.argument("task_id")
@redis_url_option
@json_option
def cancel(task_id: str, redis_url: str, as_json: bool) -> None:
    """Cancel a task that waits or runs; exit 1 if there is nothing to cancel."""
    outcome, found = run(redis_url, _cancel(redis_url, task_id))
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
        click.echo(f"Task {task_id} is running; its worker has been asked to cancel it.")
    else:
        click.echo(f"Task {task_id} cancelled.")


async def _cancel(redis_url: str, task_id: str) -> tuple[CancelOutcome, TaskResult | None]:
    async with open_redis(redis_url) as client:
        broker = TaskBroker(redis_url, client=client)
        store = TaskStore(redis_url, client=client)
        outcome = await broker.cancel(task_id)
        return outcome, await store.get_status(task_id)


@task.command("events")
@click.argument("task_id")
@redis_url_option
@click.option("--follow", "-f", is_flag=True, help="Go on with live events until the task has ended.")
@json_option
def events(task_id: str, redis_url: str, follow: bool, as_json: bool) -> None:
    """Show a task's events (kept for an hour); with --json one object a line."""
    if not run(redis_url, _events(redis_url, task_id, follow=follow, as_json=as_json)):
        raise Failure(f"Task not found: {task_id}")


async def _events(redis_url: str, task_id: str, *, follow: bool, as_json: bool) -> bool:
    """Print the events; tell whether task or events are known."""
    async with open_redis(redis_url) as client:
        store = TaskStore(redis_url, client=client)
        subscriber = EventSubscriber(redis_url, client=client)
        await subscriber.connect()
        known = await store.get_status(task_id) is not None
        if follow and not known:
            return False
        seen = False
        printer = EventPrinter()
        async for event in subscriber.subscribe(task_id) if follow else subscriber.replay(task_id):
            seen = True
            show_event(printer, event, as_json=as_json)
        printer.close()
        return known or seen


def show_event(printer: EventPrinter, event: Event, *, as_json: bool) -> None:
    """Print one event, for a person or as a line of JSON."""
    if as_json:
        click.echo(event.to_json())
    else:
        printer.show(event)
