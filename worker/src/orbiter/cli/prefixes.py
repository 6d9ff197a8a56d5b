"""Ids by their beginning, as Git takes them: four digits or more that only one generated id begins with.

For commands that show something to a person. What acts, and what programs read, is about the id that was given: one
that has expired would else be taken for another's beginning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orbiter.cli.failures import UsageFailure
from orbiter.cli.options import namespace
from orbiter.distributed.broker.keys import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

_BEGINNING = re.compile(r"[0-9a-f]{4,31}")
_GENERATED = re.compile(r"[0-9a-f]{32}")
_PAGE = 5000
_SHOWN = 3


async def whole_task_id(client: Redis, text: str) -> str:
    """Return the id of the task that is meant; the text itself where no generated id begins with it.

    Raises:
        UsageFailure: Several do.
    """
    keys, redis = Keys(namespace()), _untyped(client)
    if not _BEGINNING.fullmatch(text) or await redis.exists(keys.task(text)):
        return text
    found: dict[str, None] = {}
    start = 0
    while page := await redis.zrevrange(keys.by_time, start, start + _PAGE - 1):
        found |= dict.fromkeys(known for known in page if known.startswith(text) and _GENERATED.fullmatch(known))
        start += len(page)
    ids = list(found)
    if len(ids) > 1:
        more = ", …" if len(ids) > _SHOWN else ""
        raise UsageFailure(
            f"Error: {text} is the beginning of {len(ids)} task ids: {', '.join(ids[:_SHOWN])}{more}. Type more of it."
        )
    return ids[0] if ids else text


def _untyped(client: Redis) -> Any:
    return client
