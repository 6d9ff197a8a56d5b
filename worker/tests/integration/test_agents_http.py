"""Agents against a model server over real HTTP, run by a real worker on a real Redis."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed.broker.usage import UsageOfQueue
from orbiter.distributed.models import TaskStatus
from tests.integration.agent_runs import Fleet, Run, working
from tests.integration.openai_server import (
    OpenAIServer,
    Reply,
    chunk,
    end,
    error,
    event,
    openai_server,
    text,
    tool_calls,
)
from tests.support import slowness, wait_until

ADD = "tests.integration.jobs.add"


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
        yield server


@pytest.fixture
async def fleet(redis_url: str, redis_client: Redis) -> Fleet:
    fleet = Fleet(redis_url, redis_client)
    await fleet.broker.connect()
    return fleet


def agent(**config: Any) -> dict[str, Any]:
    return {"name": "a", "model": "openai:gpt-test"} | config


async def run(fleet: Fleet, server: OpenAIServer, *replies: Reply, config: Any = None, **fields: Any) -> Run:
    server.replies = list(replies)
    async with working(fleet.url):
        return await fleet.run(config or agent(), **fields)


# What a model says


@pytest.mark.guide("Local Execution", "`orbiter start worker --redis-url …` runs agents here")
async def test_text_deltas_arrive_as_text_and_as_the_result(fleet: Fleet, server: OpenAIServer) -> None:
    ended = await run(fleet, server, text("Hel", "lo", "!"))
    assert ended.task.status == TaskStatus.COMPLETED
    assert ended.text == "Hello!"
    assert ended.task.result == {
        "output": "Hello!",
        "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12},
    }


async def test_deltas_are_published_while_the_model_still_speaks(fleet: Fleet, server: OpenAIServer) -> None:
    server.replies = [Reply(parts=[chunk({"content": "first"}), 30.0, *end()])]
    async with working(fleet.url):
        task_id = await fleet.submit(agent())
        await wait_until(lambda: fleet.client.xlen(f"orbiter:stream:{task_id}"))
        await fleet.broker.cancel(task_id)
        assert (await fleet.ended(task_id)).text == "first"


async def test_the_request_is_what_the_agent_says(fleet: Fleet, server: OpenAIServer) -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    config = agent(instructions="Be brief.", temperature=0.2, max_tokens=77, tools=[ADD])
    await run(fleet, server, text("ok"), config=config, text="three", messages=turns, model="gpt-other")
    [request] = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-of-the-test"
    body = request.body
    assert (body["model"], body["stream"], body["temperature"]) == ("gpt-other", True, 0.2)
    assert 77 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert body["stream_options"] == {"include_usage": True}
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    [tool] = body["tools"]
    assert (tool["function"]["name"], set(tool["function"]["parameters"]["properties"])) == ("add", {"a", "b"})


async def test_a_tool_call_whose_arguments_come_in_pieces(fleet: Fleet, server: OpenAIServer) -> None:
    pieces = ['{"a"', ': 2, "', 'b": ', "40}"]
    ended = await run(
        fleet, server, tool_calls(("add", pieces)), text("It is 42."), config=agent(tools=[ADD]), detailed=True
    )
    step = ["step started", "usage", "tool_call", "tool_result", "step completed"]
    last = ["step started", "text", "usage", "step completed", "status completed"]
    assert ended.kinds == ["status starting", *step, *last]
    [result] = ended.of("tool_result")
    assert (result.tool_name, result.tool_call_id, result.arguments) == ("add", "call_0", {"a": 2, "b": 40})
    assert (result.result, result.success) == ("42", True)
    assert [(event.usage.total_tokens, event.model) for event in ended.of("usage")] == [(12, "gpt-test")] * 2
    assert ended.task.result is not None
    assert ended.task.result["usage"]["total_tokens"] == 24
    asked, answer = server.requests[1].body["messages"][-2:]
    assert asked["tool_calls"][0]["id"] == answer["tool_call_id"] == "call_0"
    assert answer["content"] == "42"


async def test_parallel_tool_calls_all_run_and_are_answered(fleet: Fleet, server: OpenAIServer) -> None:
    calls = tool_calls(("add", ['{"a": 1, "b": 1}']), ("add", ['{"a":', ' 2, "b": 2}']))
    ended = await run(fleet, server, calls, text("done"), config=agent(tools=[ADD]), detailed=True)
    assert [event.tool_call_id for event in ended.of("tool_call")] == ["call_0", "call_1"]
    assert {event.tool_call_id: event.result for event in ended.of("tool_result")} == {"call_0": "2", "call_1": "4"}
    answers = {turn["tool_call_id"]: turn["content"] for turn in server.requests[1].body["messages"][-2:]}
    assert answers == {"call_0": "2", "call_1": "4"}


async def test_model_is_told_of_unknown_tools_and_wrong_arguments(fleet: Fleet, server: OpenAIServer) -> None:
    calls = tool_calls(("subtract", ["{}"]), ("add", ['{"a": "many"}']))
    ended = await run(fleet, server, calls, text("sorry"), config=agent(tools=[ADD]), detailed=True)
    assert (ended.task.status, ended.task.attempt, ended.text) == (TaskStatus.COMPLETED, 1, "sorry")
    assert [event.success for event in ended.of("tool_result")] == [False, False]


@pytest.mark.parametrize("detailed", [True, False])
async def test_reasoning_deltas_are_told_in_detailed_tasks(fleet: Fleet, server: OpenAIServer, detailed: bool) -> None:
    reply = Reply(
        parts=[chunk({"reasoning_content": "let me "}), chunk({"reasoning_content": "see"}), *text("4").parts]
    )
    ended = await run(fleet, server, reply, detailed=detailed)
    assert "".join(event.text for event in ended.of("reasoning")) == ("let me see" if detailed else "")
    assert ended.task.result is not None
    assert ended.task.result["output"] == "4"


async def test_an_output_type_gives_data(fleet: Fleet, server: OpenAIServer) -> None:
    calls = tool_calls(("final_result", ['{"city": "Oslo", ', '"degrees": 3}']))
    ended = await run(fleet, server, calls, config=agent(output_type="tests.unit.runtimes.targets.Answer"))
    assert ended.task.result is not None
    assert ended.task.result["data"] == {"city": "Oslo", "degrees": 3}


async def test_a_swarm_ends_its_stream_once(fleet: Fleet, server: OpenAIServer) -> None:
    config = {"agents": [agent(name="b"), agent(name="c"), agent(name="d")], "flow": "(b | c) >> d"}
    ended = await run(fleet, server, text("x"), text("y"), text("z"), config=config, detailed=True)
    assert ended.task.result is not None
    assert ended.task.result["final_output"] == "z"
    assert sorted(server.requests[2].body["messages"][-1]["content"]) == sorted("x\n\ny")
    assert ended.kinds.count("status starting") == 3


# What goes wrong


async def test_a_rate_limit_is_waited_out_in_the_queue_not_in_a_slot(fleet: Fleet, server: OpenAIServer) -> None:
    pause = math.ceil(3 * slowness())
    slow_down = error(429, "slow down", "rate_limit_exceeded", Retry_After=str(pause))
    server.replies = [slow_down, text("other"), text("now")]
    async with working(fleet.url):
        task_id = await fleet.submit(agent())
        seen: set[TaskStatus | None] = set()

        async def is_retrying() -> bool:
            task = await fleet.store.get_status(task_id)
            seen.add(task and task.status)
            return task is not None and task.status == TaskStatus.RETRYING

        await wait_until(is_retrying, interval=0.002)
        other = await fleet.run(agent())  # the only slot is free meanwhile
        assert other.text == "other"
        ended = await fleet.ended(task_id)
    assert not any(status.terminal for status in seen if status)
    assert (ended.task.status, ended.task.retries, ended.text) == (TaskStatus.COMPLETED, 1, "now")
    assert server.requests[2].at - server.requests[0].at >= pause
    [failure] = ended.of("error")
    assert (failure.recoverable, failure.attempt, failure.error_type) == (True, 1, "TransientError")


@pytest.mark.parametrize("status", [500, 503, 529])
async def test_a_failing_server_is_asked_again(fleet: Fleet, server: OpenAIServer, status: int) -> None:
    ended = await run(fleet, server, error(status, "oops"), text("fine"))
    assert (ended.task.status, ended.task.retries, ended.text) == (TaskStatus.COMPLETED, 1, "fine")
    assert len(server.requests) == 2


async def test_a_hiccup_after_work_was_done_does_not_repeat_the_work(fleet: Fleet, server: OpenAIServer) -> None:
    replies = [tool_calls(("add", ['{"a": 1, "b": 1}'])), error(500, "oops"), text("2")]
    ended = await run(fleet, server, *replies, config=agent(tools=[ADD]))
    assert (ended.task.attempt, ended.text, len(ended.of("tool_call"))) == (1, "2", 1)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (error(401, "Incorrect API key provided", "invalid_api_key"), "refused the credentials of this worker"),
        (error(403, "not yours"), "refused the credentials of this worker"),
        (error(404, "no such model", "model_not_found"), "the provider does not know it"),
        (error(400, "too many tokens", "context_length_exceeded"), "context too long"),
        (error(400, "messages.1: wrong role"), "rejected the request"),
        (error(429, "pay first", "insufficient_quota"), "quota of this worker's account is used up"),
    ],
)
async def test_what_another_run_cannot_mend_fails_at_once(
    fleet: Fleet, server: OpenAIServer, reply: Reply, reason: str
) -> None:
    ended = await run(fleet, server, reply)
    assert (ended.task.status, ended.task.attempt, len(server.requests)) == (TaskStatus.FAILED, 1, 1)
    assert reason in (ended.task.error or "")
    assert "sk-of-the-test" not in (ended.task.error or "")


@pytest.mark.parametrize(
    "broken",
    [
        Reply(parts=[chunk({"content": "half"})], cut=True),
        Reply(parts=[chunk({"content": "half"})]),
        Reply(parts=[chunk({"content": "half"}), event('{"id": "c1", "choices": [{"ind')]),
        Reply(parts=[chunk({"content": "half"}), event({"error": {"message": "overloaded", "code": "server_error"}})]),
    ],
    ids=["reset", "ended early", "not JSON", "error in the stream"],
)
async def test_a_stream_that_breaks_off_is_run_again(fleet: Fleet, server: OpenAIServer, broken: Reply) -> None:
    ended = await run(fleet, server, broken, text("who", "le"))
    assert (ended.task.status, ended.task.retries) == (TaskStatus.COMPLETED, 1)
    assert ended.task.result is not None
    assert ended.task.result["output"] == "whole"
    assert next((event.attempt, event.text) for event in ended.of("text")) == (1, "half")
    assert "".join(event.text for event in ended.of("text") if event.attempt == 2) == "whole"
    assert [event.recoverable for event in ended.of("error")] == [True]


async def test_a_server_that_is_not_there_is_retried_to_the_limit(
    fleet: Fleet, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    ended = await run(fleet, server)
    assert (ended.task.status, ended.task.attempt) == (TaskStatus.FAILED, 4)
    assert "onnect" in (ended.task.error or "")


@pytest.mark.alone
async def test_cancel_hangs_up_on_a_slow_stream(fleet: Fleet, server: OpenAIServer) -> None:
    server.replies = [Reply(parts=[chunk({"content": "first"}), 60.0, *end()])]
    async with working(fleet.url):
        task_id = await fleet.submit(agent())
        await wait_until(lambda: fleet.client.xlen(f"orbiter:stream:{task_id}"))
        began = time.monotonic()
        await fleet.broker.cancel(task_id)
        ended = await fleet.ended(task_id)
        assert (time.monotonic() - began) / slowness() < 2
        await wait_until(lambda: server.hung_up)
    assert (ended.task.status, ended.kinds[-1], ended.text) == (TaskStatus.CANCELLED, "status cancelled", "first")


async def test_a_slow_stream_is_stopped_at_its_timeout(fleet: Fleet, server: OpenAIServer) -> None:
    slow = Reply(parts=[chunk({"content": "slow"}), 60.0, *end()])
    limit = round(2 * slowness())
    ended = await run(fleet, server, slow, text("quick"), timeout_seconds=limit)
    assert (ended.task.status, ended.task.retries) == (TaskStatus.COMPLETED, 1)
    assert ended.of("error")[0].error == f"run took longer than timeout_seconds={limit}"
    assert server.hung_up == 1


# What it costs


@pytest.mark.parametrize("isolation", ["none", "task"])
async def test_every_answer_is_counted_once_whatever_becomes_of_the_run(
    fleet: Fleet, server: OpenAIServer, isolation: str
) -> None:
    """One answer of a run that fails behind it, and two of one that completes."""
    called = tool_calls(("add", ['{"a": 1, "b": 1}']))
    server.replies = [called, error(404, "gone", "model_not_found"), called, text("2")]
    async with working(fleet.url, isolation=isolation):
        failed = await fleet.run(agent(tools=[ADD]))
        ended = await fleet.run(agent(tools=[ADD], name="b"))
    assert (failed.task.status, ended.text) == (TaskStatus.FAILED, "2")
    usage = UsageOfQueue(fleet.url, client=fleet.client)
    found = await usage.last("orbiter:tasks", 2, now=time.time())
    assert {(row.model, row.agent, row.requests, row.input, row.output) for row in found} == {
        ("openai:gpt-test", "a", 1, 7, 5),
        ("openai:gpt-test", "b", 2, 14, 10),
    }
