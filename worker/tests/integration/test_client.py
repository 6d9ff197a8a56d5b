"""``distributed()`` and its handle against real workers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004 - redis' own

from orbiter.distributed import Client, InvalidPayloadError, TaskCancelledError, TaskExpiredError, TaskFailedError
from orbiter.distributed.broker.records import CancelOutcome
from orbiter.distributed.client.handle import TaskHandle, distributed
from orbiter.distributed.models import StatusEvent, TaskPayload, TaskStatus, TextEvent
from orbiter.distributed.worker.worker import Worker
from tests.support import PATIENCE, free_port, wait_until


class Job:
    """An agent that is a function of ``tests.integration.jobs``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_dict(self) -> dict[str, Any]:
        return {"runtime": "callable", "target": f"tests.integration.jobs:{self.name}"}


@asynccontextmanager
async def working(redis_url: str, **options: Any) -> AsyncIterator[Worker]:
    worker = Worker(
        redis_url, allow_import=("tests.integration.jobs",), retry_backoff=0, drain_timeout=1, concurrency=4, **options
    )
    running = asyncio.create_task(worker.start())
    try:
        await wait_until(lambda: worker.state == "running" or running.done())
        yield worker
    finally:
        await worker.stop()
        await asyncio.wait_for(running, PATIENCE)


async def test_a_result_is_what_the_agent_returned(redis_url: str) -> None:
    async with working(redis_url), await distributed(Job("echo"), "hello", redis_url=redis_url) as handle:
        assert await handle.result() == {"output": "hello"}
        assert await handle.result() == {"output": "hello"}, "asking again, after the end"


@pytest.mark.guide("Environment Variables", "`ORBITER_REDIS_URL`, for the other commands and for clients")
async def test_the_url_comes_from_the_environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBITER_REDIS_URL", redis_url)
    async with await distributed(Job("echo").to_dict(), "hello", metadata={"k": 1}) as handle:
        task = await handle.status()
    assert task is not None
    assert task.status is TaskStatus.PENDING


async def test_without_any_url_nothing_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORBITER_REDIS_URL", raising=False)
    with pytest.raises(ValueError, match="ORBITER_REDIS_URL"):
        await distributed(Job("echo"), "hello")


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"timeout": 0}, ValueError, "timeout_seconds"),
        ({"task_id": ""}, ValueError, "task_id"),
        ({"redis_url": "http://host"}, ValueError, "redis://"),
        ({"agent": 7}, TypeError, "to_dict"),
    ],
)
async def test_wrong_arguments_are_named(wrong: dict[str, Any], error: type[Exception], named: str) -> None:
    arguments = {"agent": Job("echo"), "input": "hello", "redis_url": "redis://127.0.0.1:1"} | wrong
    with pytest.raises(error, match=named):
        await distributed(**arguments)


async def test_the_payload_on_the_queue_is_that_of_0_1(redis_url: str, redis_client: Redis) -> None:
    turns = [{"role": "user", "content": "before"}]
    handle = await distributed(
        Job("echo"),
        "hi",
        messages=turns,
        redis_url=redis_url,
        detailed=True,
        timeout=9,
        metadata={"a": 1},
        task_id="t1",
    )
    await handle.aclose()
    ((_, fields),) = await redis_client.xrange("orbiter:tasks")
    task = TaskPayload.from_json(fields["payload"])
    assert (task.task_id, task.input, task.messages, task.timeout_seconds) == ("t1", "hi", turns, 9)
    assert (task.agent_config, task.detailed, task.metadata) == (Job("echo").to_dict(), True, {"a": 1})
    assert task.created_at > 0


async def test_the_same_id_twice_is_one_task(redis_url: str, redis_client: Redis) -> None:
    for _ in range(2):
        async with await distributed(Job("echo"), "hi", redis_url=redis_url, task_id="once") as handle:
            assert handle.task_id == "once"
    assert await redis_client.xlen("orbiter:tasks") == 1


@pytest.mark.parametrize(
    ("agent", "named"),
    [
        ({"name": "a", "model": "test", "tool": ["m.f"]}, "agent_config.tool: unknown key; did you mean tools?"),
        ({"name": "a"}, "agent_config.model: Field required"),
        ({"runtime": "callable", "target": "m:f", "option": {}}, "agent_config.option: unknown key; did you mean opt"),
    ],
)
async def test_a_slip_in_an_agent_is_refused_and_nothing_is_submitted(
    redis_url: str, redis_client: Redis, agent: dict[str, Any], named: str
) -> None:
    async with Client(redis_url) as client:
        for submitted in (client.submit(agent, "x"), client.submit_many(agent, ["x"])):
            with pytest.raises(InvalidPayloadError, match=re.escape(named)):
                await submitted
    assert not await redis_client.exists("orbiter:tasks")


