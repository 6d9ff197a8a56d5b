"""Connected: what has a Redis client of its own, or shares somebody's."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orbiter.distributed.connection.redis_url import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis


# Seconds by which clocks may differ before anybody is told.
SKEW_ALLOWED = 1.0


async def redis_time(client: Redis) -> float:
    """Return Redis' clock, epoch seconds: the one that decides, as hosts' clocks differ."""
    seconds, micros = await client.time()
    return float(seconds + micros / 1e6)


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """How far this machine's clock is ahead of Redis' (behind, where negative).

    Attributes:
        seconds: So many.
        doubt: By how much that can be wrong: half the time that the question took.
    """

    seconds: float
    doubt: float = 0.0

    @property
    def matters(self) -> bool:
        """Whether it is more than a second for certain."""
        return abs(self.seconds) - self.doubt > SKEW_ALLOWED


async def clock_skew(client: Redis) -> ClockSkew:
    """Compare this machine's clock with Redis'.

    Raises:
        redis.RedisError: Redis cannot be reached.
    """
    asked = time.time()
    theirs = await redis_time(client)
    took = max(0.0, time.time() - asked)
    return ClockSkew(asked + took / 2 - theirs, took / 2)


@asynccontextmanager
async def client_for(redis_url: str, shared: Redis | None, *, name: str) -> AsyncIterator[Redis]:
    """Give the shared client, or one of one connection that is closed afterwards.

    Args:
        redis_url: Where Redis is.
        shared: The client to use, if there is one.
        name: What ``CLIENT LIST`` calls the connection otherwise.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    if shared is not None:
        yield shared
        return
    own = connect(redis_url, max_connections=1, name=name)
    try:
        yield own
    finally:
        await own.aclose()


class Connected:
    """Holds a client between ``connect()`` and ``disconnect()``.

    Args:
        redis_url: Where Redis is.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(self, redis_url: str, *, client: Redis | None = None) -> None:
        self.redis_url = redis_url
        self._shared = client
        self._client = client

    @property
    def client(self) -> Redis:
        """The client in use.

        Raises:
            RuntimeError: :meth:`connect` has not been called.
        """
        if self._client is None:
            raise RuntimeError(f"{type(self).__name__} is not connected. Call connect() first.")
        return self._client

    async def connect(self) -> None:
        """Make a client, unless one is shared."""
        if self._client is None:
            self._client = connect(self.redis_url)

    async def disconnect(self) -> None:
        """Close the connection, if it is our own."""
        if self._client is not None and self._shared is None:
            await self._client.aclose()
        self._client = self._shared
