"""A load that rises and falls, on a real Redis with as many real workers as are decided."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils._autoscale import Host, Queue, decide
from conftest import Worker

from orbiter.distributed.broker.queue_info import get_queue_info
from orbiter.distributed.client.client import Client
from orbiter.distributed.models import TaskPayload

SCALINGS = 40
MOST, SLOTS = 8, 2
LONG = 6.0  # seconds; a worker that is told to leave waits for one


def wave(rng):
    """Return the tasks of a rise: short ones, and some that outlive a drain."""
    seconds = [rng.uniform(0.1, 0.5) for number in range(60)] + [LONG] * 3
    return [
        TaskPayload(
            agent_config={"runtime": "callable", "name": "sleep", "target": "jobs:sleep"},
            metadata={"seconds": one},
            created_at=time.time(),
        )
        for one in seconds
    ]


@pytest.mark.nightly
def test_forty_scalings_lose_no_task_and_charge_none(server, tmp_path):
    seed = int(os.environ.get("ORBITER_TEST_SEED", "7"))
    rng = random.Random(seed)
    settings = {"ORBITER_CONCURRENCY": str(SLOTS), "ORBITER_ISOLATION": "task"}
    workers, ids, steps = [Worker(server, tmp_path, **settings)], [], Counter()

    async def follow():
        calm_since, deadline = None, time.monotonic() + 600
        async with Client(server.url) as client:
            while True:
                assert time.monotonic() < deadline, steps
                info = await get_queue_info(server.url)
                if not info.waiting + info.running and len(workers) == 1:
                    if steps.total() >= SCALINGS:
                        return
                    ids.extend(handle.task_id for handle in await client.submit_payloads(wave(rng)))
                plan = decide(
                    Queue(info.waiting, info.oldest_waiting or 0.0, info.running),
                    {"host": Host(len(workers), 1, MOST, SLOTS)},
                    target=0.5,
                    patience=0.3,
                    now=time.monotonic(),
                    calm_since=calm_since,
                )
                calm_since = plan.calm_since
                if plan.direction != "stay":
                    steps[plan.direction] += 1
                while len(workers) < plan.instances["host"]:
                    workers.append(Worker(server, tmp_path, **settings))
                while len(workers) > plan.instances["host"]:
                    workers.pop(rng.randrange(len(workers))).stop()
                await asyncio.sleep(0.1)

    try:
        asyncio.run(follow())
        tasks = [server.client.hgetall(f"orbiter:task:{task_id}") for task_id in ids]
        handoffs = sum(handed(task) for task in tasks)
        print(f"seed {seed}: {dict(steps)}, {len(ids)} tasks, {handoffs} handed off")  # noqa: T201 - where it fails
        assert Counter(task.get("status") for task in tasks) == {"completed": len(ids)}
        for task in tasks:
            assert [int(task.get(count) or 0) for count in ("retries", "losses", "crashes")] == [0, 0, 0]
            assert int(task["attempt"]) == 1 + handed(task)
        assert handoffs  # drains that met running tasks
        assert min(steps.values()) >= SCALINGS / 8  # it rose and fell
        assert len(workers) == 1
    finally:
        for one in workers:
            one.stop()


def handed(task):
    """Return how often a task was handed off."""
    return int(task.get("handoffs") or 0)
