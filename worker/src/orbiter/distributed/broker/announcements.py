"""Announcements: what a worker hears on Redis' channels: cancellations of tasks, and commands for itself."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis
    from redis.asyncio.client import PubSub

    from orbiter.distributed.broker.keys import Keys


@dataclass(frozen=True, slots=True)
class Announcement:
    """What was heard. One without either is a mere sign of life.

    Attributes:
        cancelled: The id of a task whose cancellation was asked for, or an empty text.
        command: A command for this worker, or an empty text.
    """

    cancelled: str = ""
    command: str = ""


class Channel:
    """A connection on which announcements arrive.

    Args:
        pubsub: The connection, subscribed.
        keys: Names the channels.
    """

    def __init__(self, pubsub: PubSub, keys: Keys) -> None:
        self._pubsub = pubsub
        self._keys = keys

    async def next(self, within: float) -> Announcement | None:
        """Wait for an announcement, so many seconds at most; return ``None`` where nothing was heard."""
        message: Any = await self._pubsub.get_message(timeout=within)
        if message is None:
            return None
        if message["type"] == "pmessage":
            return Announcement(cancelled=str(message["channel"]).removeprefix(self._keys.cancel_prefix))
        return Announcement(command=str(message["data"]) if message["type"] == "message" else "")

    async def probe(self) -> None:
        """Ask for a sign of life."""
        await self._pubsub.ping()


class Announcements:
    """The cancel channels of all tasks and a worker's own channel.

    Args:
        client: A connection for these alone.
        worker_id: Whose control channel.
        keys: Names the channels.
    """

    def __init__(self, client: Redis, worker_id: str, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._control = keys.control(worker_id)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Channel]:
        """Listen meanwhile."""
        async with self._client.pubsub() as pubsub:
            await pubsub.psubscribe(f"{self._keys.cancel_prefix}*")
            await pubsub.subscribe(self._control)
            yield Channel(pubsub, self._keys)
