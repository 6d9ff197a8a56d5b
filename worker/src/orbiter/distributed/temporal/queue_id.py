"""QueueId: what tells a queue from queues of the same name in other Redis servers, for fleets that share a namespace.

It is a key beside the queue, made by its first durable worker. So it stays where the queue stays, in a failover as in a
backup, and goes where the queue goes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from orbiter.distributed.temporal.delegated import DelegatedTasks

logger = logging.getLogger(__name__)


class QueueIdError(Exception):
    """The queue's id is not known, or not the one under which this worker polls: no task can be delegated now."""


class QueueId:
    """The id under which a worker polls, and whether it is still the queue's.

    Attributes:
        value: The id; empty before :meth:`learn`.
        changed: Set once the queue has another one.
    """

    def __init__(self) -> None:
        self.value = ""
        self.changed = asyncio.Event()

    async def learn(self, tasks: DelegatedTasks) -> None:
        """Ask Redis, and give the queue an id if it has none.

        Raises:
            RuntimeError: Redis cannot be reached, and the id is not known from before.
        """
        try:
            self.value = await tasks.queue_id(self.value or secrets.token_hex(6))
        except (RedisError, OSError) as error:
            if not self.value:
                raise RuntimeError(f"the queue's id cannot be read from Redis: {error}") from error
        self.changed.clear()

    async def make_sure(self, tasks: DelegatedTasks) -> None:
        """See that the id is still the queue's, before a task is given away under it.

        A Redis that has lost it, in a failover for instance, is told it again.

        Raises:
            QueueIdError: It is not, as Redis was emptied or replaced; or Redis cannot be reached.
        """
        if not self.value:
            raise QueueIdError("the queue's id is not known yet")
        try:
            found = await tasks.queue_id(self.value)
        except (RedisError, OSError) as error:
            raise QueueIdError(f"the queue's id cannot be read from Redis: {error}") from error
        if found != self.value:
            logger.warning("the queue's id was %s and is %s: Redis was emptied or replaced", self.value, found)
            self.changed.set()
            raise QueueIdError("the queue has another id now")
