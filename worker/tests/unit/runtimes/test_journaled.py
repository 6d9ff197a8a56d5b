"""A second run of a task is told what the first one finished: nothing is asked for or called again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic_ai import messages as ai
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from orbiter.distributed.runtimes.agent import AgentRuntime
from tests.unit.runtimes.support import GUARD, Run, agent


class Notebook:
    """Keeps steps as JSON, for one run after the other."""

    checkpoint = None

    def __init__(self, steps: dict[str, str]) -> None:
        self.steps = steps
        self._scopes: dict[str, int] = {}

    def scope(self, name: str) -> str:
        self._scopes[name] = self._scopes.get(name, 0) + 1
        return f"{name} {self._scopes[name]}"

    def replay(self, key: str) -> Any:
        return json.loads(self.steps[key]) if key in self.steps else None

    async def append(self, key: str, value: Any) -> None:
        assert key not in self.steps
        self.steps[key] = json.dumps(value)

    def save(self, checkpoint: Any) -> None:
        raise NotImplementedError


class Script:
    """A model that calls tools as told, then answers; counts how often it is asked."""

    def __init__(self, *tools: str) -> None:
        self.asked = 0
        self.tools = tools
        self.model = FunctionModel(stream_function=self._stream)

    async def _stream(self, messages, info):
        self.asked += 1
        offered = [tool.name for tool in info.function_tools]
        wanted = [name for name in offered if not self.tools or name in self.tools]
        done = any(isinstance(message, ai.ModelResponse) for message in messages)
        if wanted and not done:
            arguments = {"task": "t"} if wanted[0].startswith("delegate") else {"a": 1, "b": 2}
            calls = {
                n: DeltaToolCall(name, json.dumps(arguments), tool_call_id=f"c{n}") for n, name in enumerate(wanted)
            }
            yield calls
        else:
            yield "said "
            yield info.instructions or "it"


async def run(config: dict[str, Any], script: Script, steps: dict[str, str]) -> tuple[dict[str, Any], Run]:
    started = Run(config, input="go", detailed=True)
    context = replace(started.context, journal=Notebook(steps))
    return await AgentRuntime(config, GUARD, resolve=lambda _: script.model).run(context), started


CONFIGS = {
    "tool": agent(tools=["tests.integration.jobs.add"]),
    "workflow": {"agents": [agent("a"), agent("b", instructions="B"), agent("c")], "flow": "(a | b) >> c"},
    "handoff": agent("a", handoffs=[agent("b")]),
    "team": {"agents": [agent("lead"), agent("b", instructions="B"), agent("c", instructions="C")], "mode": "team"},
}


@pytest.mark.parametrize("name", CONFIGS)
async def test_what_a_run_finished_is_not_repeated(name: str) -> None:
    steps: dict[str, str] = {}
    first, second = Script(), Script()
    result, told = await run(CONFIGS[name], first, steps)
    again, told_again = await run(CONFIGS[name], second, steps)
    assert again == result
    assert (first.asked > 0, second.asked) == (True, 0)
    assert told_again.kinds() == told.kinds()
    # Each answer was paid by the run that asked for it.
    assert (len(told.spent), told_again.spent) == (first.asked, [])
    assert all(model.startswith("function:") and tokens_out > 0 for model, _, _, tokens_out in told.spent)
    # Agents that run at the same time may say it in another order.
    assert sorted(told_again.text) == sorted(told.text)


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_run_goes_on_wherever_the_one_before_was_lost(name: str) -> None:
    """Cut after every step: the number of questions asked in all is that of one run."""
    steps: dict[str, str] = {}
    whole = Script()
    result, _ = await run(CONFIGS[name], whole, steps)
    questions = sum(" model " in key.rpartition(" > ")[2] for key in steps)
    assert whole.asked == questions
    keys = list(steps)
    for cut in range(len(keys)):
        known = {key: steps[key] for key in keys[:cut]}
        rest = Script()
        again, _ = await run(CONFIGS[name], rest, dict(known))
        assert again["output"] == result["output"], cut
        assert rest.asked == questions - sum(" model " in key.rpartition(" > ")[2] for key in known), cut
