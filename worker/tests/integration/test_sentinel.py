"""A failover by the sentinels, under load."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.integration.load import all_end, keep_submitting
from tests.servers import eventually, sentinel_trio
from tests.support import slowness, wait_until, worker_process


@pytest.mark.guide("Sentinel / Cluster", "a failover")
async def test_a_worker_goes_on_by_itself_after_a_failover_under_load(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    options = ("--concurrency", "8", "--heartbeat-ttl", "3")
    with sentinel_trio(tmp_path) as trio:
        with worker_process(trio.url, "w1", log, *options) as process:
            async with keep_submitting(trio.url) as load:
                await wait_until(lambda: len(load.accepted) > 50)
                victim = trio.master()
                victim.kill()
                # In a thread: the load goes on meanwhile.
                await asyncio.to_thread(eventually, lambda: trio.master() is not victim, what="the replica is promoted")
                promoted = time.time()
                first = await wait_until(lambda: load.completed_after(promoted))
            assert first - promoted < 5 * slowness()
            await all_end(trio.url, load)
            assert process.poll() is None
        assert process.returncode == 0, log.read_text()
