"""Slot: one task while it runs here, and the ways to stop it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.runtimes import CancellationToken

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from orbiter.distributed.claims import Claim
    from orbiter.distributed.events import EventLog

# A run that does not react to its cancellation (a synchronous tool in a thread) is left behind after this, seconds.
ABANDON_AFTER = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: with a result, with an error, or because it was stopped for a reason."""

    result: dict[str, Any] | None = None
    error: BaseException | None = None
    stopped: str | None = None


class Slot:
    """Holds a claim and its run.

    Args:
        claim: What runs.
        log: Where its events go.
        proven_until: Monotonic time until which the lease is known to be ours.
    """

    def __init__(self, claim: Claim, log: EventLog, proven_until: float) -> None:
        self.claim = claim
        self.log = log
        self.proven_until = proven_until
        self.started = time.monotonic()
        self.token = CancellationToken()
        self.supervisor: asyncio.Task[None] | None = None
        self.reason: str | None = None
        self._run: asyncio.Task[dict[str, Any]] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(
        self,
        execute: Callable[[Claim, EventLog, CancellationToken], Coroutine[Any, Any, dict[str, Any]]],
        supervise: Coroutine[Any, Any, None],
    ) -> None:
        """Start the run and the one who waits for it."""
        self._run = asyncio.create_task(execute(self.claim, self.log, self.token))
        self._run.add_done_callback(self._finished)
        self.supervisor = asyncio.create_task(supervise)

    def stop(self, reason: str) -> None:
        """Stop the run: ``cancelled``, ``handed back`` or ``lost``. The first reason counts, but ``lost`` beats all."""
        if reason == "lost":
            self.log.close(discard=True)
            self.reason = reason
        if self.token.cancelled:
            return
        self.reason = self.reason or reason
        self.token.cancel()
        if self._run is not None:
            self._run.cancel()
        asyncio.get_running_loop().call_later(ABANDON_AFTER, self._give_up)

    async def ended(self) -> Ended:
        """Wait until the run is over, or left behind."""
        await self._over
        run = self._run
        if run is None or not run.done() or run.cancelled():
            return Ended(stopped=self.reason or "handed back")
        error = run.exception()
        if self.reason == "lost" or (self.reason and error is not None):
            return Ended(stopped=self.reason)
        return Ended(result=None if error else run.result(), error=error)

    def _finished(self, run: asyncio.Task[dict[str, Any]]) -> None:
        if not run.cancelled():
            run.exception()
        self._give_up()

    def _give_up(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
