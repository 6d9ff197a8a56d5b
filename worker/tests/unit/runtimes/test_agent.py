from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from orbiter.distributed.errors import ConfigurationError, ImportRefusedError, TransientError
from orbiter.distributed.models import TextEvent, is_final
from orbiter.distributed.runtimes import runtime_for
from orbiter.distributed.runtimes.agent import AgentRuntime
from tests.support import environment, wait_until
from tests.unit.runtimes import targets
from tests.unit.runtimes.support import GUARD, HERE, Run, agent, execute


@pytest.fixture(autouse=True)
def fresh():
    targets.SEEN.clear()


def tools(*names):
    return [f"{HERE}.{name}" for name in names]


def saying(*words):
    """Return a model that says the words as deltas, and the conversations it was given."""
    seen = []

    async def stream(messages, info):
        seen.append((messages, info))
        for word in words:
            yield word

    return FunctionModel(stream_function=stream), seen


# Events and result


async def test_text_is_streamed_delta_by_delta_and_joined_in_the_result():
    model, _ = saying("Hel", "lo")
    result, run = await execute(agent(), model=model)
    assert run.events == [TextEvent(text="Hel", agent_name="a"), TextEvent(text="lo", agent_name="a")]
    assert result["output"] == "Hello"
    assert set(result) == {"output", "usage"}


async def test_plain_tasks_tell_text_and_tool_calls_only():
    result, run = await execute(agent(tools=tools("add", "weather")))
    assert run.kinds() == ["tool_call", "tool_call", "text"]
    assert json.loads(result["output"]) == {"add": 0, "weather": "sunny in a"}
    assert targets.SEEN == {"tool in main thread": False}


async def test_detailed_tasks_emit_steps_usage_and_results_but_no_final_status():
    result, run = await execute(agent(tools=tools("add")), detailed=True)
    step = ["step started", "usage", "tool_call", "tool_result", "step completed"]
    assert run.kinds() == ["status starting", *step, "step started", "text", "usage", "step completed"]
    assert not any(is_final(event) for event in run.events)
    assert all(event.agent_name == "a" for event in run.events)
    assert run.events[0].message == "Agent 'a' starting execution"
    finished = next(event for event in run.events if event.type == "tool_result")
    assert (finished.tool_name, finished.arguments, finished.result) == ("add", {"a": 0, "b": 0}, "0")
    assert (finished.success, finished.error) == (True, None)
    assert finished.duration_ms > 0
    assert finished.tool_call_id == next(e for e in run.events if e.type == "tool_call").tool_call_id
    steps = [event for event in run.events if event.type == "step" and event.status == "completed"]
    assert [event.step_number for event in steps] == [1, 2]
    assert all(event.started_at <= event.completed_at for event in steps)
    usages = [event.usage for event in run.events if event.type == "usage"]
    assert usages == [event.usage for event in steps]
    assert result["usage"]["total_tokens"] == sum(usage.total_tokens for usage in usages) > 0
    assert [event.model for event in run.events if event.type == "usage"] == ["test", "test"]


async def test_reasoning_is_told_in_detailed_tasks_only():
    async def stream(messages, info):
        yield {0: DeltaThinkingPart(content="hm")}
        yield "yes"

    for detailed, kinds in [(False, []), (True, ["reasoning"])]:
        _, run = await execute(agent(), model=FunctionModel(stream_function=stream), detailed=detailed)
        assert [kind for kind in run.kinds() if kind == "reasoning"] == kinds


async def test_a_tool_that_fails_is_told_to_the_model_and_the_task_goes_on():
    result, run = await execute(agent(tools=tools("breaks")), detailed=True)
    failed = next(event for event in run.events if event.type == "tool_result")
    assert (failed.success, failed.result, failed.error) == (False, "", "LookupError: no such city: a")
    assert "no such city" in result["output"]


