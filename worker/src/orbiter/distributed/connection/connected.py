"""Connected: what has a Redis client of its own, or shares somebody's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orbiter.distributed.connection.redis_url import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis


async def redis_time(client: Redis) -> float:
    """Return Redis' clock, epoch seconds: the one that decides, as hosts' clocks differ."""
    seconds, micros = await client.time()
    return float(seconds + micros / 1e6)


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
