"""What tasks ask for beyond what the operator allowed: refused at once, by name, at no cost to those beside them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.models import TaskPayload, TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.integration.openai_server import OpenAIServer, openai_server, text
from tests.isolated import attack, isolated
from tests.support import slowness, wait_until

AGENT = {"name": "a", "model": "test"}
MANY = [{"name": f"a{number}", "model": "test"} for number in range(20_000)]


def asks(config: dict[str, Any], **fields: Any) -> TaskPayload:
    return TaskPayload(agent_config=config, input="hi", **fields)


async def dead_letters(fleet: Fleet) -> dict[str, dict[str, str]]:
    rows = await fleet.client.xrange(keys.tagged(QUEUE, "dead"))
    return {fields["task_id"]: fields for _, fields in rows}


async def refused(fleet: Fleet, tasks: list[TaskPayload], error_type: str) -> list[str]:
    """Check that each of these tasks fails in its first run, for good; return what their dead letters say."""
    ids = await fleet.broker.submit_many(tasks)
    ended = {task.task_id: task for task in await fleet.all_end(ids, 120)}
    letters: dict[str, dict[str, str]] = {}

    async def kept() -> bool:
        letters.update(await dead_letters(fleet))
        return letters.keys() >= ended.keys()

    # With Temporal they come behind the end.
    await wait_until(kept)
    for task_id in ids:
        task = ended[task_id]
        found = (task.status, task.error_type, task.retries, task.crashes)
        assert found == (TaskStatus.FAILED, error_type, 0, 0), task
        assert (letters[task_id]["error_type"], letters[task_id]["reason"]) == (error_type, task.error)
    return [str(ended[task_id].error) for task_id in ids]


# What a task asks for, and the option that its dead letter names.
TOO_MUCH: list[tuple[TaskPayload, str]] = [
    (asks(AGENT, timeout_seconds=1e300), "--max-task-timeout (ORBITER_MAX_TASK_TIMEOUT)"),
    (asks(AGENT, timeout_seconds=3601), "--max-task-timeout"),
    (asks(AGENT, timeout_seconds=0.01, max_retries=1000), "--max-task-retries (ORBITER_MAX_TASK_RETRIES)"),
    (asks({"agents": MANY}), "--max-agents (ORBITER_MAX_AGENTS)"),
    (asks(AGENT | {"handoffs": MANY}), "--max-agents"),
    (asks({"agents": MANY[:5000], "flow": f"({'|'.join(row['name'] for row in MANY[:5000])})"}), "--max-agents"),
    (asks({"agents": MANY[:1], "flow": f"({'|'.join(['a0'] * 5000)})"}), "--max-steps (ORBITER_MAX_STEPS)"),
    (asks({"agents": MANY[:1], "flow": ">>".join(["a0"] * 150_000)}), "--max-steps"),
    (asks(AGENT | {"max_steps": 1_000_000}), "--max-steps"),
    (asks({"agents": MANY[:2], "mode": "handoff", "max_handoffs": 1_000_000}), "--max-steps"),
]


async def test_task_that_asks_for_too_much_fails_with_limit_and_option(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str]
) -> None:
    async with isolated(fleet, tmp_path, "--concurrency", "4", **executor) as [worker]:
        (beside,) = await fleet.all_end([await fleet.broker.submit(asks(AGENT))], 60)
        calm, threads = worker.resident(), worker.threads()
        said = await refused(fleet, [task for task, _ in TOO_MUCH], "TaskLimitError")
        for error, (_, option) in zip(said, TOO_MUCH, strict=True):
            assert option in error
        assert worker.resident() - calm < 100_000_000
        assert worker.threads() - threads < 50
        (after,) = await fleet.all_end([await fleet.broker.submit(asks(AGENT))], 60)
        assert {beside.status, after.status} == {TaskStatus.COMPLETED}
        assert worker.deaths == 0, worker.text
        assert worker.listed()["state"] == "running"


@pytest.mark.parametrize("seconds", ["-1", "0", "1e400", "NaN", "Infinity", '"inf"', '"soon"', "null", '"1e300"'])
async def test_time_that_is_none_fails_the_task_at_once(fleet: Fleet, seconds: str) -> None:
    config = json.dumps({"runtime": "callable", "target": "tests.integration.jobs:echo"})
    entry = f'{{"task_id": "odd", "agent_config": {config}, "timeout_seconds": {seconds}}}'
    async with working(fleet):
        await fleet.client.xadd(QUEUE, {"payload": entry})
        task = await fleet.ends("odd")
        assert (task.status, task.retries) == (TaskStatus.FAILED, 0)
        assert "timeout_seconds" in str(task.error)
        assert "odd" in await dead_letters(fleet)
        # The worker goes on.
        assert (await fleet.ends(await fleet.submit("echo", "x"))).status == TaskStatus.COMPLETED


async def test_default_time_of_a_task_fits_the_operator_s_limit(fleet: Fleet) -> None:
    for isolation in ("none", "process"):
        limit = round(slowness())
        async with working(fleet, max_task_timeout=limit, max_retries=0, isolation=isolation):
            slow, quick, asking = await fleet.broker.submit_many(
                [
                    attack("streams", metadata={"words": 1000}),
                    attack("streams", metadata={"words": 1}),
                    attack("streams", timeout_seconds=limit + 1),
                ]
            )
            task = await fleet.ends(slow, 60)
            assert (task.status, task.error_type) == (TaskStatus.FAILED, "TaskTimeoutError")
            assert f"timeout_seconds={limit}" in str(task.error)
            assert (await fleet.ends(quick)).status == TaskStatus.COMPLETED
            assert (await fleet.ends(asking)).error_type == "TaskLimitError"


@pytest.mark.parametrize("job", ["floods", "floods_in_loop"])
async def test_run_that_emits_too_many_events_is_stopped_for_good(
    fleet: Fleet, tmp_path: Path, executor: dict[str, str], job: str
) -> None:
    async with isolated(fleet, tmp_path, "--max-events", "200", **executor) as [worker]:
        never = {"until": str(tmp_path / "never")}
        (said,) = await refused(fleet, [attack(job, metadata=never, timeout_seconds=100)], "TaskLimitError")
        assert "--max-events (ORBITER_MAX_EVENTS)" in said
        (task_id,) = await dead_letters(fleet)
        # What waited when it was stopped came out behind it: four megabytes at most.
        assert await fleet.client.xlen(keys.stream(task_id)) < 5000
        assert worker.deaths == 0, worker.text
        after = await fleet.broker.submit(attack("streams", metadata={"words": 3}))
        assert (await fleet.ends(after)).status == TaskStatus.COMPLETED


@pytest.mark.parametrize("job", ["floods", "floods_in_loop"])
async def test_events_have_their_limit_without_isolation_too(fleet: Fleet, tmp_path: Path, job: str) -> None:
    until = tmp_path / "until"
    try:
        async with working(fleet, max_events=200):
            flood = attack(job, metadata={"until": str(until)}, timeout_seconds=100)
            (said,) = await refused(fleet, [flood], "TaskLimitError")
            assert "--max-events" in said
    finally:
        until.touch()


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def foreign() -> AsyncIterator[OpenAIServer]:
    """A server that the operator knows nothing of."""
    async with openai_server() as server:
        server.replies = [text("thank you for the key")]
        yield server


async def test_model_that_is_an_address_is_refused_and_nobody_there_hears_of_it(
    fleet: Fleet, tmp_path: Path, foreign: OpenAIServer, executor: dict[str, str]
) -> None:
    address = foreign.base_url
    config = AGENT | {"model": f"huggingface:{address}/x"}
    tasks = [
        asks(config),
        asks(AGENT, model=f"huggingface:{address}/x"),
        asks(AGENT, model=address),
        asks(AGENT | {"handoffs": [config | {"name": "b"}]}),
        asks({"agents": [AGENT, config | {"name": "b"}]}),
    ]
    keys_given = {"HF_TOKEN": "hf-of-the-worker", "OPENAI_API_KEY": "sk-of-the-worker"}
    async with isolated(fleet, tmp_path, "--allow-models", "*", **keys_given, **executor):
        said = await refused(fleet, tasks, "ModelRefusedError")
        for error in said:
            assert "--allow-models (ORBITER_ALLOW_MODELS)" in error
            assert "provider:name" in error
    assert foreign.requests == []


async def test_model_runs_where_its_key_is_given_or_its_pattern_allowed(fleet: Fleet, tmp_path: Path) -> None:
    async with openai_server() as server:
        server.replies = [text("hello")]
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": ""}
        tasks = [asks(AGENT | {"model": model}) for model in ("openai:gpt-test", "openai:o1", "test")]
        async with isolated(fleet, tmp_path, **env):
            ended = await fleet.all_end(await fleet.broker.submit_many(tasks), 60)
            assert {task.status for task in ended} == {TaskStatus.COMPLETED}
            said = await refused(fleet, [asks(AGENT | {"model": "anthropic:claude"})], "ModelRefusedError")
            assert "ANTHROPIC_API_KEY" in said[0]
        asked = len(server.requests)
        async with isolated(fleet, tmp_path, **env, ORBITER_ALLOW_MODELS="openai:gpt-*"):
            again = [task.model_copy(update={"task_id": f"again{at}"}) for at, task in enumerate(tasks)]
            said = await refused(fleet, again[1:], "ModelRefusedError")
            assert all("this worker allows openai:gpt-*" in error for error in said)
            assert (await fleet.ends(await fleet.broker.submit(again[0]))).status == TaskStatus.COMPLETED
        assert len(server.requests) == asked + 1


async def test_no_other_field_of_a_task_sends_a_request_elsewhere(
    fleet: Fleet, tmp_path: Path, foreign: OpenAIServer
) -> None:
    """What a provider's library could be told, a configuration cannot say."""
    address = foreign.base_url
    told = {
        **dict.fromkeys(("base_url", "api_base", "endpoint", "url", "provider_url", "openai_base_url"), address),
        **{name: {"authorization": "Bearer stolen"} for name in ("api_key", "extra_headers", "headers")},
        "provider": {"name": "openai", "base_url": address},
        "model_settings": {"base_url": address, "extra_body": {"x": 1}, "extra_headers": {"x-other": "1"}},
        "extra_body": {"x": 1},
        "fallback_models": [f"huggingface:{address}/x"],
        "mcp_servers": [{"url": address}],
        "toolsets": [address],
        "capabilities": [{"url": address}],
        "builtin_tools": [{"kind": "web_fetch"}],
        "env": {"OPENAI_BASE_URL": address, "HTTPS_PROXY": address, "HTTP_PROXY": address},
    }
    async with openai_server() as server:
        server.replies = [text("hello")]
        async with isolated(fleet, tmp_path, OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY="sk-x"):
            config = told | AGENT | {"model": "openai:gpt-test"}
            task = asks(config, metadata=told | {"trace_context": {"traceparent": address}})
            assert (await fleet.ends(await fleet.broker.submit(task), 60)).status == TaskStatus.COMPLETED
        (request,) = server.requests
    assert foreign.requests == []
    assert request.headers["authorization"] == "Bearer sk-x"
    assert "x-other" not in request.headers
    assert not {"x", "tools", "extra_body"} & set(request.body)
