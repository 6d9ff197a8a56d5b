"""Registration: a worker becomes known to Redis."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.errors import RedisUnavailableError, WorkerIdTakenError
from orbiter.distributed.worker.incarnation import new_life
from orbiter.distributed.worker.registration import LOOK_EVERY, register
from tests.unit.scripted import Scripted
from tests.unit.virtual_time import clock, never

URL = "redis://:secret@127.0.0.1:1"
GONE = RedisConnectionError("gone")
PATIENCE = 30.0


class Registering(Scripted):
    """Registers, and answers each try as the test says."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.will("try", *answers)
        self.stopping = asyncio.Event()
        self.began = clock()

    async def once(self, replace: str) -> None:
        await self._step("try", replace)

    async def register(self, patience: float = PATIENCE) -> bool:
        return await register(self.once, URL, patience, self.stopping, clock=clock)

    @property
    def seconds(self) -> float:
        return clock() - self.began


def taken(life: str = "elsewhere/1", pid: str = "1", beat: str = "100") -> WorkerIdTakenError:
    return WorkerIdTakenError("w1", life, "host", pid, beat)


async def test_worker_registers_at_once_where_redis_answers() -> None:
    registering = Registering()
    assert await registering.register()
    assert registering.of("try") == [[""]]
    assert registering.seconds == 0


async def test_worker_tries_until_redis_answers() -> None:
    registering = Registering(GONE, OSError(), TimeoutError())
    assert await registering.register()
    assert len(registering.of("try")) == 4
    assert 0.35 <= registering.seconds <= 0.2 + 0.4 + 0.8


async def test_worker_gives_up_when_its_patience_ends() -> None:
    registering = Registering(*[GONE] * 100)
    with pytest.raises(RedisUnavailableError) as raised:
        await registering.register()
    assert "secret" not in str(raised.value)
    assert registering.seconds == pytest.approx(PATIENCE)
    assert 8 <= len(registering.of("try")) <= 30


@pytest.mark.parametrize("error", [AuthenticationError("x"), NoPermissionError("x")], ids=lambda e: type(e).__name__)
async def test_worker_gives_up_at_once_where_the_login_is_refused(error: Exception) -> None:
    registering = Registering(error)
    with pytest.raises(RedisUnavailableError):
        await registering.register()
    assert registering.seconds == 0


async def test_life_that_died_here_is_replaced(dead_pid: str) -> None:
    life = new_life()
    registering = Registering(taken(life, dead_pid))
    assert await registering.register()
    assert registering.of("try") == [[""], [life]]
    assert registering.seconds == 0


async def test_life_that_still_beats_is_refused() -> None:
    registering = Registering(taken(beat="100"), taken(beat="100"), taken(beat="103"))
    with pytest.raises(WorkerIdTakenError):
        await registering.register()
    assert registering.seconds == pytest.approx(LOOK_EVERY * 2)


async def test_life_that_lives_here_is_watched_not_replaced() -> None:
    life = new_life()
    registering = Registering(taken(life, str(os.getpid())), taken(life, str(os.getpid())))
    assert await registering.register()
    assert {replace for (replace,) in registering.of("try")} == {""}


async def test_heartbeat_of_a_life_elsewhere_is_waited_for() -> None:
    registering = Registering(*[taken() for _ in range(100)])
    # Redis answers: its patience does not end meanwhile.
    assert await registering.register(patience=5)
    assert registering.seconds == pytest.approx(100 * LOOK_EVERY)


@pytest.mark.parametrize("answer", [GONE, taken(), never], ids=["away", "taken", "hangs"])
async def test_worker_that_is_told_to_stop_does_not_register(answer: Any) -> None:
    registering = Registering(*[answer] * 100)
    asyncio.get_running_loop().call_later(0.3, registering.stopping.set)
    assert not await registering.register()
    assert registering.seconds == pytest.approx(0.3)


async def test_worker_told_to_stop_waits_a_second_for_a_stubborn_call() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    registering = Registering(stubborn)
    asyncio.get_running_loop().call_later(0.3, registering.stopping.set)
    assert not await registering.register()
    assert registering.seconds == pytest.approx(1.3)


async def test_worker_told_to_stop_while_it_registers_does_not_go_on() -> None:
    registering = Registering()
    registering.will("try", registering.stopping.set)
    assert not await registering.register()
