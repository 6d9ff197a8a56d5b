"""Commands on a connection of a pool: what is done thousands of times a second, without redis-py's way there.

A client's ``execute_command`` costs three times what packing, sending and reading do. A command is sent again where the
client has retries; a worker's have none, as who asks knows better whether to ask again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from hiredis import pack_command
from redis.exceptions import ConnectionError, NoScriptError, ResponseError  # noqa: A004 - redis' own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

Words: TypeAlias = tuple[Any, ...]


async def ask(client: Redis, *commands: Words) -> list[Any]:
    """Send commands at once on one connection; return their replies, errors among them, once all are there.

    Raises:
        RedisError: The connection was lost.
    """
    pool: Any = client.connection_pool
    packed = [pack_command(command) for command in commands]
    if (wire := getattr(pool, "wire", None)) is not None:
        # A shared connection that is open: nothing is to be waited for but the replies.
        with suppress(ConnectionError):
            replies = await wire.answer(wire.ask(packed))
            for reply in replies:
                if isinstance(reply, ConnectionError):  # it is loading, or no master
                    raise reply
            return cast("list[Any]", replies)
    connection = await pool.get_connection()
    try:
        if connection.retry.get_retries() == 0:
            return await _exchange(connection, packed)
        return cast(
            "list[Any]",
            await connection.retry.call_with_retry(
                lambda: _exchange(connection, packed), lambda _: connection.disconnect(nowait=True)
            ),
        )
    finally:
        await pool.release(connection)


async def _exchange(connection: Any, packed: list[bytes]) -> list[Any]:
    await connection.send_packed_command(packed)
    replies = []
    for _ in packed:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            # The next reply is there to be read all the same.
            replies.append(error)
    return replies


def words(script: AsyncScript, names: Sequence[str], args: Sequence[str | bytes | int]) -> Words:
    """Return the command that runs a script."""
    return ("EVALSHA", script.sha, len(names), *names, *args)


class Loads(Protocol):
    """What is done about a script that the server does not know."""

    async def load(self) -> None:
        """Return once the call may be sent again; raise a ``RedisError`` to give it up."""


async def run(
    client: Redis,
    script: AsyncScript,
    names: Sequence[str],
    args: Sequence[str | bytes | int],
    missing: Callable[[Redis, AsyncScript], Loads],
) -> Any:
    """Run a script; see to it that the server knows it where it does not.

    Raises:
        RedisError: The server refused, or the connection was lost.
    """
    command = words(script, names, args)
    [reply] = await ask(client, command)
    if isinstance(reply, NoScriptError):
        loads = missing(client, script)
        while isinstance(reply, NoScriptError):
            await loads.load()
            [reply] = await ask(client, command)
    if isinstance(reply, ResponseError):
        raise reply
    return reply
