"""``orbiter worker drain|quiet|resume``: tell workers, wherever they run, and wait until they have done so."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orbiter.cli.completion import worker_ids
from orbiter.cli.options import fleet_options, json_option, namespace, open_redis, queue_filter_option, run
from orbiter.cli.output import print_line
from orbiter.cli.render import print_json
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.records import Command
from orbiter.distributed.broker.worker_health import get_worker_fleet_status
from orbiter.distributed.client.control import Outcome, WorkerControl

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

    from orbiter.distributed.broker.worker_health import WorkerHealth

F = TypeVar("F", bound="Callable[..., Any]")

_NAMED = 5


def _control_options(*, patience: float | None) -> Callable[[F], F]:
    """Add what the three commands share."""

    def add(command: F) -> F:
        for option in (
            json_option,
            click.option("--no-wait", is_flag=True, help="Return as soon as the workers have been told."),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0),
                default=patience,
                show_default="until it is done" if patience is None else True,
                help="Seconds to wait for each worker.",
            ),
            queue_filter_option,
            fleet_options,
            click.option("--all", "everyone", is_flag=True, help="All live workers (of --queue)."),
            click.argument("worker_ids", metavar="WORKER_ID...", nargs=-1, shell_complete=worker_ids),
        ):
            command = option(command)
        return command

    return add


@click.command("drain")
@_control_options(patience=None)
def drain(redis_url: str, **options: Any) -> None:
    """Let workers end their running tasks within their drain timeout, hand back the others, and leave.

    Waits until each is gone. What supervises a worker (systemd, compose) may start a new one in its place.
    """
    _command(redis_url, Command.DRAIN, **options)


@click.command("quiet")
@_control_options(patience=30.0)
def quiet(redis_url: str, **options: Any) -> None:
    """Let workers claim nothing more; running tasks go on, and the workers stay until they are told to resume."""
    _command(redis_url, Command.QUIET, **options)


@click.command("resume")
@_control_options(patience=30.0)
def resume(redis_url: str, **options: Any) -> None:
    """Let quiet workers claim tasks again."""
    _command(redis_url, Command.RESUME, **options)


def _command(
    redis_url: str,
    command: Command,
    *,
    worker_ids: tuple[str, ...],
    everyone: bool,
    only_queue: str | None,
    timeout: float | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    if bool(worker_ids) == everyone:
        raise click.UsageError("give either the ids of workers or --all", click.get_current_context())
    if worker_ids and only_queue is not None:
        raise click.UsageError("--queue goes with --all; an id names its worker", click.get_current_context())
    names = None if everyone else list(dict.fromkeys(worker_ids))
    outcomes = run(redis_url, _command_all(redis_url, command, names, only_queue, timeout, wait=not no_wait))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    elif not outcomes:
        print_line("No active workers found.")
    else:
        for outcome in outcomes:
            print_line(outcome.message, err=not outcome.done)
    if not all(outcome.done for outcome in outcomes):
        raise click.exceptions.Exit(1)


async def _command_all(
    redis_url: str,
    command: Command,
    names: list[str] | None,
    only_queue: str | None,
    patience: float | None,
    *,
    wait: bool,
) -> list[Outcome]:
    async with open_redis(redis_url) as client:
        if names is None:
            fleet = await get_worker_fleet_status(redis_url, namespace=namespace(), client=client)
            names = [worker.worker_id for worker in fleet if worker.alive and only_queue in {None, worker.queue}]
        control, progress = WorkerControl(redis_url, namespace=namespace(), client=client), _Progress()
        # Not a TaskGroup: an error of Redis is to be told as itself, and run() ends whatever is left.
        outcomes = await asyncio.gather(
            *(control.send(name, command, timeout=patience, wait=wait, progress=progress) for name in names)
        )
        return [await _with_whole_ids(client, outcome) for outcome in outcomes]


async def _with_whole_ids(client: Redis, outcome: Outcome) -> Outcome:
    """Name the workers whose ids begin with an id that is none's: web-1 is no beginning of web-10 to act upon."""
    if outcome.state != "unknown":
        return outcome
    listed: Any = client
    known = await listed.zrange(Keys(namespace()).fleet, 0, -1)
    begin_so = sorted(worker_id for worker_id in known if worker_id.startswith(outcome.worker_id))
    if not begin_so:
        return replace(outcome, message=f"{outcome.message}. List workers: orbiter worker list")
    more = ", …" if len(begin_so) > _NAMED else ""
    whole = f"An id of a worker must be whole; with it begins {', '.join(begin_so[:_NAMED])}{more}"
    return replace(outcome, message=f"{outcome.message}. {whole}")


class _Progress:
    """Prints a line on stderr whenever a worker's state or load has changed."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def __call__(self, health: WorkerHealth) -> None:
        line = f"Worker {health.worker_id}: {health.state}, {health.active} of {health.concurrency} slots busy"
        if self._last.get(health.worker_id) != line:
            self._last[health.worker_id] = line
            print_line(line, err=True)
