"""``queue info``, ``--watch``, ``--queue`` and ids for the shell, against a real Redis."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support import PATIENCE, WORKER_DIRECTORY, environment, orbiter, start_orbiter, wait_until

AGENT = '{"name": "a", "model": "test"}'


def submit(redis_url: str, task_id: str, *options: str, **env: str) -> None:
    command = ("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, "--task-id", task_id, *options)
    ended = orbiter(*command, stdin=AGENT, **env)
    assert ended.returncode == 0, ended.stderr


# -- queue info ------------------------------------------------------------------------------------------------------


async def test_the_page_shows_a_queue(redis_url: str, redis_client: Redis) -> None:
    submit(redis_url, "t1")
    await redis_client.zadd("{orbiter:tasks}:delayed", {"t2": 1771324215_000})
    await redis_client.xadd("{orbiter:tasks}:dead", {"task_id": "t3"})
    page = orbiter("queue", "info", "--redis-url", redis_url).stdout
    assert page.startswith("Queue orbiter:tasks\n")
    for line in (
        r"Waiting:   1 \(the oldest for [\d.]+m?s\)",
        "Running:   0",
        r"Delayed:   1 \(the next is due 2026-02-17 10:30:15 UTC\)",
        r"Dead:      1 \(orbiter task dead list\)",
        r"Workers:   0 \(nobody works on this queue\)",
        "Slots:     0, 0 busy",
        r"Memory:    [\d.]+ MB, no limit",
    ):
        assert re.search(f"^  {line}$", page, re.MULTILINE), page
    other = json.loads(orbiter("queue", "info", "--redis-url", redis_url, "--queue", "q2", "--json").stdout)
    assert (other["queue"], other["waiting"]) == ("q2", 0)


async def test_the_memory_s_limit_is_shown(redis_url: str, redis_client: Redis) -> None:
    await redis_client.config_set("maxmemory", 2**30)
    try:
        page = orbiter("queue", "info", "--redis-url", redis_url).stdout
    finally:
        await redis_client.config_set("maxmemory", 0)
    assert re.search(r"Memory:    [\d.]+ MB of 1\.0 GB \(0 %\)", page)


# -- --watch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("queue", "info"), ("worker", "list"), ("task", "list")])
def test_watching_in_a_pipe_prints_one_look_below_the_other_until_ctrl_c(
    command: tuple[str, ...], redis_url: str
) -> None:
    with start_orbiter(*command, "--watch", "0.1", "--redis-url", redis_url) as process:
        assert process.stdout is not None
        marks = 0
        while marks < 3:
            marks += process.stdout.readline().startswith("--- 20")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")


def test_watching_as_json_is_a_line_each_time(redis_url: str) -> None:
    with start_orbiter("queue", "info", "--watch=0.1", "--json", "--redis-url", redis_url) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert [line["waiting"] for line in lines] == [0, 0, 0]
    assert process.returncode == 0


def test_on_a_terminal_the_look_is_redrawn(redis_url: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "orbiter.cli", "queue", "info", "--watch", "0.1", "--redis-url", redis_url]
    env = environment(TERM="xterm", COLUMNS="80", LINES="24")
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=WORKER_DIRECTORY
    ) as process:
        os.close(theirs)
        shown, deadline = b"", time.monotonic() + PATIENCE
        while shown.count(b"Waiting:") < 3 and time.monotonic() < deadline:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        _drain(ours)
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert shown.count(b"Waiting:") >= 3
    assert b"\x1b[1A" in shown, "the cursor goes up before it draws again"
    assert b"--- " not in shown


def _drain(terminal: int) -> None:
    """Read until the other side has closed."""
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # how Linux tells the end of a terminal
        return


async def test_watching_a_task_ends_with_it(redis_url: str, redis_client: Redis) -> None:
    submit(redis_url, "t1")
    with start_orbiter("task", "status", "--watch", "0.1", "t1", "--json", "--redis-url", redis_url) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["status"] == "pending"
        await redis_client.hset("orbiter:task:t1", "status", "completed")
        rest, _ = process.communicate(timeout=PATIENCE)
    assert json.loads(rest.splitlines()[-1])["status"] == "completed"
    assert process.returncode == 0
    gone = orbiter("task", "status", "--watch", "t9", "--redis-url", redis_url)
    rule = "The beginning of an id needs 4 characters or more."
    assert (gone.returncode, gone.stderr) == (1, f"Task not found: t9. {rule}\n")


# -- --queue ---------------------------------------------------------------------------------------------------------


async def test_listings_show_all_queues_unless_one_is_asked_for(redis_url: str, redis_client: Redis) -> None:
    for n, queue in enumerate(("q1", "q1", "q2")):
        submit(redis_url, f"t{n}", "--queue", queue)
    await redis_client.hset("orbiter:task:old", mapping={"task_id": "old", "status": "completed"})
    await redis_client.zadd("orbiter:task:by_time", {"old": 1})

    def listed(*options: str, **env: str) -> list[str]:
        rows = json.loads(orbiter("task", "list", "--json", "--redis-url", redis_url, *options, **env).stdout)
        return [row["task_id"] for row in rows]

    assert listed(ORBITER_QUEUE="q2") == ["t2", "t1", "t0", "old"]
    assert listed("--queue", "q1") == ["t1", "t0"]
    assert listed("--queue", "q1", "--limit", "1") == ["t1"]
    assert listed("--queue", "orbiter:tasks") == ["old"], "0.1 knows one queue only"

    for worker, queue in (("w1", "q1"), ("w2", "q2")):
        await redis_client.hset(f"orbiter:workers:{worker}", mapping={"queue": queue, "last_heartbeat": time.time()})
    shown = json.loads(orbiter("worker", "list", "--queue", "q2", "--json", "--redis-url", redis_url).stdout)
    assert [row["worker_id"] for row in shown] == ["w2"]


async def test_one_queue_of_many_tasks_is_found_behind_those_of_others(redis_url: str, redis_client: Redis) -> None:
    async with redis_client.pipeline(transaction=False) as pipeline:
        for n in range(900):
            queue = "rare" if n < 3 else "busy"
            pipeline.hset(f"orbiter:task:t{n}", mapping={"task_id": f"t{n}", "status": "pending", "queue": queue})
            pipeline.zadd("orbiter:task:by_time", {f"t{n}": n})
        await pipeline.execute()
    shown = orbiter("task", "list", "--queue", "rare", "--limit", "2", "--json", "--redis-url", redis_url).stdout
    assert [row["task_id"] for row in json.loads(shown)] == ["t2", "t1"]


async def test_a_delayed_task_is_cancelled_on_its_own_queue(redis_url: str, redis_client: Redis) -> None:
    for task_id in ("t1", "t2"):
        fields = {"task_id": task_id, "status": "retrying", "queue": "q2"}
        await redis_client.hset(f"orbiter:task:{task_id}", mapping=fields)
        await redis_client.zadd("{q2}:delayed", {task_id: 9e15})
    assert orbiter("task", "cancel", "t1", "--redis-url", redis_url, ORBITER_QUEUE="q3").returncode == 0
    assert await redis_client.zrange("{q2}:delayed", 0, -1) == ["t2"]
    orbiter("task", "cancel", "t2", "--redis-url", redis_url, "--queue", "q3")
    assert await redis_client.zrange("{q2}:delayed", 0, -1) == ["t2"], "who names a queue means it"


def test_status_and_events_accept_a_queue(redis_url: str) -> None:
    submit(redis_url, "t1", "--queue", "q2")
    for command in ("status", "events"):
        assert orbiter("task", command, "t1", "--queue", "q2", "--redis-url", redis_url).returncode == 0


# -- submit, settings, completion ------------------------------------------------------------------------------------


async def _payload(client: Redis, task_id: str) -> dict[str, object]:
    """Return a task's payload, waiting or parked."""
    parked = await client.hget("{orbiter:tasks}:parked", task_id)
    texts = [parked] if parked else [fields["payload"] for _, fields in await client.xrange("orbiter:tasks")]
    payloads: list[dict[str, object]] = [json.loads(text) for text in texts]
    return next(payload for payload in payloads if payload["task_id"] == task_id)


