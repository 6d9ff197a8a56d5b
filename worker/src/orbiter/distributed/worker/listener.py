"""Listener: hears cancellations, and what an operator wants of this worker, at once.

What is missed is found by the lease keeper, at its next renewal or heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import ConnectionError, RedisError  # noqa: A004 - redis' own

from orbiter.distributed.errors import describe
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from orbiter.distributed.broker.announcements import Announcement
    from orbiter.distributed.worker.commands import Commands

logger = logging.getLogger(__name__)

AGAIN_AFTER = 1.0


class Channel(Protocol):
    """A connection on which announcements arrive."""

    async def next(self, within: float) -> Announcement | None:
        """Wait for an announcement, so many seconds at most; return ``None`` where nothing was heard."""

    async def probe(self) -> None:
        """Ask for a sign of life, which is an announcement, too."""


class Announcer(Protocol):
    """Where announcements come from: :class:`~orbiter.distributed.broker.announcements.Announcements`."""

    def open(self) -> AbstractAsyncContextManager[Channel]:
        """Listen meanwhile."""


class Listener:
    """Listens on the cancel channels of all tasks and on the worker's own.

    Args:
        announcements: What is heard.
        queue: Which queue's disruptions are counted.
        cancel: Called with the id of a task whose cancellation was asked for.
        commands: Told what comes on the worker's channel.
        patience: Seconds of silence after which the connection is probed, and again until it counts as dead.
    """

    def __init__(
        self,
        announcements: Announcer,
        *,
        queue: str,
        cancel: Callable[[str], None],
        commands: Commands,
        patience: float,
    ) -> None:
        self._announcements = announcements
        self._queue = queue
        self._cancel = cancel
        self._commands = commands
        self._patience = patience

    async def run(self) -> None:
        """Listen until cancelled, whatever becomes of Redis."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                metrics.DISRUPTIONS.add(1, self._queue)
                logger.warning("cancellations are found by renewal only: %s", describe(error))
                await asyncio.sleep(AGAIN_AFTER)

    async def _listen(self) -> None:
        async with self._announcements.open() as channel:
            probed = False
            while True:
                heard = await channel.next(self._patience)
                if heard is not None:
                    probed = False
                    self._obey(heard)
                elif probed:
                    raise ConnectionError("no answer to a ping")
                else:
                    await channel.probe()
                    probed = True

    def _obey(self, heard: Announcement) -> None:
        if heard.cancelled:
            self._cancel(heard.cancelled)
        elif heard.command:
            self._commands.apply(heard.command)
