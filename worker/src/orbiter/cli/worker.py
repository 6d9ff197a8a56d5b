"""``orbiter worker``: who works in the fleet, and what they are told to do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orbiter.cli.application import LazyGroup
from orbiter.cli.listing import DEFAULT_CHOICE, Choice, Column, column_options, listing
from orbiter.cli.options import fleet_options, json_option, namespace, queue_filter_option
from orbiter.cli.render import format_bytes, format_seconds, format_time, status_word
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.worker_health import WorkerHealth, get_worker_fleet_status
from orbiter.distributed.connection.connected import SKEW_ALLOWED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis
    from rich.table import Table

_JSON_FIELDS = (
    "worker_id",
    "status",
    "alive",
    "hostname",
    "machine_id",
    "unit",
    "instance",
    "version",
    "queue",
    "executor",
    "isolation",
    "state",
    "problem",
    "concurrency",
    "active",
    "tasks_processed",
    "tasks_failed",
    "current_task_id",
    "pid",
    "processes",
    "rss_bytes",
    "loop_lag_ms",
    "blocked_by",
    "abandoned_threads",
    "failed_imports",
    "unreadable",
    "clock_skew_ms",
    "started_at",
    "last_heartbeat",
)


def state_text(health: WorkerHealth, *, with_problem: bool = True) -> Text:
    """Return a worker's state in its colour, and with it why it is degraded."""
    if not health.alive:
        word = "unreadable" if health.status == "unreadable" else "dead"
        return Text(status_word(word, health.unreadable), style="red")
    state = health.state or health.status
    why = f": {health.problem}" if with_problem and state == "degraded" and health.problem else ""
    return Text(status_word(state + why, health.unreadable), style="green" if state == "running" else "yellow")


def _clock(skew_ms: float | None) -> list[str]:
    """Return what is wrong with the clock of its machine."""
    if skew_ms is None or abs(skew_ms) <= SKEW_ALLOWED * 1000:
        return []
    return [f"its clock is {format_seconds(abs(skew_ms) / 1000)} {'ahead of' if skew_ms > 0 else 'behind'} Redis'"]


def _problem(health: WorkerHealth) -> str:
    # What was not imported is no reason to take nothing, but its tasks fail.
    imports = [f"import of {text}" for text in health.failed_imports]
    return "; ".join([*filter(None, [health.problem]), *imports, *_clock(health.clock_skew_ms)]) or "-"


def known(health: WorkerHealth, number: object) -> str:
    """Return a number; of a worker whose heartbeat is gone nothing but its end is known."""
    return str(number) if health.recorded else "-"


# As in the guide; --wide has besides how each worker's processes are.
_COLUMNS: tuple[Column[WorkerHealth], ...] = (
    Column("id", "Worker ID", lambda health: health.worker_id),
    Column("status", "Status", state_text),
    Column("hostname", "Hostname", lambda health: health.hostname or "-", rank=6),
    Column("tasks", "Tasks", lambda health: known(health, health.tasks_processed), rank=1),
    Column("failed", "Failed", lambda health: known(health, health.tasks_failed), rank=2),
    Column("current", "Current Task", lambda health: health.current_task_id or "-", rank=4),
    Column("concurrency", "Concurrency", lambda health: known(health, health.concurrency), rank=3),
    Column("heartbeat", "Last Heartbeat", lambda health: format_time(health.last_heartbeat), rank=5),
    Column("version", "Version", lambda health: health.version or "-", wide=True),
    Column("queue", "Queue", lambda health: health.queue or "-", wide=True),
    Column("isolation", "Isolation", lambda health: health.isolation or "-", wide=True),
    Column("processes", "Processes", lambda health: str(health.processes) if health.isolation else "-", wide=True),
    Column("memory", "Memory", lambda health: format_bytes(health.rss_bytes) if health.rss_bytes else "-", wide=True),
    Column(
        "lag",
        "Loop lag",
        lambda health: format_seconds(health.loop_lag_ms / 1000) if health.isolation else "-",
        wide=True,
    ),
    Column("blocked", "Blocked by", lambda health: health.blocked_by or "-", wide=True),
    Column("threads", "Threads", lambda health: str(health.abandoned_threads) if health.isolation else "-", wide=True),
    Column("problem", "Problem", _problem, wide=True),
)


@click.group(
    cls=LazyGroup,
    commands_from={
        "drain": ("orbiter.cli.control:drain", "Let workers end their tasks and leave."),
        "quiet": ("orbiter.cli.control:quiet", "Let workers claim nothing more, and stay."),
        "resume": ("orbiter.cli.control:resume", "Let quiet workers claim again."),
    },
)
def worker() -> None:
    """See who works in the fleet; drain, quiet or resume workers."""


@worker.command("list", cls=Watchable)
@fleet_options
@queue_filter_option
@column_options(_COLUMNS)
@watch_option
@json_option
def list_workers(
    *,
    redis_url: str,
    only_queue: str | None,
    wide: bool,
    columns: tuple[str, ...],
    watch: float | None,
    as_json: bool,
) -> None:
    """List the workers, and for a day those that died without a farewell."""

    async def look(client: Redis) -> list[WorkerHealth]:
        fleet = await get_worker_fleet_status(redis_url, namespace=namespace(), client=client)
        # Of a dead worker and of 0.1 ones the queue is not known: such rows would only be missed.
        return [health for health in fleet if only_queue is None or health.queue in {"", only_queue}]

    draw = partial(workers_view, choice=Choice(columns, wide=wide))
    view = View(look=look, draw=draw, as_json=lambda fleet: [worker_json(health) for health in fleet])
    show(redis_url, view, watch=watch, as_json=as_json)


def workers_view(fleet: Sequence[WorkerHealth], choice: Choice = DEFAULT_CHOICE) -> Table | Text:
    """Return the table of workers."""
    if not fleet:
        return Text("No active workers found.")
    # Where there is a column for what is wrong, the status need not say it.
    short = Column("status", "Status", partial(state_text, with_problem=False))
    columns = [short if choice.wide and column.name == "status" else column for column in _COLUMNS]
    return listing("Distributed Workers", columns, fleet, choice)


def worker_json(health: WorkerHealth) -> dict[str, Any]:
    """Return a worker as a JSON object."""
    return {name: getattr(health, name) for name in _JSON_FIELDS}
