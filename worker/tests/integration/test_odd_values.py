"""Values of user code that JSON has no form for: one clear failure, not repeated, of nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orbiter.distributed.broker.dead_letters import DeadLetters
from orbiter.distributed.models import InvalidPayloadError, TaskPayload, TaskResult, TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, working
from tests.integration.odd_jobs import ERRORS, HALVES, VALUES
from tests.support import wait_until

HERE = "tests.integration.odd_jobs"


def config(job: str) -> dict[str, Any]:
    return {"runtime": "callable", "target": f"{HERE}:{job}", "name": job}


async def ended(fleet: Fleet, jobs: list[TaskPayload], **options: Any) -> dict[str, TaskResult]:
    """Run these in a worker that retries; return how they ended, by task id. All invariants hold."""
    async with working(fleet, concurrency=4, **options):
        ids = await fleet.broker.submit_many(jobs)
        tasks = await fleet.all_end(ids, 90)
    await fleet.check_invariants(ids)
    return {task.task_id: task for task in tasks}


async def test_a_result_that_is_not_json_fails_its_task_at_once(fleet: Fleet) -> None:
    jobs = [TaskPayload(agent_config=config("returns"), input=kind, task_id=kind) for kind in VALUES]
    tasks = await ended(fleet, jobs)
    found = {kind: (task.status, task.attempt, task.error_type) for kind, task in tasks.items()}
    assert found == dict.fromkeys(VALUES, (TaskStatus.FAILED, 1, "ConfigurationError"))
    assert [task.error for task in tasks.values() if "not JSON" not in (task.error or "")] == []


async def test_half_a_surrogate_pair_in_a_result_is_the_replacement_character(fleet: Fleet) -> None:
    jobs = [TaskPayload(agent_config=config("returns"), input=kind, task_id=kind) for kind in HALVES]
    tasks = await ended(fleet, jobs)
    assert {task.status for task in tasks.values()} == {TaskStatus.COMPLETED}
    half = "a\ufffd"
    assert tasks["text"].result == {"output": half}
    assert tasks["list"].result == {"output": json.dumps([half]), "data": [half]}
    assert tasks["key"].result == {"output": json.dumps({half: [half]}), "data": {half: [half]}}
    assert tasks["output"].result == {"output": half, half: 1}
    assert tasks["key beside an object"].result is not None
    assert tasks["key beside an object"].result["data"] == {half: "2026-01-02T00:00:00Z"}


async def test_an_event_that_is_not_json_is_an_error_event_in_its_place(fleet: Fleet) -> None:
    kinds = [*VALUES, "text", "list", "key"]
    jobs = [TaskPayload(agent_config=config("emits_values"), input=kind, task_id=kind) for kind in kinds]
    tasks = await ended(fleet, jobs)
    assert {(task.status, task.attempt) for task in tasks.values()} == {(TaskStatus.COMPLETED, 1)}
    for kind in tasks:
        assert [event.type for event in await fleet.events(kind)] == [
            *("text", "tool_result" if kind in HALVES else "error", "text", "status")
        ], kind
    for _, fields in await fleet.client.xrange(keys.stream("infinity")):
        json.loads(fields["event"], parse_constant=pytest.fail)


async def test_text_that_is_streamed_in_halves_is_whole(fleet: Fleet) -> None:
    [task] = (await ended(fleet, [TaskPayload(agent_config=config("emits_halves"))])).values()
    said = "".join(event.text for event in await fleet.events(task.task_id) if event.type == "text")
    assert (task.result, said) == ({"output": "\U0001f680a\ufffd"}, "\U0001f680a\ufffd")


async def test_an_error_text_that_is_no_unicode_is_recorded(fleet: Fleet) -> None:
    [task] = (await ended(fleet, [TaskPayload(agent_config=config("raises_half"), max_retries=0)])).values()
    assert (task.status, task.error_type, task.error) == (TaskStatus.FAILED, "RuntimeError", "a?")


async def test_a_pause_that_is_no_number_is_none(fleet: Fleet) -> None:
    [task] = (await ended(fleet, [TaskPayload(agent_config=config("asks_oddly"))])).values()
    assert (task.status, task.attempt, task.retries) == (TaskStatus.COMPLETED, 2, 1)
    assert (task.losses, task.crashes) == (0, 0)


async def test_a_task_of_a_foreign_client_with_half_a_surrogate_pair_runs(fleet: Fleet) -> None:
    half = "a\ud83d"
    fields = {"task_id": "t", "agent_config": config("says_halves"), "input": half, "metadata": {"m": half}}
    payload = json.dumps({**fields, "messages": [{"role": "user", "content": half}]})
    async with working(fleet):
        await fleet.client.xadd(QUEUE, {"payload": payload})
        task = await fleet.ends("t")
    assert (task.status, task.result) == (TaskStatus.COMPLETED, {"output": "a\ufffd" * 3})


async def test_a_model_gets_what_a_tool_gave_or_why_it_cannot(fleet: Fleet) -> None:
    agent = {"name": "a", "model": "test", "tools": [f"{HERE}.tool_of_halves", f"{HERE}.tool_of_no_value"]}
    [task] = (await ended(fleet, [TaskPayload(agent_config=agent)])).values()
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1), task.error
    assert task.result is not None
    assert "a\ufffd" in task.result["output"]
    assert "what the tool gave is not JSON" in task.result["output"]


async def test_a_tool_can_neither_end_the_stream_nor_emit_what_is_no_event(fleet: Fleet) -> None:
    agent = {"name": "a", "model": "test", "tools": [f"{HERE}.tool_that_emits"]}
    [task] = (await ended(fleet, [TaskPayload(agent_config=agent)])).values()
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1), task.error
    assert task.result is not None
    assert "neither an event nor a string" in task.result["output"]


PLACES = ("result", "data", "event", "text", "emit", "error", "yield")


def odd_task(kind: str, place: str) -> TaskPayload:
    job = {"result": "returns", "yield": "yields"}.get(place, "places")
    return TaskPayload(
        agent_config=config(job), input=kind, task_id=f"{place} {kind}", metadata={"place": place}, max_retries=1
    )


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_no_value_anywhere_costs_more_than_its_own_task(fleet: Fleet, isolation: str) -> None:
    jobs = [odd_task(kind, place) for place in PLACES for kind in VALUES | HALVES]
    near = [TaskPayload(agent_config=config("counts_in_own_loop"), metadata={"numbers": 1}) for _ in range(20)]
    tasks = await ended(fleet, [*jobs, *near], isolation=isolation)
    lost = {task.task_id: task.last_loss for task in tasks.values() if task.losses or task.crashes}
    assert lost == {}
    assert {tasks[job.task_id].status for job in near} == {TaskStatus.COMPLETED}
    # What no other run can mend is not run again; an error of user code is.
    assert {job.task_id for job in jobs if tasks[job.task_id].attempt > 1} == {
        job.task_id for job in jobs if job.metadata["place"] == "error"
    }
    for place in ("result", "data"):
        refused = [tasks[f"{place} {kind}"] for kind in VALUES]
        assert {(task.status, task.error_type) for task in refused} == {(TaskStatus.FAILED, "ConfigurationError")}
        assert [task.error for task in refused if "not JSON" not in (task.error or "")] == []
        assert {tasks[f"{place} {kind}"].status for kind in HALVES} == {TaskStatus.COMPLETED}
    for task in tasks.values():
        for _, fields in await fleet.client.xrange(keys.stream(task.task_id)):
            # As strict readers have it, which follow a hundred levels.
            event = json.loads(fields["event"], parse_constant=pytest.fail)
            assert event == json.loads(json.dumps(event).encode("utf-8"))
            fields["event"].encode("ascii")


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_an_error_of_an_odd_class_fails_its_task(fleet: Fleet, isolation: str) -> None:
    jobs = [
        TaskPayload(agent_config=config("raises_oddly"), input=kind, task_id=kind, max_retries=0) for kind in ERRORS
    ]
    tasks = await ended(fleet, jobs, isolation=isolation)
    assert {task.status for task in tasks.values()} == {TaskStatus.FAILED}
    assert {kind: tasks[kind].error_type for kind in ERRORS} == {
        "line in the name": "E\n<0>kernel",
        "long name": "E" * 200,
        "name that raises": "Own",
    }
    assert {(task.losses, task.crashes) for task in tasks.values()} == {(0, 0)}


@pytest.mark.parametrize("place", ["metadata", "messages", "agent_config"])
async def test_a_task_that_is_not_json_is_refused_where_it_is_submitted(fleet: Fleet, place: str) -> None:
    for make in VALUES.values():
        fields = {"x": make()}
        task = TaskPayload(task_id="t").model_copy(update={place: [fields] if place == "messages" else fields})
        with pytest.raises(InvalidPayloadError, match="task t: not JSON"):
            await fleet.broker.submit(task)
    assert await fleet.client.xlen(QUEUE) == 0
    assert not await fleet.client.exists(keys.task("t"))


async def test_a_foreign_task_with_a_number_that_is_none_is_a_dead_letter(fleet: Fleet) -> None:
    async with working(fleet):
        for number, text in enumerate(("NaN", "-Infinity", "[" * 250 + "]" * 250, "9" * 5000)):
            payload = json.dumps({"task_id": f"t{number}", "agent_config": config("says_halves")})
            await fleet.client.xadd(QUEUE, {"payload": payload[:-1] + f', "metadata": {{"x": {text}}}}}'})
        letters = DeadLetters(fleet.url, client=fleet.client)

        async def buried() -> bool:
            return await letters.count() == 4

        await wait_until(buried, 30)
    assert {letter.error_type async for letter in letters.newest()} == {"InvalidPayloadError"}
