"""SharedClient: a redis-py client with one connection, on which any number of callers have commands under way."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis' own

from orbiter.distributed.connection.transports import Pool
from orbiter.distributed.connection.wire import CommandWire, Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orbiter.distributed.connection.wire import Question


class Lane:
    """A caller's part of the shared connection; to redis-py it is a connection of its own."""

    __slots__ = ("_asked", "_himport_prepared", "_himport_reconciled_revision", "_pool", "_replies", "_wire", "retry")

    is_connected = True

    def __init__(self, pool: SharedPool, wire: CommandWire) -> None:
        self._pool = pool
        self._wire = wire
        self._asked: deque[Question] = deque()
        self._replies: deque[Any] = deque()
        self.retry = pool.retry
        self._himport_prepared: dict[str, int] = {}
        self._himport_reconciled_revision = 0

    @property
    def db(self) -> Any:
        """The number of the database, which redis-py wants to know for its own metrics."""
        return self._pool.connection_kwargs.get("db")

    def pack_command(self, *words: Any) -> list[bytes]:
        """Return a command as bytes."""
        return [b"".join(self._pool.packer.pack_command(*words))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Return commands as bytes, each by itself."""
        return [self.pack_command(*words)[0] for words in commands]

    async def send_command(self, *words: Any, **_: Any) -> None:
        """Send a command."""
        await self.send_packed_command(self.pack_command(*words))

    async def send_packed_command(self, packed: Sequence[bytes], **_: Any) -> None:
        """Send commands, each packed by itself; connect anew where the connection was lost.

        Raises:
            RedisError: There is no connection.
        """
        if self._wire.failure is not None:
            self._wire = await self._pool.kept.get()
        self._asked.append(self._wire.ask(packed))

    async def read_response(self, **_: Any) -> Any:
        """Return the next reply.

        Raises:
            RedisError: The reply is an error, or the connection was lost.
        """
        if not self._replies:
            self._replies.extend(await self._wire.answer(self._asked.popleft()))
        reply = self._replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, **_: Any) -> None:
        """Give up what was asked for; the connection is others', too."""
        for question in self._asked:
            question.cancel()
        self._asked.clear()
        self._replies.clear()

    def should_reconnect(self) -> bool:
        """Whether the pool is to close it: never."""
        return False


class SharedPool(Pool):
    """A pool that has one connection and never runs out of it.

    Args:
        explain: Returns an error of connecting in words, for whoever reads the traceback.
        options: Those of every connection.
    """

    def __init__(self, explain: Callable[[Exception], str], **options: Any) -> None:
        self._explain = explain
        super().__init__(max_connections=1, **options)
        self.retry: Any = options["retry"]
        # Never connected: it knows how commands are written.
        self.packer: Any = self.make_connection()  # type: ignore[no-untyped-call]
        self.kept = Kept(self.open_connection, CommandWire)

    @property
    def wire(self) -> CommandWire | None:
        """The connection, if it is open and none of its callers has to send again."""
        wire = self.kept.wire
        return wire if wire is not None and wire.failure is None and self.retry.get_retries() else None  # type: ignore[return-value]

    async def open_connection(self) -> Any:
        """Return a connection outside the pool, connected."""
        connection: Any = self.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except ConnectionError as error:
            error.args = (self._explain(error),)
            raise
        return connection

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return a lane on the connection.

        Raises:
            RedisError: There is no connection.
        """
        return Lane(self, self.wire or await self.kept.get())

    async def release(self, connection: Any) -> None:
        """Take a lane back."""
        if connection._asked:  # noqa: SLF001 - of this module
            await connection.disconnect()

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """Close the connection; the next command opens another."""
        await self.kept.aclose()


class SharedClient(Redis):
    """A client whose callers share one connection."""

    async def open_connection(self) -> Any:
        """Return a connection of the caller's own, connected."""
        pool: Any = self.connection_pool
        return await pool.open_connection()

    async def shut(self, failure: Exception) -> None:
        """Close for good: whoever waits, or asks later, gets this error."""
        pool: Any = self.connection_pool
        await pool.kept.aclose(failure)
