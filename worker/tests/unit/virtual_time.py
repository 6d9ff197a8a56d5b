"""Virtual time: an event loop on which seconds pass at once, whenever nothing is left to do.

Its selector never sleeps: it advances the clock to the next timer. So a test of minutes takes milliseconds, and what
happens at which second is exact. The parts under test are given :func:`clock` as their clock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from typing import Any

# Not 0: a default that is taken for a moment shall be seen.
BEGIN = 1000.0
# A test that has advanced the clock so often waits for what never comes.
MOST_STEPS = 100_000
# For so long the loop waits for threads, where no timer is left: real seconds.
REAL_WAIT = 5.0


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Watches files as usual, and lets virtual time pass instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self._steps = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return what is ready; advance the clock by ``timeout`` where nothing is."""
        if timeout is None:
            if ready := super().select(REAL_WAIT):
                return ready
            raise AssertionError("the test waits, and nothing is left that could happen")
        if (ready := super().select(0)) or timeout <= 0:
            return ready
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise AssertionError(f"the test still waits after {self.now - BEGIN:.0f} virtual seconds")
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is virtual."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        # A timer is due at its own moment, whatever adding floats makes of that.
        self._clock_resolution = 1e-6
        self._faults: list[dict[str, Any]] = []

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note a fault in a callback or in a task that nobody awaits, which asyncio would only log."""
        if "exception" in context:
            self._faults.append(context)
        super().call_exception_handler(context)

    def close(self) -> None:
        """End the loop, and with it the test: a fault in a callback fails it."""
        super().close()
        assert not self._faults, self._faults

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual.now


def clock() -> float:
    """Return the running loop's seconds."""
    return asyncio.get_running_loop().time()


def loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what ``pytest_asyncio_loop_factories`` returns in a conftest whose tests run in virtual time."""
    return {"virtual": VirtualLoop}


async def turns(number: int = 10) -> None:
    """Let the loop turn so often; no time passes."""
    for _ in range(number):
        await asyncio.sleep(0)


async def never() -> Any:
    """Wait until cancelled, as for a connection that is dead without a word."""
    await asyncio.Event().wait()
