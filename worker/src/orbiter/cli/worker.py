"""``orbiter worker``: who works in the fleet."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from orbiter.cli.options import json_option, open_redis, redis_url_option, run
from orbiter.cli.render import format_time, print_json, print_table
from orbiter.distributed.health import WorkerHealth, get_worker_fleet_status

_JSON_FIELDS = (
    "worker_id",
    "status",
    "alive",
    "hostname",
    "instance",
    "version",
    "queue",
    "state",
    "concurrency",
    "active",
    "tasks_processed",
    "tasks_failed",
    "current_task_id",
    "pid",
    "started_at",
    "last_heartbeat",
)


@click.group()
def worker() -> None:
    """See who works in the fleet."""


@worker.command("list")
@redis_url_option
@json_option
def list_workers(redis_url: str, as_json: bool) -> None:
    """List the workers, and for a day those that died without a farewell."""
    fleet = run(redis_url, _fleet(redis_url))
    if as_json:
        print_json([worker_json(health) for health in fleet])
    elif not fleet:
        click.echo("No active workers found.")
    else:
        print_table(
            "Distributed Workers",
            ("Worker ID", "Status", "Hostname", "Tasks", "Failed", "Current Task", "Concurrency", "Last Heartbeat"),
            [
                (
                    health.worker_id,
                    _status(health),
                    health.hostname or "-",
                    str(health.tasks_processed),
                    str(health.tasks_failed),
                    health.current_task_id or "-",
                    str(health.concurrency),
                    format_time(health.last_heartbeat),
                )
                for health in fleet
            ],
        )


async def _fleet(redis_url: str) -> list[WorkerHealth]:
    async with open_redis(redis_url) as client:
        return await get_worker_fleet_status(redis_url, client=client)


def worker_json(health: WorkerHealth) -> dict[str, Any]:
    """Return a worker as a JSON object."""
    return {name: getattr(health, name) for name in _JSON_FIELDS}


def _status(health: WorkerHealth) -> Text:
    if not health.alive:
        return Text("dead", style="red")
    state = health.state or health.status
    return Text(state, style="green" if state == "running" else "yellow")
