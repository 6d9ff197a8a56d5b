"""A fleet under test: what is submitted to it, what became of it, and what must hold after every fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from typing import Any

from redis.asyncio import Redis

from orbiter.distributed import keys
from orbiter.distributed.broker import TaskBroker
from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus, event_from_json, is_final
from orbiter.distributed.store import TaskStore
from orbiter.distributed.worker import Worker
from tests.support import wait_until

QUEUE = "orbiter:tasks"
# What may be there for ever; everything else expires.
WITHOUT_TTL = {QUEUE, f"{{{QUEUE}}}:dead", f"{{{QUEUE}}}:id", keys.INDEX, keys.BY_TIME}


def job_payload(job: str, text: str = "", **fields: Any) -> TaskPayload:
    """Return a task that runs a callable of ``tests.integration.jobs``."""
    config = {"runtime": "callable", "target": f"tests.integration.jobs:{job}", "name": job}
    return TaskPayload(agent_config=config, input=text, **fields)


class Fleet:
    """Submits to and looks at the workers under test."""

    def __init__(self, url: str, client: Redis) -> None:
        self.url = url
        self.client = client
        self.broker = TaskBroker(url, client=client)
        self.store = TaskStore(url, client=client)

    async def submit(self, job: str, text: str = "", **fields: Any) -> str:
        return await self.broker.submit(job_payload(job, text, **fields))

    async def submit_many(self, job: str, number: int, **fields: Any) -> list[str]:
        return await self.broker.submit_many([job_payload(job, **fields) for _ in range(number)])

    async def all_end(self, task_ids: Iterable[str], timeout: float) -> list[TaskResult]:
        """Wait until every one of these tasks has ended; return them."""
        left, ended = list(task_ids), []

        async def over() -> bool:
            found = [task for task in await self.store.get_many(left) if task]
            ended.extend(task for task in found if task.status.terminal)
            done = {task.task_id for task in ended}
            left[:] = [task_id for task_id in left if task_id not in done]
            return not left

        await wait_until(over, timeout)
        return ended

    async def ends(self, task_id: str, timeout: float = 20) -> TaskResult:
        async def ended() -> TaskResult | None:
            task = await self.store.get_status(task_id)
            return task if task and task.status.terminal else None

        return await wait_until(ended, timeout)

    async def runs(self, task_id: str) -> None:
        async def running() -> bool:
            task = await self.store.get_status(task_id)
            return task is not None and task.status == TaskStatus.RUNNING

        await wait_until(running)

    async def events(self, task_id: str) -> list[Any]:
        rows = await self.client.xrange(keys.stream(task_id))
        return [event_from_json(fields["event"]) for _, fields in rows]

    async def is_empty(self) -> bool:
        pending = (await self.client.xpending(QUEUE, keys.group(QUEUE)))["pending"]
        return pending == 0 and await self.client.xlen(QUEUE) == 0

    async def workers(self) -> list[str]:
        return [key async for key in self.client.scan_iter(match="orbiter:workers:*")]

    async def check_invariants(self, task_ids: Iterable[str], *, workers: Iterable[str] = ()) -> None:
        """Check what must hold once all of these tasks have ended, whatever happened before."""
        ids = list(task_ids)
        for task_id, task in zip(ids, await self.store.get_many(ids), strict=True):
            assert task is not None, task_id
            assert task.status.terminal, task
            assert task.attempt <= 1 + task.retries + task.crashes + task.handoffs, task
            _check_events(task, await self.events(task_id))
        assert await self.is_empty()
        parked = [keys.tagged(QUEUE, what) for what in ("delayed", "parked")]
        assert await self.client.exists(*parked) == 0
        persistent = [key async for key in self.client.scan_iter() if await self.client.ttl(key) == -1]
        assert set(persistent) <= WITHOUT_TTL
        consumers = {row["name"] for row in await self.client.xinfo_consumers(QUEUE, keys.group(QUEUE))}
        # A dead worker's consumer is removed a minute later; it holds nothing.
        assert consumers >= set(workers)


def _check_events(task: TaskResult, events: list[Any]) -> None:
    finals = [is_final(event) for event in events]
    assert finals == [False] * (len(events) - 1) + [True], (task, events)
    said = {TaskStatus.COMPLETED: "completed", TaskStatus.FAILED: "error", TaskStatus.CANCELLED: "cancelled"}
    assert events[-1].status == said[task.status], (task, events)
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts), (task, events)
    for _, group in groupby(events, key=lambda event: event.attempt):
        numbers = [event.seq for event in group]
        assert numbers == list(range(1, len(numbers) + 1)), (task, events)


@contextlib.asynccontextmanager
async def working(fleet: Fleet, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker in this process; it must leave nothing behind."""
    options = {"allow_import": ["tests"], "retry_backoff": 0} | options
    worker = Worker(fleet.url, **options)
    life = asyncio.create_task(worker.start())
    try:
        await wait_until(lambda: worker.state == "running" or life.done())
        yield worker
    finally:
        await worker.stop()
        await asyncio.wait_for(life, 10)
