"""Slot: one task while it runs here, and the ways to stop it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.deadlines import TIMED_OUT
from orbiter.distributed.runtimes import CancellationToken

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from orbiter.distributed.claims import Claim
    from orbiter.distributed.deadlines import Deadlines
    from orbiter.distributed.events import EventLog

# A run that does not react to its cancellation (a synchronous tool in a thread) is left behind after this, seconds.
ABANDON_AFTER = 1.0


@dataclass(slots=True)
class Ended:
    """How a run ended: with a result, with an error, or because it was stopped for a reason."""

    result: dict[str, Any] | None = None
    error: BaseException | None = None
    stopped: str | None = None


class TaskTimeoutError(TimeoutError):
    """A run took longer than the task's ``timeout_seconds``."""


class Slot:
    """Holds a claim and its run.

    Args:
        claim: What runs.
        log: Where its events go.
        proven_until: Monotonic time until which the lease is known to be ours.
    """

    __slots__ = (
        *("_agent_name", "_deadlines", "_on_over", "_over", "_run"),
        *("claim", "log", "proven_until", "reason", "started", "token"),
    )

    def __init__(self, claim: Claim, log: EventLog, proven_until: float) -> None:
        self.claim = claim
        self._agent_name: str | None = None
        self.log = log
        self.proven_until = proven_until
        self.started = time.monotonic()
        self.token = CancellationToken()
        self.reason: str | None = None
        self._over = False

    @property
    def agent_name(self) -> str:
        """The name that the task's agent is shown by: found out when somebody asks, who asks again at the end."""
        if self._agent_name is None:
            self._agent_name = self.claim.task.agent_name
        return self._agent_name

    def begin(
        self, work: Coroutine[Any, Any, dict[str, Any]], *, deadlines: Deadlines, on_over: Callable[[Slot], None]
    ) -> None:
        """Start the run.

        Args:
            work: The run.
            deadlines: Watch its limit, if it has been added to them; it is removed once it is over.
            on_over: Called once, when the run has ended or was left behind.
        """
        self._on_over = on_over
        self._deadlines = deadlines
        self._run = asyncio.get_running_loop().create_task(work)
        self._run.add_done_callback(self._finished)

    def stop(self, reason: str) -> None:
        """Stop the run: ``cancelled``, ``handed back``, ``timed out`` or ``lost``.

        The first reason counts, but ``lost`` beats all.
        """
        if reason == "lost":
            self.log.close(discard=True)
            self.reason = reason
        if self.token.cancelled:
            return
        self.reason = self.reason or reason
        self.token.cancel()
        self._run.cancel()
        asyncio.get_running_loop().call_later(ABANDON_AFTER, self._give_up)

    def ended(self) -> Ended:
        """Tell how the run ended, once it is over."""
        run = self._run
        if run.done() and not run.cancelled() and self.reason != "lost":
            error = run.exception()
            if error is None:
                return Ended(result=run.result())
            if self.reason is None:
                return Ended(error=error)
        if self.reason == TIMED_OUT:
            limit = self.claim.task.timeout_seconds
            return Ended(error=TaskTimeoutError(f"run took longer than timeout_seconds={limit:g}"))
        if self.reason is None:
            # Nobody here asked for that: something that it awaited was cancelled.
            return Ended(error=RuntimeError("the run was cancelled by itself"))
        return Ended(stopped=self.reason)

    def _finished(self, run: asyncio.Task[dict[str, Any]]) -> None:
        if not run.cancelled():
            run.exception()
        self._give_up()

    def _give_up(self) -> None:
        if not self._over:
            self._over = True
            self._deadlines.remove(self)
            self._on_over(self)
