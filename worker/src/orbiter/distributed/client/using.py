"""Using: the calls of a client that are under way, and when there were none for long enough."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CLOSED = "the client is closed; make another one"
ELSEWHERE = (
    "the client belongs to another event loop, or to the process that this one was forked from; make one in each"
)


class Using:
    """Counts calls, ``with`` it around each, and refuses those that cannot be: of a closed client, or elsewhere.

    Args:
        idle_after: Seconds without a call after which the client is idle; never unless given.
        when_idle: What is done then.
    """

    def __init__(self, idle_after: float | None, when_idle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.closed = False
        self._calls = 0
        self._last = 0.0
        self._idle_after = idle_after
        self._when_idle = when_idle
        self._timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def here(self) -> bool:
        """Whether the client can be used in this event loop and process."""
        # A child made by fork has other loops than its parent, so this tells processes apart, too.
        return self._loop is None or self._loop is asyncio.get_running_loop()

    def __enter__(self) -> None:
        if self.closed:
            raise RuntimeError(CLOSED)
        if not self.here:
            raise RuntimeError(ELSEWHERE)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if self._idle_after is not None and self._timer is None:
            self._timer = self._loop.call_later(self._idle_after, self._look)
        self._calls += 1

    def __exit__(self, *_: object) -> None:
        self._calls -= 1
        if self._loop is not None:
            self._last = self._loop.time()

    def _look(self) -> None:
        assert self._loop is not None  # noqa: S101 - for mypy
        assert self._idle_after is not None  # noqa: S101
        left = self._idle_after if self._calls else self._last + self._idle_after - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._timer = None
            self._resting = self._loop.create_task(self._when_idle())

    async def close(self) -> None:
        """Refuse every call from now on."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._resting is not None:
            await asyncio.gather(self._resting, return_exceptions=True)
