"""The end of a task that has said nothing: its record tells it, and no stream is kept for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed import Client, EventSubscriber
from orbiter.distributed.client.sync import SyncClient
from tests import keys
from tests.fleet import Fleet, working
from tests.legacy_client import LegacyClient
from tests.servers import plain_server
from tests.support import PATIENCE, orbiter

COMPLETED = {"type": "status", "status": "completed", "agent_name": "noop", "seq": 1, "attempt": 1}


async def ended(fleet: Fleet, job: str = "noop", **fields: object) -> str:
    """Run one task to its end; return its id."""
    async with working(fleet):
        return (await fleet.ends(await fleet.submit(job, **fields))).task_id


async def test_a_finished_task_that_said_nothing_keeps_little_memory(tmp_path: Path) -> None:
    """By what a server with its own settings uses, of which streams are the dearest."""
    number = 2_000
    with plain_server(tmp_path) as server:
        async with Redis.from_url(url := f"redis://127.0.0.1:{server.port}/0", decode_responses=True) as client:
            fleet = Fleet(url, client)
            await fleet.broker.connect()
            async with working(fleet, concurrency=16):
                await fleet.all_end(await fleet.submit_many("noop", 100))
                before = (await client.info("memory"))["used_memory_dataset"]
                await fleet.all_end(await fleet.submit_many("noop", number))
                after = (await client.info("memory"))["used_memory_dataset"]
            assert (after - before) / number <= 1_200
            assert [key async for key in client.scan_iter("orbiter:stream:*")] == []


async def test_who_follows_live_or_late_is_told_the_same_end(fleet: Fleet) -> None:
    async with Client(fleet.url) as client:
        task = client.task(await fleet.submit("noop"))

        async def follow() -> list[object]:
            return [event async for event in task.stream()]

        early = asyncio.create_task(follow())
        async with working(fleet), asyncio.timeout(PATIENCE):
            [live] = await early
        [late] = await follow()
        assert live == late
        assert live.values().items() >= COMPLETED.items()  # type: ignore[attr-defined]
        assert await task.result() == {"output": ""}
        # Who has seen the end has nothing to come.
        assert [event async for event in task.stream(after=late.entry_id)] == []  # type: ignore[attr-defined]


async def test_replay_ends_with_what_the_record_tells(fleet: Fleet) -> None:
    task_id = await ended(fleet)
    subscriber = EventSubscriber(fleet.url, client=fleet.client)
    [event] = [event async for event in subscriber.replay(task_id)]
    assert [again.seq async for again in subscriber.replay(task_id, event.entry_id)] == [1], "it is included"


def test_the_command_and_the_blocking_client_are_told_the_end(redis_url: str) -> None:
    async def run() -> str:
        async with Redis.from_url(redis_url, decode_responses=True) as client:
            return await ended(Fleet(redis_url, client))

    task_id = asyncio.run(run())
    for options in ((), ("--follow",)):
        found = orbiter("task", "events", task_id, "--json", *options, "--redis-url", redis_url)
        assert (found.returncode, found.stderr) == (0, "")
        assert json.loads(found.stdout).items() >= COMPLETED.items()
    with SyncClient(redis_url) as client:
        assert [event.status for event in client.task(task_id).stream()] == ["completed"]  # type: ignore[union-attr]


@pytest.mark.parametrize(("job", "status"), [("say", "completed"), ("fail", "error")])
async def test_the_end_is_told_when_the_stream_has_expired(fleet: Fleet, job: str, status: str) -> None:
    task_id = await ended(fleet, job, text="a b", max_retries=0)
    subscriber = EventSubscriber(fleet.url, client=fleet.client)
    before = [event async for event in subscriber.replay(task_id)]
    await fleet.client.delete(keys.stream(task_id))
    [event] = [event async for event in subscriber.subscribe(task_id)]
    assert (event.type, event.status, event.message) == ("status", status, before[-1].message)  # type: ignore[union-attr]
    assert [event async for event in subscriber.subscribe(task_id, after=before[-1].entry_id)] == []


async def test_who_saw_the_end_on_the_stream_is_not_told_twice(fleet: Fleet) -> None:
    task_id = await ended(fleet, "say", text="a b")
    subscriber = EventSubscriber(fleet.url, client=fleet.client)
    events = [event async for event in subscriber.subscribe(task_id)]
    assert [event async for event in subscriber.subscribe(task_id, after=events[-1].entry_id)] == []
    assert [event.seq async for event in subscriber.subscribe(task_id, after=events[-2].entry_id)] == [events[-1].seq]


async def test_a_client_of_0_1_hears_the_end_of_a_task_that_says_nothing(fleet: Fleet) -> None:
    async with LegacyClient(fleet.url) as old:
        task_id, listening = await fleet.submit("noop"), asyncio.Event()

        async def heard() -> list[dict[str, object]]:
            return [event async for event in old.subscribe(task_id, listening)]

        subscriber = asyncio.create_task(heard())
        await listening.wait()
        async with working(fleet), asyncio.timeout(PATIENCE):
            assert [event["status"] for event in await subscriber] == ["completed"]
