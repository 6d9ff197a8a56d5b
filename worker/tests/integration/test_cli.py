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

from orbiter.distributed.models import TaskPayload
from tests import keys
from tests.support import PATIENCE, free_port, orbiter, slowness, start_orbiter, wait_until, worker_process


def job(name: str) -> str:
    return json.dumps({"runtime": "callable", "target": f"tests.integration.jobs:{name}", "name": name})


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Popen[bytes]]:
    log = tmp_path / "worker.log"
    options = ("--concurrency", "4", "--retry-backoff", "0", "--max-retries", "1", "--instance", "7")
    with worker_process(redis_url, "web01", log, *options) as process:
        yield process


# -- start worker ----------------------------------------------------------------------------------------------------


@pytest.mark.guide("Via CLI", "startup banner: worker id, masked URL, queue, concurrency")
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


@pytest.mark.guide("Graceful Shutdown", "`Ctrl+C`")
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
    # Not for half a minute, as without the option.
    assert 1 <= time.monotonic() - began < 25 * slowness()
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


def test_a_worker_imports_from_the_directory_that_it_is_told(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "lonely.py").write_text("def job(context):\n    return context.input.upper()\n")
    agent = json.dumps({"runtime": "callable", "target": "lonely:job", "name": "lonely"})
    submit = ("task", "submit", "hi", "--agent", "-", "--wait", "--json", "--redis-url", redis_url)
    where = ("--import-from", str(tmp_path))
    for options, status in (((), "failed"), (where, "completed")):
        with worker_process(redis_url, "w1", tmp_path / "log", "--allow-import", "lonely", *options):
            record = json.loads(orbiter(*submit, stdin=agent).stdout)
        assert record["status"] == status
        assert status == "completed" or "--import-from" in record["error"]


# -- listings --------------------------------------------------------------------------------------------------------


def test_an_idle_fleet_says_so(redis_url: str) -> None:
    assert orbiter("worker", "list", "--redis-url", redis_url).stdout == "No active workers found.\n"
    assert orbiter("task", "list", "--redis-url", redis_url).stdout == "No tasks found.\n"
    assert orbiter("worker", "list", "--json", "--redis-url", redis_url).stdout == "[]\n"
    assert orbiter("task", "list", "--json", "--redis-url", redis_url).stdout == "[]\n"


@pytest.mark.guide("Checking worker health", "`orbiter worker list`: the table")
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
    unknown = r" +│ - +│ - +│ - +│ - +│ \d{4}-"
    assert re.search(rf"│ {re.escape(long_name)} │ dead +│ [a-z.-]+" + unknown, shown), "its heartbeat is gone"
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


# -- doctor ----------------------------------------------------------------------------------------------------------


