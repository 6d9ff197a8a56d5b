"""LeaseKeeper: the heartbeat and the renewal of claims. It has a connection of its own and stops last.

For every claim it knows until when the lease is proven: the moment before the last renewal that Redis confirmed, plus
the lease. Shortly before a lease that could not be renewed runs out, the run is stopped: nobody else has started it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from redis.exceptions import RedisError

from orbiter.distributed import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from redis.asyncio import Redis

    from orbiter.distributed.broker import TaskBroker
    from orbiter.distributed.claims import Claim

logger = logging.getLogger(__name__)

RENEW_BATCH = 500
NEWS_WITHIN = 1.0


class Holder(Protocol):
    """Something that holds a claim and can be told to stop."""

    claim: Claim
    proven_until: float

    def stop(self, reason: str) -> None:
        """Stop the run; ``reason`` is ``lost`` or ``cancelled``."""


class LeaseKeeper:
    """Beats and renews every third of the lease.

    Args:
        broker: Knows how.
        client: The keeper's own connection.
        worker_id: Whose heartbeat.
        ttl: Lease and heartbeat lifetime, seconds.
        holders: What runs now; the worker adds and removes.
        describe: Returns the heartbeat's fields.
        control: Called with what an operator wants of this worker, if the heartbeat finds that out.
    """

    def __init__(
        self,
        broker: TaskBroker,
        client: Redis,
        *,
        worker_id: str,
        ttl: int,
        holders: Mapping[str, Holder],
        describe: Callable[[], Mapping[str, str]],
        control: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._client = client
        self._worker_id = worker_id
        self._ttl = ttl
        self._margin = ttl / 10
        self._holders = holders
        self._describe = describe
        self._control = control
        self._heard = time.monotonic()
        self._kicked = asyncio.Event()
        self._news: asyncio.TimerHandle | None = None

    def kick(self) -> None:
        """Beat now: the worker's state has changed."""
        self._kicked.set()

    def tell(self) -> None:
        """Beat within a second: counts have changed, and somebody may be looking."""
        if self._news is None:
            self._news = asyncio.get_running_loop().call_later(NEWS_WITHIN, self.kick)

    def silent_for(self) -> float:
        """Return the seconds since Redis last took a heartbeat."""
        return time.monotonic() - self._heard

    async def beat(self) -> None:
        """Beat once and renew every claim.

        Raises:
            RedisError: Redis could not be reached; leases go on as far as they are proven.
        """
        if self._news is not None:
            self._news.cancel()
            self._news = None
        wish = await self._broker.beat(self._client, self._worker_id, self._ttl, self._describe())
        self._heard = time.monotonic()
        if wish is not None:
            self._control(wish)
        holders = list(self._holders.values())
        for at in range(0, len(holders), RENEW_BATCH):
            batch = holders[at : at + RENEW_BATCH]
            asked = time.monotonic()
            verdicts = await self._broker.renew(self._client, self._worker_id, [holder.claim for holder in batch])
            for holder, verdict in zip(batch, verdicts, strict=True):
                if verdict == "ok":
                    holder.proven_until = asked + self._ttl
                elif verdict == "cancel":
                    holder.proven_until = asked + self._ttl
                    holder.stop("cancelled")
                elif holder.claim.entry_id in self._holders:
                    holder.stop("lost")

    async def run(self) -> None:
        """Beat until cancelled, whatever becomes of Redis."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            await self._beat_for_ever()

    async def _watch(self) -> None:
        """Stop what is not proven in time also while a beat hangs: a connection that is dead may say nothing at all."""
        while True:
            await asyncio.sleep(self._margin / 2)
            self._give_up_unproven()

    async def _beat_for_ever(self) -> None:
        period = self._ttl / 3
        while True:
            pause = period
            try:
                # Half a period is also the limit of one try: a connection that hangs must leave time for another.
                async with asyncio.timeout(max(0.5, period / 2)):
                    await self.beat()
            except (RedisError, OSError, TimeoutError) as error:
                metrics.DISRUPTIONS.add(1, self._broker.queue_name)
                logger.warning("heartbeat not delivered: %s", error or type(error).__name__)
                pause = min(1.0, period / 4)
            try:
                async with asyncio.timeout(pause):
                    await self._kicked.wait()
            except TimeoutError:
                continue
            self._kicked.clear()

    def _give_up_unproven(self) -> None:
        until = time.monotonic() + self._margin
        for holder in list(self._holders.values()):
            if holder.proven_until < until:
                holder.stop("lost")