async def test_a_tool_that_fails_ends_the_run_where_the_agent_says_so():
    with pytest.raises(LookupError, match="no such city"):
        await execute(agent(tools=tools("breaks"), tool_errors="task"))


@pytest.mark.parametrize(
    ("tool", "gave"),
    [
        ("gives_an_iterator", '["a","a"]'),
        ("gives_bytes", "a"),
        ("gives_odd_bytes", "ValueError: what the tool gave is not JSON: bytes that are no UTF-8 text"),
    ],
)
async def test_the_model_reads_what_an_odd_tool_gave_or_why_not(tool, gave):
    result, run = await execute(agent(tools=tools(tool)), detailed=True)
    told = next(event for event in run.events if event.type == "tool_result")
    assert (told.error or told.result).startswith(gave)
    assert gave.replace('"', "") in result["output"].replace('"', "")


async def test_a_tool_may_ask_for_another_run_of_the_task():
    with pytest.raises(TransientError, match="come back later") as caught:
        await execute(agent(tools=tools("overloaded")))
    assert caught.value.retry_after == 9


async def test_a_tool_can_read_the_task():
    result, _ = await execute(agent(tools=tools("who")), metadata={"who": "me"})
    assert json.loads(result["output"]) == {"who": "me"}


async def test_a_ready_made_tool_keeps_its_name_and_docstrings_become_the_schema():
    model, seen = saying("ok")
    await execute(agent(tools=tools("ready_made", "add")), model=model)
    offered = {tool.name: tool for tool in seen[0][1].function_tools}
    assert set(offered) == {"plus", "add"}
    assert "Add two numbers." in offered["add"].description
    assert offered["add"].parameters_json_schema["properties"]["a"] == {"type": "integer", "description": "The first."}


async def test_max_steps_ends_normally_with_the_text_so_far():
    async def stream(messages, info):
        yield "looking. "
        yield {1: DeltaToolCall(name="add", json_args='{"a": 1, "b": 2}', tool_call_id=f"c{len(messages)}")}

    model = FunctionModel(stream_function=stream)
    result, run = await execute(agent(tools=tools("add"), max_steps=3), model=model, detailed=True)
    assert result["output"] == "looking. " * 3
    assert result["stop_reason"] == "max_steps"
    assert run.kinds().count("step started") == run.kinds().count("step completed") == 3
    assert run.kinds().count("tool_result") == 3


async def test_more_than_fifty_steps_are_possible():
    async def stream(messages, info):
        if len(messages) < 110:
            yield {0: DeltaToolCall(name="add", json_args='{"a": 1, "b": 2}', tool_call_id=f"c{len(messages)}")}
        else:
            yield "done"

    model = FunctionModel(stream_function=stream)
    result, _ = await execute(agent(tools=tools("add"), max_steps=100), model=model)
    assert result["output"] == "done"
    assert "stop_reason" not in result


async def test_output_type_gives_data_beside_the_text():
    result, _ = await execute(
        agent(output_type=f"{HERE}.Answer"), model=TestModel(custom_output_args={"city": "Oslo", "degrees": 3})
    )
    assert result["data"] == {"city": "Oslo", "degrees": 3}
    assert json.loads(result["output"]) == result["data"]


# What the model is given


async def test_earlier_turns_instructions_and_settings_reach_the_model():
    model, seen = saying("ok")
    await execute(
        agent(instructions="Be brief.", temperature=0.2, max_tokens=77),
        "now",
        model,
        messages=[
            {"role": "system", "content": "sys"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "v"},
        ],
    )
    messages, info = seen[0]
    assert info.instructions == "Be brief."
    assert (info.model_settings["temperature"], info.model_settings["max_tokens"]) == (0.2, 77)
    parts = [(type(part).__name__, part.content) for message in messages for part in message.parts]
    assert parts == [
        ("SystemPromptPart", "sys"),
        ("UserPromptPart", "u"),
        ("TextPart", "v"),
        ("UserPromptPart", "now"),
    ]


