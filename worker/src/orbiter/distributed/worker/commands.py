"""Commands: what signals, operators and other processes ask of this worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orbiter.distributed.broker.records import BEAT, Command

if TYPE_CHECKING:
    from orbiter.distributed.errors import WorkerIdTakenError


class Commands:
    """Keeps what is wanted. Whoever obeys waits for the events; nothing is called back.

    Attributes:
        stopping: Set when the worker is to drain.
        hurry: Set when the drain is not to wait for running tasks.
        changed: Set when ``quiet`` has changed.
        beat: Set when the heartbeat is to be sent now.
        quiet: Whether the worker is to claim nothing, but stay.
        taken: Set to the error when another process has this worker's id.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self.changed = asyncio.Event()
        self.beat = asyncio.Event()
        self.quiet = False
        self.taken: WorkerIdTakenError | None = None

    def stop(self) -> None:
        """Drain; the second time, without waiting for running tasks."""
        (self.hurry if self.stopping.is_set() else self.stopping).set()

    def drain(self) -> None:
        """Drain, however often this comes."""
        self.stopping.set()

    def be_quiet(self, quiet: bool) -> None:
        """Claim nothing more, or claim again."""
        self.quiet = quiet
        self.changed.set()

    def give_up_id(self, error: WorkerIdTakenError) -> None:
        """Stop at once, and without a trace under an id that is another's."""
        self.taken = error
        self.hurry.set()
        self.stopping.set()

    def apply(self, text: str) -> None:
        """Obey a command; one that this release does not know is passed over."""
        if text == Command.DRAIN:
            self.drain()
        elif text in {Command.QUIET, Command.RESUME}:
            self.be_quiet(text == Command.QUIET)
        elif text == BEAT:
            self.beat.set()
