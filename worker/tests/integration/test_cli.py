"""The real command, in processes of its own, against a real Redis."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from redis.asyncio import Redis

from tests.support import PATIENCE, free_port, orbiter, start_orbiter, wait_until, worker_process


def job(name: str) -> str:
    return json.dumps({"runtime": "callable", "target": f"tests.integration.jobs:{name}", "name": name})


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Popen[bytes]]:
    log = tmp_path / "worker.log"
    options = ("--concurrency", "4", "--retry-backoff", "0", "--max-retries", "1", "--instance", "7")
    with worker_process(redis_url, "web01", log, *options) as process:
        yield process


# -- start worker ----------------------------------------------------------------------------------------------------


async def test_the_banner_comes_first_and_a_drained_worker_exits_0(redis_url: str, redis_client: Redis) -> None:
    url = redis_url.replace("redis://", "redis://default:hunter2@")
    await redis_client.config_set("requirepass", "hunter2")
    try:
        with start_orbiter(
            "start", "worker", "--concurrency", "2", "--worker-id", "w1", ORBITER_REDIS_URL=url
        ) as process:
            await wait_until(lambda: _state(redis_client, "w1", "running"))
            process.send_signal(signal.SIGTERM)
            out, log = process.communicate(timeout=PATIENCE)
    finally:
        await redis_client.config_set("requirepass", "")
    address = redis_url.removesuffix("/0")
    assert out.splitlines()[:7] == [
        "Orbiter Worker Starting",
        "  Worker ID:   w1",
        f"  Redis URL:   {address}/***",
        "  Queue:       orbiter:tasks",
        "  Concurrency: 2",
        "",
        "Press Ctrl+C to stop.",
    ]
    assert process.returncode == 0
    assert "draining" in log
    assert "drained" in log
    assert "hunter2" not in out + log
    assert not await redis_client.exists("orbiter:workers:w1")


async def _state(client: Redis, worker_id: str, state: str) -> bool:
    return await client.hget(f"orbiter:workers:{worker_id}", "state") == state


async def test_ctrl_c_drains_too_and_json_logs_are_json(redis_url: str, redis_client: Redis) -> None:
    with start_orbiter(
        "start", "worker", "--worker-id", "w1", "--log-format", "json", "--redis-url", redis_url
    ) as process:
        await wait_until(lambda: _state(redis_client, "w1", "running"))
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("drained" in line["message"] for line in lines)
    assert {"time", "level", "logger", "message"} <= set(lines[0])


def test_a_worker_waits_for_redis_then_gives_up_with_one_line() -> None:
    began = time.monotonic()
    ended = orbiter("start", "worker", "--redis-url", f"redis://127.0.0.1:{free_port()}", "--connect-timeout", "1")
    assert ended.returncode == 1
    assert 1 <= time.monotonic() - began < 25
    assert "trying again" in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("Error: cannot reach Redis at redis://127.0.0.1:")
    assert "Traceback" not in ended.stderr


def test_a_wrong_password_is_told_at_once(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://default:hunter2@")
    for command in (("worker", "list"), ("start", "worker", "--connect-timeout", "0")):
        ended = orbiter(*command, ORBITER_REDIS_URL=url.replace("default", "nobody"))
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        assert "hunter2" not in ended.stdout + ended.stderr


# -- listings --------------------------------------------------------------------------------------------------------


def test_an_idle_fleet_says_so(redis_url: str) -> None:
    assert orbiter("worker", "list", "--redis-url", redis_url).stdout == "No active workers found.\n"
    assert orbiter("task", "list", "--redis-url", redis_url).stdout == "No tasks found.\n"
    assert orbiter("worker", "list", "--json", "--redis-url", redis_url).stdout == "[]\n"
    assert orbiter("task", "list", "--json", "--redis-url", redis_url).stdout == "[]\n"


@pytest.mark.usefixtures("worker")
async def test_the_worker_list_looks_as_in_the_guide(redis_url: str, redis_client: Redis) -> None:
    long_name = "a-very-long-host-name-of-a-cloud." * 3 + "-1234-a1b2c3d4"
    await redis_client.zadd("orbiter:fleet", {long_name: (time.time() - 90) * 1000})
    shown = orbiter("worker", "list", ORBITER_REDIS_URL=redis_url, COLUMNS="60").stdout
    header = next(line for line in shown.splitlines() if "Worker ID" in line)
    assert [cell.strip() for cell in header.strip("│ ").split("│")] == [
        "Worker ID",
        "Status",
        "Hostname",
        "Tasks",
        "Failed",
        "Current Task",
        "Concurrency",
        "Last Heartbeat",
    ]
    assert re.search(r"│ web01 +│ running +│ .* │ 0 +│ 0 +│ - +│ 4 +│ \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC +│", shown)
    assert re.search(rf"│ {re.escape(long_name)} │ dead ", shown)
    assert "┌" in shown
    assert "├" in shown

    dead, alive = sorted(json.loads(orbiter("worker", "list", "--json", "--redis-url", redis_url).stdout), key=_alive)
    assert (alive["worker_id"], alive["state"], alive["instance"]) == ("web01", "running", "7")
    assert (dead["worker_id"], dead["status"], dead["alive"]) == (long_name, "dead", False)
    assert set(alive) == {
        *("worker_id", "status", "alive", "hostname", "instance", "version", "queue", "executor", "state"),
        *("concurrency", "active", "tasks_processed", "tasks_failed", "current_task_id", "pid", "started_at"),
        *("last_heartbeat", "isolation", "processes", "rss_bytes", "loop_lag_ms", "blocked_by", "clock_skew_ms"),
        *("abandoned_threads", "problem", "failed_imports", "unreadable", "machine_id", "unit"),
    }
    assert (alive["isolation"], alive["problem"], alive["failed_imports"]) == ("process", "", [])
    assert 20_000_000 < alive["rss_bytes"] < 500_000_000


def _alive(worker: dict[str, object]) -> bool:
    return bool(worker["alive"])


async def test_a_stopped_worker_leaves_the_list(redis_url: str, worker: Popen[bytes]) -> None:
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    assert orbiter("worker", "list", "--redis-url", redis_url).stdout == "No active workers found.\n"


# -- submit ----------------------------------------------------------------------------------------------------------


def test_submitted_tasks_are_listed_shown_and_cancelled(redis_url: str) -> None:
    submitted = orbiter(
        "task", "submit", "hi", "--agent", "-", "--redis-url", redis_url, "--task-id", "t1", stdin=job("echo")
    )
    assert (submitted.stdout, submitted.returncode) == ("Task t1 submitted.\n", 0)
    again = orbiter("task", "submit", "hi", "--agent", "-", "--redis-url", redis_url, "--json", stdin=job("echo"))
    other = json.loads(again.stdout)["task_id"]

    listed = orbiter("task", "list", "--redis-url", redis_url, "--status", "pending").stdout
    assert "Distributed Tasks" in listed
    assert "│ t1 " in listed
    rows = json.loads(orbiter("task", "list", "--json", "--redis-url", redis_url).stdout)
    assert {row["task_id"]: row["status"] for row in rows} == {"t1": "pending", other: "pending"}
    assert json.loads(orbiter("task", "list", "--status", "running", "--json", "--redis-url", redis_url).stdout) == []

    shown = orbiter("task", "status", "t1", "--redis-url", redis_url)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[:2] == ["Task t1", "  Status:    pending"]

    assert orbiter("task", "cancel", "t1", "--redis-url", redis_url).stdout == "Task t1 cancelled.\n"
    assert (
        json.loads(orbiter("task", "status", "t1", "--json", "--redis-url", redis_url).stdout)["status"] == "cancelled"
    )
    assert orbiter("task", "cancel", "t1", "--redis-url", redis_url).returncode == 0, "cancelled already"


def test_unknown_tasks_are_not_found(redis_url: str) -> None:
    for command in (("status", "x"), ("cancel", "x"), ("events", "x"), ("events", "x", "--follow")):
        ended = orbiter("task", *command, "--redis-url", redis_url)
        assert (ended.returncode, ended.stderr) == (1, "Task not found: x\n")


@pytest.mark.usefixtures("worker")
def test_waiting_for_one_task_shows_its_result(redis_url: str, tmp_path: Path) -> None:
    agent = tmp_path / "agent.json"
    agent.write_text(job("echo"))
    command = ("task", "submit", "hi [red]there", "--agent", str(agent), "--redis-url", redis_url, "--wait")
    ended = orbiter(*command)
    assert ended.returncode == 0, ended.stderr
    assert '  Result:    {"output": "hi [red]there"}' in ended.stdout
    value = json.loads(orbiter(*command, "--json").stdout)
    assert (value["status"], value["result"]) == ("completed", {"output": "hi [red]there"})
    task_id = value["task_id"]
    late = orbiter("task", "cancel", task_id, "--redis-url", redis_url)
    assert (late.returncode, late.stderr) == (1, f"Task {task_id} has already ended: completed.\n")


@pytest.mark.usefixtures("worker")
def test_waiting_for_many_tasks_sums_them_up(redis_url: str) -> None:
    command = ("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, "--wait", "--count", "30")
    ended = orbiter(*command, stdin=job("echo"))
    assert ended.returncode == 0, ended.stderr
    assert "30 tasks: 30 completed, 0 failed" in ended.stdout
    assert re.search(r"Time: .*tasks/s", ended.stdout)
    assert re.search(r"Wait: +p50 \S+, p95 \S+", ended.stdout)
    assert "30/30 ended" in ended.stderr
    summary = json.loads(orbiter(*command, "--json", stdin=job("echo")).stdout)
    assert (summary["tasks"], summary["completed"], len(set(summary["task_ids"]))) == (30, 30, 30)


@pytest.mark.usefixtures("worker")
def test_failures_among_many_are_counted_and_told(redis_url: str) -> None:
    command = ("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, "--wait", "--count", "7")
    ended = orbiter(*command, stdin=job("fail"))
    assert ended.returncode == 1
    assert "7 tasks: 0 completed, 7 failed" in ended.stdout
    assert ended.stdout.count("attempt 2 failed") == 5
    assert "... and 2 more" in ended.stdout
    one = orbiter("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, "--wait", stdin=job("fail"))
    assert one.returncode == 1
    assert "  Error:     " in one.stdout
    assert "  Retries:   1" in one.stdout


@pytest.mark.usefixtures("worker")
def test_a_stream_shows_the_answer_and_how_it_ended(redis_url: str) -> None:
    command = ("task", "submit", "one two", "--agent", "-", "--redis-url", redis_url, "--stream", "--task-id")
    ended = orbiter(*command, "t1", stdin=job("say"))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "Task t1 submitted."
    assert "one two " in lines
    assert "  Status:    completed" in lines
    events = [json.loads(line) for line in orbiter(*command, "t2", "--json", stdin=job("say")).stdout.splitlines()]
    assert "".join(event["text"] for event in events if event["type"] == "text") == "one two "
    assert (events[-1]["type"], events[-1]["status"]) == ("status", "completed")
    assert orbiter(*command, "t3", stdin=job("fail")).returncode == 1


@pytest.mark.usefixtures("worker")
def test_events_can_be_replayed_and_followed(redis_url: str) -> None:
    orbiter(
        "task",
        "submit",
        "one two",
        "--agent",
        "-",
        "--redis-url",
        redis_url,
        "--wait",
        "--task-id",
        "t1",
        stdin=job("say"),
    )
    for options in ((), ("--follow",)):
        shown = orbiter("task", "events", "t1", "--redis-url", redis_url, *options)
        assert shown.returncode == 0
        assert shown.stdout.splitlines()[0] == "one two "
        assert shown.stdout.splitlines()[-1].startswith("status completed")
    rows = [
        json.loads(line)
        for line in orbiter("task", "events", "t1", "--json", "--redis-url", redis_url).stdout.splitlines()
    ]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.usefixtures("worker")
async def test_a_running_task_is_cancelled_through_its_worker(redis_url: str, redis_client: Redis) -> None:
    orbiter(
        *(
            "task",
            "submit",
            "",
            "--agent",
            "-",
            "--redis-url",
            redis_url,
            "--task-id",
            "t1",
            "--metadata",
            "seconds=30",
        ),
        stdin=job("sleep"),
    )

    async def status() -> str | None:
        return await redis_client.hget("orbiter:task:t1", "status")

    async def running() -> bool:
        return await status() == "running"

    async def cancelled() -> bool:
        return await status() == "cancelled"

    await wait_until(running)
    asked = orbiter("task", "cancel", "t1", "--redis-url", redis_url)
    assert asked.returncode == 0
    assert asked.stdout in {"Task t1 is running; its worker has been asked to cancel it.\n", "Task t1 cancelled.\n"}
    await wait_until(cancelled)


async def test_waiting_where_nobody_works_says_so(redis_url: str, redis_client: Redis, tmp_path: Path) -> None:
    agent = tmp_path / "agent.json"
    agent.write_text(job("echo"))
    command = ("task", "submit", "x", "--agent", str(agent), "--wait", "--redis-url", redis_url, "--task-id", "t1")
    with start_orbiter(*command) as process:
        assert process.stderr is not None
        assert "No worker reads queue orbiter:tasks yet" in process.stderr.readline()
        await redis_client.hset("orbiter:task:t1", mapping={"status": "cancelled"})
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 1


async def test_metadata_is_json_where_it_can_be(redis_url: str, redis_client: Redis) -> None:
    pairs = ("--metadata", "n=3", "--metadata", "flag=true", "--metadata", "who=me", "--metadata", "odd=NaN")
    orbiter("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, *pairs, stdin=job("echo"))
    ((_, fields),) = await redis_client.xrange("orbiter:tasks")
    assert json.loads(fields["payload"])["metadata"] == {"n": 3, "flag": True, "who": "me", "odd": "NaN"}


def test_python_starts_the_package_without_heavy_imports() -> None:
    heavy = "{'rich', 'pydantic_ai', 'temporalio', 'opentelemetry'}"
    code = f"import sys, orbiter.distributed, orbiter.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
