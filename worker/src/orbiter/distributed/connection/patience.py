"""Patience: which errors of Redis pass by themselves, and how long whoever reads waits for that.

Every reader of tasks and events asks here: ``stream()``, ``result()``, the synchronous client, ``orbiter task events``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    ConnectionError,  # noqa: A004 - redis' own
    ExternalAuthProviderError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)

from orbiter.distributed.errors import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

T = TypeVar("T")

RECONNECT_WITHIN = 60.0
ANSWER_WITHIN = 10.0
PAUSE = 0.5

# Each is a ConnectionError for redis-py, but the login stays as wrong as it is.
_REFUSED = (AuthenticationError, AuthorizationError, ExternalAuthProviderError)
# AskError and its kind, MovedError: who kept redirecting. ClusterError and its kind: no node serves the slot now.
_PASSING = (
    *(ConnectionError, TimeoutError, OSError, ClusterError, RedisClusterException),
    *(AskError, TryAgainError, ReadOnlyError),
)
# Errors without a class of their own. A pipeline writes the command before them.
_PASSING_CODES = ("BUSY ", "LOADING ", "MASTERDOWN ", "UNBLOCKED ")


# What a command, a pipeline or a subscription may raise.
FAILURES = (RedisError, RedisClusterException, OSError)


def passes(error: Exception) -> bool:
    """Tell whether waiting may mend an error: Redis is away, starts, fails over or is busy.

    A refused login, a missing right (NOPERM) or a key of a wrong type (WRONGTYPE) stays what it is.
    """
    if isinstance(error, _REFUSED):
        return False
    if isinstance(error, _PASSING):
        return True
    return isinstance(error, ResponseError) and any(code in str(error) for code in _PASSING_CODES)


class Patience:
    """Waits while Redis is away, up to a minute from the first error after an answer.

    Args:
        within: Seconds until the error is raised.
    """

    def __init__(self, within: float = RECONNECT_WITHIN) -> None:
        self._within = within
        self._since: float | None = None

    def answered(self) -> None:
        """Take note that Redis answers: the next error begins another minute."""
        self._since = None

    async def wait(self, error: Exception) -> None:
        """Wait a moment before the next attempt.

        Raises:
            RedisError: The error does not pass, or Redis has been away for a minute.
        """
        if not passes(error):
            raise error
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since > self._within:
            if isinstance(error, RedisError):
                raise error
            raise ConnectionError(str(error) or "no answer") from error
        logger.debug("Redis: %s; trying again", describe(error))
        await asyncio.sleep(PAUSE)


async def answer(reply: Awaitable[T], *, within: float = ANSWER_WITHIN) -> T:
    """Await a reply, some seconds at most: a server that was frozen says nothing, and its connection stays open.

    Raises:
        builtins.TimeoutError: None came.
    """
    async with asyncio.timeout(within):
        return await reply


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask Redis until it answers.

    Raises:
        RedisError: Redis has been away for a minute, or refused in a way that no waiting mends.
    """
    patience = Patience()
    while True:
        try:
            return await answer(ask())
        except FAILURES as error:
            await patience.wait(error)
