"""The queue's scripts, ``scripts/*.lua``: each with what they share before it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


TASK_TTL = 86400
EVENT_TTL = 3600


@cache
def _source(name: str, task_ttl: int, event_ttl: int) -> str:
    folder = files("orbiter.distributed") / "scripts"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    # As text: a number costs the server a conversion at each use.
    settings = f"local ENDED_TTL, EVENT_TTL = '{task_ttl:d}', '{event_ttl:d}'"
    return "\n".join((shebang, settings, (folder / "_lib.lua").read_text(), body))


def script(client: Redis, name: str, *, task_ttl: int = TASK_TTL, event_ttl: int = EVENT_TTL) -> AsyncScript:
    """Return one of ``scripts/*.lua``, callable on this client.

    Args:
        client: Where it will run.
        name: Which one.
        task_ttl: Seconds for which the record of a task is kept that it ends.
        event_ttl: Seconds for which events are kept that it adds.
    """
    return client.register_script(_source(name, task_ttl, event_ttl))
