"""A fleet under test: what is submitted to it, what became of it, and what must hold after every fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from itertools import groupby
from typing import Any

from redis.asyncio import Redis

from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import TaskPayload, TaskResult, TaskStatus, is_final
from orbiter.distributed.worker.worker import Worker
from tests import keys
from tests.support import PATIENCE, wait_until

QUEUE = "orbiter:tasks"
# What may be there for ever; everything else expires.
WITHOUT_TTL = {QUEUE, f"{{{QUEUE}}}:dead", f"{{{QUEUE}}}:id", keys.INDEX, keys.BY_TIME, keys.ENDED}
WITHOUT_TTL |= {keys.tagged(QUEUE, "tasks")}


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

    async def all_end(self, task_ids: Iterable[str], timeout: float = PATIENCE) -> list[TaskResult]:
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

    async def ends(self, task_id: str, timeout: float = PATIENCE) -> TaskResult:
        async def ended() -> TaskResult | None:
            task = await self.store.get_status(task_id)
            return task if task and task.status.terminal else None

        return await wait_until(ended, timeout)

    async def runs(self, task_id: str) -> None:
        async def running() -> bool:
            task = await self.store.get_status(task_id)
            return task is not None and task.status == TaskStatus.RUNNING

        await wait_until(running)

    async def make_due(self, task_id: str) -> None:
        """Let a delayed task be due now, however long it is to wait."""
        assert await self.client.zadd(keys.tagged(QUEUE, "delayed"), {task_id: 1}, xx=True, ch=True) == 1

    async def events(self, task_id: str) -> list[Any]:
        subscriber = EventSubscriber(self.url, client=self.client)
        return [event async for event in subscriber.replay(task_id)]

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
            durable = await self.client.hget(keys.task(task_id), "executor") == "temporal"
            # What Temporal runs has no losses beside its crashes; elsewhere a crash is a loss that is charged.
            assert durable or task.crashes <= task.losses, task
            lost = task.losses + (task.crashes if durable else 0)
            assert task.attempt <= 1 + task.retries + lost + task.handoffs, task
            check_events(task, await self.events(task_id))
        assert not await leftovers(self)
        consumers = {row["name"] for row in await self.client.xinfo_consumers(QUEUE, keys.group(QUEUE))}
        # A dead worker's consumer is removed a minute later; it holds nothing.
        assert consumers >= set(workers)


async def leftovers(fleet: Fleet) -> list[str]:
    """Return what is there although every task has ended: entries, and keys that would stay for ever."""
    found = []
    if not await fleet.is_empty():
        pending = (await fleet.client.xpending(QUEUE, keys.group(QUEUE)))["pending"]
        found.append(f"{await fleet.client.xlen(QUEUE)} entries, {pending} pending")
    parked = [keys.tagged(QUEUE, what) for what in ("delayed", "parked")]
    found += [f"{key} exists" for key in parked if await fleet.client.exists(key)]
    persistent = [key async for key in fleet.client.scan_iter() if await fleet.client.ttl(key) == -1]
    return found + [f"{key} never expires" for key in persistent if key not in {*WITHOUT_TTL, *parked}]


def check_events(task: TaskResult, events: list[Any]) -> None:
    """Check that a task's events are in order, without a gap, and end with the one final status that fits."""
    wrong = wrong_with_events(task, events)
    assert not wrong, (wrong, task, events)


def wrong_with_events(task: TaskResult, events: list[Any]) -> list[str]:
    """Return what is wrong with the events of a task that has ended."""
    wrong = []
    finals = [n for n, event in enumerate(events, 1) if is_final(event)]
    if finals != [len(events)]:
        wrong.append(f"of {len(events)} events these are final: {finals}")
    said = {TaskStatus.COMPLETED: "completed", TaskStatus.FAILED: "error", TaskStatus.CANCELLED: "cancelled"}
    statuses = [events[n - 1].status for n in finals]
    if statuses != [said[task.status]]:
        wrong.append(f"{task.status}, but the final events say {statuses}")
    attempts = [event.attempt for event in events]
    if attempts != sorted(attempts):
        wrong.append(f"attempts are out of order: {[number for number, _ in groupby(attempts)]}")
    for attempt, group in groupby(events, key=lambda event: event.attempt):
        numbers = [event.seq for event in group]
        if numbers != list(range(1, len(numbers) + 1)):
            wrong.append(f"attempt {attempt} has the numbers {numbers}")
    return wrong


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
        await asyncio.wait_for(life, PATIENCE)
