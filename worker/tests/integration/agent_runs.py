"""Run one task through a worker and look at what it left: for the tests of agents and of the examples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from orbiter.distributed.broker.events import EventSubscriber
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.models import Event, TaskPayload, TaskResult, is_final
from orbiter.distributed.worker.worker import Worker
from tests.support import PATIENCE, wait_until


@dataclass(frozen=True)
class Run:
    """A task that has ended."""

    task: TaskResult
    events: list[Event]

    @property
    def kinds(self) -> list[str]:
        """Types of the events in order, a run of text once; step and status with their status."""
        kinds: list[str] = []
        for event in self.events:
            kind = f"{event.type} {event.status}" if event.type in ("step", "status") else event.type
            if kind != "text" or kinds[-1:] != ["text"]:
                kinds.append(kind)
        return kinds

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.of("text"))

    def check_stream(self) -> None:
        """Attempts in order, no gap in ``seq``, one final event and that the last."""
        attempts = [event.attempt for event in self.events]
        assert attempts == sorted(attempts)
        for attempt in set(attempts):
            numbers = [event.seq for event in self.events if event.attempt == attempt]
            assert numbers == list(range(1, len(numbers) + 1))
        assert [is_final(event) for event in self.events] == [False] * (len(self.events) - 1) + [True]


@asynccontextmanager
async def working(redis_url: str, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker in this process, to its orderly end."""
    worker = Worker(redis_url, **{"allow_import": ["tests"], "retry_backoff": 0, "drain_timeout": 1} | options)
    life = asyncio.create_task(worker.start())
    try:
        await wait_until(lambda: worker.state == "running" or life.done())
        yield worker
    finally:
        await worker.stop()
        await asyncio.wait_for(life, PATIENCE)


class Fleet:
    """Submits tasks and reads what became of them."""

    def __init__(self, url: str, client: Redis) -> None:
        self.url = url
        self.client = client
        self.broker = TaskBroker(url, client=client)
        self.store = TaskStore(url, client=client)
        self.subscriber = EventSubscriber(url, client=client)

    async def submit(self, config: dict[str, Any], text: str = "hi", **fields: Any) -> str:
        return await self.broker.submit(TaskPayload(agent_config=config, input=text, **fields))

    async def ended(self, task_id: str, timeout: float = PATIENCE) -> Run:
        async def over() -> TaskResult | None:
            task = await self.store.get_status(task_id)
            return task if task and task.status.terminal else None

        task = await wait_until(over, timeout)
        run = Run(task, [event async for event in self.subscriber.replay(task_id)])
        run.check_stream()
        return run

    async def run(self, config: dict[str, Any], text: str = "hi", **fields: Any) -> Run:
        return await self.ended(await self.submit(config, text, **fields))