def findings(redis_url: str, **env: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    ended = orbiter("doctor", "--json", "--redis-url", redis_url, **env)
    told = json.loads(ended.stdout)
    assert told["ok"] is (ended.returncode == 0)
    found: dict[str, list[dict[str, str]]] = {}
    for finding in told["findings"]:
        assert bool(finding["remedy"]) is (finding["state"] != "ok"), finding
        found.setdefault(finding["check"], []).append(finding)
    return ended.returncode, found


async def test_the_doctor_finds_what_is_wrong(redis_url: str, redis_client: Redis) -> None:
    orbiter("task", "submit", "x", "--model", "test", "--redis-url", redis_url)
    await redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        code, found = findings(redis_url)
    finally:
        await redis_client.config_set("maxmemory-policy", "noeviction")
    assert code == 1
    assert [finding["state"] for finding in (*found["queue"], *found["workers"])] == ["problem", "problem"]
    assert any("allkeys-lru" in finding["message"] for finding in found["storage"])
    assert found["rights"][0]["message"].startswith("may read tasks, cancel tasks, submit tasks")
    assert not await redis_client.exists("orbiter:task:index") or await redis_client.scard("orbiter:task:index") == 1


@pytest.mark.usefixtures("worker")
async def test_the_doctor_has_nothing_to_say_of_a_fleet_that_is_well(redis_url: str, redis_client: Redis) -> None:
    await wait_until(lambda: _state(redis_client, "web01", "running"))
    code, found = findings(redis_url)
    assert code == 0
    for check in ("reach", "version", "rights", "clock", "queue", "workers"):
        assert [finding["state"] for finding in found[check]] == ["ok"], found[check]
    lines = orbiter("doctor", "--redis-url", redis_url).stdout.splitlines()
    assert any(line.split()[:2] == ["ok", "reach"] for line in lines)


async def test_the_doctor_tells_what_redis_refuses(redis_url: str, redis_client: Redis) -> None:
    await redis_client.config_set("maxmemory", "1")
    try:
        code, found = findings(redis_url)
        ended = orbiter("doctor", "--redis-url", redis_url)
    finally:
        await redis_client.config_set("maxmemory", "0")
    assert (code, ended.returncode, ended.stderr) == (1, 1, "")
    assert any("OOM" in finding["message"] or "maxmemory" in finding["message"] for finding in found["rights"])
    assert {"storage", "workers"} <= set(found)
    _, found = findings("redis://127.0.0.1:1")
    assert found["reach"][0]["remedy"].startswith("Check host and port")


async def test_the_doctor_names_rights_that_a_user_lacks(redis_url: str, redis_client: Redis) -> None:
    rights = {"enabled": True, "passwords": ["+secret"], "keys": ["*"]}
    try:
        await redis_client.acl_setuser("reader", **rights, commands=["+@read"])
        code, found = findings(redis_url.replace("redis://", "redis://reader:secret@"))
        assert (code, [finding["state"] for finding in found["rights"]]) == (1, ["problem"])
        await redis_client.acl_setuser("reader", **rights, commands=["+@read", "+@connection", "+time", "+info"])
        code, found = findings(redis_url.replace("redis://", "redis://reader:secret@"))
    finally:
        await redis_client.acl_deluser("reader")
    assert code == 1, "no worker"
    wrong = [finding["message"] for finding in found["rights"] if finding["state"] == "warning"]
    assert any(message.startswith("may not submit tasks of queue orbiter:tasks") for message in wrong)


def test_the_doctor_says_that_nobody_answers() -> None:
    code, found = findings(f"redis://127.0.0.1:{free_port()}")
    assert (code, list(found), found["reach"][0]["state"]) == (1, ["reach"], "problem")


# -- submit ----------------------------------------------------------------------------------------------------------


def test_inputs_of_tasks_that_have_not_ended_are_listed(redis_url: str) -> None:
    submit = ("task", "submit", "--agent", "-", "--redis-url", redis_url, "--task-id")
    for task_id, options in {"waits": (), "delayed": ("--not-before", "+1h"), "over": ()}.items():
        assert orbiter(*submit, task_id, f"What of {task_id}?", *options, stdin=job("echo")).returncode == 0
    assert orbiter("task", "cancel", "over", "--redis-url", redis_url).returncode == 0
    listed = ("task", "list", "--redis-url", redis_url, "--columns")
    cells = re.findall(r"│ (\w+) +│ (.+?) +│ (.+?) +│", orbiter(*listed, "id,input,created").stdout)
    assert {name: text for name, text, _ in cells} == {
        "waits": "What of waits?",
        "delayed": "What of delayed?",
        "over": "-",
    }
    assert all(re.fullmatch(r"\d+[sm] ago", created) for *_, created in cells)
    exact = orbiter(*listed, "created", "--utc").stdout
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", exact)) == 3


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
    twice = orbiter("task", "cancel", "t1", "--redis-url", redis_url)
    assert (twice.returncode, twice.stdout) == (0, "Task t1 has been cancelled already.\n")


@pytest.mark.usefixtures("worker")
def test_a_task_id_that_is_taken_submits_nothing_and_exits_3(redis_url: str) -> None:
    at = ("--agent", "-", "--redis-url", redis_url, "--task-id", "same")
    assert orbiter("task", "submit", "first", *at, "--wait", stdin=job("echo")).returncode == 0
    for options in ((), ("--wait",), ("--stream",), ("--not-before", "+1h")):
        again = orbiter("task", "submit", "second", *at, *options, stdin=job("fail"))
        assert (again.returncode, again.stdout) == (3, ""), options
        assert "same exists already (completed), nothing submitted" in again.stderr
        assert "orbiter task status same" in again.stderr
    told = orbiter("task", "submit", "second", *at, "--json", stdin=job("fail"))
    assert told.returncode == 3
    known = {"task_id": "same", "queue": "orbiter:tasks", "submitted": False, "status": "completed"}
    assert json.loads(told.stdout) == known
    followed = orbiter("task", "submit", "second", *at, "--exist-ok", "--wait", "--json", stdin=job("fail"))
    assert (followed.returncode, json.loads(followed.stdout)["result"]) == (0, {"output": "first"})
    gone_on = orbiter("task", "submit", "second", *at, "--exist-ok", stdin=job("fail"))
    assert gone_on.stdout == "Task same exists already (completed), nothing submitted.\n"
    assert gone_on.returncode == 0
    gone_on = orbiter("task", "submit", "second", *at, "--exist-ok", "--json", stdin=job("fail"))
    assert (gone_on.returncode, json.loads(gone_on.stdout)) == (0, known)
    new = (*at[:-1], "new", "--exist-ok")
    assert orbiter("task", "submit", "first", *new, stdin=job("echo")).stdout == "Task new submitted.\n"
    record = json.loads(orbiter("task", "status", "same", "--json", "--redis-url", redis_url).stdout)
    assert record["result"] == {"output": "first"}


def test_the_beginning_of_an_id_is_enough_for_a_person(redis_url: str) -> None:
    at, ids = ("--redis-url", redis_url), ("0815" + "a" * 28, "4711" + "b" * 28, "4711" + "c" * 28, "4711", "slow-1")
    for task_id in ids:
        orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", task_id)
    assert orbiter("task", "status", "4711b", *at).stdout.splitlines()[0] == f"Task {ids[1]}"
    assert orbiter("task", "status", "4711", *at).stdout.splitlines()[0] == "Task 4711", "a whole id is no beginning"
    assert orbiter("task", "status", "slow", *at).stdout.splitlines()[0] == "Task slow-1"
    assert orbiter("task", "cancel", "0815", *at).stdout == f"Task {ids[0]} cancelled.\n"
    assert orbiter("task", "events", "0815", *at).stdout.startswith("status cancelled")
    assert orbiter("task", "retry", "0815", *at).stdout == f"Task {ids[0]} will run again.\n"
    for command in ("status", "events", "cancel", "retry"):
        short = orbiter("task", command, "081", *at)
        assert (short.returncode, short.stdout) == (1, ""), command
        assert short.stderr == "Task not found: 081. The beginning of an id needs 4 characters or more.\n", command
        exact = orbiter("task", command, "0815", "--json", *at)
        assert exact.returncode == 1, command
        assert command == "cancel" or "With --json an id must be whole" in exact.stderr, command


def test_a_beginning_that_several_ids_have_is_refused_with_five_of_them(redis_url: str) -> None:
    at, ids = ("--redis-url", redis_url), [f"slow-{number}" for number in range(1, 7)]
    for task_id in ids[:2]:
        orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", task_id)
    for command in ("status", "events", "cancel", "retry"):
        several = orbiter("task", command, "slow", *at)
        assert (several.returncode, several.stdout) == (2, ""), command
        assert "slow is the beginning of 2 task ids: slow-2, slow-1. Type more of it." in several.stderr, command
    for task_id in ids[2:]:
        orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", task_id)
    many = orbiter("task", "status", "slow", *at).stderr
    assert "more than 5 task ids: slow-6, slow-5, slow-4, slow-3, slow-2, …" in many


async def test_a_dead_letter_has_its_task_s_id_by_its_beginning_too(redis_url: str, redis_client: Redis) -> None:
    at, first, other = ("--redis-url", redis_url), "beef" + "0" * 28, "beef" + "1" * 28
    letters = "{orbiter:tasks}:dead"
    for task_id in (first, other):
        await redis_client.xadd(letters, {"task_id": task_id, "reason": "boom", "payload": "{}"})
    assert first in orbiter("task", "dead", "show", "beef0", *at).stdout
    for command in (("show",), ("retry",), ("drop", "--yes")):
        several = orbiter("task", "dead", *command, "beef", *at)
        assert (several.returncode, first in several.stderr, other in several.stderr) == (2, True, True), command
        assert orbiter("task", "dead", *command, "beef0", "--json", *at).returncode == 1, command
    assert orbiter("task", "dead", "drop", "--yes", "beef0", *at).stdout == "1 dropped.\n"
    assert [fields["task_id"] for _, fields in await redis_client.xrange(letters)] == [other]


async def test_what_acts_takes_no_chosen_id_for_another(redis_url: str, redis_client: Redis) -> None:
    at, chosen, letters = ("--redis-url", redis_url), "order-4711", "{orbiter:tasks}:dead"
    assert orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", chosen).returncode == 0
    await redis_client.xadd(letters, {"task_id": chosen, "reason": "boom", "payload": "{}"})
    await redis_client.hset(keys.worker("web-10"), mapping={"hostname": "h", "state": "running"})
    await redis_client.zadd(keys.FLEET, {"web-10": time.time() * 1000})
    for command in (("cancel",), ("retry",), ("dead", "retry"), ("dead", "drop", "--yes")):
        refused = orbiter("task", *command, "order-47", *at)
        assert (refused.returncode, refused.stdout) == (2, ""), command
        assert "no task has the id order-47, and order-4711 begins with it" in refused.stderr, command
    for command in ("drain", "quiet", "resume"):
        refused = orbiter("worker", command, "web-1", "--no-wait", *at)
        assert refused.returncode == 1, command
        whole = "An id of a worker must be whole; with it begins web-10"
        assert refused.stderr == f"Worker not found: web-1. {whole}\n", command
    assert await redis_client.xlen(letters) == 1
    assert await redis_client.hget(keys.task(chosen), "status") == "pending"
    assert await redis_client.hget(keys.worker("web-10"), "command") is None


async def test_what_is_left_of_a_task_is_not_taken_for_another_s(redis_url: str, redis_client: Redis) -> None:
    at = ("--redis-url", redis_url)
    orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", "order-4711")
    task = TaskPayload(task_id="order-47", agent_config={"name": "a", "model": "test"}, input="hi")
    letter = {"task_id": "order-47", "reason": "boom", "payload": task.to_json()}
    await redis_client.xadd("{orbiter:tasks}:dead", letter)
    assert orbiter("task", "retry", "order-47", *at).stdout == "Task order-47 will run again.\n"
    await redis_client.delete(keys.task("order-47"))
    await redis_client.xadd(keys.stream("order-47"), {"event": json.dumps({"type": "status", "status": "cancelled"})})
    await redis_client.zrem(keys.BY_TIME, "order-47")
    assert orbiter("task", "events", "order-47", *at).stdout.startswith("status cancelled")


def test_unknown_tasks_are_not_found(redis_url: str) -> None:
    for command in (("status", "x"), ("cancel", "x"), ("events", "x"), ("events", "x", "--follow")):
        ended = orbiter("task", *command, "--redis-url", redis_url)
        rule = "The beginning of an id needs 4 characters or more."
        assert (ended.returncode, ended.stderr) == (1, f"Task not found: x. {rule}\n")
    assert orbiter("task", "status", "unknown", "--redis-url", redis_url).stderr == "Task not found: unknown\n"


async def test_a_running_task_that_is_to_be_cancelled_says_so(redis_url: str, redis_client: Redis) -> None:
    at = ("--redis-url", redis_url)
    orbiter("task", "submit", "hi", "--model", "test", *at, "--task-id", "t1")
    await redis_client.hset(keys.task("t1"), "status", "running")
    assert "  Status:    running\n" in orbiter("task", "status", "t1", *at).stdout
    assert "has been asked to cancel it" in orbiter("task", "cancel", "t1", *at).stdout
    assert "  Status:    running (cancel requested)\n" in orbiter("task", "status", "t1", *at).stdout
    assert json.loads(orbiter("task", "status", "t1", "--json", *at).stdout)["status"] == "running"
    await redis_client.hset(keys.task("t1"), "status", "cancelled")
    assert "  Status:    cancelled\n" in orbiter("task", "status", "t1", *at).stdout


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


async def test_a_model_and_instructions_are_an_agent(redis_url: str, redis_client: Redis) -> None:
    words = ("--model", "test", "--instructions", "Be short.", "--redis-url", redis_url)
    assert orbiter("task", "submit", "x", *words).returncode == 0
    ((_, fields),) = await redis_client.xrange("orbiter:tasks")
    agent = {"name": "assistant", "model": "test", "instructions": "Be short."}
    assert json.loads(fields["payload"])["agent_config"] == agent


async def test_metadata_is_json_where_it_can_be(redis_url: str, redis_client: Redis) -> None:
    pairs = ("--metadata", "n=3", "--metadata", "flag=true", "--metadata", "who=me", "--metadata", "odd=NaN")
    orbiter("task", "submit", "x", "--agent", "-", "--redis-url", redis_url, *pairs, stdin=job("echo"))
    ((_, fields),) = await redis_client.xrange("orbiter:tasks")
    assert json.loads(fields["payload"])["metadata"] == {"n": 3, "flag": True, "who": "me", "odd": "NaN"}


def test_python_starts_the_package_without_heavy_imports() -> None:
    heavy = "{'rich', 'pydantic_ai', 'temporalio', 'opentelemetry'}"
    code = f"import sys, orbiter.distributed, orbiter.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
