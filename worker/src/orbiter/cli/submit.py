"""``orbiter task submit``: one task or many, then wait for them or watch one live."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from orbiter.cli.agent_file import AgentFileError, no_constant, read_agent
from orbiter.cli.event_printer import EventPrinter
from orbiter.cli.failures import Failure, KnownTask
from orbiter.cli.moment import read_moment
from orbiter.cli.options import fleet_options, json_option, open_client, queue_option, run, typed
from orbiter.cli.output import print_line
from orbiter.cli.render import print_json, print_task, task_json
from orbiter.cli.task import show_event
from orbiter.cli.waiting import print_summary, progress, summarize, wait_for_tasks
from orbiter.distributed.broker.worker_health import get_worker_fleet_status
from orbiter.distributed.client.payloads import epoch_seconds
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus, validation_message
from orbiter.distributed.runtimes.submitted import check_agent

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from orbiter.distributed.broker.store import TaskStore
    from orbiter.distributed.client.client import Client

_SUBMIT_BATCH = 500


def _read_agent(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    try:
        return None if value is None else read_agent(value)
    except AgentFileError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _read_metadata(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for value in values:
        key, equals, text = typed(value).partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} must be written KEY=VALUE", ctx, param)
        try:
            metadata[key] = json.loads(text, parse_constant=no_constant)
        except ValueError:
            metadata[key] = text
    return metadata


def _read_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | timedelta | None:
    try:
        return None if value is None else read_moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _agent(agent: dict[str, Any] | None, model: str | None, instructions: str | None) -> dict[str, Any]:
    """Return the agent that the command line asks for."""
    if (agent is None) == (model is None):
        raise click.UsageError("give either --agent FILE or --model NAME", click.get_current_context())
    if agent is not None:
        if instructions is not None:
            raise click.UsageError("--instructions goes with --model; --agent has its own", click.get_current_context())
        return agent
    config = {"name": "assistant", "model": typed(model or ""), "instructions": typed(instructions or "")}
    try:
        check_agent(config)
    except ConfigurationError as error:
        raise click.UsageError(f"--model: {error}", click.get_current_context()) from None
    return config


@dataclass(frozen=True)
class _Following:
    """What is wanted after submitting; of a task whose id somebody chose, whether it may be there already."""

    wait: bool
    stream: bool
    as_json: bool
    named: bool
    exist_ok: bool


@click.command("submit")
@click.argument("text", metavar="INPUT")
@click.option(
    "--agent",
    metavar="FILE|MODULE:NAME",
    callback=_read_agent,
    help="JSON file with the agent's configuration (- is stdin), or a name in a Python module, such as hello:AGENT.",
)
@click.option("--model", metavar="NAME", help="In place of --agent: an agent without tools on this provider:model.")
@click.option("--instructions", metavar="TEXT", help="What that agent is told before INPUT.")
@fleet_options
@queue_option
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Tasks to submit, all alike.")
@click.option("--task-id", help="Unique name of the task; exit 3 where there is one already.  [default: generated]")
@click.option(
    "--exist-ok", is_flag=True, help="Where there is a task of --task-id already, go on with that one: exit 0."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds that one run of the task may take.",
)
@click.option(
    "--not-before",
    metavar="WHEN",
    callback=_read_moment,
    help="Run it no earlier: +30s, +5m, +2h, or a date with its zone such as 2026-02-17T10:30:00Z.",
)
@click.option(
    "--max-retries",
    "error_budget",  # a name of its own: the setting max_retries is the worker's
    type=click.IntRange(min=0),
    help="Times that the task runs again after an error.  [default: the worker's setting]",
)
@click.option(
    "--metadata",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_read_metadata,
    help="Attached to the task; VALUE is JSON or text. Repeatable.",
)
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless everything completed.")
@click.option("--stream", is_flag=True, help="Show the answer and all events live, to the end; waits.")
@json_option
def submit(
    *,
    text: str,
    agent: dict[str, Any] | None,
    model: str | None,
    instructions: str | None,
    redis_url: str,
    queue: str,
    count: int,
    task_id: str | None,
    exist_ok: bool,
    timeout: float,
    not_before: datetime | timedelta | None,
    error_budget: int | None,
    metadata: dict[str, Any],
    wait: bool,
    stream: bool,
    as_json: bool,
) -> None:
    """Submit INPUT to an agent: one task, or --count of them at once."""
    config = _agent(agent, model, instructions)
    if count > 1 and (task_id is not None or stream):
        option = "--stream" if stream else "--task-id"
        raise click.UsageError(f"{option} is for one task and --count is {count}", click.get_current_context())
    if exist_ok and task_id is None:
        raise click.UsageError("--exist-ok goes with --task-id", click.get_current_context())
    names = {} if task_id is None else {"task_id": typed(task_id)}
    try:
        # Made one by one: each gets a task id of its own.
        tasks = [
            TaskPayload(
                agent_config=config,
                input=typed(text),
                detailed=stream,
                metadata=metadata,
                timeout_seconds=timeout,
                not_before=epoch_seconds(not_before, now=time.time()),
                max_retries=error_budget,
                **names,  # type: ignore[arg-type]
            )
            for _ in range(count)
        ]
    except ValidationError as error:
        raise click.UsageError(validation_message(error), click.get_current_context()) from None
    following = _Following(wait=wait, stream=stream, as_json=as_json, named=task_id is not None, exist_ok=exist_ok)
    if not run(redis_url, _submit(redis_url, queue, tasks, not_before, following)):
        raise click.exceptions.Exit(1)


async def _submit(
    redis_url: str, queue: str, tasks: list[TaskPayload], not_before: datetime | timedelta | None, following: _Following
) -> bool:
    """Submit, then do what is wanted; tell whether all went well."""
    async with open_client(redis_url, queue) as client:
        task_ids: list[str] = []
        for first in range(0, len(tasks), _SUBMIT_BATCH):
            # By Redis' clock; of the last batch the moment of submission may be seconds later.
            now = await redis_time(client.redis)
            if first == 0:
                due = epoch_seconds(not_before, now=now)
            times = {"created_at": now, "not_before": due}
            batch = [task.model_copy(update=times) for task in tasks[first : first + _SUBMIT_BATCH]]
            task_ids += [handle.task_id for handle in await client.submit_payloads(batch)]
        known = await _known(client, batch[0]) if following.named else None
        if known is not None and not following.exist_ok:
            _refuse(known, as_json=following.as_json)
        waits = following.wait or following.stream
        if not following.as_json:
            _print_submitted(task_ids, known)
        elif not waits and known is not None:
            print_json(_not_submitted(known))
        elif not waits:
            names = {"task_id": task_ids[0]} if len(task_ids) == 1 else {"task_ids": task_ids}
            print_json(names | {"queue": queue, "submitted": True})
        if not waits:
            return True
        await _warn_without_workers(client)
        if len(task_ids) > 1:
            return await _wait_for_many(client.store, task_ids, as_json=following.as_json)
        if following.stream:
            return await _watch_one(client, task_ids[0], as_json=following.as_json)
        return await _wait_for_one(client.store, task_ids[0], as_json=following.as_json)


async def _known(client: Client, task: TaskPayload) -> TaskResult | None:
    """Return the record of the task that had the id already, if there was one.

    The record tells, not the reply: a call whose reply was lost is repeated, and finds its own task.
    """
    record = await client.status(task.task_id)
    return None if record is None or record.created_at == task.created_at else record


def _not_submitted(known: TaskResult) -> dict[str, Any]:
    return {"task_id": known.task_id, "queue": known.queue, "submitted": False, "status": known.status.value}


def _refuse(known: TaskResult, *, as_json: bool) -> None:
    """End the command, as the id was another task's already.

    Raises:
        KnownTask: Always, but where a program reads.
    """
    if as_json:
        print_json(_not_submitted(known))
        raise click.exceptions.Exit(KnownTask.exit_code)
    raise KnownTask(
        f"Task {known.task_id} exists already ({known.status}), nothing submitted. A task id names one task for as long"
        f" as its record is kept. Show it: orbiter task status {shlex.quote(known.task_id)}; or give"
        " another --task-id, or --exist-ok to go on with that one."
    )


def _print_submitted(task_ids: list[str], known: TaskResult | None) -> None:
    if known is not None:
        print_line(f"Task {known.task_id} exists already ({known.status}), nothing submitted.")
    elif len(task_ids) == 1:
        print_line(f"Task {task_ids[0]} submitted.")
    else:
        print_line(f"{len(task_ids)} tasks submitted.")


async def _warn_without_workers(client: Client) -> None:
    fleet = await get_worker_fleet_status(client.redis_url, namespace=client.namespace, client=client.redis)
    if not any(worker.alive and worker.queue in {"", client.queue} for worker in fleet):
        print_line(
            f"No worker reads queue {client.queue} yet: waiting for one. Ctrl+C ends the wait, not the task.", err=True
        )


async def _wait_for_many(store: TaskStore, task_ids: list[str], *, as_json: bool) -> bool:
    with progress(len(task_ids)) as show:
        records = await wait_for_tasks(store, task_ids, show)
    summary = summarize(records)
    if as_json:
        print_json(summary | {"task_ids": task_ids})
    else:
        print_summary(summary, records)
    return bool(summary["completed"] == len(task_ids))


async def _wait_for_one(store: TaskStore, task_id: str, *, as_json: bool) -> bool:
    with progress(1) as show:
        (record,) = await wait_for_tasks(store, [task_id], show)
    return _show_end(task_id, record, as_json=as_json)


async def _watch_one(client: Client, task_id: str, *, as_json: bool) -> bool:
    printer = EventPrinter()
    async for event in client.stream(task_id):
        show_event(printer, event, as_json=as_json)
    printer.close()
    # An 0.1 worker publishes the final event before it writes the record.
    (record,) = await wait_for_tasks(client.store, [task_id], lambda _: None)
    if as_json:
        return record is not None and record.status is TaskStatus.COMPLETED
    return _show_end(task_id, record, as_json=False)


def _show_end(task_id: str, record: TaskResult | None, *, as_json: bool) -> bool:
    if record is None:
        raise Failure(f"Task {task_id}: its record is gone; Redis was emptied or is full.")
    if as_json:
        print_json(task_json(record))
    else:
        print_task(record)
    return record.status is TaskStatus.COMPLETED
