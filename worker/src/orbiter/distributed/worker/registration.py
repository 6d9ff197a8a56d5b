"""Registration: makes a worker known to Redis at its start, patiently, but without keeping one that is to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.connection.redis_url import explain, mask
from orbiter.distributed.errors import RedisUnavailableError, WorkerIdTakenError, describe
from orbiter.distributed.worker.incarnation import died_here

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


async def register(
    register_once: Callable[[str], Coroutine[Any, Any, None]],
    redis_url: str,
    patience: float,
    stopping: asyncio.Event,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Try until the worker is registered.

    Where the heartbeat of another life under the same worker id stands, that life may be over, as after a kill and a
    restart. It is for certain where its process was on this machine and is gone; elsewhere its heartbeat runs out.

    Args:
        register_once: Makes the worker known to Redis; given the life whose heartbeat it may replace, or ``""``.
        redis_url: Where Redis is.
        patience: Seconds to try.
        stopping: Set when the worker is told to stop.
        clock: Monotonic seconds.

    Returns:
        Whether to go on: ``False`` where the worker was told to stop meanwhile.

    Raises:
        RedisUnavailableError: Redis did not answer in time, or refused the login.
        WorkerIdTakenError: Another life under the same worker id still beats.
    """
    deadline = clock() + patience
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    replace, seen = "", None
    while not stopping.is_set():
        try:
            await _unless(stopping, register_once(replace))
        except WorkerIdTakenError as other:
            beat = other.life, other.last_heartbeat
            if died_here(other.life, other.pid):
                replace = other.life
                continue
            if seen is None:
                logger.warning("worker id may be in use by %s, waiting for its heartbeat to end or go on", other.holder)
            elif seen != beat:
                raise
            seen = beat
            await _pause(stopping, LOOK_EVERY)
            # Redis answers.
            deadline = clock() + patience
        except AuthenticationError as error:
            raise RedisUnavailableError(explain(error, redis_url)) from error
        except (RedisError, OSError) as error:
            left = deadline - clock()
            reason = f"cannot reach Redis at {mask(redis_url)}: {describe(error)}"
            refused = isinstance(error, NoPermissionError)
            if left <= 0 or refused:
                hint = "check the user's rights" if refused else f"gave up after {patience:g} s"
                raise RedisUnavailableError(f"{reason} ({hint})") from error
            logger.warning("%s; trying again for %.0f s", reason, left)
            await _pause(stopping, min(left, backoff.pause()))
        else:
            return not stopping.is_set()
    return False


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``, but no longer than until the worker is told to stop."""
    working, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if working.done():
        working.result()
        return
    working.cancel()
    await asyncio.wait({working}, timeout=1)
