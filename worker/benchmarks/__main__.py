"""``python -m benchmarks [NAME...] [--quick] [--json FILE]``: progress on stderr, the table on stdout."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks import (
    agents,
    counting,
    drain,
    durable,
    idle,
    isolation,
    listings,
    memory,
    overview,
    pages,
    shutdown,
    streaming,
    submit,
)
from benchmarks.machine import BenchmarkError, Machine, open_machine, pin, worker_loop
from benchmarks.report import Measure, Row, summarise, table

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    *("drain", "idle", "submit", "metrics", "isolation", "events", "agents", "memory", "listings", "overview"),
    "shutdown",
)
# Measured where they are asked for: they take some minutes, and the second one needs Temporal.
EVERY = (*NAMES, "pages", "temporal")


@dataclass(frozen=True, slots=True)
class Plan:
    """One benchmark: how to measure a round, and how many rounds its medians are of."""

    measure: Callable[[Machine], list[Measure]]
    rounds: int


def _plans(tasks: int, *, quick: bool) -> dict[str, Plan]:
    rounds = 1 if quick else 3
    return {
        "drain": Plan(partial(drain.measure, tasks=tasks), rounds),
        "idle": Plan(partial(idle.measure, tasks=50 if quick else 500), rounds),
        "submit": Plan(partial(submit.measure, tasks=tasks), rounds),
        "metrics": Plan(partial(counting.measure, tasks=tasks), rounds),
        "isolation": Plan(
            partial(isolation.measure, tasks=tasks, waits=50 if quick else 300, agents=tasks // 20), rounds
        ),
        "events": Plan(
            partial(streaming.measure, tokens=50 if quick else 500, deltas=10_000 if quick else 150_000), rounds
        ),
        "agents": Plan(partial(agents.measure, agents=max(100, tasks // 20)), rounds),
        "memory": Plan(partial(memory.measure, tasks=tasks), 1),
        "listings": Plan(partial(listings.measure, tasks=10_000 if quick else 100_000), rounds),
        "overview": Plan(partial(overview.measure, tasks=tasks), rounds),
        "pages": Plan(partial(pages.measure, tasks=10_000 if quick else 1_000_000, views=300 if quick else 10_000), 1),
        "shutdown": Plan(shutdown.measure, 3 if quick else 20),
        "temporal": Plan(partial(durable.measure, load=durable.Load(*((20, 5, 40) if quick else (200, 50, 2000)))), 1),
    }


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(EVERY), metavar=f"[{'|'.join(EVERY)}]...")
@click.option("--quick", is_flag=True, help="Few tasks and one round: to see that it works, not to compare.")
@click.option("--tasks", type=click.IntRange(min=100, max=1_000_000), help="Tasks a round. [default: 20000, quick 500]")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Also write all."
)
def main(names: tuple[str, ...], quick: bool, tasks: int | None, json_file: Path | None) -> None:
    """Measure ours beside what bare redis-py can do, on a redis-server of its own.

    Measures all NAMES but pages and temporal unless some are given.
    """
    tasks = tasks or (500 if quick else 20_000)
    try:
        with open_machine() as machine:
            pin(0, machine.server_core)
            machine = replace(machine, loop=worker_loop(machine))  # noqa: PLW2901 - now complete
            found = _measure_all(machine, _plans(tasks, quick=quick), names or NAMES)
            described = _describe(machine)
    except BenchmarkError as error:
        raise click.ClickException(str(error)) from None
    if json_file:
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "quick": quick,
            "tasks": tasks,
            "machine": described,
            "benchmarks": {name: [row.to_dict() for row in rows] for name, rows in found.items()},
        }
        json_file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    click.echo(" · ".join(f"{name} {value}" for name, value in described.items()))
    click.echo()
    click.echo(table([row for rows in found.values() for row in rows]))


def _measure_all(machine: Machine, plans: dict[str, Plan], names: tuple[str, ...]) -> dict[str, list[Row]]:
    found = {}
    for name in (name for name in EVERY if name in names):
        rounds = []
        for number in range(1, plans[name].rounds + 1):
            click.echo(f"{name}: round {number} of {plans[name].rounds}", err=True)
            rounds.append(plans[name].measure(machine))
        found[name] = summarise(rounds)
    return found


def _describe(machine: Machine) -> dict[str, Any]:
    return {
        "Python": platform.python_version(),
        "redis-server": machine.client.info("server")["redis_version"],
        "redis-py": version("redis"),
        "orbiter-distributed": version("orbiter-distributed"),
        "loop": machine.loop,
        "cores": os.cpu_count(),
        "pinned": machine.measured_core is not None,
        "system": f"{platform.system()} {platform.machine()}",
    }


if __name__ == "__main__":
    main()
