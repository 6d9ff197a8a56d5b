"""How a worker makes itself known to Redis at its start: patiently, but without keeping one who is to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from orbiter.distributed.errors import RedisUnavailableError
from orbiter.distributed.redis_url import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)


async def reach(
    introduce: Callable[[], Coroutine[Any, Any, None]], redis_url: str, patience: float, stopping: asyncio.Event
) -> bool:
    """Try until the introduction succeeds.

    Args:
        introduce: Makes the worker known to Redis.
        redis_url: Where Redis is.
        patience: Seconds to try.
        stopping: Set when the worker is told to stop.

    Returns:
        Whether to go on: ``False`` where the worker was told to stop meanwhile.

    Raises:
        RedisUnavailableError: Redis did not answer in time, or refused the login.
    """
    deadline = time.monotonic() + patience
    pause = 0.2
    while not stopping.is_set():
        try:
            await _unless(stopping, introduce())
        except (RedisError, OSError) as error:
            left = deadline - time.monotonic()
            reason = f"cannot reach Redis at {mask(redis_url)}: {error or type(error).__name__}"
            refused = isinstance(error, AuthenticationError | NoPermissionError)
            if left <= 0 or refused:
                hint = "check user and password" if refused else f"gave up after {patience:g} s"
                raise RedisUnavailableError(f"{reason} ({hint})") from error
            logger.warning("%s; trying again for %.0f s", reason, left)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, pause * random.uniform(0.5, 1))):  # noqa: S311 - jitter
                    await stopping.wait()
            pause = min(5.0, pause * 2)
        else:
            return not stopping.is_set()
    return False


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
