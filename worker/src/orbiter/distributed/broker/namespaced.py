"""Namespaced: what has a Redis client, and the keys of one namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.connected import Connected
from orbiter.distributed.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Namespaced(Connected):
    """Uses the keys of a namespace.

    Args:
        redis_url: Where Redis is.
        namespace: The first word of all keys and channels.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(self, redis_url: str, *, namespace: str = DEFAULT_NAMESPACE, client: Redis | None = None) -> None:
        super().__init__(redis_url, client=client)
        self._keys = Keys(namespace)
