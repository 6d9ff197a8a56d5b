"""Connected: what has a Redis client of its own, or shares somebody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.redis_url import connect

if TYPE_CHECKING:
    from redis.asyncio import Redis


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
