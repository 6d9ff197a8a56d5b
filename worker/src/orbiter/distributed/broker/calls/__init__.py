"""Calls of the queue's scripts: one function a script, which alone knows the places of its keys and arguments.

Each returns a :class:`Call`, for a broker to run at once, in a pipeline, or behind another command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from orbiter.distributed.broker import loading
from orbiter.distributed.broker.scripts import script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio import Redis

T = TypeVar("T")
Args: TypeAlias = "Sequence[str | bytes | int]"


class Call(NamedTuple, Generic[T]):
    """One call of a script.

    Attributes:
        script: Name of the script, ``FOLDER/NAME``.
        keys: The keys, as its head lists them.
        args: The arguments, likewise.
        read: From the server's reply to the result.
    """

    script: str
    keys: Sequence[str]
    args: Args
    read: Callable[[Any], T]


async def run(client: Redis, call: Call[T]) -> T:
    """Run one call on a client, for callers that have no broker; a cluster's client, too.

    Raises:
        RedisError: Redis cannot be reached or refuses.
    """
    return call.read(await loading.call(client, script(client, call.script), call.keys, call.args))


def as_is(reply: Any) -> Any:
    """Return the reply: text and numbers, and lists of these, are what they are."""
    return reply


def nothing(_reply: Any) -> None:
    """Return nothing, where the reply says no more than that the call was done."""
