"""Ids of tasks by their beginning, as Git takes them: one rule for every command that takes an id.

What is a task's id exactly is that task. Else it is the beginning of one: four characters or more that no other task's
id begins with. What changes a task takes the beginning of a generated id only: ``slow-1`` that has expired must not
stand for ``slow-10``. What programs read is about the id that was given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from orbiter.cli.failures import Failure, UsageFailure
from orbiter.cli.options import namespace
from orbiter.distributed.broker.keys import Keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from redis.asyncio import Redis

SHORTEST = 4
_GENERATED = re.compile(r"[0-9a-f]{32}")
_PAGE = 5000
_SHOWN = 5


async def whole_task_id(
    client: Redis, text: str, *, changes: bool = False, known: Callable[[str], Awaitable[object]] | None = None
) -> str:
    """Return the id of the task that is meant; the text itself where no task's id begins with it.

    Redis is asked for one key where the id is whole, and for the list of tasks, not for their records, where it is not.

    Args:
        client: Where the tasks are.
        text: What somebody typed.
        changes: Whether the command changes the task.
        known: Tells whether there is something of the task with that very id, where its record is gone.

    Raises:
        UsageFailure: Several tasks' ids begin with it, or one that has to be given whole.
    """
    keys, redis = Keys(namespace()), _untyped(client)
    if not may_be_beginning(text) or await redis.exists(keys.task(text)):
        return text
    if known is not None and await known(text):
        return text
    found: dict[str, None] = {}
    async for page in _pages(redis, keys.by_time):
        found |= dict.fromkeys(known for known in page if known.startswith(text))
        if len(found) > _SHOWN:
            break
    return the_one(text, found, changes=changes)


def may_be_beginning(text: str) -> bool:
    """Tell whether a text may be the beginning of an id: a generated id is whole."""
    return len(text) >= SHORTEST and not _GENERATED.fullmatch(text)


def the_one(text: str, ids: Iterable[str], *, changes: bool = False) -> str:
    """Return the only id of some that begin with a text; the text itself where there is none.

    Raises:
        UsageFailure: There are several, or one that has to be given whole.
    """
    found = list(dict.fromkeys(ids))
    if len(found) > 1:
        count, more = (f"more than {_SHOWN}", ", …") if len(found) > _SHOWN else (str(len(found)), "")
        shown = ", ".join(found[:_SHOWN]) + more
        raise UsageFailure(f"Error: {text} is the beginning of {count} task ids: {shown}. Type more of it.")
    if found and changes and not _GENERATED.fullmatch(found[0]):
        raise UsageFailure(
            f"Error: no task has the id {text}, and {found[0]} begins with it. An id that somebody chose must be whole"
            " to change its task: type all of it."
        )
    return found[0] if found else text


def not_found(text: str, *, exact: bool = False) -> Failure:
    """Return the error for an id that is no task's, with the rule that it may have broken."""
    if exact and may_be_beginning(text):
        return Failure(f"Task not found: {text}. With --json an id must be whole.")
    if len(text) < SHORTEST and not exact:
        return Failure(f"Task not found: {text}. The beginning of an id needs {SHORTEST} characters or more.")
    return Failure(f"Task not found: {text}")


async def _pages(redis: Any, by_time: str) -> AsyncIterator[list[str]]:
    start = 0
    while page := await redis.zrevrange(by_time, start, start + _PAGE - 1):
        yield page
        start += len(page)


def _untyped(client: Redis) -> Any:
    return client
