"""Listener: hears cancellations, and what an operator wants of this worker, at once.

What is missed is found by the lease keeper, at its next renewal or heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis' own

from orbiter.distributed import keys, metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

AGAIN_AFTER = 1.0


class Listener:
    """Listens on the cancel channels of all tasks and on the worker's own.

    Args:
        client: The listener's own connection.
        worker_id: Whose control channel.
        queue: Which queue's disruptions are counted.
        cancel: Called with the id of a task whose cancellation was asked for.
        control: Called with ``drain``, ``quiet`` or ``resume``.
        patience: Seconds of silence after which the connection is probed, and again until it counts as dead.
    """

    def __init__(
        self,
        client: Redis,
        worker_id: str,
        *,
        queue: str,
        cancel: Callable[[str], None],
        control: Callable[[str], None],
        patience: float,
    ) -> None:
        self._client = client
        self._queue = queue
        self._channel = keys.control(worker_id)
        self._cancel = cancel
        self._control = control
        self._patience = patience

    async def run(self) -> None:
        """Listen until cancelled, whatever becomes of Redis."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._queue)
                logger.warning("cancellations are found by renewal only: %s", error or type(error).__name__)
                await asyncio.sleep(AGAIN_AFTER)

    async def _listen(self) -> None:
        async with self._client.pubsub() as channel:
            await channel.psubscribe(f"{keys.CANCEL_PREFIX}*")
            await channel.subscribe(self._channel)
            probed = False
            while True:
                message: Any = await channel.get_message(timeout=self._patience)
                if message is not None:
                    probed = False
                    self._heard(message)
                elif probed:
                    raise ConnectionError("no answer to a ping")
                else:
                    await channel.ping()
                    probed = True

    def _heard(self, message: dict[str, Any]) -> None:
        if message["type"] == "pmessage":
            self._cancel(str(message["channel"]).removeprefix(keys.CANCEL_PREFIX))
        elif message["type"] == "message":
            self._control(str(message["data"]))
