"""The clock of a client's machine decides nothing: "so long from now" is by Redis' clock."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from orbiter.distributed import distributed
from orbiter.distributed.broker.queue_info import get_queue_info
from orbiter.distributed.health import get_worker_fleet_status
from tests import keys
from tests.fleet import Fleet, working
from tests.support import orbiter, wait_until

AGENT = '{"name": "say", "runtime": "callable", "target": "tests.integration.jobs:say"}'


@pytest.mark.parametrize("wrong", [600, -600])
async def test_so_long_from_now_is_by_the_server_s_clock(
    redis_url: str, redis_client: Redis, tmp_path: Path, wrong: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nright = time.time\ntime.time = lambda: right() + {wrong}\n"
    )
    env = {"PYTHONPATH": str(tmp_path)} | {"ORBITER_REDIS_URL": redis_url}
    before = time.time()
    submit = ("task", "submit", "hi", "--agent", "-", "--not-before", "+60s", "--task-id", "later")
    assert orbiter(*submit, stdin=AGENT, **env).returncode == 0
    due, created = await redis_client.hmget("orbiter:task:later", "next_attempt_at", "created_at")
    after = time.time()
    assert before + 60 <= float(due) <= after + 60.1
    assert before <= float(created) <= after


@pytest.mark.parametrize("wrong", [600, -600])
async def test_a_timedelta_is_by_the_server_s_clock(
    redis_url: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    right = time.time
    before = right()
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    soon = timedelta(seconds=60)
    async with await distributed(
        {"name": "a", "model": "test"}, "hi", redis_url=redis_url, task_id="later", not_before=soon
    ):
        due = await redis_client.hget("orbiter:task:later", "next_attempt_at")
    assert before + 60 <= float(due) <= right() + 60.1


@pytest.mark.parametrize("wrong", [600, -600])
async def test_a_wrong_clock_is_shown_of_a_worker_and_of_who_asks(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: int
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    async with working(fleet, worker_id="w1", drain_timeout=30) as worker:
        [shown] = await get_worker_fleet_status(fleet.url)
        asked = await get_queue_info(fleet.url)
        until = tmp_path / "until"
        task_id = await fleet.submit("hold", metadata={"until": str(until)})
        await fleet.runs(task_id)
        await worker.stop()
        # By the clock that others compare it with.
        deadline = float(await wait_until(lambda: fleet.client.hget(keys.worker("w1"), "drain_deadline")))
        assert 0 < deadline - right() <= 31
        until.touch()
    assert shown.alive
    assert [shown.clock_skew_ms, asked.clock_skew_ms] == pytest.approx([wrong * 1000] * 2, abs=900)
    [warned] = [record.clock_skew_ms for record in caplog.records if hasattr(record, "clock_skew_ms")]
    assert warned == pytest.approx(wrong * 1000, abs=900)
