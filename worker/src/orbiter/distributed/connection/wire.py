"""Wire: one connection that many callers share. Commands leave as they come, replies return in their order.

redis-py connects: TCP, TLS or a socket, login, sentinels. Then the wire takes the transport over and reads it by
itself, in callbacks: no caller holds the connection while it waits, and no task is left behind where a loop ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from hiredis import ProtocolError, Reader
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis' own

from orbiter.distributed.connection.transports import NotMasterError, demoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextvars import Context

# A caller who gives up after this long, and in all that time nothing was received, takes the connection for dead.
SILENT = 2.0
CLOSES_WITHIN = 2.0
_INCOMPLETE = object()


class Question(asyncio.Future[list[Any]]):
    """Commands that one caller has sent together, and the replies so far; to be awaited by that caller alone.

    Where all replies are there the caller goes on at once, in the callback that read them, instead of a turn of the
    loop later: such a turn, with its look for other sockets, costs a fifth of a small command.
    """

    def __init__(self, count: int, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.left = count
        self.replies: list[Any] = []
        self.asked_at = loop.time()
        self._waiting: tuple[Callable[[Any], object], Context | None] | None = None

    def add_done_callback(self, fn: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Keep who waits."""
        if self._waiting is None and not self.done():
            self._waiting = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object]) -> int:
        """Forget who waits."""
        if self._waiting is not None and self._waiting[0] == fn:
            self._waiting = None
            return 1
        return super().remove_done_callback(fn)

    def answered(self) -> None:
        """Let the caller go on now. No task may be running, as in callbacks of the loop."""
        if self.done():
            return
        super().set_result(self.replies)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            fn, context = waiting
            if context is None:
                fn(self)
            else:
                context.run(fn, self)

    def cancel(self, msg: Any | None = None) -> bool:
        """Let the caller be cancelled in the next turn."""
        cancelled = super().cancel(msg)
        self._later()
        return cancelled

    def set_exception(self, exception: type | BaseException, /) -> None:
        """Let the caller fail in the next turn."""
        super().set_exception(exception)
        self._later()

    def _later(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.get_loop().call_soon(waiting[0], self, context=waiting[1])


class Wire(asyncio.Protocol):
    """Takes over a connection that redis-py has opened.

    Args:
        connection: The connection, ready for commands.
    """

    def __init__(self, connection: Any) -> None:
        self.loop = asyncio.get_running_loop()
        # Why the connection is closed; None while it is open.
        self.failure: Exception | None = None
        self._connection = connection
        self._transport: Any = connection._writer.transport  # noqa: SLF001 - redis-py has no other way to it
        self._reader = Reader(
            protocolError=ProtocolError,
            replyError=connection._parser.parse_error,  # noqa: SLF001
            encoding="utf-8",
            errors="replace",
            notEnoughData=_INCOMPLETE,
        )
        self._disconnects_from_replicas = getattr(connection, "disconnects_from_replicas", False)
        self._out: list[bytes] = []
        self._heard_at = self.loop.time()
        self._gone = self.loop.create_future()
        self._transport.set_protocol(self)
        if unread := bytes(connection._reader._buffer):  # noqa: SLF001
            self.data_received(unread)
        if self._transport.is_closing():
            # It has ended since redis-py opened it, of which only redis-py may have been told.
            self.connection_lost(None)

    def take(self, reply: Any) -> None:
        """Do something with a reply."""
        raise NotImplementedError

    def lost(self, failure: Exception) -> None:
        """Tell who waits that nothing more comes."""
        raise NotImplementedError

    def send(self, packed: bytes, *, alone: bool) -> None:
        """Send commands: at once where nobody else waits, else together with those that come in this turn.

        Raises:
            ConnectionError: The connection is closed.
        """
        if self.failure is not None:
            raise _again(self.failure)
        if alone and not self._out:
            self._transport.write(packed)
            return
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(packed)

    def _flush(self) -> None:
        packed, self._out = b"".join(self._out), []
        if self.failure is None:
            self._transport.write(packed)

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        self._heard_at = self.loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if self._disconnects_from_replicas and isinstance(reply, ResponseError) and demoted(reply):
                    reply = NotMasterError(str(reply))
                    self.take(reply)
                    self.hang_up(reply)
                    return
                self.take(reply)
        except ProtocolError as error:
            self.hang_up(ConnectionError(f"not a reply of Redis: {error}"))

    def eof_received(self) -> None:
        """Close, as the server has."""

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everybody, and let redis-py's connection forget its socket."""
        self._fail(ConnectionError(str(error) if error else "Connection closed by server."))
        self._connection._close()  # noqa: SLF001 - its disconnect() waits for a protocol that is not in place any more
        if not self._gone.done():
            self._gone.set_result(None)

    # -- closing ---------------------------------------------------------------------------------------------------

    def _fail(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
            self._out.clear()
            self.lost(failure)

    def hang_up(self, failure: Exception) -> None:
        """Close at once; who waits gets an error of this kind."""
        self._fail(failure)
        self._transport.abort()

    async def aclose(self, failure: Exception) -> None:
        """Close, and wait until the socket is closed; who waits gets an error of this kind."""
        self._fail(failure)
        if self.loop.is_closed():
            return
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSES_WITHIN):
                await asyncio.shield(self._gone)
        except TimeoutError:
            self._transport.abort()

    def doubt(self, since: float) -> None:
        """Hang up where nothing has been received since a moment of the loop's clock that is long enough ago."""
        if self._heard_at < since < self.loop.time() - SILENT:
            self.hang_up(ConnectionError("no answer"))


class CommandWire(Wire):
    """Sends commands of many callers and gives each its replies."""

    def __init__(self, connection: Any) -> None:
        self._questions: deque[Question] = deque()
        super().__init__(connection)

    def ask(self, packed: Sequence[bytes]) -> Question:
        """Send commands, each packed; :meth:`answer` waits for the replies.

        Raises:
            ConnectionError: The connection is closed.
        """
        self.send(packed[0] if len(packed) == 1 else b"".join(packed), alone=not self._questions)
        question = Question(len(packed), loop=self.loop)
        self._questions.append(question)
        return question

    async def answer(self, question: Question) -> list[Any]:
        """Return the replies, errors among them.

        Raises:
            ConnectionError: The connection was lost before all had come.
        """
        try:
            return await question
        except asyncio.CancelledError:
            self.doubt(question.asked_at)
            raise

    def take(self, reply: Any) -> None:
        """Give the reply to the caller whose turn it is."""
        if not self._questions:
            return  # news that nobody has asked for
        question = self._questions[0]
        question.replies.append(reply)
        question.left -= 1
        if not question.left:
            self._questions.popleft()
            question.answered()

    def lost(self, failure: Exception) -> None:
        """Let every caller know."""
        while self._questions:
            question = self._questions.popleft()
            if not question.done():
                question.set_exception(_again(failure))


class Kept:
    """Keeps a wire: connects when it is needed, once for all who need it at the same time.

    Args:
        connect: Opens a connection.
        wire: Makes a wire of it.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], wire: Callable[[Any], Wire]) -> None:
        self._connect = connect
        self._make = wire
        self._opening: asyncio.Task[Wire] | None = None
        self._closed: Exception | None = None
        self.wire: Wire | None = None

    async def get(self) -> Any:
        """Return the wire.

        Raises:
            RedisError: It cannot be opened.
            RuntimeError: It was closed for good.
        """
        while True:
            if self.wire is not None and self.wire.failure is None:
                return self.wire
            if self._closed is not None:
                raise _again(self._closed)
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
                self._opening.add_done_callback(self._opened)
            opening = self._opening
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not opening.cancelled() or (task is not None and task.cancelling()):
                    raise
                # Closed meanwhile, for good or because nobody had used it until then.

    async def _open(self) -> Wire:
        connection = await self._connect()
        self.wire = self._make(connection)
        return self.wire

    def _opened(self, opening: asyncio.Task[Wire]) -> None:
        if self._opening is opening:
            self._opening = None
        if not opening.cancelled():
            opening.exception()  # taken note of, also where nobody waits any more

    async def aclose(self, failure: Exception | None = None) -> None:
        """Close the wire; the next :meth:`get` opens another, unless a failure says that this was the end."""
        if failure is not None:
            self._closed = failure
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self.wire is not None:
            wire, self.wire = self.wire, None
            await wire.aclose(failure or ConnectionError("the connection was closed"))


def _again(failure: Exception) -> Exception:
    """Return the error once more: one object raised in many places would gather all their tracebacks."""
    return type(failure)(*failure.args)
