"""Loading: what is done where a server does not know a script, as after a restart or a failover.

Whoever may load scripts does. A client that may not, as its user may run ours by their hashes and no others, waits for
a worker: each loads what clients run when it starts, when it finds a script of its own missing, and looks every few
seconds whether they are all there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from orbiter.distributed.broker.scripts import shared_scripts
from orbiter.distributed.connection.backoff import Backoff
from orbiter.distributed.errors import describe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

logger = logging.getLogger(__name__)

# Seconds: how long a client waits for scripts in all, after how long it says so, and how often workers look.
LOADED_WITHIN = 60.0
WARN_AFTER = 5.0
LOOK_EVERY = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0


class Missing:
    """One call of a script that the server does not know.

    Args:
        client: Where it was called.
        script: The script.
        within: Seconds until the server must know it.
    """

    def __init__(self, client: Redis, script: AsyncScript, *, within: float = LOADED_WITHIN) -> None:
        self._client = client
        self._script = script
        self._began = time.monotonic()
        self._within = within
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._may_load = True
        self._warned = False

    async def load(self) -> None:
        """Load the script; where this user may not, wait a moment for a worker to do so.

        Raises:
            NoScriptError: Nobody has loaded it in time.
            NoPermissionError: This user may not load it, and no worker does that for others.
            RedisError: Redis cannot be reached or refuses.
        """
        known = shared_scripts()
        waited = time.monotonic() - self._began
        if self._may_load and waited < self._within:
            try:
                await self._client.script_load(self._script.script)
            except NoPermissionError:
                if self._script.sha not in known:
                    raise
                self._may_load = False
            else:
                if self._script.sha not in known:  # a worker's: clients wait for theirs
                    await load_client_scripts(self._client)
                if waited > LONGEST_PAUSE:  # something forgets it again and again
                    await asyncio.sleep(self._backoff.pause())
                return
        if waited >= self._within:
            raise NoScriptError(
                f"Redis has lacked the script {self._script.sha} for {self._within:.0f} s, and this user of Redis may"
                " not load scripts: start a worker of this release, which loads them"
            )
        if waited > WARN_AFTER and not self._warned:
            self._warned = True
            logger.warning("Redis does not know our scripts, as after its restart; waiting for a worker to load them")
        await asyncio.sleep(self._backoff.pause())


async def call(client: Redis, script: AsyncScript, names: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
    """Run a script on any client, a cluster's too; see to it that the server knows it where it does not.

    Raises:
        RedisError: Redis cannot be reached or refuses.
    """
    missing = None
    while True:
        try:
            return await client.evalsha(script.sha, len(names), *names, *args)
        except NoScriptError:
            missing = missing or Missing(client, script)
            await missing.load()
        except NoPermissionError as error:
            raise refused(error) from error


async def load_client_scripts(client: Redis) -> int:
    """Load what clients and operators run and the server does not know; return how many scripts that were.

    Raises:
        RedisError: Redis cannot be reached or refuses.
    """
    scripts = shared_scripts()
    known = await client.script_exists(*scripts)
    missing = [source for source, there in zip(scripts.values(), known, strict=True) if not there]
    for source in missing:
        await client.script_load(source)
    return len(missing)


async def keep_client_scripts(load: Callable[[], Awaitable[int]]) -> None:
    """Load what clients run whenever the server has lost it, until cancelled.

    Args:
        load: Does it once, as :func:`load_client_scripts`, and not for longer than a worker waits for Redis.
    """
    while True:
        try:
            if await load():
                logger.info("loaded the scripts that clients run")
        except NoPermissionError as error:
            logger.warning("clients that may load no scripts wait for others to load them: %s", error)
            return
        except (RedisError, OSError, TimeoutError) as error:
            logger.debug("scripts not loaded: %s", describe(error))
        await asyncio.sleep(LOOK_EVERY)


def refused(error: NoPermissionError) -> NoPermissionError:
    """Return the refusal of a call, with what to do where it is the script that this user may not run."""
    if "'evalsha'" not in str(error):
        return error
    return NoPermissionError(
        f"{error}: it may run those scripts whose hashes the role orbiter.fleet.redis knows; deploy the collection of"
        " this release, or add the hashes to redis_client_scripts_extra"
    )
