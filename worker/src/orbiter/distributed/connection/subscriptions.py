"""Subscriptions: one pub/sub connection for all who listen, to whatever channels."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from hiredis import pack_command
from redis.exceptions import ConnectionError  # noqa: A004 - redis' own

from orbiter.distributed.connection.patience import ANSWER_WITHIN, FAILURES, passes
from orbiter.distributed.connection.wire import Kept, Wire

if TYPE_CHECKING:
    from types import TracebackType

    from redis.asyncio import Redis


class Listener:
    """Waits for messages on one channel."""

    __slots__ = ("_failure", "_something")

    def __init__(self) -> None:
        self._something = asyncio.Event()
        self._failure: Exception | None = None

    def wake(self, failure: Exception | None = None) -> None:
        """Let the listener look, or fail."""
        self._failure = failure or self._failure
        self._something.set()

    async def heard(self, within: float) -> None:
        """Wait for a message since the last call, some seconds at most.

        Raises:
            ConnectionError: The connection was lost; there may have been messages.
            RuntimeError: The subscriptions were closed.
        """
        try:
            async with asyncio.timeout(within):
                await self._something.wait()
        except TimeoutError:
            return
        self._something.clear()
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)


def _packed(*words: str) -> bytes:
    return bytes(pack_command(words))  # type: ignore[arg-type] # a tuple of any length


class _Channel:
    """Who listens to a channel, and whether the server has confirmed it."""

    __slots__ = ("confirmed", "listeners")

    def __init__(self, confirmed: asyncio.Future[None]) -> None:
        self.confirmed = confirmed
        self.listeners: set[Listener] = set()


class _SubscriberWire(Wire):
    """Subscribes to a channel while somebody listens to it."""

    def __init__(self, connection: Any) -> None:
        self._channels: dict[str, _Channel] = {}
        # The server confirms, or refuses, in the order in which it was asked.
        self._unconfirmed: deque[tuple[str, asyncio.Future[None] | None]] = deque()
        super().__init__(connection)

    @property
    def listened_to(self) -> bool:
        return bool(self._channels)

    async def join(self, name: str, listener: Listener) -> None:
        channel = self._channels.get(name)
        if channel is None:
            self.send(_packed("SUBSCRIBE", name), alone=True)
            channel = self._channels[name] = _Channel(self.loop.create_future())
            self._unconfirmed.append((name, channel.confirmed))
        channel.listeners.add(listener)
        await asyncio.shield(channel.confirmed)

    def unsubscribe(self, name: str, listener: Listener) -> None:
        channel = self._channels.get(name)
        if channel is None or listener not in channel.listeners:
            return
        channel.listeners.discard(listener)
        if not channel.listeners:
            del self._channels[name]
            channel.confirmed.cancel()
            if self.failure is None:
                self.send(_packed("UNSUBSCRIBE", name), alone=True)
                self._unconfirmed.append((name, None))

    def take(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == "message":
            if channel := self._channels.get(reply[1]):
                for listener in channel.listeners:
                    listener.wake()
        elif self._unconfirmed:
            name, confirmed = self._unconfirmed.popleft()
            if confirmed is None or confirmed.done():
                return
            if isinstance(reply, Exception):
                del self._channels[name]
                _refuse(confirmed, reply)
            else:
                confirmed.set_result(None)

    def lost(self, failure: Exception) -> None:
        channels, self._channels = self._channels, {}
        self._unconfirmed.clear()
        for channel in channels.values():
            for listener in channel.listeners:
                listener.wake(failure)
            if not channel.confirmed.done():
                _refuse(channel.confirmed, failure)


def _refuse(confirmed: asyncio.Future[None], failure: Exception) -> None:
    confirmed.set_exception(failure)
    confirmed.exception()  # taken note of, also where nobody waits any more


class Subscriptions:
    """Shares one connection among all who listen. It says when there may be something new, not what.

    Args:
        client: Opens the connection.
        keep: Whether the connection stays open, until :meth:`aclose`, when nobody listens any more.
    """

    def __init__(self, client: Redis, *, keep: bool = False) -> None:
        self._client = client
        self._keep = keep
        self._kept = Kept(self._connect, _SubscriberWire)

    async def _connect(self) -> Any:
        client: Any = self._client
        if hasattr(client, "open_connection"):
            return await client.open_connection()
        connection = client.connection_pool.make_connection()
        await connection.connect()
        return connection

    def listen(self, channel: str) -> Listening:
        """Listen to a channel, ``async with`` this: what is published from then on is heard.

        Where the caller fails because Redis does not answer, the connection is given up as well: its server may be
        the one that is frozen, or was replaced.

        Raises:
            RedisError: The channel cannot be subscribed to.
            RuntimeError: The subscriptions were closed.
        """
        return Listening(self, channel)

    async def join(self, channel: str, listener: Listener) -> _SubscriberWire:
        """Begin to listen; return the connection."""
        async with asyncio.timeout(ANSWER_WITHIN):
            wire: _SubscriberWire = await self._kept.get()
            try:
                await wire.join(channel, listener)
            except BaseException as error:
                await self.unsubscribe(wire, channel, listener, error)
                raise
            return wire

    async def unsubscribe(
        self, wire: _SubscriberWire, channel: str, listener: Listener, error: BaseException | None
    ) -> None:
        """Listen no more."""
        wire.unsubscribe(channel, listener)
        if isinstance(error, FAILURES) and passes(error):
            wire.hang_up(ConnectionError("the server of the subscriptions does not answer"))
        elif not self._keep and not wire.listened_to and wire is self._kept.wire:
            await self._kept.aclose()

    async def aclose(self, failure: Exception | None = None) -> None:
        """Close the connection; for good where a failure is given, which every listener gets."""
        await self._kept.aclose(failure)


class Listening:
    """A time in which somebody listens. A class, as a loop that ends closes generators in any order."""

    def __init__(self, subscriptions: Subscriptions, channel: str) -> None:
        self._subscriptions = subscriptions
        self._channel = channel
        self._listener = Listener()

    async def __aenter__(self) -> Listener:
        self._wire = await self._subscriptions.join(self._channel, self._listener)
        return self._listener

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._subscriptions.unsubscribe(self._wire, self._channel, self._listener, error)
