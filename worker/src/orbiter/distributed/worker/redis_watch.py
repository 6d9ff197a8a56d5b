"""RedisWatch: looks at how Redis keeps what it is given, and at its clock, when the worker starts and every minute."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError

from orbiter.distributed.broker.storage import Threat, read_storage
from orbiter.distributed.connection.connected import clock_skew
from orbiter.distributed.errors import describe
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from orbiter.distributed.broker.storage import Storage
    from orbiter.distributed.connection.connected import ClockSkew
    from orbiter.distributed.worker.status import Status

logger = logging.getLogger(__name__)

LOOK_EVERY = 60.0
LOOK_WITHIN = 6.0
AGAIN_AFTER = 5.0


class Lookout(Protocol):
    """Tells about Redis."""

    async def storage(self) -> Storage:
        """Return how its servers keep what they are given."""

    async def clock_skew(self) -> ClockSkew:
        """Return how far this machine's clock is ahead of its clock."""


class RedisLookout:
    """Asks Redis itself.

    Args:
        redis_url: Where it is.
        client: A client of it.
    """

    def __init__(self, redis_url: str, client: Redis) -> None:
        self._redis_url = redis_url
        self._client = client

    async def storage(self) -> Storage:
        """Return how its servers keep what they are given."""
        return await read_storage(self._redis_url, self._client)

    async def clock_skew(self) -> ClockSkew:
        """Return how far this machine's clock is ahead of its clock."""
        return await clock_skew(self._client)


class RedisWatch:
    """Warns once of each threat, and again where it was gone in between; takes readings for metrics.

    Args:
        redis: Is asked; without it nothing is watched.
        status: Told the skew of this machine's clock, which the heartbeat shows.
        queue: Whose metrics.
    """

    def __init__(self, redis: Lookout | None, status: Status, *, queue: str) -> None:
        self._redis = redis
        self._status = status
        self._queue = queue
        self._warned: set[tuple[str, str]] = set()
        self._clock_is_wrong = False

    async def run(self) -> None:
        """Look every minute until cancelled, whatever becomes of Redis."""
        if self._redis is None:
            return
        while True:
            pause = LOOK_EVERY
            try:
                async with asyncio.timeout(LOOK_WITHIN):
                    self._judge(await self._redis.storage())
                    await self.compare_clocks()
            except (RedisError, OSError, TimeoutError) as error:
                logger.debug("Redis was not looked at: %s", describe(error))
                pause = AGAIN_AFTER
            await asyncio.sleep(pause)

    async def compare_clocks(self) -> None:
        """Find out how far this machine's clock is from Redis'.

        Raises:
            RedisError: Redis cannot be reached.
        """
        if self._redis is None:
            return
        self._status.clock_skew = skew = await self._redis.clock_skew()
        if skew.matters and not self._clock_is_wrong:
            side = "ahead of" if skew.seconds > 0 else "behind"
            logger.warning(
                "the clock of this machine is %.1f s %s Redis': tasks go by Redis' clock, and times in this log are "
                "wrong. Remedy: synchronize both (chrony, systemd-timesyncd)",
                abs(skew.seconds),
                side,
                extra={"clock_skew_ms": round(skew.seconds * 1000)},
            )
        self._clock_is_wrong = skew.matters

    def _judge(self, storage: Storage) -> None:
        valid = LOOK_EVERY * 3
        metrics.REDIS_EVICTING.set(storage.count(Threat.EVICTION), self._queue, valid=valid)
        metrics.REDIS_UNSAVED.set(storage.count(Threat.NOT_PERSISTENT), self._queue, valid=valid)
        metrics.REDIS_UNSAVED_REPLICAS.set(storage.count(Threat.REPLICA_NOT_PERSISTENT), self._queue, valid=valid)
        metrics.REDIS_MEMORY_SHARE.set(storage.memory_share, self._queue, valid=valid)
        found = storage.warnings
        for warning in found:
            if (warning.kind, warning.server) not in self._warned:
                logger.warning("%s", warning.message, extra={"threat": warning.kind.value})
        self._warned = {(warning.kind, warning.server) for warning in found}
