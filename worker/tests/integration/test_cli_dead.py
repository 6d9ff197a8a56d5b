"""``orbiter task retry`` and ``orbiter task dead`` against a real Redis and a real worker."""

from __future__ import annotations

import json
import re
from pathlib import Path

from redis.asyncio import Redis

from orbiter.distributed.models import TaskPayload
from tests.support import orbiter, wait_until, worker_process

JOB = json.dumps({"runtime": "callable", "target": "tests.integration.jobs:fail", "name": "fail"})
DEAD = "{orbiter:tasks}:dead"


async def bury(client: Redis, task_id: str, *, payload: str | None = None, queue: str = "orbiter:tasks") -> str:
    """Put a dead letter there as the scripts do."""
    fields = {"task_id": task_id, "reason": "boom\nat line [red]3", "error_type": "RuntimeError"}
    text = TaskPayload(task_id=task_id).to_json() if payload is None else payload
    return str(await client.xadd(f"{{{queue}}}:dead", fields | {"payload": text}))


async def test_a_failed_task_is_run_again_by_its_worker(redis_url: str, redis_client: Redis, tmp_path: Path) -> None:
    at = ("--redis-url", redis_url)
    with worker_process(redis_url, "w1", tmp_path / "log", "--max-retries", "0", "--queue", "q2"):
        command = ("task", "submit", "x", "--agent", "-", "--task-id", "t1", "--metadata", "times=1", "--wait")
        assert orbiter(*command, *at, "--queue", "q2", stdin=JOB).returncode == 1
        listed = json.loads(orbiter("task", "dead", "list", *at, "--queue", "q2", "--json").stdout)
        assert [(row["task_id"], row["reason"]) for row in listed] == [("t1", "attempt 1 failed")]
        again = orbiter("task", "retry", "t1", *at)
        assert again.returncode == 0, "its record names its queue"

        async def status() -> bool:
            return await redis_client.hget("orbiter:task:t1", "status") == "completed"

        await wait_until(status)
    refused = orbiter("task", "retry", "t1", *at)
    assert refused.returncode == 1
    assert "t1 is completed" in refused.stderr


async def test_the_list_is_a_table_and_the_page_shows_everything(redis_url: str, redis_client: Redis) -> None:
    at = ("--redis-url", redis_url)
    assert orbiter("task", "dead", "list", *at).stdout == "No dead letters found.\n"
    old = await bury(redis_client, "t1")
    new = await bury(redis_client, "", payload="not\x1b[2J JSON")
    rows = [line for line in orbiter("task", "dead", "list", *at).stdout.splitlines() if "RuntimeError" in line]
    assert [row.strip("│ ").split(" ")[0] for row in rows] == [new, old]
    assert "boom\\nat line [red]3" in rows[1]
    assert len(json.loads(orbiter("task", "dead", "list", *at, "--limit", "1", "--json").stdout)) == 1

    page = orbiter("task", "dead", "show", "t1", *at).stdout
    assert page.startswith(f"Dead letter {old}\n  Task:       t1\n")
    assert '  "task_id": "t1",' in page.splitlines()
    assert json.loads(orbiter("task", "dead", "show", old, *at, "--json").stdout)["payload"]["task_id"] == "t1"
    odd = orbiter("task", "dead", "show", new, *at).stdout
    assert "not\\x1b[2J JSON" in odd
    missing = orbiter("task", "dead", "show", "t9", *at)
    assert missing.returncode == 1
    assert "t9" in missing.stderr


async def test_retrying_several_does_what_can_be_done_and_names_the_rest(redis_url: str, redis_client: Redis) -> None:
    at = ("--redis-url", redis_url)
    for task_id in ("t1", "t2", "t3"):
        await bury(redis_client, task_id)
    odd = await bury(redis_client, "", payload="nonsense")
    some = orbiter("task", "dead", "retry", "t2", odd, "t9", *at)
    assert some.returncode == 1
    assert "t2" in some.stdout
    assert odd in some.stderr
    assert "t9" in some.stderr

    rest = orbiter("task", "dead", "retry", "--all", "--json", *at)
    assert rest.returncode == 1
    assert {row["task_id"]: row["error"] is None for row in json.loads(rest.stdout)} == {
        "t1": True,
        "t3": True,
        "": False,
    }
    assert [entry_id for entry_id, _ in await redis_client.xrange(DEAD)] == [odd]
    assert await redis_client.xlen("orbiter:tasks") == 3


async def test_dropping_asks_first(redis_url: str, redis_client: Redis) -> None:
    at = ("--redis-url", redis_url)
    for task_id in ("t1", "t2", "t3", "t4"):
        await bury(redis_client, task_id)
    for answer in ("n\n", ""):
        refused = orbiter("task", "dead", "drop", "--all", *at, stdin=answer)
        assert refused.returncode == 1
        assert re.search("4 dead letters .*orbiter:tasks.*--yes", refused.stderr)
    assert await redis_client.xlen(DEAD) == 4
    assert orbiter("task", "dead", "drop", "t1", *at, stdin="y\n").returncode == 0
    assert await redis_client.xlen(DEAD) == 3
    unknown = orbiter("task", "dead", "drop", "t2", "t9", "--yes", *at)
    assert unknown.returncode == 1
    assert "t9" in unknown.stderr
    assert await redis_client.xlen(DEAD) == 3, "nothing is dropped where something is misspelt"
    assert json.loads(orbiter("task", "dead", "drop", "--all", "--yes", "--json", *at).stdout) == {"dropped": 3}
    assert json.loads(orbiter("task", "dead", "drop", "--all", "--json", *at).stdout) == {"dropped": 0}
