"""CancelListener: hears cancellations at once. One that is missed is found at the next renewal of the lease."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orbiter.distributed import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)


class CancelListener:
    """Listens on the cancel channels of all tasks.

    Args:
        client: The listener's own connection.
        heard: Called with the id of a task whose cancellation was asked for.
    """

    def __init__(self, client: Redis, heard: Callable[[str], None]) -> None:
        self._client = client
        self._heard = heard

    async def run(self) -> None:
        """Listen until cancelled, whatever becomes of Redis."""
        while True:
            try:
                async with self._client.pubsub() as channel:
                    await channel.psubscribe(f"{keys.CANCEL_PREFIX}*")
                    async for message in channel.listen():
                        if message["type"] == "pmessage":
                            self._heard(str(message["channel"]).removeprefix(keys.CANCEL_PREFIX))
            except (RedisError, OSError) as error:
                logger.warning("cancellations are found by renewal only: %s", error)
                await asyncio.sleep(1)
