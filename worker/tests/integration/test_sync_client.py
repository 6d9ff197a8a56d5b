"""``distributed_sync()`` and its handle, in scripts: no event loop here, a worker in a thread of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from orbiter.distributed import Client, SyncTaskHandle, TaskStatus, distributed_sync, submit_many
from orbiter.distributed.models import TaskPayload, TextEvent, is_final
from orbiter.distributed.worker.worker import Worker
from tests.support import PATIENCE, WORKER_DIRECTORY, complaints, environment

JOBS = "tests.integration.jobs"


def job(name: str) -> dict[str, Any]:
    return {"runtime": "callable", "target": f"{JOBS}:{name}"}


@contextmanager
def working(redis_url: str) -> Iterator[None]:
    ready, parts = threading.Event(), []

    async def work() -> None:
        worker = Worker(redis_url, allow_import=[JOBS], retry_backoff=0, drain_timeout=1, concurrency=8)
        life = asyncio.create_task(worker.start())
        while worker.state != "running":
            await asyncio.sleep(0.01)
        parts.extend([worker, asyncio.get_running_loop()])
        ready.set()
        await life

    thread = threading.Thread(target=asyncio.run, args=[work()])
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        worker, loop = parts
        asyncio.run_coroutine_threadsafe(worker.stop(), loop).result(PATIENCE)
        thread.join(PATIENCE)


@pytest.fixture
def worker(redis_url: str) -> Iterator[str]:
    with working(redis_url):
        yield redis_url


def client_connections(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return [row["name"] for row in client.client_list()].count("orbiter-client")


def until(condition: Any, timeout: float = PATIENCE) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.01)


def test_a_result_is_what_the_agent_returned(worker: str) -> None:
    with distributed_sync(job("echo"), "hello", redis_url=worker) as handle:
        assert handle.result() == {"output": "hello"}
        assert handle.result(timeout=PATIENCE) == {"output": "hello"}, "asking again, after the end"
        task = handle.status()
    assert task is not None
    assert task.status is TaskStatus.COMPLETED
    until(lambda: client_connections(worker) == 0)


def test_every_keyword_of_distributed_is_passed_on(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBITER_REDIS_URL", redis_url)
    turns = [{"role": "user", "content": "before"}]
    keywords = {"messages": turns, "detailed": True, "timeout": 9, "metadata": {"a": 1}, "queue": "q", "task_id": "t1"}
    assert distributed_sync(job("echo"), "hi", **keywords).task_id == "t1"
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        ((_, fields),) = client.xrange("q")
    task = TaskPayload.from_json(fields["payload"])
    assert (task.task_id, task.input, task.messages, task.timeout_seconds) == ("t1", "hi", turns, 9)
    assert (task.detailed, task.metadata) == (True, {"a": 1})


def test_wrong_arguments_are_named_as_distributed_names_them(redis_url: str) -> None:
    with pytest.raises(ValueError, match="timeout_seconds"):
        distributed_sync(job("echo"), "hi", redis_url=redis_url, timeout=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'retries'"):
        distributed_sync(job("echo"), "hi", redis_url=redis_url, retries=1)
    with pytest.raises(ValueError, match="task_id"):
        submit_many(job("echo"), ["a"], redis_url=redis_url, task_id="t1")
    with pytest.raises(ValueError, match="timeout_seconds"):
        submit_many(job("echo"), ["a", "b"], redis_url=redis_url, timeout=0)


def test_events_stream_to_the_final_one_as_they_happen(worker: str, tmp_path: Path) -> None:
    until = tmp_path / "until"
    handle = distributed_sync(job("talk"), "", redis_url=worker, metadata={"until": str(until)})
    stream = handle.stream()
    first = next(stream)
    # The task waits until the first event has come.
    until.touch()
    events = [first, *stream]
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == "before after"
    assert is_final(events[-1])
    assert list(handle.stream()) == events, "late, and once more"


def test_leaving_a_stream_early_leaves_no_connection_behind(worker: str) -> None:
    with distributed_sync(job("said_then_waits"), "a", redis_url=worker, metadata={"seconds": 300}) as handle:
        for _ in handle.stream():
            assert client_connections(worker) > 0
            break
        until(lambda: client_connections(worker) == 0)
        handle.cancel()


def test_close_ends_a_stream_that_another_thread_reads(worker: str) -> None:
    handle = distributed_sync(job("said_then_waits"), "a", redis_url=worker, metadata={"seconds": 300})
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(handle.stream()))
    reader.start()
    until(lambda: seen)
    handle.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    handle.cancel()


def test_a_failure_is_raised_with_its_error(worker: str) -> None:
    handle = distributed_sync(job("fail"), "", redis_url=worker)
    with pytest.raises(RuntimeError, match=f"Task {handle.task_id} failed: .*attempt 4 failed"):
        handle.result()


def test_waiting_no_longer_than_told_the_task_goes_on_and_can_be_cancelled(worker: str) -> None:
    handle = distributed_sync(job("sleep"), "", redis_url=worker, metadata={"seconds": 600})
    with pytest.raises(TimeoutError, match=f"Task {handle.task_id} had not ended after 0.2 s"):
        handle.result(timeout=0.2)
    until(lambda: client_connections(worker) == 0)
    assert handle.cancel() == "requested"
    with pytest.raises(RuntimeError, match="was cancelled"):
        handle.result(timeout=PATIENCE)
    assert handle.cancel() == "finished"


async def test_waiting_with_await_takes_a_timeout_too(worker: str) -> None:
    async with Client(worker) as client:
        task = await client.submit(job("sleep"), "", metadata={"seconds": 600})
        with pytest.raises(TimeoutError, match=f"Task {task.task_id} had not ended after 0.2 s and goes on"):
            await task.result(0.2)
        assert (await task.status()).status is not TaskStatus.CANCELLED  # type: ignore[union-attr]
        await task.cancel()
        with pytest.raises(RuntimeError, match="was cancelled"):
            await task.result(timeout=PATIENCE)


def test_many_inputs_are_many_tasks_in_their_order(worker: str) -> None:
    inputs = [f"input {number}" for number in range(50)]
    handles = submit_many(job("echo"), iter(inputs), redis_url=worker)
    assert [handle.result(timeout=PATIENCE)["output"] for handle in handles] == inputs
    assert len({handle.task_id for handle in handles}) == 50
    assert submit_many(job("echo"), [], redis_url=worker) == []
    assert client_connections(worker) <= 2
    until(lambda: client_connections(worker) == 0)


def test_a_handle_can_be_had_of_a_task_that_was_submitted_elsewhere(worker: str) -> None:
    distributed_sync(job("echo"), "hi", redis_url=worker, task_id="theirs")
    assert SyncTaskHandle("theirs", redis_url=worker).result(timeout=PATIENCE) == {"output": "hi"}
    assert SyncTaskHandle("nobody's", redis_url=worker).status() is None


async def test_works_where_a_loop_is_running_already_as_in_jupyter(worker: str) -> None:
    handle = distributed_sync(job("echo"), "hello", redis_url=worker)
    assert handle.result(timeout=PATIENCE) == {"output": "hello"}
    assert is_final(list(handle.stream())[-1])


def test_threads_can_use_it_at_once(worker: str) -> None:
    outputs: list[str] = []

    def ask(number: int) -> None:
        outputs.append(distributed_sync(job("echo"), str(number), redis_url=worker).result(timeout=PATIENCE)["output"])

    threads = [threading.Thread(target=ask, args=[number]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(outputs) == sorted(str(number) for number in range(10))


def _ask(redis_url: str) -> None:
    os._exit(
        0 if distributed_sync(job("echo"), "hi", redis_url=redis_url).result(timeout=PATIENCE)["output"] == "hi" else 1
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_made_by_fork_has_a_loop_of_its_own(redis_url: str) -> None:
    """Of a process that has used it already; forked before the worker's thread is there."""
    assert distributed_sync(job("echo"), "hi", redis_url=redis_url).status() is not None
    child = multiprocessing.get_context("fork").Process(target=_ask, args=[redis_url])
    child.start()
    with working(redis_url):
        child.join(PATIENCE)
    assert child.exitcode == 0


def test_a_script_ends_by_itself_and_says_nothing(worker: str) -> None:
    script = f"""
from orbiter.distributed import distributed_sync
handle = distributed_sync({job("echo")!r}, "hi")
print(handle.result()["output"])
next(handle.stream())
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script],
        env=environment(ORBITER_REDIS_URL=worker),
        cwd=WORKER_DIRECTORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout, complaints(done.stderr), done.returncode) == ("hi\n", [], 0)
