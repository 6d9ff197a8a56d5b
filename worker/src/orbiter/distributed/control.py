"""WorkerControl: tells workers of the fleet, wherever they run, to drain, to be quiet or to resume."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from orbiter.distributed import keys
from orbiter.distributed.connected import Connected
from orbiter.distributed.health import WorkerHealth, worker_health
from orbiter.distributed.lua import script

if TYPE_CHECKING:
    from collections.abc import Callable


POLL = 0.1


class Wish(StrEnum):
    """What a worker can be told."""

    DRAIN = "drain"
    QUIET = "quiet"
    RESUME = "resume"


# The state in which a worker has done as it was told; drained ones are gone.
_GOAL = {Wish.DRAIN: "gone", Wish.QUIET: "quiet", Wish.RESUME: "running"}
_DONE = {Wish.DRAIN: "has drained", Wish.QUIET: "is quiet", Wish.RESUME: "is running"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a wish.

    Attributes:
        worker_id: The worker.
        wish: What it was told.
        done: Whether it did so; without waiting, whether it was told.
        state: Its last known state; ``asked`` without waiting, ``gone`` after a drain, ``dead`` or ``unknown`` where
            nobody listens.
        message: The same as a sentence.
    """

    worker_id: str
    wish: Wish
    done: bool
    state: str
    message: str


class WorkerControl(Connected):
    """Tells workers what to do and watches them do it.

    Args:
        redis_url: Where Redis is.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    async def tell(
        self,
        worker_id: str,
        wish: Wish,
        *,
        timeout: float | None = 30.0,  # noqa: ASYNC109 - reported as an outcome, not raised
        wait: bool = True,
        progress: Callable[[WorkerHealth], None] | None = None,
    ) -> Outcome:
        """Tell one worker, and wait until its state shows that it has done so.

        Args:
            worker_id: The worker.
            wish: What it is to do.
            timeout: Seconds to wait; ``None`` waits for as long as the worker lives.
            wait: Whether to wait at all.
            progress: Called after each look at a worker that has not got there yet.
        """
        said = await script(self.client, "control")(
            keys=[keys.worker(worker_id)], args=[wish.value, keys.control(worker_id)]
        )
        if said == "absent":
            return await self._absent(worker_id, wish)
        if said == "outdated":
            reason = f"is of release 0.1, which hears no {wish}; send SIGTERM to its process"
            return _outcome(worker_id, wish, "running", reason)
        if said == "draining" and wish is not Wish.DRAIN:
            return _outcome(worker_id, wish, "draining", f"is draining and cannot be told to {wish} any more")
        if not wait:
            state = "draining" if said == "draining" else "asked"
            return _outcome(worker_id, wish, state, f"has been told to {wish}", done=True)
        return await self._watch(worker_id, wish, timeout, progress)

    async def _watch(
        self, worker_id: str, wish: Wish, patience: float | None, progress: Callable[[WorkerHealth], None] | None
    ) -> Outcome:
        began = time.monotonic()
        while True:
            health = await self.look(worker_id)
            state = "gone" if health is None else "dead" if not health.alive else health.state
            if state == _GOAL[wish]:
                return _outcome(worker_id, wish, state, _DONE[wish], done=True)
            if health is None:
                return _outcome(worker_id, wish, state, f"has left the fleet instead of obeying {wish}")
            if not health.alive:
                return _outcome(worker_id, wish, state, f"died before it could {wish}; its tasks run again elsewhere")
            if patience is not None and time.monotonic() - began >= patience:
                return _outcome(worker_id, wish, state, f"is still {state} after {patience:g} s")
            if progress is not None:
                progress(health)
            await asyncio.sleep(POLL)

    async def look(self, worker_id: str) -> WorkerHealth | None:
        """Return a worker as it is now, ``None`` where it is unknown or has left in order."""
        fields: Any = await self.client.hgetall(keys.worker(worker_id))
        if fields:
            seconds, micros = await self.client.time()
            return worker_health(worker_id, fields, now=seconds + micros / 1e6)
        last_beat = await self.client.zscore(keys.FLEET, worker_id)
        if last_beat is None:
            return None
        return WorkerHealth(worker_id=worker_id, status="dead", last_heartbeat=last_beat / 1000, alive=False)

    async def _absent(self, worker_id: str, wish: Wish) -> Outcome:
        if await self.client.zscore(keys.FLEET, worker_id) is None:
            message = f"Worker not found: {worker_id}"
            return Outcome(worker_id=worker_id, wish=wish, done=False, state="unknown", message=message)
        return _outcome(worker_id, wish, "dead", f"is dead: there is nobody to {wish}")


def _outcome(worker_id: str, wish: Wish, state: str, what: str, *, done: bool = False) -> Outcome:
    return Outcome(worker_id=worker_id, wish=wish, done=done, state=state, message=f"Worker {worker_id} {what}.")
