"""The queue's scripts, ``scripts/*.lua``: each with what they share before it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


@cache
def _source(name: str) -> str:
    folder = files("orbiter.distributed") / "scripts"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    return "\n".join((shebang, (folder / "_lib.lua").read_text(), body))


def script(client: Redis, name: str) -> AsyncScript:
    """Return one of ``scripts/*.lua``, callable on this client."""
    return client.register_script(_source(name))
