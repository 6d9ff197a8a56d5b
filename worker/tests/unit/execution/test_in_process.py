"""InProcessExecutor: a task runs on the worker's own event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
import pytest

from orbiter.distributed.broker.events import EventLog
from orbiter.distributed.broker.records import Claim
from orbiter.distributed.errors import ConfigurationError, ResultTooLargeError
from orbiter.distributed.execution import in_process
from orbiter.distributed.execution.endings import Completed
from orbiter.distributed.execution.in_process import InProcessExecutor
from orbiter.distributed.execution.slot import ABANDON_AFTER, Slot
from orbiter.distributed.models import event_from_json
from orbiter.distributed.runtimes import RunContext
from orbiter.distributed.runtimes.imports import ImportGuard
from tests.unit.scripted import ScriptedQueue, claim, publisher
from tests.unit.virtual_time import clock, turns

HERE = __name__


def shout(context: RunContext) -> dict[str, Any]:
    """Say the input, and return what this run was given."""
    context.emit(context.input.upper())
    left = context.token.cancelled, context.attempt, context.payload.timeout_seconds
    return {"output": context.input, "given": list(left)}


def answer(context: RunContext) -> dict[str, Any]:
    """Return the input."""
    return {"output": context.input}


def executor() -> InProcessExecutor:
    return InProcessExecutor(ImportGuard(["tests"]), queue="q", worker_id="w1", max_result_bytes=1000)


def slot(ran: Claim, log: EventLog | None = None) -> Slot:
    return Slot(ran, log or publisher().log(ran.task.task_id, 1), clock() + 30, started=clock())


def config(target: str = "shout", **options: Any) -> dict[str, Any]:
    return {"runtime": "callable", "target": f"{HERE}:{target}", "options": options}


async def test_executor_runs_a_callable_and_sends_its_events() -> None:
    queue = ScriptedQueue()
    sends = publisher(queue)
    log = sends.log("t1", 2)
    ran = claim(attempt=2, agent_config=config(), input="hi", timeout_seconds=9)
    ended = await executor().execute(slot(ran, log))
    assert ended == Completed('{"output": "hi", "given": [false, 2, 9.0]}')
    await asyncio.sleep(0)
    await sends.flush()
    [(batch,)] = queue.of("append_events")
    assert (batch.attempt, batch.seq) == (2, 1)
    event = event_from_json(batch.events[0])
    assert (event.type, event.seq, event.attempt) == ("text", 1, 2)


async def test_executor_raises_where_the_configuration_can_never_run() -> None:
    refused = claim(agent_config={"runtime": "unheard-of"})
    with pytest.raises(ConfigurationError):
        await executor().execute(slot(refused))


async def test_executor_loads_a_configuration_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    load = in_process.runtime_for
    monkeypatch.setattr(in_process, "runtime_for", lambda task, guard: loaded.append(task) or load(task, guard))
    monkeypatch.setattr(in_process, "RUNTIMES_CACHED", 2)
    runs = executor()

    async def run(**options: Any) -> None:
        await runs.execute(slot(claim(agent_config=config(**options))))

    for number in (1, 1, 2, 1, 3, 1):
        await run(n=number)
    assert len(loaded) == 3  # the second was the one used longest ago when the third came
    await run(n=2)
    assert len(loaded) == 4


async def test_executor_keeps_no_configuration_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "LARGEST_CONFIG_CACHED", 10)
    runs = executor()
    await runs.execute(slot(claim(agent_config=config())))
    assert not runs._runtimes


async def test_executor_has_nothing_beside_the_slots() -> None:
    runs = executor()
    watching = asyncio.create_task(runs.run())
    await turns()
    assert not watching.done()
    watching.cancel()
    runs.cancel("t1")
    assert (runs.tables, runs.degraded, runs.abandon_after) == ((), False, ABANDON_AFTER)
    assert await runs.drain(0, asyncio.Event()) == 0
    assert runs.time_limit(claim(timeout_seconds=7)) == 7


async def test_executor_tells_its_memory_and_the_lag_of_its_loop() -> None:
    runs = executor()
    running = asyncio.create_task(runs.run())
    await asyncio.sleep(5)
    health = runs.health()
    assert health.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)
    assert 0 <= health.loop_lag_ms < 60_000
    assert (health.processes, health.threads, health.blocked_by, health.problem) == (0, 0, "", "")
    running.cancel()


@pytest.mark.parametrize(("length", "kept"), [(980, True), (1000, False)])
async def test_executor_refuses_a_result_that_is_too_large(length: int, kept: bool) -> None:
    ran = executor().execute(slot(claim(agent_config=config("answer"), input="x" * length)))
    if kept:
        assert isinstance(await ran, Completed)
    else:
        with pytest.raises(ResultTooLargeError, match="--max-result-bytes"):
            await ran
