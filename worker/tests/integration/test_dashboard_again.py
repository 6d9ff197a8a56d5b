"""A task is submitted again from its page, as it was or with changes, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed import TaskPayload, TaskStatus
from tests import keys
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.integration.dashboards import Browser, dashboard, read_fields

# What a field for text would not show, would change, or would take for the end of the page.
ODD = {
    "turned": "\u202egnp.exe\u2066",
    "ends": "one\r\ntwo\rthree\n",
    "first line": "\nempty line before",
    "unseen": "a\u200bb\x1b[31m\x7f\x85\u00a0\U000e0041",
    "page": "</textarea><script>alert(1)</script>{{ 7*7 }}",
    "plain": "ähnlich\n\t「日本」 😀",
}
NOTHING_NEW = {"task_id", "created_at", "not_before"}


async def payloads(client: Redis) -> dict[str, TaskPayload]:
    """Return all tasks that wait, by their ids."""
    rows = await client.xrange(QUEUE)
    found = [TaskPayload.from_json(fields["payload"]) for _, fields in rows]
    parked = await client.hgetall(keys.tagged(QUEUE, "parked"))
    return {task.task_id: task for task in [*found, *map(TaskPayload.from_json, parked.values())]}


async def test_a_failed_task_runs_again_with_changes(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, max_retries=0), dashboard(redis_url, allow_actions=True) as browser:
        old = await fleet.ends(await fleet.submit("fail", "first words", metadata={"customer": "c-1"}))
        assert f'href="/again?id={old.task_id}"' in await browser.text(f"/task?id={old.task_id}")
        form = await browser.filled(f"/again?id={old.task_id}")
        assert (form["input"], json.loads(form["metadata"])) == ("first words", {"customer": "c-1"})
        agent = json.loads(form["agent_config"])
        assert agent["target"] == "tests.integration.jobs:fail"
        agent["target"] = "tests.integration.jobs:echo"
        sent = await browser.post("/again", form | {"agent_config": json.dumps(agent), "input": "other\r\nwords"})
        new = form["task_id"]
        assert (sent.status_code, sent.headers["location"]) == (303, f"/task?id={new}")
        page = await browser.text(f"/task?id={new}")
        assert f"Task {new} is on queue {QUEUE}." in page
        done = await fleet.ends(new)
        assert (done.status, done.result) == (TaskStatus.COMPLETED, {"output": "other\nwords"})
        assert (await fleet.store.get_status(old.task_id)) == old
        actions = await browser.text("/actions")
        for text in (f'href="/task?id={new}"', "submit", f"like task {old.task_id}", "local", "127.0.0.1"):
            assert text in actions


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
async def test_what_is_not_changed_stays_as_it_was(fleet: Fleet, redis_client: Redis, text: str) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": text}],
        "metadata": {"a": [1.5, None, text], "trace_context": {"traceparent": "00-1-2-03"}},
        "timeout_seconds": 12.25,
        "max_retries": 0,
        "detailed": True,
        "model": "test",
        "not_before": 4e9,
    }
    task = job_payload("echo", text, **fields)
    task = task.model_copy(update={"agent_config": task.agent_config | {"name": text}})
    await fleet.broker.submit(task)
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(f"/again?id={task.task_id}")
        assert (await browser.post("/again", form)).status_code == 303
    found = await payloads(redis_client)
    assert set(found) == {task.task_id, form["task_id"]}
    again, was = found[form["task_id"]].model_dump(), task.model_dump()
    # The trace was the old task's, and its time is past.
    was["metadata"].pop("trace_context")
    assert {name for name in was if was[name] != again[name]} == NOTHING_NEW
    assert again["not_before"] is None


@pytest.mark.parametrize(
    ("field", "typed", "names"),
    [
        ("agent_config", "{", ["not JSON: line 1", "such as"]),
        ("agent_config", "[1]", ["must be a JSON object, not an array"]),
        ("agent_config", '{"modle": "test"}', ["agent_config.modle: unknown key", "did you mean model?"]),
        ("agent_config", '{"name": "a"}', ["agent_config.model", "required"]),
        ("agent_config", "[" * 50_000, ["not JSON"]),
        ("metadata", '{"a": NaN}', ["NaN is not a JSON number"]),
        ("metadata", "nothing", ["not JSON", "or nothing"]),
        ("messages", '["hello"]', ["must be a JSON array of objects", "role"]),
        ("timeout_seconds", "soon", ["number", "such as 300"]),
        ("timeout_seconds", "0", ["greater than 0", "such as 300"]),
        ("max_retries", "-1", ["greater than or equal to 0", "or nothing"]),
        ("not_before", "tomorrow", ["tomorrow", "2026-01-31T12:00"]),
        ("queue", "a b", ["a b", "name of a queue"]),
        ("task_id", "a" * 1000, ["Write another one"]),
    ],
)
async def test_what_breaks_a_rule_is_named_and_not_submitted(
    fleet: Fleet, redis_client: Redis, field: str, typed: str, names: list[str]
) -> None:
    task_id = await fleet.submit("echo", "words")
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(f"/again?id={task_id}")
        sent = await browser.post("/again", form | {"input": "typed, and not lost", field: typed})
        assert sent.status_code == 400
        alert = sent.text.partition('role="alert"')[2].partition("</p>")[0]
        for text in (field, *names):
            assert text in alert
        assert f'aria-describedby="{field}-help"' in sent.text.partition('aria-invalid="true"')[0].rpartition("<")[2]
        again = read_fields(sent.text)
        assert (again["input"], again[field]) == ("typed, and not lost", typed)
    assert set(await payloads(redis_client)) == {task_id}


async def test_an_input_that_was_json_is_still_that_after_an_error(fleet: Fleet, redis_client: Redis) -> None:
    task_id = await fleet.submit("echo", "a\u200bb")
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(f"/again?id={task_id}")
        assert form["input"] == '"a\\u200bb"'
        for wrong, said in (("a", "input: not JSON"), ("1", "input: must be a JSON string, not a number")):
            sent = await browser.post("/again", form | {"input": wrong})
            assert sent.status_code == 400
            assert said in sent.text
            assert read_fields(sent.text)["input"] == wrong
        form = read_fields((await browser.post("/again", form | {"metadata": "{"})).text) | {"metadata": ""}
        assert (await browser.post("/again", form)).status_code == 303
    assert (await payloads(redis_client))[form["task_id"]].input == "a\u200bb"


async def test_a_form_that_is_sent_twice_is_one_task(fleet: Fleet, redis_client: Redis) -> None:
    task_id = await fleet.submit("echo")
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(f"/again?id={task_id}")
        assert (await browser.post("/again", form)).status_code == 303
        sent = await browser.post("/again", form | {"input": "another"})
        assert sent.status_code == 400
        assert f"task {form['task_id']} exists already (pending)" in sent.text
        assert "exists already" in await browser.text("/actions")
        # Without an id it is a new one.
        sent = await browser.post("/again", form | {"task_id": ""})
        assert sent.status_code == 303
        third = sent.headers["location"].partition("=")[2]
    found = await payloads(redis_client)
    assert set(found) == {task_id, form["task_id"], third}
    assert found[form["task_id"]].input == ""


async def test_it_goes_to_the_queue_that_is_named(fleet: Fleet, redis_client: Redis) -> None:
    task_id = await fleet.submit("echo")
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(f"/again?id={task_id}")
        assert form["queue"] == QUEUE
        await browser.post("/again", form | {"queue": "orbiter:others"})
        assert "orbiter:others, which no worker reads yet" in await browser.text(f"/task?id={form['task_id']}")
    assert await redis_client.xlen("orbiter:others") == 1


async def test_what_is_gone_is_filled_in(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet), dashboard(redis_url, allow_actions=True) as browser:
        task_id = (await fleet.ends(await fleet.submit("echo", "words"))).task_id
        path = f"/again?id={task_id}"
        assert "What was submitted is gone" in await browser.text(path)
        form = await browser.filled(path)
        assert (form["input"], json.loads(form["agent_config"])) == ("", {"name": "echo", "model": ""})
        agent = job_payload("echo").agent_config
        await browser.post("/again", form | {"agent_config": json.dumps(agent), "input": "new words"})
        assert (await fleet.ends(form["task_id"])).result == {"output": "new words"}
        assert (await browser.get("/again?id=nobody")).status_code == 404
        assert (await browser.get("/again?id=" + "x" * 999)).status_code == 400


async def test_a_task_too_large_for_a_form_says_so(fleet: Fleet) -> None:
    small, large = [await fleet.submit("echo", "x" * length) for length in (200_000, 300_000)]
    async with dashboard(fleet.url, allow_actions=True) as browser:
        assert (await browser.post("/again", await browser.filled(f"/again?id={small}"))).status_code == 303
        page = await browser.text(f"/again?id={large}")
        assert "too large for a form" in page
        assert "<textarea" not in page


async def test_nobody_submits_who_may_only_read_or_comes_from_elsewhere(fleet: Fleet, redis_client: Redis) -> None:
    task_id = await fleet.submit("echo")
    path = f"/again?id={task_id}"
    async with dashboard(fleet.url) as browser:
        assert "/again" not in await browser.text(f"/task?id={task_id}")
        assert (await browser.get(path)).status_code == 403
        refused = await browser.post("/again", {"input": "x"})
        assert refused.status_code == 403
        # Not for want of a token: one from before a restart would be enough otherwise.
        assert "--allow-actions" in refused.text
    async with dashboard(fleet.url, allow_actions=True) as browser:
        form = await browser.filled(path)
        for fields, headers in (
            ({name: text for name, text in form.items() if name != "token"}, {}),
            (form | {"token": "0" * 64}, {}),
            (form, {"origin": "http://evil.example"}),
        ):
            assert (await browser.post("/again", fields, **headers)).status_code == 403
        async with Browser(browser.address) as other:
            await other.text("/fleet")
            assert (await other.post("/again", form)).status_code == 403
        # To look at the form, or to ask for it with all of its fields, submits nothing.
        await browser.get("/again", params=form)
    assert set(await payloads(redis_client)) == {task_id}
