"""RedisWatch: what it warns of, and how often."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.broker.storage import Server, Storage
from orbiter.distributed.connection.connected import ClockSkew
from orbiter.distributed.worker.redis_watch import LOOK_EVERY, RedisWatch
from tests.unit.scripted import queue_name

SAFE = Storage((Server(eviction_policy="noeviction", append_only=True),))
EVICTING = Storage((Server(eviction_policy="allkeys-lru", append_only=True),))


class Lookout:
    """Says what the test says, the last of it for ever."""

    def __init__(self, *said: Storage | Exception, skews: tuple[ClockSkew, ...] = (ClockSkew(0),)) -> None:
        self.said, self.skews = deque(said), deque(skews)

    async def storage(self) -> Storage:
        now = self.said.popleft() if len(self.said) > 1 else self.said[0]
        if isinstance(now, Exception):
            raise now
        return now

    async def clock_skew(self) -> ClockSkew:
        return self.skews.popleft() if len(self.skews) > 1 else self.skews[0]


class Shown:
    """What the watch tells the status."""

    clock_skew: ClockSkew | None = None


async def watched(lookout: Lookout, looks: int, status: Any = None) -> None:
    watch = RedisWatch(lookout, status or Shown(), queue=queue_name())
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(LOOK_EVERY * (looks - 0.5))
    running.cancel()
    await asyncio.wait([running])


def threats(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.threat for record in caplog.records if hasattr(record, "threat")]


def skews(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.clock_skew_ms for record in caplog.records if hasattr(record, "clock_skew_ms")]


async def test_a_threat_is_warned_of_once_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    await watched(Lookout(EVICTING), 4)
    assert threats(caplog) == ["eviction"]


async def test_a_threat_that_comes_back_is_warned_of_again(caplog: pytest.LogCaptureFixture) -> None:
    await watched(Lookout(EVICTING, SAFE, EVICTING), 4)
    assert threats(caplog) == ["eviction", "eviction"]


async def test_a_redis_that_is_away_is_looked_at_later(caplog: pytest.LogCaptureFixture) -> None:
    await watched(Lookout(RedisConnectionError("away"), EVICTING), 2)
    assert threats(caplog) == ["eviction"]


async def test_a_clock_is_warned_of_once_while_it_is_more_than_a_second_wrong(caplog: pytest.LogCaptureFixture) -> None:
    status = Shown()
    wrong = tuple(map(ClockSkew, (1.1, 600.0, -0.9, -600.0)))
    await watched(Lookout(SAFE, skews=wrong), 5, status)
    assert skews(caplog) == [1100, -600_000]
    assert status.clock_skew == ClockSkew(-600.0)


async def test_a_slow_answer_of_redis_is_no_skew(caplog: pytest.LogCaptureFixture) -> None:
    await watched(Lookout(SAFE, skews=(ClockSkew(-2.0, doubt=1.5),)), 1)
    assert skews(caplog) == []


async def test_without_anybody_to_ask_nothing_is_watched() -> None:
    await RedisWatch(None, Shown(), queue=queue_name()).run()  # type: ignore[arg-type]