async def test_absent_settings_are_not_sent():
    model, seen = saying("ok")
    await execute(agent(), model=model)
    # max_retries is for the provider's library alone.
    assert set(seen[0][1].model_settings) == {"max_retries"}


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "robot", "content": "x"}, r"messages\.0\.role: 'robot'"),
        ({"content": "x"}, r"messages\.0\.role: None"),
        ({"role": "user"}, r"messages\.0\.content"),
    ],
)
async def test_a_wrong_turn_is_named(turn, message):
    with pytest.raises(ConfigurationError, match=message):
        await execute(agent(), messages=[turn])


@pytest.mark.parametrize(
    ("configured", "override", "asked"),
    [("anthropic:c", None, "anthropic:c"), ("anthropic:c", "gpt-4o", "gpt-4o"), (None, None, "openai:gpt-4o")],
)
async def test_the_payloads_model_overrides_the_agents(configured, override, asked):
    names = []
    config = {"name": "a"} | ({"model": configured} if configured else {})
    run = Run(config, input="x", model=override)
    await AgentRuntime(config, GUARD, resolve=lambda name: names.append(name) or TestModel()).run(run.context)
    assert names == [asked]


async def test_runs_of_one_configuration_share_an_agent_and_each_has_its_own_model(monkeypatch):
    built = []
    init = Agent.__init__
    monkeypatch.setattr(
        Agent, "__init__", lambda self, *args, **options: built.append(1) or init(self, *args, **options)
    )
    models = {"one": saying("first")[0], "two": saying("second")[0]}
    runtime = AgentRuntime(agent(), GUARD, resolve=models.__getitem__)
    runs = [Run(agent(), input="x", model=name) for name in models]
    results = await asyncio.gather(*(runtime.run(run.context) for run in runs))
    assert [result["output"] for result in results] == ["first", "second"]
    assert [run.text for run in runs] == ["first", "second"]
    assert len(built) == 1


# What can never succeed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"agent_config\.name: Field required"),
        (agent(max_steps=0), r"agent_config\.max_steps: Input should be greater than or equal to 1"),
        (agent(temperature="warm"), r"agent_config\.temperature"),
        (agent(tools="x"), r"agent_config\.tools: Input should be a valid list"),
        (agent(handoffs=[{"model": "test"}]), r"agent_config\.handoffs\.0\.name: Field required"),
        (agent(tools=tools("missing")), r"targets\.missing"),
        (agent(tools=tools("Answer")), "not a function"),
        (
            agent(tools=tools("A_NUMBER")),
            "'.*A_NUMBER' refused: it is no function or class but a value of the type int$",
        ),
        (agent(output_type=f"{HERE}.A_PATH"), "it is no function or class but a value of the type PosixPath$"),
        (
            agent(tools=tools("its_own")),
            "'.*its_own' refused: it is Python's own .module builtins.; name a function of yours that calls it",
        ),
        (agent(tools=tools("CALLABLE")), "is not a function but an object of the class Called$"),
        (agent(tools=tools("yields")), "'.*yields' yields; a tool returns"),
        (agent(tools=tools("yields_later")), "'.*yields_later' yields; a tool returns"),
        (
            agent(tools=tools("annotated_wrongly")),
            "'.*wrongly' cannot be offered to a model: NameError: name 'Nope' is not",
        ),
        (
            agent(tools=tools("takes_a_lock")),
            "'.*takes_a_lock' cannot be offered to a model: .*<class 'asyncio.locks.Lock'>",
        ),
        (agent(tools=tools("add", "add")), "only tool named 'add'"),
        (agent(output_type=f"{HERE}.add"), "not a class"),
        ({"agents": []}, r"agent_config\.agents: List should have at least 1 item"),
        ({"agents": [agent(), agent()]}, "different names"),
        ({"agents": [agent()], "mode": "chaos"}, r"agent_config\.mode"),
        ({"agents": [agent()], "flow": "a >> b"}, r"agent_config\.flow: 'b'"),
        ({"agents": [agent()], "flow": "a >> (a |)"}, r"agent_config\.flow: ''"),
    ],
)
def test_a_wrong_configuration_names_field_and_rule(config, message):
    with pytest.raises(ConfigurationError, match=message):
        AgentRuntime(config, GUARD)


