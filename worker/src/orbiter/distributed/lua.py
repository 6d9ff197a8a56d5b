"""The queue's scripts, ``scripts/*.lua``: each with what it uses of ``_lib.lua`` before it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


TASK_TTL = 86400
EVENT_TTL = 3600


_NAMES = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
_COMMENT = re.compile(r"--.*")


@cache
def _shared() -> list[tuple[str, frozenset[str]]]:
    """Return the paragraphs of the library and the names that each defines, the last first."""
    text = (files("orbiter.distributed") / "scripts" / "_lib.lua").read_text()
    return [(part, frozenset(_NAMES.findall(part))) for part in reversed(text.split("\n\n"))]


def _used(body: str) -> str:
    """Return what a script uses of the library, directly or not.

    The server makes each function anew at each call: all of them cost as much as a small script does itself.
    """
    used: list[str] = []
    words = set(re.findall(r"\w+", _COMMENT.sub("", body)))
    for part, names in _shared():
        if names & words:
            used.insert(0, part)
            words.update(re.findall(r"\w+", _COMMENT.sub("", part)))
    return "\n\n".join(used)


@cache
def _source(name: str, task_ttl: int, event_ttl: int) -> str:
    source = files("orbiter.distributed") / "scripts" / f"{name}.lua"
    shebang, body = source.read_text().split("\n", 1)
    # As text: a number costs the server a conversion at each use.
    settings = f"local ENDED_TTL, EVENT_TTL = '{task_ttl:d}', '{event_ttl:d}'"
    return "\n".join((shebang, settings, _used(body), body))


def script(client: Redis, name: str, *, task_ttl: int = TASK_TTL, event_ttl: int = EVENT_TTL) -> AsyncScript:
    """Return one of ``scripts/*.lua``, callable on this client.

    Args:
        client: Where it will run.
        name: Which one.
        task_ttl: Seconds for which the record of a task is kept that it ends.
        event_ttl: Seconds for which events are kept that it adds.
    """
    return client.register_script(_source(name, task_ttl, event_ttl))
