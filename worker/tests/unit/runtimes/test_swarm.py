from __future__ import annotations

import asyncio
import json

import pytest
from pydantic_ai import exceptions
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from orbiter.distributed.errors import ConfigurationError
from orbiter.distributed.models import is_final
from tests.unit.runtimes.support import agent, execute, failing, replying


async def test_workflow_passes_outputs_on_and_never_ends_the_stream():
    config = {"agents": [agent("a"), agent("b")]}
    model = replying(lambda prompt, _: f"<{prompt}>")
    result, run = await execute(config, "x", model, detailed=True)
    assert (result["output"], result["final_output"]) == ("<x><<x>>", "<<x>>")
    assert not any(is_final(event) for event in run.events)
    messages = [event.message for event in run.events if event.type == "status" and event.status == "running"]
    assert messages == ["Workflow executing agent 'a'", "Workflow executing agent 'b'"]
    assert result["usage"]["total_tokens"] == sum(e.usage.total_tokens for e in run.events if e.type == "usage")


async def test_agents_in_parentheses_run_at_the_same_time():
    together = asyncio.Barrier(2)

    async def stream(messages, info):
        if info.instructions:
            await asyncio.wait_for(together.wait(), 60)
        yield info.instructions or messages[-1].parts[0].content

    config = {
        "agents": [agent("a", instructions="A"), agent("b", instructions="B"), agent("c")],
        "flow": "(a | b) >> c",
    }
    result, _ = await execute(config, "x", FunctionModel(stream_function=stream))
    assert result["final_output"] == "A\n\nB"


async def test_a_failure_among_parallel_agents_is_raised_as_itself():
    config = {"agents": [agent("a"), agent("b")], "flow": "(a | b)"}
    with pytest.raises(ConfigurationError, match="refused the credentials"):
        await execute(config, model=failing(exceptions.ModelHTTPError(401, "m")))


@pytest.mark.parametrize("swarm", [True, False])
async def test_an_answer_that_names_a_handoff_passes_the_input_on(swarm):
    helper = agent("helper", instructions="help")
    first = agent("first", handoffs=[helper])
    config = {"agents": [first, helper], "mode": "handoff"} if swarm else first
    model = replying(lambda prompt, instructions: f"helped {prompt}" if instructions else " helper\n")
    result, run = await execute(config, "x", model, detailed=True)
    assert result["final_output"] == "helped x"
    assert "Handoff from 'first' to 'helper'" in [e.message for e in run.events if e.type == "status"]


async def test_handoffs_are_limited():
    first, second = agent("a", handoffs=[agent("b")]), agent("b", instructions="b", handoffs=[agent("a")])
    config = {"agents": [first, second], "mode": "handoff", "max_handoffs": 3}
    model = replying(lambda _, instructions: "a" if instructions else "b")
    result, _ = await execute(config, "x", model)
    assert (result["output"], result["stop_reason"]) == ("baba", "max_handoffs")


async def test_a_team_lead_delegates_by_tools():
    config = {"agents": [agent("lead"), agent("data base"), agent("c")], "mode": "team"}
    result, run = await execute(config, detailed=True)
    called = [event.tool_name for event in run.events if event.type == "tool_call"]
    assert called == ["delegate_to_data_base", "delegate_to_c"]
    assert json.loads(result["final_output"]) == dict.fromkeys(called, "success (no tool calls)")
    assert not any(is_final(event) for event in run.events)


async def test_agents_that_a_lead_delegates_to_in_one_answer_run_at_the_same_time():
    together = asyncio.Barrier(2)

    async def stream(messages, info):
        if info.instructions:
            await asyncio.wait_for(together.wait(), 60)
            yield info.instructions
        elif len(messages) == 1:
            calls = [DeltaToolCall(name=f"delegate_to_{name}", json_args='{"task": "x"}') for name in "bc"]
            yield dict(enumerate(calls))
        else:
            yield "done"

    config = {"agents": [agent("lead"), agent("b", instructions="B"), agent("c", instructions="C")], "mode": "team"}
    result, _ = await execute(config, "x", FunctionModel(stream_function=stream))
    assert result["output"] in {"BCdone", "CBdone"}