async def test_a_redis_that_refuses_is_named_with_the_remedy(redis_url: str, redis_client: Redis) -> None:
    place = redis_url.removeprefix("redis://").removesuffix("/0")
    await redis_client.config_set("requirepass", "hunter2")
    try:
        for login, said in (("", f"redis://USER:PASSWORD@{place}"), ("default:wrong@", "Check user and password")):
            async with Client(f"redis://{login}{place}") as stranger:
                with pytest.raises(AuthenticationError) as refused:
                    await stranger.status("t")
            assert f"Redis at redis://{place}/*** refused the login" in str(refused.value)
            assert said in str(refused.value)
    finally:
        await redis_client.config_set("requirepass", "")


async def test_a_redis_that_is_not_there_is_named_with_the_remedy() -> None:
    async with Client(f"redis://127.0.0.1:{free_port()}", retries=0) as client:
        with pytest.raises(ConnectionError, match=r"Cannot reach Redis at redis://127.0.0.1:\d+/\*\*\*: .*Check host"):
            await client.status("t")


async def test_events_stream_live_to_the_final_one(redis_url: str) -> None:
    async with await distributed(Job("say"), "a b", redis_url=redis_url) as handle, working(redis_url):
        events = [event async for event in handle.stream()]
        late = [event async for event in handle.stream()]
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == "a b "
    assert isinstance(events[-1], StatusEvent)
    assert events[-1].status == "completed"
    assert late == events


async def test_a_failure_is_raised_with_its_error(redis_url: str) -> None:
    async with working(redis_url, max_retries=0), await distributed(Job("fail"), "", redis_url=redis_url) as handle:
        with pytest.raises(TaskFailedError, match=f"Task {handle.task_id} failed: .*attempt 1 failed") as raised:
            await handle.result()
    assert isinstance(raised.value, RuntimeError), "as clients of 0.1 catch it"
    assert raised.value.record is not None
    assert (raised.value.task_id, raised.value.record.error_type) == (handle.task_id, "RuntimeError")
    assert raised.value.record.status is TaskStatus.FAILED


async def test_a_result_waits_through_retries(redis_url: str) -> None:
    async with (
        working(redis_url),
        await distributed(Job("fail"), "", redis_url=redis_url, metadata={"times": 2}) as handle,
    ):
        assert await handle.result() == {"output": "attempt 3 worked"}


async def test_a_cancelled_task_says_so(redis_url: str) -> None:
    async with (
        working(redis_url),
        await distributed(Job("sleep"), "", redis_url=redis_url, metadata={"seconds": 600}) as handle,
    ):
        result = asyncio.create_task(handle.result())
        await wait_until(lambda: _is_running(handle))
        assert await handle.cancel() is CancelOutcome.REQUESTED
        with pytest.raises(TaskCancelledError, match=f"Task {handle.task_id} was cancelled") as raised:
            await asyncio.wait_for(result, PATIENCE)
        assert raised.value.record is not None
        assert raised.value.record.status is TaskStatus.CANCELLED


async def _is_running(handle: TaskHandle) -> bool:
    task = await handle.status()
    return task is not None and task.status is TaskStatus.RUNNING


async def test_a_result_is_found_although_no_event_tells_of_it(redis_url: str, redis_client: Redis) -> None:
    """As with an 0.1 worker and ``detailed=False``."""
    async with await distributed(Job("echo"), "", redis_url=redis_url) as handle:
        result = asyncio.create_task(handle.result(poll_interval=0.05))
        await asyncio.sleep(0.2)
        await redis_client.hset(
            f"orbiter:task:{handle.task_id}", mapping={"status": "completed", "result": '{"output": "old"}'}
        )
        assert await asyncio.wait_for(result, PATIENCE) == {"output": "old"}


async def test_the_end_is_learnt_from_the_events_not_from_polling(redis_url: str) -> None:
    async with (
        working(redis_url),
        await distributed(Job("sleep"), "", redis_url=redis_url, metadata={"seconds": 0.3}) as handle,
    ):
        assert await asyncio.wait_for(handle.result(poll_interval=600), PATIENCE) == {"output": "slept"}


async def test_a_record_that_vanishes_ends_the_wait(redis_url: str, redis_client: Redis) -> None:
    async with await distributed(Job("echo"), "", redis_url=redis_url) as handle:
        result = asyncio.create_task(handle.result(poll_interval=0.05))
        await asyncio.sleep(0.2)
        await redis_client.flushall()
        with pytest.raises(TaskExpiredError, match="expired"):
            await asyncio.wait_for(result, PATIENCE)


async def test_giving_up_a_wait_leaves_no_connection_behind(redis_url: str, redis_client: Redis) -> None:
    async with await distributed(Job("echo"), "", redis_url=redis_url) as handle:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.result(), 0.3)

    async def only_ours() -> bool:
        return [client["name"] for client in await redis_client.client_list()].count("orbiter-client") == 0

    await wait_until(only_ours)
