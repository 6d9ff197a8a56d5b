"""``orbiter worker``: who works in the fleet, and what they are told to do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orbiter.cli.application import LazyGroup
from orbiter.cli.options import fleet_options, json_option, namespace, queue_filter_option
from orbiter.cli.render import format_bytes, format_seconds, format_time, status_word, table
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.worker_health import WorkerHealth, get_worker_fleet_status
from orbiter.distributed.connection.connected import SKEW_ALLOWED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis
    from rich.table import Table

_COLUMNS = ("Worker ID", "Status", "Hostname", "Tasks", "Failed", "Current Task", "Concurrency", "Last Heartbeat")
_WIDE_COLUMNS = (
    *("Version", "Queue", "Isolation", "Processes", "Memory", "Loop lag", "Blocked by", "Threads"),
    "Problem",
)
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
@click.option("--wide", is_flag=True, help="More columns: how each worker's processes are.")
@watch_option
@json_option
def list_workers(redis_url: str, only_queue: str | None, wide: bool, watch: float | None, as_json: bool) -> None:
    """List the workers, and for a day those that died without a farewell."""

    async def look(client: Redis) -> list[WorkerHealth]:
        fleet = await get_worker_fleet_status(redis_url, namespace=namespace(), client=client)
        # Of a dead worker and of 0.1 ones the queue is not known: such rows would only be missed.
        return [health for health in fleet if only_queue is None or health.queue in {"", only_queue}]

    draw = partial(_draw, wide=wide)
    view = View(look=look, draw=draw, as_json=lambda fleet: [worker_json(health) for health in fleet])
    show(redis_url, view, watch=watch, as_json=as_json)


def _draw(fleet: Sequence[WorkerHealth], *, wide: bool) -> Table | Text:
    if not fleet:
        return Text("No active workers found.")
    return table(
        "Distributed Workers",
        [*_COLUMNS, *(_WIDE_COLUMNS if wide else ())],
        [
            (
                health.worker_id,
                _status(health, with_problem=not wide),
                health.hostname or "-",
                str(health.tasks_processed),
                str(health.tasks_failed),
                health.current_task_id or "-",
                str(health.concurrency),
                format_time(health.last_heartbeat),
                *(_wide(health) if wide else ()),
            )
            for health in fleet
        ],
    )


def worker_json(health: WorkerHealth) -> dict[str, Any]:
    """Return a worker as a JSON object."""
    return {name: getattr(health, name) for name in _JSON_FIELDS}


def _status(health: WorkerHealth, *, with_problem: bool) -> Text:
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


def _wide(health: WorkerHealth) -> tuple[str, ...]:
    return (
        health.version or "-",
        health.queue or "-",
        health.isolation or "-",
        str(health.processes) if health.isolation else "-",
        format_bytes(health.rss_bytes) if health.rss_bytes else "-",
        format_seconds(health.loop_lag_ms / 1000) if health.isolation else "-",
        health.blocked_by or "-",
        str(health.abandoned_threads) if health.isolation else "-",
        # What was not imported is no reason to take nothing, but its tasks fail.
        "; ".join(
            [
                *filter(None, [health.problem]),
                *(f"import of {text}" for text in health.failed_imports),
                *_clock(health.clock_skew_ms),
            ]
        )
        or "-",
    )
