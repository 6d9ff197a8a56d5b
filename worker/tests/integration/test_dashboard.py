"""The dashboard shows a real fleet, follows it, and acts on it where that is allowed."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from starlette.datastructures import QueryParams

from orbiter.dashboard import pages
from orbiter.dashboard.passwords import hash_line
from orbiter.distributed import Client, TaskPayload, TaskStatus, Worker, alerts
from orbiter.distributed.broker.records import ended_score
from orbiter.distributed.client.operations import Operations
from orbiter.distributed.client.overview import Command, Overview
from orbiter.distributed.models import TextEvent
from tests import keys
from tests.fleet import Fleet, working
from tests.integration.dashboards import Browser, dashboard, events
from tests.integration.test_listings import calls, many
from tests.rights import RULES
from tests.servers import nothing_refused, plain_server
from tests.support import PATIENCE, slowness, wait_until

EVERY_PAGE = ("fleet", "queue", "tasks", "errors", "dead", "usage", "alerts", "actions")


async def test_every_page_says_what_to_do_on_an_empty_redis(redis_url: str) -> None:
    async with dashboard(redis_url) as browser:
        for name in EVERY_PAGE:
            page = await browser.text(f"/{name}")
            assert 'aria-current="page"' in page, name
            assert "None" not in page, name
        assert "orbiter start worker" in await browser.text("/fleet")
        assert "orbiter task submit" in await browser.text("/tasks")
        assert (await browser.get("/task?id=nobody")).status_code == 404


async def test_pages_show_workers_tasks_and_failures(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, max_retries=0, worker_id="w-shown"), dashboard(redis_url) as browser:
        done = await fleet.ends(await fleet.submit("say", "two words"))
        failed = await fleet.ends(await fleet.submit("fail", "this fails", metadata={"customer": "c-4711"}))
        assert "w-shown" in await browser.text("/fleet")
        listing = await browser.text("/tasks")
        assert done.task_id in listing
        assert failed.task_id in listing
        only = await browser.text("/tasks?status=failed")
        assert failed.task_id in only
        assert done.task_id not in only
        page = await browser.text(f"/task?id={done.task_id}")
        assert "two words" in page
        page = await browser.text(f"/task?id={failed.task_id}")
        for text in ("this fails", "c-4711", failed.error_type, "w-shown"):
            assert str(text) in page
        errors = await browser.text("/errors")
        assert str(failed.error_type) in errors
        assert f"error_type={failed.error_type}" in errors
        assert failed.task_id in await browser.text("/dead")


async def test_nothing_is_made_up_of_a_worker_whose_heartbeat_expired(redis_url: str, redis_client: Redis) -> None:
    await redis_client.zadd(keys.FLEET, {"gone": time.time() * 1000 - 100_000})
    async with dashboard(redis_url) as browser:
        row = (await browser.text("/fleet")).partition(">gone<")[2].partition("</tr>")[0]
    told = dict(re.findall(r'data-label="([^"]+)"[^>]*>(.*?)</td>', row, re.DOTALL))
    names = ("Slots", "Tasks", "Processes", "Memory", "Loop lag", "Release")
    assert {name: told[name] for name in names} == dict.fromkeys(names, "–")


async def test_the_queue_is_shown_over_time_with_its_deploys(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    async with dashboard(redis_url) as browser, aclosing(events(browser, "/live/queue?span=hour")) as stream:
        assert "Nothing was counted" in (await anext(stream))["data"]
        async with working(fleet, max_retries=0, worker_id="w1"):
            await fleet.all_end([*await fleet.submit_many("echo", 4), await fleet.submit("fail")])
            async with asyncio.timeout(10 * slowness()):
                async for event in stream:
                    if "5 started, 5 ended, 1 of these failed" in event["data"]:
                        break
        run = {"token": "t", "user": "anna", "controller": "laptop", "playbook": "<site>"}
        for outcome in ("began", "ended"):
            await redis_client.xadd("orbiter:deploys", run | {"outcome": outcome, "release": "0.2.0-1f2e3d4c"})
        for span in ("", "hour", "day"):
            page = await browser.text(f"/queue?span={span}")
            assert page.count('<svg class="plot"') == 3
            assert "&lt;site&gt; by anna: ended" in page
            assert "0.2.0-1f2e3d4c" in page
            assert "Nothing was counted" not in page
        assert (await browser.get("/queue?span=year")).status_code == 400


async def test_usage_is_shown_with_what_it_cost(redis_url: str, redis_client: Redis) -> None:
    today: Any = keys.tagged("orbiter:tasks", f"usage:{int(time.time()) // 86_400}")
    usage = {'["openai:gpt-4o","<a>"]': (1, 1_000_000, 0), '["openai:none-such","b"]': (2, 3, 4), "odd": (1, 1, 1)}
    for label, numbers in usage.items():
        for kind, number in zip(("requests", "input", "output"), numbers, strict=True):
            await redis_client.hset(today, f"{label} {kind}", str(number))
    async with dashboard(redis_url) as browser:
        for days in ("", "1", "30"):
            page = await browser.text(f"/usage?days={days}")
            assert "&lt;a&gt;" in page
            assert "$2.50" in page
            assert "price unknown to genai-prices" in page
            assert "without 7 tokens of unknown price" in page
        assert (await browser.get("/usage?days=8")).status_code == 400
        await redis_client.set(today.replace("usage", "old"), "x")
        await redis_client.rename(today.replace("usage", "old"), today)
        assert "No model has answered" in await browser.text("/usage")


@pytest.mark.parametrize(
    "case", [("usage", "bill"), ("queue", "draw"), ("task", "attempts_of"), ("live task", "attempts_of")], ids=" ".join
)
async def test_what_computes_for_long_does_not_count_as_silence_of_redis(
    fleet: Fleet, redis_url: str, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str]
) -> None:
    begun, others_answered = threading.Event(), threading.Event()
    page, compute = case[0], getattr(pages, case[1])

    def slowly(*given: Any, **named: Any) -> Any:
        begun.set()
        # In the event loop it would keep the others from answering.
        assert others_answered.wait(10 * pages.WITHIN)
        return compute(*given, **named)

    query = QueryParams(id=await fleet.submit("echo", not_before=4e9))
    monkeypatch.setattr(pages, case[1], slowly)
    monkeypatch.setattr(pages, "WITHIN", slowness())
    async with Client(redis_url) as client, dashboard(redis_url) as browser:
        name, live = page.removeprefix("live "), page.startswith("live ")
        reading = asyncio.create_task(pages.read(name, Overview(client), query, live=live))
        await wait_until(begun.is_set)
        until = time.monotonic() + 1.5 * pages.WITHIN
        while time.monotonic() < until:
            assert (await browser.get("/healthz")).status_code == 200
            await browser.text("/fleet")
        assert not reading.done()
        others_answered.set()
        assert (await reading)["page"] == name


async def test_prices_are_read_as_the_server_starts_and_nobody_waits_for_them(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()

    def load() -> None:
        begun.set()
        assert answered.wait(PATIENCE)

    monkeypatch.setattr("orbiter.dashboard.app.load", load)
    async with dashboard(redis_url) as browser:
        await wait_until(begun.is_set)
        await browser.text("/fleet")
        answered.set()


async def test_a_ring_and_deploys_of_another_type_hide_no_page(redis_url: str, redis_client: Redis) -> None:
    for name in (keys.tagged("orbiter:tasks", "minutes"), "orbiter:deploys"):
        await redis_client.set(name, "x")
    async with dashboard(redis_url) as browser:
        assert "Nothing was counted" in await browser.text("/queue")


async def test_filters_find_tasks_by_each_field(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, max_retries=0, worker_id="w1"):
        one = (await fleet.ends(await fleet.submit("echo"))).task_id
        other = (await fleet.ends(await fleet.submit("fail"))).task_id
    waiting = await fleet.submit("echo", not_before=4e9)
    found = {
        "": {one, other, waiting},
        "agent=echo": {one, waiting},
        "worker=w1": {one, other},
        "worker=w2": set(),
        "status=completed&agent=echo": {one},
        "status=completed&agent=fail": set(),
        "error_type=RuntimeError": {other},
        "error_type=ValueError": set(),
        "status=failed&agent=fail&error_type=RuntimeError": {other},
        "status=pending": {waiting},
        "queue=orbiter:tasks&status=failed": {other},
        "queue=elsewhere": set(),
        "since=2020-01-01T00:00": {one, other, waiting},
        "until=2020-01-01T00:00": set(),
        "status=failed&since=2020-01-01T00:00": {other},
        "status=failed&until=2020-01-01T00:00": set(),
    }
    async with dashboard(redis_url) as browser:
        for query, ids in found.items():
            page = await browser.text(f"/tasks?{query}")
            assert {task_id for task_id in (one, other, waiting) if task_id in page} == ids, query
        for query in (
            "status=nope",
            "since=yesterday",
            "queue=a b",
            "after=nonsense",
            "since=9999-12-31T23:59%2B99:00",
        ):
            assert (await browser.get(f"/tasks?{query}")).status_code == 400, query


async def test_alerts_show_every_rule_and_what_fires_now(fleet: Fleet, redis_url: str) -> None:
    def states(page: str) -> dict[str, str]:
        return {
            name: word
            for word, name in re.findall(r'state-\w+">(\w+)</span>.*?<small class="id">(\w+)</small>', page, re.DOTALL)
        }

    async with dashboard(redis_url) as browser, aclosing(events(browser, "/live/alerts")) as stream:
        shown = states((await anext(stream))["data"])
        assert set(shown) == {rule.name for rule in alerts.RULES}
        assert shown["dist_worker_count_critical"] == "critical"
        assert shown["dist_queue_depth_warning"] == "ok"
        await fleet.submit_many("echo", 101)
        async with asyncio.timeout(PATIENCE):
            while shown["dist_queue_depth_warning"] != "warning":
                shown = states((await anext(stream))["data"])
        # What fires stands above what does not.
        words = list(states(await browser.text("/alerts")).values())
        assert words == sorted(words, key=lambda word: word == "ok")
        assert shown["dist_queue_depth_critical"] == "ok"
        async with working(fleet), asyncio.timeout(PATIENCE):
            while {shown["dist_worker_count_critical"], shown["dist_queue_depth_warning"]} != {"ok"}:
                shown = states((await anext(stream))["data"])


async def test_pages_of_tasks_go_on_behind_each_other(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    # All of one millisecond: only their names tell them apart.
    await many(redis_client, 130)
    seen: list[str] = []
    async with dashboard(redis_url) as browser:
        for query in ("", "status=completed"):
            path, seen = f"/tasks?{query}", []
            while path:
                page = await browser.text(path)
                seen += [part.partition('"')[0] for part in page.split('href="/task?id=')[1:]]
                path = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
                # What comes in meanwhile moves nothing.
                await fleet.submit("echo")
            first = [name for name in seen if name.startswith("completed-")]
            assert len(first) == len(set(first)) == 130, query


@pytest.mark.alone
async def test_pages_look_at_a_window_whatever_the_number_of_tasks(redis_url: str, redis_client: Redis) -> None:
    await many(redis_client, 20_000)
    async with dashboard(redis_url) as browser:
        await browser.text("/fleet")
        await redis_client.config_resetstat()
        page = await browser.text("/tasks?agent=nobody")
        assert 'rel="next"' in page
        assert await calls(redis_client, "hmget") <= 1000
        await redis_client.config_resetstat()
        for name in EVERY_PAGE:
            await browser.text(f"/{name}")
        assert await calls(redis_client, "hgetall", "hmget") <= 200
        assert await calls(redis_client, "keys", "smembers") == 0
        began = time.monotonic()
        await browser.text("/tasks?agent=nobody&status=running")
        assert time.monotonic() - began < 2 * slowness()


async def test_a_page_changes_within_seconds_without_being_asked_again(fleet: Fleet, redis_url: str) -> None:
    async with dashboard(redis_url) as browser, aclosing(events(browser, "/live/tasks?")) as stream:
        first = await anext(stream)
        assert first["event"] == "page"
        task_id = await fleet.submit("echo")
        async with asyncio.timeout(10 * slowness()):
            async for event in stream:
                if task_id in event["data"]:
                    break
        again = events(browser, "/live/tasks?", **{"last-event-id": event["id"]})
        # The browser has seen this one: nothing comes before there is news.
        later = asyncio.create_task(anext(again))
        done, _ = await asyncio.wait({later}, timeout=2)
        assert not done
        other = await fleet.submit("echo")
        assert other in (await later)["data"]
        await again.aclose()


async def test_pages_are_made_once_however_many_follow(redis_url: str, redis_client: Redis) -> None:
    async with dashboard(redis_url) as browser:
        streams = [events(browser, f"/live/queue?n={number}") for number in range(40)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        await redis_client.config_resetstat()
        await asyncio.sleep(3)
        assert await calls(redis_client, "xinfo|groups", "exists") < 40
        for stream in streams:
            await stream.aclose()
        await wait_for_silence(redis_client)


async def test_a_page_that_could_not_be_made_says_so_and_comes_back(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> dict[str, Any]:
        raise KeyError("nobody thought of that")

    working_page = pages.LIVE["fleet"]
    async with dashboard(redis_url) as browser, aclosing(events(browser, "/live/fleet")) as stream:
        assert "No worker" in (await anext(stream))["data"]
        async with asyncio.timeout(PATIENCE):
            monkeypatch.setitem(pages.LIVE, "fleet", broken)
            assert "This should not happen" in (await anext(stream))["data"]
            monkeypatch.setitem(pages.LIVE, "fleet", working_page)
            assert "No worker" in (await anext(stream))["data"]


async def wait_for_silence(client: Redis) -> None:
    """Wait until nobody asks any more."""

    async def silent() -> bool:
        before = await calls(client, "zcard")
        await asyncio.sleep(2)
        return await calls(client, "zcard") == before

    await wait_until(silent)


async def test_events_come_as_they_happen_and_go_on_where_they_were(
    fleet: Fleet, redis_url: str, tmp_path: Path
) -> None:
    async with working(fleet), dashboard(redis_url) as browser:
        task_id = await fleet.submit("say", "one two three")
        async with asyncio.timeout(PATIENCE):
            found = [event async for event in events(browser, f"/task/events?id={task_id}")]
        assert "".join(event["data"] for event in found if event["event"] == "text").count("text") >= 1
        assert found[-1]["event"] == "end"
        rows = [event for event in found if event["event"] == "row"]
        assert "completed" in rows[-1]["data"]
        place = found[0]["id"]
        async with asyncio.timeout(PATIENCE):
            rest = [e async for e in events(browser, f"/task/events?id={task_id}", **{"last-event-id": place})]
        assert [event.get("id") for event in rest] == [event.get("id") for event in found[1:]]
        running = await fleet.submit("hold", metadata={"until": str(tmp_path / "go")})
        await fleet.runs(running)
        following = asyncio.create_task(collect(browser, f"/task/events?id={running}"))
        (tmp_path / "go").touch()
        async with asyncio.timeout(PATIENCE):
            assert (await following)[-1]["event"] == "end"


async def collect(browser: Any, path: str) -> list[dict[str, str]]:
    return [event async for event in events(browser, path)]


async def test_nobody_acts_unless_that_is_allowed(fleet: Fleet, redis_url: str) -> None:
    task_id = await fleet.submit("echo")
    async with dashboard(redis_url) as browser:
        assert "/confirm" not in await browser.text(f"/task?id={task_id}")
        assert (await browser.get(f"/confirm?what=cancel&id={task_id}")).status_code == 403
        refused = await browser.post("/act", {"what": "cancel", "id": task_id})
        assert refused.status_code == 403
        # Not for want of a token.
        assert "--allow-actions" in refused.text
    found = await fleet.store.get_status(task_id)
    assert found is not None
    assert found.status == TaskStatus.PENDING


async def test_tasks_are_cancelled_and_run_again(fleet: Fleet, redis_url: str) -> None:
    async with dashboard(redis_url, allow_actions=True) as browser:
        task_id = await fleet.submit("echo")
        sent = await browser.post("/act", await browser.form(f"/confirm?what=cancel&id={task_id}&back=/tasks"))
        assert (sent.status_code, sent.headers["location"]) == (303, "/tasks")
        assert "1 asked to end" in await browser.text("/tasks")
        assert (await fleet.ends(task_id)).status == TaskStatus.CANCELLED
        await browser.post("/act", await browser.form(f"/confirm?what=retry&id={task_id}"))
        async with working(fleet):
            assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED
        actions = await browser.text("/actions")
        assert actions.count(f'">{task_id}</a>') == 2
        for text in ("cancel", "retry", "local", "127.0.0.1"):
            assert text in actions


async def test_what_is_filtered_is_retried_as_many_as_was_shown(fleet: Fleet, redis_url: str) -> None:
    async with dashboard(redis_url, allow_actions=True) as browser:
        async with working(fleet, max_retries=0):
            failed = [(await fleet.ends(await fleet.submit("fail"))).task_id for _ in range(3)]
            await fleet.ends(await fleet.submit("echo"))
        path = "/confirm?what=retry&status=failed&agent=fail"
        assert "Retry 3 tasks?" in await browser.text(path)
        form = await browser.form(path)
        assert sorted(form["id"]) == sorted(failed)
        await browser.post("/act", form)
        for task_id in failed:
            found = await fleet.store.get_status(task_id)
            assert found is not None
            assert found.status == TaskStatus.PENDING
        assert "nothing to do" in await browser.text("/confirm?what=retry&agent=nobody")


async def test_a_bulk_begins_where_the_page_does_and_goes_on_until_it_is_full(
    fleet: Fleet, redis_url: str, redis_client: Redis
) -> None:
    now = int(time.time() * 1000)
    async with redis_client.pipeline(transaction=False) as pipeline:
        for number in range(2000):
            status = "failed" if number % 2 else "completed"
            record = {"status": status, "agent_name": "a", "queue": "orbiter:tasks", "attempt": 1}
            pipeline.hset(keys.task(f"t{number:04}"), mapping=record)
            pipeline.zadd(keys.BY_TIME, {f"t{number:04}": now - number})
        await pipeline.execute()
    async with dashboard(redis_url, allow_actions=True) as browser:
        page = await browser.text("/tasks?agent=a")
        older = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
        page = await browser.text(older)
        path = re.findall(r'href="(/confirm\?what=retry[^"]+)"', page)[0].replace("&amp;", "&")
        ids = (await browser.form(path))["id"]
        assert (len(ids), ids[0], ids[-1]) == (500, "t0051", "t1049")
    assert fleet


async def test_a_group_that_no_filter_is_for_is_not_retried(redis_url: str, redis_client: Redis) -> None:
    for number, (agent, kind) in enumerate([("a", "E"), ("a", ""), ("", "E"), ("a ", "E"), ("a" * 300, "E")]):
        record = {"status": "failed", "agent_name": agent, "error_type": kind, "completed_at": f"{time.time():.3f}"}
        await redis_client.hset(keys.task(f"t{number}"), mapping=record)
        await redis_client.zadd(keys.ENDED, {f"t{number}": ended_score(TaskStatus.FAILED, int(time.time() * 1000))})
    async with dashboard(redis_url, allow_actions=True) as browser:
        page = await browser.text("/errors")
        assert page.count("<tr><td") + page.count("<tr>\n    <td") == 5
        assert len(re.findall("/confirm|/tasks\\?status=failed", page)) == 2


async def test_a_task_shows_its_letter_among_many_and_what_fits_of_its_events(
    redis_url: str, redis_client: Redis
) -> None:
    now, dead = time.time(), keys.tagged("orbiter:tasks", "dead")
    record = {"status": "failed", "completed_at": f"{now:.3f}", "queue": "orbiter:tasks", "attempt": "1"}
    await redis_client.hset(keys.task("t1"), mapping=record)
    for number in range(1000):
        task_id = "t1" if number == 30 else f"x{number}"
        payload = TaskPayload(task_id=task_id, input=f"input of {task_id}").to_json()
        fields = {"task_id": task_id, "reason": "boom", "payload": payload}
        await redis_client.xadd(dead, fields, id=f"{int(now * 1000) - 500 + number}-0")
    for _ in range(40):
        await redis_client.xadd(keys.stream("t1"), {"event": TextEvent(text="y" * 1_000_000).to_json()})
    async with dashboard(redis_url) as browser, Client(redis_url) as client:
        assert "input of t1" in await browser.text("/task?id=t1")
        view = await Overview(client).task("t1")
        assert view is not None
        assert 1 <= len(view.events) <= 4
        assert 1 <= len(view.last) <= 4
        await redis_client.config_resetstat()
        async with aclosing(events(browser, "/live/task?id=t1")) as stream:
            assert "t1" not in (await anext(stream))["data"].partition("boom")[2]
        assert await calls(redis_client, "hmget", "hget") == 0, "what was submitted is on the page, which stays"


async def test_letters_are_read_once_for_all_that_are_retried(redis_url: str, redis_client: Redis) -> None:
    dead = keys.tagged("orbiter:tasks", "dead")
    for number in range(1000):
        record = {"status": "failed" if number % 2 else "cancelled", "queue": "orbiter:tasks", "attempt": "1"}
        await redis_client.hset(keys.task(f"t{number}"), mapping=record)
        payload = TaskPayload(task_id=f"t{number}").to_json()
        await redis_client.xadd(dead, {"task_id": f"t{number}", "reason": "boom", "payload": payload})
    await redis_client.hset(keys.task("none"), mapping={"status": "cancelled", "queue": "orbiter:tasks"})
    async with Client(redis_url) as client:
        await redis_client.config_resetstat()
        done = await Operations(client, Overview(client), who="anna", where="here").retry(
            [*(f"t{number}" for number in range(50)), "none"]
        )
    assert (done.done, done.refused) == (50, 1)
    assert await calls(redis_client, "xrevrange") <= 11


async def test_what_the_audit_cannot_take_is_done_and_said(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    ids = [await fleet.submit("echo") for _ in range(3)]
    await redis_client.set("orbiter:audit", "no stream")
    async with Client(redis_url) as client:
        operations = Operations(client, Overview(client), who="anna", where="here")
        done = await operations.cancel(ids)
        steered = await operations.steer("w1", Command.QUIET)
    assert (done.done, done.refused) == (3, 0)
    for message in (done.message, steered.message):
        assert "WRONGTYPE" in message


async def test_dead_letters_are_retried_and_dropped(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    async with working(fleet, max_retries=0):
        first, second = [(await fleet.ends(await fleet.submit("fail"))).task_id for _ in range(2)]
    letters = await redis_client.xrange(keys.tagged("orbiter:tasks", "dead"))
    ids = {fields["task_id"]: entry_id for entry_id, fields in letters}
    async with dashboard(redis_url, allow_actions=True) as browser:
        await browser.post("/act", await browser.form(f"/confirm?what=retry-letters&id={ids[first]}"))
        found = await fleet.store.get_status(first)
        assert found is not None
        assert found.status == TaskStatus.PENDING
        form = await browser.form("/confirm?what=drop-letters")
        assert form["id"] == [ids[second]]
        await browser.post("/act", form)
        assert await redis_client.xlen(keys.tagged("orbiter:tasks", "dead")) == 0
        assert "not found" in (await browser.post("/act", form, follow="")).text + await browser.text("/actions")


async def test_workers_are_told_to_be_quiet_to_resume_and_to_drain(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, worker_id="w1") as worker, dashboard(redis_url, allow_actions=True) as browser:
        for what, state in (("quiet", "quiet"), ("resume", "running"), ("drain", "stopped")):
            await browser.post("/act", await browser.form(f"/confirm?what={what}&id=w1"))
            await wait_until(lambda state=state: worker.state in {state, "draining"} or state == "stopped")
        assert (await browser.text("/actions")).count('<span class="id">w1</span>') == 3


async def test_a_redis_that_is_away_is_said_on_the_page(redis_url: str) -> None:
    async with dashboard("redis://127.0.0.1:1/0") as browser:
        for name in EVERY_PAGE:
            found = await browser.get(f"/{name}")
            assert found.status_code == 503, name
            assert "Redis cannot be asked" in found.text
        async with aclosing(events(browser, "/live/fleet?")) as stream:
            assert "Redis cannot be asked" in (await anext(stream))["data"]
    assert redis_url


async def test_programs_hear_whether_redis_can_be_asked(redis_url: str, redis_client: Redis) -> None:
    async with dashboard(redis_url) as browser:
        await browser.get("/healthz")
        before = (await redis_client.info("commandstats"))["cmdstat_ping"]["calls"]
        found = await asyncio.gather(*(browser.get("/healthz") for _ in range(50)))
        assert {(one.status_code, one.text) for one in found} == {(200, "ok\n")}
        # Many who ask at once are told what one was told.
        assert (await redis_client.info("commandstats"))["cmdstat_ping"]["calls"] - before <= 5
    async with dashboard("redis://127.0.0.1:1/0") as browser:
        assert (await browser.get("/healthz")).status_code == 503


async def test_a_payload_that_is_no_task_hides_no_page(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    odd = {"task_id": "odd", "status": "no status", "started_at": "soon", "result": "[1", "queue": "a b"}
    await redis_client.hset(keys.task("odd"), mapping=odd)
    await redis_client.set(keys.task("string"), "no hash")
    await redis_client.zadd(keys.BY_TIME, {"odd": 1, "string": 2, "index": 3, "gone": 4})
    task_id = await fleet.submit("echo")
    async with dashboard(redis_url) as browser:
        page = await browser.text("/tasks")
        for name in ("odd", "string", task_id):
            assert f'href="/task?id={name}"' in page
        assert "/task?id=gone" not in page
        for name in ("odd", "string"):
            await browser.text(f"/task?id={name}")


async def test_one_task_shows_what_was_submitted_wherever_it_is(fleet: Fleet, redis_url: str, tmp_path: Path) -> None:
    async with dashboard(redis_url) as browser:
        delayed = await fleet.broker.submit(TaskPayload(input="delayed input", not_before=4e9))
        waiting = await fleet.broker.submit(TaskPayload(input="waiting input"))
        assert "delayed input" in await browser.text(f"/task?id={delayed}")
        assert "waiting input" in await browser.text(f"/task?id={waiting}")
        await fleet.broker.cancel(waiting)
        async with working(fleet):
            running = await fleet.submit("hold", "running input", metadata={"until": str(tmp_path / "go")})
            await fleet.runs(running)
            assert "running input" in await browser.text(f"/task?id={running}")
            (tmp_path / "go").touch()
            await fleet.ends(running)


async def test_pages_need_no_more_than_the_rights_of_their_user(tmp_path: Path) -> None:
    with plain_server(tmp_path, *RULES, refuses=True) as server:
        urls = {
            user: f"redis://{user}:{user.upper()}-PASSWORD@127.0.0.1:{server.port}/0"
            for user in ("worker", "dashboard", "operator")
        }
        acting = Worker(
            urls["worker"], worker_id="w1", concurrency=4, allow_import=["tests"], retry_backoff=0, max_retries=0
        )
        life = asyncio.create_task(acting.start())
        async with Client(urls["worker"]) as client:
            fleet = Fleet(urls["worker"], client.redis)
            ended = [(await fleet.ends(await fleet.submit(name))).task_id for name in ("echo", "fail")]
            waiting = await fleet.submit("echo", not_before=4e9)
            running = await fleet.submit("hold", metadata={"until": str(tmp_path / "never")})
            await fleet.runs(running)
            dead = [await fleet.ends(await fleet.submit("fail")) for _ in range(2)]
            async with dashboard(urls["dashboard"]) as browser:
                for name in (*EVERY_PAGE, "tasks?status=failed", *(f"task?id={name}" for name in (*ended, waiting))):
                    await browser.text(f"/{name}")
                async with asyncio.timeout(PATIENCE):
                    assert (await collect(browser, f"/task/events?id={ended[0]}"))[-1]["event"] == "end"
            async with dashboard(urls["operator"], allow_actions=True) as browser:
                queries = [f"what=cancel&id={task_id}" for task_id in (waiting, running)]
                queries += [f"what=retry&id={dead[0].task_id}", f"what=retry&id={waiting}", "what=drop-letters"]
                queries += [f"what={command}&id=w1" for command in ("quiet", "resume", "drain")]
                for not_before in ("", "2099-01-01T00:00"):
                    again = await browser.filled(f"/again?id={dead[1].task_id}") | {"not_before": not_before}
                    sent = await browser.post("/again", again)
                    assert sent.status_code == 303, sent.text
                for query in queries:
                    sent = await browser.post("/act", await browser.form(f"/confirm?{query}"))
                    assert sent.status_code == 303, sent.text
                done = (await browser.text("/actions")).count("<tr><td")
                assert done >= len(queries) + 3
        await asyncio.wait_for(life, PATIENCE)
        nothing_refused(server)


def command(*words: str, redis_url: str = "redis://127.0.0.1:1", **keywords: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "orbiter.cli", "dashboard", "--redis-url", redis_url, *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_says_where_it_serves_and_ends_in_order(redis_url: str, number: int) -> None:
    with command("--port", "0", redis_url=redis_url) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        address = re.findall(r"http://127.0.0.1:[0-9]+", line)[0]
        async with Browser(address) as browser:
            assert "orbiter start worker" in await browser.text("/fleet")
            async with aclosing(events(browser, "/live/fleet?")) as stream:
                await anext(stream)
                process.send_signal(number)
                _, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--host", "0.0.0.0"], 2, "--password-file"),
        (["--host", "10.0.0.1", "--proxy-header", "X-User"], 2, "--proxy-from"),
        (["--proxy-from", "somewhere"], 2, "10.0.0.5"),
        (["--host", "192.0.2.1", "--password-file", "FILE", "--port", "0"], 1, "cannot listen"),
        (["--password-file", "/dev/null"], 1, "chmod 0640"),
        (["--tls-certificate", "FILE", "--tls-key", "FILE", "--port", "0"], 1, "--tls-key"),
    ],
)
def test_the_command_refuses_with_a_reason(tmp_path: Path, words: list[str], code: int, named: str) -> None:
    users = tmp_path / "users"
    users.write_text(hash_line("anna", "correct horse"))
    users.chmod(0o640)
    with command(*(str(users) if word == "FILE" else word for word in words)) as process:
        said, errors = process.communicate(timeout=PATIENCE)
    assert said == ""
    assert process.returncode == code
    assert named in errors
    assert len(errors.splitlines()) == 1


def test_a_hashed_password_is_a_line_of_the_file() -> None:
    with command("--hash-password", "anna", stdin=subprocess.PIPE) as process:
        lines, _ = process.communicate("correct horse\ncorrect horse\n", timeout=PATIENCE)
    assert re.fullmatch(r"anna:scrypt\$[^ ]+\n", lines)
