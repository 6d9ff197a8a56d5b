"""A load of small tasks that goes on whatever becomes of Redis, and what became of those that were accepted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.models import TaskPayload
from tests.support import wait_until

ECHO = {"runtime": "callable", "name": "echo", "target": "tests.integration.jobs:echo"}


@dataclass
class Load:
    """What was accepted.

    Attributes:
        accepted: Ids of the tasks whose submit returned, in order.
    """

    store: TaskStore
    accepted: list[str] = field(default_factory=list)

    async def completed_after(self, moment: float) -> float | None:
        """Return when the first of the latest tasks ended that did so after ``moment``."""
        with contextlib.suppress(RedisError, OSError):
            tasks = await self.store.get_many(self.accepted[-200:])
            ends = [task.completed_at for task in tasks if task is not None and task.completed_at]
            return min((end for end in ends if end > moment), default=None)
        return None


@asynccontextmanager
async def keep_submitting(url: str) -> AsyncIterator[Load]:
    """Submit all the time, a few hundred tasks a second."""
    client = connect(url, name="load")
    broker = broker_for(url, client=client)
    await broker.ensure_group()
    load = Load(TaskStore(url, client=client))

    async def submit() -> None:
        while True:
            tasks = [TaskPayload(agent_config=ECHO, input=str(n)) for n in range(5)]
            with contextlib.suppress(RedisError, OSError):
                async with asyncio.timeout(5):
                    load.accepted += await broker.submit_many(tasks)
            await asyncio.sleep(0.02)

    submitting = asyncio.create_task(submit())
    try:
        yield load
    finally:
        submitting.cancel()
        await asyncio.wait({submitting}, timeout=2)
        await client.aclose()


async def all_end(url: str, load: Load) -> None:
    """Wait until every accepted task has completed."""
    client = connect(url)
    store = TaskStore(url, client=client)

    async def ended() -> bool:
        tasks = await store.get_many(load.accepted)
        return all(task is not None and task.status == "completed" for task in tasks)

    try:
        await wait_until(ended, interval=0.2)
    finally:
        await client.aclose()
