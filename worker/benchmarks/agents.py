"""What an agent costs that has nothing to do: one request of pydantic-ai's test model, which answers at once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.drain import SLOTS, drained
from benchmarks.report import Measure
from orbiter.distributed import TaskBroker, TaskPayload
from orbiter.distributed.models import DEFAULT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.machine import Machine

AGENT = {"name": "bench", "model": "test", "instructions": "Answer."}
TICKS = os.sysconf("SC_CLK_TCK")


def measure(machine: Machine, agents: int) -> list[Measure]:
    """Run agents in a worker's own process, without details and with them; callables are the floor."""
    floor = drained(machine, 10 * agents, agents, "--isolation", "none")
    rows = []
    for name, detailed in (("agents", False), ("agents, detailed", True)):
        rate, cpu = _run(machine, [TaskPayload(agent_config=AGENT, input="x", detailed=detailed)] * agents)
        rows.append(Measure(f"{name}: rate, beside callables", "tasks/s", rate, 1 / floor["seconds"]))
        rows.append(Measure(f"{name}: CPU, beside callables", "µs/task", cpu * 1e6, floor["cpu"] * 1e6))
    return rows


def _run(machine: Machine, tasks: Sequence[TaskPayload]) -> tuple[float, float]:
    """Return rate and seconds of CPU of the worker a task; the first tenth warms up."""
    machine.client.flushall()
    asyncio.run(_submit(machine.url, tasks))
    with machine.worker("--concurrency", str(SLOTS), "--isolation", "none") as process:
        machine.wait(process, "a tenth is done", lambda: machine.client.xlen(DEFAULT_QUEUE) <= len(tasks) * 0.9)
        began, cpu, left = time.monotonic(), _cpu(process.pid), machine.client.xlen(DEFAULT_QUEUE)
        machine.wait(process, "queue is drained", lambda: machine.client.xlen(DEFAULT_QUEUE) == 0)
        return left / (time.monotonic() - began), (_cpu(process.pid) - cpu) / left


def _cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def _submit(url: str, tasks: Sequence[TaskPayload]) -> None:
    broker = TaskBroker(url)
    await broker.connect()
    await broker.submit_many([task.model_copy(update={"task_id": f"t{number}"}) for number, task in enumerate(tasks)])
    await broker.disconnect()
