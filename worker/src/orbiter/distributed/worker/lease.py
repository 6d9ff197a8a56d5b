"""LeaseKeeper: the heartbeat and the renewal of claims. It has a connection of its own and stops last.

For every claim it knows until when the lease is held: the moment before the last renewal that Redis confirmed, plus
the lease. Shortly before a lease that could not be renewed runs out, the run is stopped: nobody else has started it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol, assert_never

from redis.exceptions import RedisError

from orbiter.distributed.errors import WorkerIdTakenError, describe
from orbiter.distributed.execution.endings import StopReason
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker.incarnation import new_life

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.asyncio import Redis

    from orbiter.distributed.broker.rates import Counts
    from orbiter.distributed.broker.records import Claim, Renewal
    from orbiter.distributed.execution.counting import Counting
    from orbiter.distributed.worker.commands import Commands
    from orbiter.distributed.worker.flow import ClaimFlow

logger = logging.getLogger(__name__)

RENEW_BATCH = 500
# The part of a lease before whose end a run must be renewed, or is stopped.
MARGIN = 0.1
NEWS_WITHIN = 1.0


class LeaseStore(Protocol):
    """Keeps heartbeats and leases: the broker."""

    async def beat(
        self,
        client: Redis,
        worker_id: str,
        ttl: int,
        fields: Mapping[str, str],
        *,
        life: str = "",
        replace: str = "",
        counts: Counts | None = None,
    ) -> str | None:
        """Publish a heartbeat; return a command for the worker, where there is one."""

    async def renew(self, client: Redis, consumer: str, claims: Sequence[Claim], *, lease: float) -> list[Renewal]:
        """Renew leases of so many seconds; return ``ok``, ``lost`` or ``cancel`` for each."""


class LeaseKeeper:
    """Sends the heartbeat and renews claims, every third of the lease.

    Args:
        store: The broker.
        client: The keeper's own connection.
        flow: Holds what runs; told when claims were renewed.
        commands: Told what an operator wants of this worker, if the heartbeat finds that out, and that another process
            has this worker's id, as after a partition longer than the lease. Nothing is renewed from then on.
        worker_id: Whose heartbeat.
        queue: Which queue's disruptions are counted.
        ttl: Lease and heartbeat lifetime, seconds.
        describe: Returns the heartbeat's fields.
        counting: What was counted since the heartbeat before, which this one brings.
        clock: Monotonic seconds.

    Attributes:
        life: What tells this process from others under the worker id.
        counting: As given.
    """

    def __init__(
        self,
        store: LeaseStore,
        client: Redis,
        *,
        flow: ClaimFlow,
        commands: Commands,
        worker_id: str,
        queue: str,
        ttl: int,
        describe: Callable[[], Mapping[str, str]],
        counting: Counting,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.life = new_life()
        self.counting = counting
        self._store = store
        self._client = client
        self._flow = flow
        self._commands = commands
        self._worker_id = worker_id
        self._queue = queue
        self._ttl = ttl
        self._margin = ttl * MARGIN
        self._describe = describe
        self._clock = clock

    def silent_for(self) -> float:
        """Return the seconds since Redis last took a heartbeat."""
        return self._clock() - self._flow.heard

    async def beat(self, *, replace: str = "") -> None:
        """Beat once and renew every claim.

        Args:
            replace: A life that is over, whose heartbeat may still stand.

        Raises:
            RedisError: Redis could not be reached; leases go on until they end.
            WorkerIdTakenError: Another life has this worker's id.
        """
        self._commands.beat.clear()
        self._flow.news.clear()
        asked = self._clock()
        command = await self._store.beat(
            self._client,
            self._worker_id,
            self._ttl,
            self._describe(),
            life=self.life,
            replace=replace,
            counts=self.counting.take(),
        )
        self.counting.delivered()
        self._flow.heard = asked
        if command is not None:
            self._commands.apply(command)
        held = self._flow.runs.held
        slots = list(held.values())
        for at in range(0, len(slots), RENEW_BATCH):
            batch = slots[at : at + RENEW_BATCH]
            asked = self._clock()
            claims = [slot.claim for slot in batch]
            verdicts = await self._store.renew(self._client, self._worker_id, claims, lease=self._ttl)
            for slot, verdict in zip(batch, verdicts, strict=True):
                match verdict:
                    case "ok":
                        slot.leased_until = asked + self._ttl
                    case "cancel":
                        slot.leased_until = asked + self._ttl
                        slot.stop(StopReason.CANCELLED)
                    case "lost":
                        if slot.claim.entry_id in held:
                            slot.stop(StopReason.LOST)
                    case _:
                        assert_never(verdict)
        self._flow.check()

    async def run(self) -> None:
        """Beat until cancelled, whatever becomes of Redis."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            await self._beat_for_ever()

    async def _watch(self) -> None:
        """Stop what was not renewed in time, also while a beat hangs: a dead connection may say nothing at all."""
        while True:
            await asyncio.sleep(self._margin / 2)
            self._stop_unrenewed()

    async def _beat_for_ever(self) -> None:
        period = self._ttl / 3
        # Of one try: a connection that hangs must leave time for others. Where a busy host or server needs longer each
        # time, no try would ever succeed: so it is twice what the last one took, at most half a lease.
        least = limit = max(0.5, period / 2)
        while True:
            pause, began = period, self._clock()
            try:
                async with asyncio.timeout(limit):
                    await self.beat()
            except WorkerIdTakenError as error:
                logger.error("%s", error)  # noqa: TRY400 - no fault of this code's
                self._commands.give_up_id(error)
                return
            except (RedisError, OSError, TimeoutError) as error:
                metrics.DISRUPTIONS.add(1, self._queue)
                logger.warning("heartbeat not delivered after %.1f s: %s", self._clock() - began, describe(error))
                pause = min(1.0, period / 4)
                await self._flow.troubles.failed("renew", error)
            else:
                self._flow.troubles.worked("renew")
            limit = min(max(least, 2 * (self._clock() - began)), max(least, self._ttl / 2))
            await self._wait(pause)

    async def _wait(self, pause: float) -> None:
        """Wait for the next beat: none where one is asked for, a second at most where there is news."""
        beat, news = self._commands.beat, self._flow.news
        until = self._clock() + pause
        await _any_set(beat, news, within=pause)
        if not beat.is_set() and (left := min(NEWS_WITHIN, until - self._clock())) > 0:
            await _any_set(beat, within=left)

    def _stop_unrenewed(self) -> None:
        until = self._clock() + self._margin
        for slot in list(self._flow.runs.held.values()):
            if slot.leased_until < until:
                slot.stop(StopReason.LOST)


async def _any_set(*events: asyncio.Event, within: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
