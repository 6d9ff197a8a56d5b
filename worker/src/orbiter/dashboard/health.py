"""Health: what programs are told, such as a proxy or a deploy, that want to know whether pages can be made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Seconds that an answer of Redis is good for, however many ask.
GOOD_FOR = 1.0
WITHIN = 3.0


class Health:
    """Whether Redis answers.

    Args:
        ask: Asks Redis.
    """

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._until = 0.0
        self._good = False

    async def good(self) -> bool:
        """Tell whether Redis answers, or did so a moment ago."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() >= self._until:
                self._good = await self._answers()
                self._until = clock() + GOOD_FOR
            return self._good

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(WITHIN):
                await self._ask()
        except (RedisError, OSError):
            return False
        return True