async def test_a_task_carries_when_it_may_begin_and_its_own_retries(redis_url: str, redis_client: Redis) -> None:
    submit(redis_url, "t1", "--not-before", "+1h", "--max-retries", "0")
    payload = await _payload(redis_client, "t1")
    assert payload["not_before"] == pytest.approx(time.time() + 3600, abs=30)
    assert payload["max_retries"] == 0


async def test_a_worker_s_max_retries_is_not_the_task_s(redis_url: str, redis_client: Redis, tmp_path: Path) -> None:
    file = tmp_path / "orbiter.toml"
    file.write_text("max_retries = 9")
    submit(redis_url, "t1", ORBITER_CONFIG=str(file), ORBITER_MAX_RETRIES="8")
    payload = await _payload(redis_client, "t1")
    assert not {"not_before", "max_retries"} & set(payload)


async def test_ids_complete_from_redis(redis_url: str, redis_client: Redis, tmp_path: Path) -> None:
    file = tmp_path / "orbiter.toml"
    file.write_text(f'redis_url = "{redis_url}"')
    await redis_client.zadd("orbiter:task:by_time", {"abc1": 1, "abc2": 2, "xyz": 3})
    await redis_client.zadd("orbiter:fleet", {"web01": 1})
    await redis_client.xadd("{orbiter:tasks}:dead", {"task_id": "dead1"})

    def complete(line: str) -> list[str]:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_ORBITER_COMPLETE": "bash_complete"}
        ended = orbiter(**asked, ORBITER_CONFIG=str(file))
        assert ended.stderr == ""
        return [row.partition(",")[2] for row in ended.stdout.splitlines() if row]

    assert complete("orbiter task status ab") == ["abc2", "abc1"]
    assert complete("orbiter worker drain ") == ["web01"]
    assert complete("orbiter task dead show d") == ["dead1"]
    file.write_text("nonsense")
    assert complete("orbiter task status ab") == []


async def test_a_closed_pipe_ends_a_watch(redis_url: str) -> None:
    with start_orbiter("queue", "info", "--watch", "0.1", "--redis-url", redis_url) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        await wait_until(lambda: process.poll() is not None)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
