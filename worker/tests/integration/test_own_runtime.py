"""A runtime that another distribution brings, by the entry point ``orbiter.runtimes``."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed.models import TaskStatus
from tests.integration.agent_runs import Fleet
from tests.support import PATIENCE, start_orbiter

PAGE = Path(__file__).parents[3] / "docs" / "runtimes-own.md"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with what pip leaves of such a distribution; its code is that of the docs."""
    page = PAGE.read_text()
    (code,) = re.findall(r"```python\n(# shell_runtime\.py\n.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r'\[project\.entry-points\."orbiter\.runtimes"\]\n(.*?)```', page, re.DOTALL)
    (tmp_path / "shell_runtime.py").write_text(code)
    info = tmp_path / "shell_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shell-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orbiter.runtimes]\n" + entry.replace('"', ""))
    return tmp_path


async def test_a_runtime_of_another_distribution_runs_tasks(
    redis_url: str, redis_client: Redis, site: Path, tmp_path: Path
) -> None:
    fleet = Fleet(redis_url, redis_client)
    await fleet.broker.connect()
    env = {"PYTHONPATH": str(site), "ORBITER_RETRY_BACKOFF": "0"}
    with start_orbiter("start", "worker", "--redis-url", redis_url, **env) as worker:
        try:
            ended = await fleet.run({"runtime": "shell", "name": "wc", "command": ["wc", "-w"]}, "one two three")
            failed = await fleet.run({"runtime": "shell", "command": ["false"]})
            refused = await fleet.run({"runtime": "shell", "command": "rm -rf"})
            unknown = await fleet.run({"runtime": "shelf"})
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.communicate(timeout=PATIENCE)
    assert (ended.task.status, ended.task.result, ended.text) == (TaskStatus.COMPLETED, {"output": "3"}, "3")
    assert ended.task.agent_name == "wc"
    assert (failed.task.status, failed.task.attempt) == (TaskStatus.FAILED, 4)
    assert (refused.task.status, refused.task.attempt) == (TaskStatus.FAILED, 1)
    assert "agent_config.command" in (refused.task.error or "")
    assert unknown.task.error == "agent_config.runtime: 'shelf' is unknown; known are agent, callable, shell"
    assert json.loads(await redis_client.hget(f"orbiter:task:{ended.task.task_id}", "result") or "") == {"output": "3"}
