"""Leases: what is kept while a run lives, and that no run outlives one that could not be renewed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import pytest

from orbiter.distributed.broker.records import Claim
from orbiter.distributed.broker.task_broker import TaskBroker
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.execution.counting import Counting
from orbiter.distributed.models import TaskPayload
from orbiter.distributed.worker.commands import Commands
from orbiter.distributed.worker.flow import ClaimFlow
from orbiter.distributed.worker.lease import LeaseKeeper
from tests import keys
from tests.black_hole import black_hole
from tests.fleet import QUEUE, Fleet, working
from tests.support import wait_until
from tests.temporal import TemporalServer


@dataclass
class Holder:
    """Holds a claim, and notes when it was told to stop."""

    claim: Claim
    leased_until: float
    stopped: list[tuple[str, float]] = field(default_factory=list)

    def stop(self, reason: str) -> None:
        self.stopped.append((reason, time.monotonic()))


async def test_no_run_outlives_a_lease_that_a_dead_connection_could_not_renew(fleet: Fleet) -> None:
    """Every try hangs until its own limit: the lease must not run out while one of them does."""
    ttl = 12
    task_id = await fleet.submit("sleep")
    ((entry, started),) = await fleet.broker.fetch("w1", 1)
    claim = Claim(entry.entry_id, TaskPayload(task_id=task_id), started.deliveries, started.attempt, started.retries)
    async with black_hole(fleet.url) as hole:
        client = connect(hole.url, max_connections=1, retries=0)
        broker = TaskBroker(hole.url, patience=6, client=client)
        holder = Holder(claim, time.monotonic() + ttl)
        flow, commands = ClaimFlow(1, lease=ttl), Commands()
        flow.runs.held[claim.entry_id] = holder  # type: ignore[assignment]
        keeper = LeaseKeeper(
            broker,
            client,
            flow=flow,
            commands=commands,
            worker_id="w1",
            queue=QUEUE,
            ttl=ttl,
            describe=dict,
            counting=Counting(),
        )
        first = holder.leased_until
        keeping = asyncio.create_task(keeper.run())
        try:
            await wait_until(lambda: holder.leased_until > first)
            hole.open = False
            # So that a try begins shortly before the lease runs out, and hangs beyond it.
            await asyncio.sleep(1.7)
            commands.beat.set()
            await wait_until(lambda: holder.stopped)
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            with contextlib.suppress(Exception):
                await client.aclose()
    reason, moment = holder.stopped[0]
    assert reason == "lost"
    assert holder.leased_until - 4 < moment < holder.leased_until


@pytest.mark.parametrize("kind", ["local", "temporal"])
async def test_the_events_of_a_run_that_says_nothing_do_not_expire(
    fleet: Fleet, temporal: TemporalServer, kind: str
) -> None:
    async with working(fleet, executor=kind, heartbeat_ttl=3, drain_timeout=0.2):
        task_id = await fleet.submit("said_then_waits", "hello", metadata={"seconds": 600})
        stream = keys.stream(task_id)
        await wait_until(lambda: fleet.client.exists(stream))
        await fleet.client.expire(stream, 60)

        async def kept() -> bool:
            return bool(await fleet.client.ttl(stream) > 3000)

        await wait_until(kept)
        await fleet.broker.cancel(task_id)
        await fleet.ends(task_id)
