"""Slot: one task while it runs here, and the ways to stop it."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Any, assert_never

from orbiter.distributed.execution.endings import Cancelled, Failed, Lost, Requeued, StopReason
from orbiter.distributed.runtimes import CancellationToken
from orbiter.distributed.runtimes.task_limits import over_limit
from orbiter.distributed.runtimes.user_code import Contained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from orbiter.distributed.broker.events import EventLog
    from orbiter.distributed.broker.records import Claim
    from orbiter.distributed.connection.deadlines import Deadlines
    from orbiter.distributed.execution.endings import Ending, Execution

# A run that does not react to its cancellation (a synchronous tool in a thread) is left behind after this, seconds.
ABANDON_AFTER = 1.0


class TaskTimeoutError(TimeoutError):
    """A run took longer than the task's ``timeout_seconds``."""


class Slot:
    """Holds a claim and its run.

    Args:
        claim: What runs.
        log: Where its events go.
        leased_until: Monotonic time until which the lease is known to be ours.
        started: Monotonic time at which the run begins.
    """

    __slots__ = (
        *("_abandon_after", "_agent_name", "_deadlines", "_on_over", "_over", "_run"),
        *("claim", "log", "leased_until", "note_waiting", "reason", "started", "token"),
    )

    def __init__(self, claim: Claim, log: EventLog, leased_until: float, *, started: float | None = None) -> None:
        self.claim = claim
        self._agent_name: str | None = None
        self.log = log
        self.leased_until = leased_until
        self.started = time.monotonic() if started is None else started
        self.token = CancellationToken()
        self.reason: StopReason | None = None
        self.note_waiting: Callable[[bool], Awaitable[bool]] | None = None
        self._over = False

    @property
    def agent_name(self) -> str:
        """The name that the task's agent is shown by: found out when somebody asks, who asks again at the end."""
        if self._agent_name is None:
            self._agent_name = self.claim.task.agent_name
        return self._agent_name

    def begin(
        self,
        work: Coroutine[Any, Any, Execution],
        *,
        deadlines: Deadlines,
        on_over: Callable[[Slot], None],
        abandon_after: float = ABANDON_AFTER,
    ) -> None:
        """Start the run.

        Args:
            work: The run.
            deadlines: Watch its limit, if it has been added to them; it is removed once it is over.
            on_over: Called once, when the run has ended or was left behind.
            abandon_after: Seconds after which a run that does not react to its cancellation is left behind.
        """
        self._abandon_after = abandon_after
        self._on_over = on_over
        self._deadlines = deadlines
        self.log.on_most = self._stop_over_limit
        self._run = asyncio.get_running_loop().create_task(Contained(work))
        self._run.add_done_callback(self._finished)

    def stop(self, reason: StopReason) -> None:
        """Stop the run. The first reason counts, but ``LOST`` beats all."""
        if reason is StopReason.LOST:
            self.log.close(discard=True)
            self.reason = reason
        if self.token.cancelled:
            return
        self.reason = self.reason or reason
        self.token.cancel()
        self._run.cancel()
        if self._abandon_after < inf:
            asyncio.get_running_loop().call_later(self._abandon_after, self._give_up)

    def time_out(self) -> None:
        """Stop the run: its time is over."""
        self.stop(StopReason.TIMED_OUT)

    def _stop_over_limit(self) -> None:
        self.stop(StopReason.OVER_LIMIT)

    def ending(self) -> Ending:
        """Tell how the run ended, once it is over."""
        run, reason = self._run, self.reason
        if run.done() and not run.cancelled() and reason is not StopReason.LOST:
            error = run.exception()
            if error is None:
                return run.result()
            if reason is None:
                return Failed(error)
        return self._stopped(reason)

    def _stopped(self, reason: StopReason | None) -> Ending:
        match reason:
            case None:
                # Nobody here asked for that: something that it awaited was cancelled.
                return Failed(RuntimeError("the run was cancelled by itself"))
            case StopReason.TIMED_OUT:
                limit = self.claim.task.timeout_seconds
                return Failed(TaskTimeoutError(f"run took longer than timeout_seconds={limit:g}"))
            case StopReason.OVER_LIMIT:
                return Failed(over_limit("events of the run", f"{self.log.emitted}", self.log.most, "max_events"))
            case StopReason.CANCELLED:
                return Cancelled()
            case StopReason.REQUEUED:
                return Requeued("stopped")
            case StopReason.LOST:
                return Lost()
            case _:
                assert_never(reason)

    def _finished(self, run: asyncio.Task[Execution]) -> None:
        if not run.cancelled():
            run.exception()
        self._give_up()

    def _give_up(self) -> None:
        if not self._over:
            self._over = True
            self.log.on_most = None
            self._deadlines.remove(self)
            self._on_over(self)