async def test_a_class_that_no_answer_can_fit_fails_the_task_at_once():
    with pytest.raises(ConfigurationError, match=r"output_type: '.*Called' cannot be asked of a model: .*Called'>"):
        await execute(agent(output_type=f"{HERE}.Called"))


def nested(depth, key, agents=False):
    config = agent("leaf")
    for _ in range(depth):
        config = {"agents": [config]} if agents else agent(**{key: [config]})
    return config


@pytest.mark.parametrize("depth", [300, 100_000])
@pytest.mark.parametrize("agents", [False, True])
def test_agents_nested_without_end_are_a_configuration_error(depth, agents):
    with pytest.raises(ConfigurationError) as caught:
        AgentRuntime(nested(depth, "handoffs", agents), GUARD)
    assert len(str(caught.value)) < 1000


def test_handoffs_in_a_circle_are_a_configuration_error():
    config = agent()
    config["handoffs"] = [config]
    with pytest.raises(ConfigurationError, match="handoffs"):
        AgentRuntime(config, GUARD)


@pytest.mark.parametrize("depth", [100_000])
@pytest.mark.parametrize("key", ["instructions", "tools", "output_type", "agents", "options", "temperature"])
def test_a_field_nested_without_end_is_refused_or_ignored(depth, key):
    value = "x"
    for _ in range(depth):
        value = [value]
    with contextlib.suppress(ConfigurationError):
        AgentRuntime(agent(**{key: value}), GUARD)


def test_a_tool_that_is_not_allowed_is_refused():
    with pytest.raises(ImportRefusedError, match=r"os\.system.*--allow-import os .*--app os"):
        AgentRuntime(agent(tools=["os.system"]), GUARD)


# Cancelling


async def test_cancelling_passes_through_at_once_and_sets_the_token():
    run = Run(agent(tools=tools("sleeps")), input="x")
    task = asyncio.create_task(AgentRuntime(agent(tools=tools("sleeps")), GUARD).run(run.context))
    await wait_until(lambda: "sleeping" in targets.SEEN)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 40
    assert run.context.cancelled


def test_an_abandoned_tool_does_not_keep_the_process_from_ending():
    code = """
import asyncio, sys
from orbiter.distributed.runtimes.agent import AgentRuntime
from tests.unit.runtimes import targets
from tests.unit.runtimes.support import GUARD, HERE, Run, agent, execute, failing
async def main():
    config = {"name": "a", "model": "test", "tools": [f"{HERE}.sleeps"]}
    task = asyncio.create_task(AgentRuntime(config, GUARD).run(Run(config, input="x").context))
    while not targets.SEEN:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
asyncio.run(main())
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=99, env=environment(PYTHONPATH=":".join(sys.path)))
    assert time.monotonic() - started < 60


async def test_cancelling_a_model_that_is_speaking_passes_through():
    async def stream(messages, info):
        yield "first"
        await asyncio.sleep(60)
        yield "never"

    run = Run(agent(), input="x")
    runtime = AgentRuntime(agent(), GUARD, resolve=lambda _: FunctionModel(stream_function=stream))
    task = asyncio.create_task(runtime.run(run.context))
    await wait_until(lambda: run.text)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 40)
    assert run.text == "first"


def test_the_registry_finds_it_for_a_config_without_runtime():
    run = Run(agent(), input="x")
    assert isinstance(runtime_for(run.context.payload, GUARD), AgentRuntime)
