"""Events while Redis is away: the worker stays small, and the stream tells what it lacks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from orbiter.distributed.models import TaskStatus
from tests.fleet import Fleet
from tests.servers import Server, plain_server
from tests.support import wait_until, worker_process

MEGABYTE = 1_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with plain_server(tmp_path) as server:
        yield server


@pytest.mark.parametrize("job", ["floods", "floods_in_thread"])
async def test_flood_of_events_while_redis_is_frozen_fills_no_memory(server: Server, tmp_path: Path, job: str) -> None:
    url, until, done = f"redis://127.0.0.1:{server.port}/0", tmp_path / "until", tmp_path / "done"
    async with Redis.from_url(url, decode_responses=True) as client:
        fleet = Fleet(url, client)
        # Elsewhere a thread that emits would wait for Redis.
        options = ("--isolation", "none", "--heartbeat-ttl", "60")
        with worker_process(url, "one", tmp_path / "log", *options) as process:
            await fleet.ends(await fleet.submit("noop"))
            details = {"until": str(until), "done": str(done), "bytes": 200 * MEGABYTE}
            task_id = await fleet.submit(job, metadata=details)
            await fleet.runs(task_id)
            worker = psutil.Process(process.pid)
            before = most = worker.memory_info().rss

            def flooded() -> bool:
                nonlocal most
                most = max(most, worker.memory_info().rss)
                return done.exists()

            server.process.send_signal(signal.SIGSTOP)
            try:
                until.touch()
                await wait_until(flooded)
            finally:
                server.process.send_signal(signal.SIGCONT)
            task = await fleet.ends(task_id)
            flooded()
        events = await fleet.events(task_id)
    assert task.status is TaskStatus.COMPLETED
    assert most - before <= 64 * MEGABYTE
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[-1].type, events[-1].status) == ("status", "completed")
    left_out = [event for event in events if event.type == "error"]
    assert [(event.error_type, event.recoverable) for event in left_out] == [("EventsLeftOutError", True)]
    kept = sum(
        len(event.text if event.type == "text" else event.result) for event in events[:-1] if event not in left_out
    )
    assert MEGABYTE < kept < 10 * MEGABYTE
