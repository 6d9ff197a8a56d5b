"""How much a task may ask for: counted before it costs anything, and refused by name."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from orbiter.distributed.errors import ConfigurationError, TaskLimitError
from orbiter.distributed.models import InvalidPayloadError, TaskPayload
from orbiter.distributed.runtimes.agent import AgentRuntime
from orbiter.distributed.runtimes.imports import ImportGuard
from orbiter.distributed.runtimes.task_limits import TaskLimits
from orbiter.distributed.settings import WorkerSettings
from tests.support import cost
from tests.unit.runtimes.support import agent, execute

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = TaskLimits()
# Of what reading a middling piece of JSON takes.
CHEAP = 12
MANY = [{"name": f"a{number}", "model": "test"} for number in range(50_000)]


def started(config: dict[str, Any], **limits: Any) -> AgentRuntime:
    return AgentRuntime(config, ImportGuard(["tests"], limits=TaskLimits(**limits)))


def memory(work: Callable[[], object]) -> int:
    """Return the most bytes that some work has at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refusal(error: type[Exception], config: dict[str, Any]) -> str:
    """Return the error of a configuration that is refused."""
    with pytest.raises(error) as caught:
        started(config)
    return str(caught.value)


def nested(depth: int) -> dict[str, Any]:
    config = agent("a0")
    for number in range(1, depth):
        config = agent(f"a{number}", handoffs=[config])
    return config


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"agents": MANY}, "--max-agents (ORBITER_MAX_AGENTS)"),
        ({"agents": [1] * 50_000}, "--max-agents"),
        (agent(handoffs=MANY), "--max-agents"),
        (agent(handoffs=[agent("b", handoffs=MANY[:30]), agent("c", handoffs=MANY[30:60])]), "--max-agents"),
        (nested(51), "--max-agents"),
        ({"agents": MANY[:2], "flow": " >> ".join(["a0"] * 150_000)}, "--max-steps (ORBITER_MAX_STEPS)"),
        ({"agents": MANY[:1], "flow": f"({'|'.join(['a0'] * 5000)})"}, "--max-steps"),
        ({"agents": MANY[:2], "flow": " >> ".join(["a0"] * 150_000), "mode": "handoff"}, "--max-steps"),
        (agent(max_steps=101), "--max-steps"),
        (agent(max_steps=10**300), "--max-steps"),
        (agent(handoffs=[agent("b", max_steps=101)]), "--max-steps"),
        ({"agents": MANY[:2], "mode": "handoff", "max_handoffs": 101}, "--max-steps"),
    ],
)
def test_configuration_that_asks_for_too_much_is_refused_at_little_cost(config, option):
    said = refusal(TaskLimitError, config)
    assert option in said
    assert len(said) < 500
    # Fifty thousand agents took a minute.
    assert cost(lambda: refusal(TaskLimitError, config), CHEAP) <= CHEAP
    assert memory(lambda: refusal(TaskLimitError, config)) < 20_000_000


def test_configuration_within_the_limits_runs():
    started({"agents": MANY[:50]})
    started({"agents": MANY[:10], "flow": " >> ".join(["(a1 | a2)"] * 50)})
    started(agent(max_steps=100))
    started(nested(50))


def test_workflow_without_a_flow_runs_each_agent_which_counts():
    with pytest.raises(TaskLimitError, match="--max-steps"):
        started({"agents": MANY[:21]}, steps=20)
    started({"agents": MANY[:21], "mode": "team"}, steps=20)


async def test_default_number_of_steps_fits_a_lower_limit(monkeypatch):
    """Who asks for nothing gets what there is."""
    monkeypatch.setattr("tests.unit.runtimes.support.GUARD", ImportGuard(["tests"], limits=TaskLimits(steps=1)))
    result, _ = await execute(agent(tools=["tests.unit.runtimes.targets.add"]))
    assert result["stop_reason"] == "max_steps"
    with pytest.raises(TaskLimitError):
        started(agent(max_steps=11), steps=9)


