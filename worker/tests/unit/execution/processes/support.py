"""What the tests of executor processes share."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orbiter.distributed.broker.records import Claim
from orbiter.distributed.execution.endings import Execution
from orbiter.distributed.execution.processes.executor_process import ExecutorProcess, Run
from orbiter.distributed.execution.slot import Slot
from tests.unit.scripted import ScriptedQueue, claim, publisher

WITHIN = 60.0
# Results and events, bytes.
LARGEST = 100_000
TARGETS = "tests.unit.execution.processes.targets"


async def until(condition: Callable[[], object], within: float = WITHIN) -> None:
    """Wait for a condition; fail where it does not come."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.005)


def runs(target: str, task_id: str = "t1", text: str = "", **fields: Any) -> Claim:
    """Return a claim of a task that runs a target of the tests."""
    config = {"runtime": "callable", "target": f"{TARGETS}:{target}"}
    return claim(task_id, entry=f"{task_id}-0", agent_config=config, input=text, **fields)


class Sent:
    """What tasks have sent to a queue that takes everything."""

    def __init__(self) -> None:
        self.queue = ScriptedQueue()
        self.publisher = publisher(self.queue)

    def slot(self, ran: Claim, lease: float = 30.0) -> Slot:
        return Slot(ran, self.publisher.log(ran.task.task_id, ran.attempt), time.monotonic() + lease)

    def events(self, task_id: str = "t1") -> list[dict[str, Any]]:
        batches = [batch for batches in self.queue.of("append_events") for batch in batches]
        return [json.loads(event) for batch in batches if batch.task_id == task_id for event in batch.events]

    def text(self, task_id: str = "t1") -> str:
        return "".join(event["text"] for event in self.events(task_id) if event["type"] == "text")


class Owner:
    """Keeps what executor processes tell."""

    def __init__(self) -> None:
        self.spoils: list[str] = []
        self.endings: dict[str, Execution | None] = {}
        self.order: list[tuple[str, int]] = []
        self.blocks: list[tuple[float, int, str]] = []
        self.imports: dict[str, str] = {}
        self.dead: list[int] = []
        self.up: list[int] = []

    def ready(self, process: ExecutorProcess) -> None:
        self.up.append(process.number)

    def ended(self, process: ExecutorProcess, run: Run, ending: Execution | None) -> None:
        task_id = run.slot.claim.task.task_id
        assert task_id not in self.endings, "a run ends once"
        self.endings[task_id] = ending

    def died(self, process: ExecutorProcess) -> None:
        self.dead.append(process.number)

    def blocked(self, process: ExecutorProcess, seconds: float, run: int, where: str) -> None:
        self.blocks.append((seconds, run, where))

    def imported(self, process: ExecutorProcess, module: str, reason: str) -> None:
        self.imports[module] = reason

    def spoiled(self, process: ExecutorProcess, reason: str) -> None:
        self.spoils.append(reason)


def configuration(**changes: Any) -> dict[str, Any]:
    """Return what a process is told first."""
    return {
        "path": [entry or str(Path.cwd()) for entry in sys.path],
        "allow_models": ["*"],
        "limits": {},
        "allow_import": [TARGETS],
        "preload": [TARGETS],
        "bad_imports": {},
        "queue": "q",
        "worker_id": "w1",
        "max_result_bytes": LARGEST,
        "max_event_bytes": LARGEST,
        "log_level": 20,
        "weigh_above": 0,
        "number": 1,
        **changes,
    }


class Starts:
    """Starts processes, which end with the test."""

    def __init__(self) -> None:
        self.owner, self.sent = Owner(), Sent()
        self.processes: list[ExecutorProcess] = []
        self.faults: list[dict[str, Any]] = []

    async def process(
        self, *, env: dict[str, str] | None = None, clock: Callable[[], float] = time.monotonic, **changes: Any
    ) -> ExecutorProcess:
        """Return a process that can run tasks."""
        number = len(self.processes) + 1
        process = ExecutorProcess(
            number,
            single=False,
            config=configuration(**changes),
            env=dict(os.environ) if env is None else env,
            owner=self.owner,
            clock=clock,
        )
        self.processes.append(process)
        await process.start()
        await until(lambda: process.up or process.gone.is_set())
        return process

    def begin(self, process: ExecutorProcess, ran: Claim, journal: Any = None, *, number: int = 0) -> Run:
        slot = self.sent.slot(ran)
        number = number or sum(each.started for each in self.processes) + 1
        run = Run(number, slot, slot.log, journal)
        slot.log.on_sent = lambda size: process.give_credit(run, size)
        process.begin(run, ran.task.to_json().encode())
        return run

    async def ending(self, task_id: str = "t1") -> Execution | None:
        await until(lambda: task_id in self.owner.endings)
        await self.sent.publisher.flush()
        return self.owner.endings[task_id]


@asynccontextmanager
async def starting() -> AsyncIterator[Starts]:
    """Give processes; kill them at the end. A fault in a callback fails the test."""
    starts = Starts()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: starts.faults.append(context))
    publishing = asyncio.create_task(starts.sent.publisher.run())
    try:
        yield starts
    finally:
        publishing.cancel()
        for process in starts.processes:
            process.kill()
        for process in starts.processes:
            await asyncio.wait_for(process.gone.wait(), WITHIN)
    assert starts.faults == []
    assert sorted(starts.owner.dead) == [process.number for process in starts.processes]
