"""What executor processes cost beside a worker that runs tasks itself, and what a second one gives."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import idle
from benchmarks.drain import SLOTS, drained
from benchmarks.machine import BenchmarkError, payload
from benchmarks.report import Measure
from benchmarks.targets import resident
from orbiter.distributed import TaskBroker, TaskPayload
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from benchmarks.machine import Machine

AGENT = {"name": "bench", "model": "test"}


def measure(machine: Machine, tasks: int, waits: int, agents: int) -> list[Measure]:
    """Drain with and without executor processes; wait for one; run agents with one process and with two."""
    warm = tasks // 10
    apart = drained(machine, tasks, warm, "--isolation", "process")
    together = drained(machine, tasks, warm, "--isolation", "none")
    one, two = (_agents(machine, agents, processes) for processes in (1, 2))
    first, supervisor, executor = _first_task(machine)
    return [
        Measure("isolation: drain, beside none", "tasks/s", 1 / apart["seconds"], 1 / together["seconds"], "≥ 0.4"),
        idle.measure(machine, waits, isolation="process")[0],
        Measure("isolation: agents, 2 processes beside 1", "tasks/s", two, one, "≥ 1.4"),
        Measure("isolation: start to first task's end", "s", first, wanted="≤ 0.6 s"),
        Measure("isolation: memory of the supervisor", "MB", supervisor / 1e6, wanted="≤ 50 MB"),
        Measure("isolation: memory of an executor process", "MB", executor / 1e6, wanted="≤ 40 MB"),
    ]


def _agents(machine: Machine, number: int, processes: int) -> float:
    """Return how many agents a worker runs a second, on both cores; the first tenth warms up."""
    machine.client.flushall()
    asyncio.run(_submit(machine.url, [TaskPayload(agent_config=AGENT, input="x") for _ in range(number)]))
    options = ("--concurrency", str(SLOTS), "--isolation", "process", "--processes", str(processes))
    with machine.another_worker("agents", *options) as process:
        machine.wait(process, "a tenth is done", lambda: machine.client.xlen(DEFAULT_QUEUE) <= number * 0.9)
        began, left = time.monotonic(), machine.client.xlen(DEFAULT_QUEUE)
        machine.wait(process, "queue is drained", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
        return float(left / (time.monotonic() - began))


def _first_task(machine: Machine) -> tuple[float, int, int]:
    """Return the seconds from a worker's start to the end of a task that waited, and what its processes take."""
    machine.client.flushall()
    asyncio.run(_submit(machine.url, [payload("nothing", "first")]))
    began = time.monotonic()
    with machine.another_worker("first", "--concurrency", str(SLOTS), "--isolation", "process") as process:
        machine.wait(process, "a task has ended", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
        took = time.monotonic() - began
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if not children:
            raise BenchmarkError("the worker has no executor process")
        return took, resident(process.pid), resident(int(children[0]))


async def _submit(url: str, payloads: list[TaskPayload]) -> None:
    broker = TaskBroker(url)
    await broker.connect()
    await broker.submit_many(payloads)
    await broker.disconnect()