def test_task_that_asks_for_too_much_time_or_too_many_retries_is_refused():
    for fields, option in (
        ({"timeout_seconds": 3600.5}, "--max-task-timeout (ORBITER_MAX_TASK_TIMEOUT)"),
        ({"timeout_seconds": 1e300}, "--max-task-timeout"),
        ({"max_retries": 21}, "--max-task-retries (ORBITER_MAX_TASK_RETRIES)"),
        ({"max_retries": 1000, "timeout_seconds": 0.01}, "--max-task-retries"),
    ):
        with pytest.raises(TaskLimitError) as caught:
            LIMITS.fitted(TaskPayload(**fields))
        assert option in str(caught.value)
        assert next(iter(fields)) in str(caught.value)
    task = TaskPayload(timeout_seconds=3600, max_retries=20)
    assert LIMITS.fitted(task) is task


def test_default_time_fits_a_shorter_limit():
    limits = TaskLimits(timeout=60)
    assert limits.fitted(TaskPayload()).timeout_seconds == 60
    assert limits.fitted(TaskPayload(timeout_seconds=59)).timeout_seconds == 59
    with pytest.raises(TaskLimitError):
        limits.fitted(TaskPayload(timeout_seconds=61))


def test_retries_that_every_task_gets_a_task_may_ask_for():
    limits = TaskLimits.of(WorkerSettings.of(max_retries=40))
    limits.fitted(TaskPayload(max_retries=40))
    with pytest.raises(TaskLimitError):
        limits.fitted(TaskPayload(max_retries=41))


ODD = ["-1", "0", "1e400", "NaN", "Infinity", "-Infinity", '"inf"', '"soon"', "null", "[]", "9" * 5000]


@pytest.mark.parametrize("seconds", ODD)
def test_time_that_is_none_is_refused(seconds):
    with pytest.raises(InvalidPayloadError):
        TaskPayload.from_json(f'{{"task_id": "x", "timeout_seconds": {seconds}}}')


# Each a million bytes, the most that a worker reads.
COSTLY = {
    "agents": json.dumps({"task_id": "x", "agent_config": {"agents": MANY[:20_000]}}),
    "messages that are none": '{"task_id": "x", "messages": [' + ",".join("1" * 490_000) + "]}",
    "empty messages": '{"task_id": "x", "messages": [' + ",".join(["{}"] * 320_000) + "]}",
    "empty lists": '{"task_id": "x", "metadata": {"a": [' + ",".join(["[]"] * 320_000) + "]}}",
    "keys": '{"task_id": "x", "metadata": {' + ",".join(f'"{key}":{{}}' for key in range(80_000)) + "}}",
    "deep": '{"task_id": "x", "metadata": ' + "[" * 490_000 + "]" * 490_000 + "}",
    "half pairs": '{"task_id": "x", "input": "' + "\\ud83d" * 160_000 + '"}',
    "digits": '{"task_id": "x", "metadata": {"a": ' + "1" * 980_000 + "}}",
}


@pytest.mark.parametrize("what", COSTLY)
def test_reading_a_task_is_cheap_whatever_it_is(what):
    """The supervisor does it, between heartbeats: it takes a tenth of a second; half a million findings took four."""
    text = COSTLY[what]

    def read() -> None:
        try:
            LIMITS.fitted(TaskPayload.from_json(text))
        except InvalidPayloadError as error:
            assert len(str(error)) < 1000

    assert cost(read, CHEAP) <= CHEAP
    assert memory(read) < 60_000_000


@pytest.mark.parametrize(
    "tools",
    [
        ["tests.unit.runtimes.targets.add"] * 300_000,
        [1] * 300_000,
        ["tests." + "a." * 200_000 + "b"],
    ],
    ids=["the same", "none", "long"],
)
def test_tools_are_refused_at_little_cost_however_many(tools):
    config = agent(tools=tools)
    assert len(refusal(ConfigurationError, config)) < 1000
    assert cost(lambda: refusal(ConfigurationError, config), CHEAP) <= CHEAP
    assert memory(lambda: refusal(ConfigurationError, config)) < 60_000_000
