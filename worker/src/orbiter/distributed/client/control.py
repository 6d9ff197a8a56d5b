"""WorkerControl: sends commands to workers of the fleet, wherever they run: drain, quiet, resume."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.broker.calls import core, run
from orbiter.distributed.broker.namespaced import Namespaced
from orbiter.distributed.broker.records import Command
from orbiter.distributed.broker.worker_health import WorkerHealth, worker_health

if TYPE_CHECKING:
    from collections.abc import Callable


POLL = 0.1


# The state in which a worker has obeyed; drained ones are gone.
_GOAL = {Command.DRAIN: "gone", Command.QUIET: "quiet", Command.RESUME: "running"}
_DONE = {Command.DRAIN: "has drained", Command.QUIET: "is quiet", Command.RESUME: "is running"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command.

    Attributes:
        worker_id: The worker.
        command: What was sent to it.
        done: Whether it obeyed; without waiting, whether the command was sent.
        state: Its last known state; ``asked`` without waiting, ``gone`` after a drain, ``dead`` or ``unknown`` where
            nobody listens.
        message: The same as a sentence.
    """

    worker_id: str
    command: Command
    done: bool
    state: str
    message: str


class WorkerControl(Namespaced):
    """Sends commands to workers and watches them obey."""

    async def send(
        self,
        worker_id: str,
        command: Command,
        *,
        timeout: float | None = 30.0,  # noqa: ASYNC109 - reported as an outcome, not raised
        wait: bool = True,
        progress: Callable[[WorkerHealth], None] | None = None,
    ) -> Outcome:
        """Send a command to one worker, and wait until its state shows that it has obeyed.

        Args:
            worker_id: The worker.
            command: The command.
            timeout: Seconds to wait; ``None`` waits for as long as the worker lives.
            wait: Whether to wait at all.
            progress: Called after each look at a worker that has not got there yet.
        """
        reply = await run(self.client, core.command(self._keys, worker_id, command.value))
        if reply == "absent":
            return await self._absent(worker_id, command)
        if reply == "outdated":
            reason = f"is of release 0.1, which hears no {command}; send SIGTERM to its process"
            return _outcome(worker_id, command, "running", reason)
        if reply == "draining" and command is not Command.DRAIN:
            return _outcome(worker_id, command, "draining", f"is draining and cannot be told to {command} any more")
        if not wait:
            state = "draining" if reply == "draining" else "asked"
            return _outcome(worker_id, command, state, f"has been told to {command}", done=True)
        return await self._watch(worker_id, command, timeout, progress)

    async def _watch(
        self, worker_id: str, command: Command, patience: float | None, progress: Callable[[WorkerHealth], None] | None
    ) -> Outcome:
        began = time.monotonic()
        while True:
            health = await self.look(worker_id)
            state = "gone" if health is None else "dead" if not health.alive else health.state
            if state == _GOAL[command]:
                return _outcome(worker_id, command, state, _DONE[command], done=True)
            if health is None:
                return _outcome(worker_id, command, state, f"has left the fleet instead of obeying {command}")
            if not health.alive:
                return _outcome(
                    worker_id, command, state, f"died before it could {command}; its tasks run again elsewhere"
                )
            if patience is not None and time.monotonic() - began >= patience:
                return _outcome(worker_id, command, state, f"is still {state} after {patience:g} s")
            if progress is not None:
                progress(health)
            await asyncio.sleep(POLL)

    async def look(self, worker_id: str) -> WorkerHealth | None:
        """Return a worker as it is now, ``None`` where it is unknown or has left in order."""
        fields: Any = await self.client.hgetall(self._keys.worker(worker_id))
        if fields:
            seconds, micros = await self.client.time()
            return worker_health(worker_id, fields, now=seconds + micros / 1e6)
        last_beat = await self.client.zscore(self._keys.fleet, worker_id)
        if last_beat is None:
            return None
        beat = last_beat / 1000
        return WorkerHealth(worker_id=worker_id, status="dead", last_heartbeat=beat, alive=False, recorded=False)

    async def _absent(self, worker_id: str, command: Command) -> Outcome:
        if await self.client.zscore(self._keys.fleet, worker_id) is None:
            message = f"Worker not found: {worker_id}"
            return Outcome(worker_id=worker_id, command=command, done=False, state="unknown", message=message)
        return _outcome(worker_id, command, "dead", f"is dead: there is nobody to {command}")


def _outcome(worker_id: str, command: Command, state: str, what: str, *, done: bool = False) -> Outcome:
    return Outcome(worker_id=worker_id, command=command, done=done, state=state, message=f"Worker {worker_id} {what}.")
