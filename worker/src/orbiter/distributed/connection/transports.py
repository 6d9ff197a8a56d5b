"""Connections: what a transport raises becomes a connection error, and they find the master.

They ask the sentinels each time they connect, and disconnect from replicas. redis-py's own Sentinel support needs a
pool of its own (one that raises where ours waits) and keeps its connections to the sentinels open; here it is a few
methods of the connection, so that every pool can use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import redis
from redis.asyncio import Redis
from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import Connection as SyncConnection
from redis.connection import SSLConnection as SyncSSLConnection
from redis.connection import UnixDomainSocketConnection as SyncUnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis' own
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as SyncRetry

from orbiter.distributed.errors import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

E = TypeVar("E", bound=Exception)
# A peer that vanished without a word (power, cable, a firewall that forgot) is noticed after 15 + 3 x 5 seconds.
KEEPALIVE: dict[int, int] = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
SENTINEL_TIMEOUT = 0.5
_QUESTION = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


# Beside OSError, which redis-py turns into its ConnectionError itself: uvloop raises RuntimeError ("the handler is
# closed") where a connection that was reset is written to or closed, a parser EOFError, and a connection that another
# coroutine has closed meanwhile is None.
_TRANSPORT_FAULTS = (RuntimeError, EOFError, AttributeError)


def without_arguments(error: E) -> E:
    """Return a server's error without the arguments that it repeats, as it does of a command that it does not know.

    Of ``AUTH``, which a proxy may not know, these are the password.
    """
    text, repeated, _ = str(error).partition("with args beginning with")
    return type(error)(text.rstrip(" ,")) if repeated else error


class _KeepsPassword:
    async def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        except RedisError as error:
            raise without_arguments(error) from None


class _KeepsPasswordSync:
    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        except RedisError as error:
            raise without_arguments(error) from None


class _TransportErrors(_KeepsPassword):
    """Turns whatever a transport raises into a ``ConnectionError``, which every caller expects and survives."""

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        try:
            await super().send_packed_command(*args, **kwargs)  # type: ignore[misc]
        except _TRANSPORT_FAULTS as error:
            raise await self._closed_by(error) from error

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except _TRANSPORT_FAULTS as error:
            raise await self._closed_by(error) from error

    async def can_read(self) -> bool:
        try:
            return bool(await super().can_read())  # type: ignore[misc]
        except _TRANSPORT_FAULTS as error:
            raise await self._closed_by(error) from error

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        # What is closed already need not be closed again.
        with contextlib.suppress(*_TRANSPORT_FAULTS):
            await super().disconnect(*args, **kwargs)  # type: ignore[misc]

    async def _closed_by(self, error: Exception) -> ConnectionError:
        await self.disconnect(nowait=True)
        return ConnectionError(f"the connection broke: {describe(error)}")


def hang_up(connection: Any) -> None:
    """Tell the server that nothing more comes on a connection, which then ends: a blocking read on it is over.

    What the server has sent by then is still read; what it has not, it does not deliver any more. So a read ends
    without losing a delivery, and without a command: CLIENT UNBLOCK of a client that waits for the end of a CLIENT
    PAUSE crashes redis-server 7.0.15.
    """
    writer = getattr(connection, "_writer", None)
    if writer is None:
        return
    connection.mark_for_reconnect()
    # A copy of the descriptor, as uvloop's sockets cannot be shut down. Where the peer has gone there is nothing to do,
    # and uvloop may know no socket any more.
    with (
        contextlib.suppress(OSError, *_TRANSPORT_FAULTS),
        socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_WR)


class Pool(BlockingConnectionPool):
    """A pool that hands out a free connection without its locks, as these cost more than a small command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._waiting = 0

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return a connection, as soon as there is one."""
        free = self._available_connections
        if self._waiting or not free or not free[-1].is_connected:
            self._waiting += 1
            try:
                return await super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
            finally:
                self._waiting -= 1
        connection = free.pop()
        self._in_use_connections.add(connection)
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Take a connection back."""
        if self._waiting or connection.should_reconnect():  # type: ignore[no-untyped-call]
            await super().release(connection)
        else:
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)

    def hang_up(self) -> None:
        """Hang up every connection in use; see :func:`hang_up`."""
        for connection in self._in_use_connections:
            hang_up(connection)


class NotMasterError(ConnectionError):
    """The server is a replica by now, or again: connect anew, and to its successor."""


def demoted(error: ResponseError) -> bool:
    """Tell whether an error says that the server is no master, or not any more."""
    # READONLY and MASTERDOWN answer a write to a replica; UNBLOCKED ends a blocking read as its server becomes one.
    return isinstance(error, redis.ReadOnlyError | redis.exceptions.MasterDownError) or str(error).startswith(
        "UNBLOCKED"
    )


class Sentinels:
    """Who knows where the master is. Shared by the connections of a pool: the one that answered last is asked first.

    Args:
        hosts: Host and port of each.
        service: The master's name among them.
        options: Their login, and TLS options.
        secure: Whether they are reached by TLS.
        server_port: The port of the master, whatever they say of it: they know one, and a group that moves to TLS has
            two. 0 where it is what they say.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        service: str,
        options: dict[str, Any],
        *,
        secure: bool,
        server_port: int = 0,
    ) -> None:
        self._hosts = list(hosts)
        self._server_port = server_port
        self._service = service
        self._options = {
            **options,
            "ssl": secure,
            "decode_responses": True,
            "socket_timeout": SENTINEL_TIMEOUT,
            "socket_connect_timeout": SENTINEL_TIMEOUT,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }

    async def master(self) -> tuple[str, int]:
        """Return the master's address.

        Raises:
            AuthenticationError: No sentinel named it, and one refused the login.
            ConnectionError: No sentinel named it.
        """
        failures: list[tuple[str, Exception | None]] = []
        for host, port in list(self._hosts):
            options = {**self._options, "host": host, "port": port, "retry": Retry(NoBackoff(), 0)}
            # Not entered as a context: whoever is cancelled on the way in, or out, would leave its connection open. So
            # would who is cancelled while it closes: that goes on without it.
            sentinel = Redis(**options, single_connection_client=True)
            try:
                try:
                    found = await sentinel.execute_command(*_QUESTION, self._service)  # type: ignore[no-untyped-call]
                finally:
                    await asyncio.shield(sentinel.aclose())
            except (RedisError, OSError) as error:
                failures.append((f"{host}:{port}", without_arguments(error)))
                continue
            if found:
                self._first(host, port)
                return str(found[0]), self._server_port or int(found[1])
            failures.append((f"{host}:{port}", None))
        raise self._nobody(failures)

    def master_sync(self) -> tuple[str, int]:
        """Return the master's address, as :meth:`master` does."""
        failures: list[tuple[str, Exception | None]] = []
        for host, port in list(self._hosts):
            options = {**self._options, "host": host, "port": port, "retry": SyncRetry(NoBackoff(), 0)}
            try:
                with redis.Redis(**options) as sentinel:
                    found: Any = sentinel.execute_command(*_QUESTION, self._service)
            except (RedisError, OSError) as error:
                failures.append((f"{host}:{port}", without_arguments(error)))
                continue
            if found:
                self._first(host, port)
                return str(found[0]), self._server_port or int(found[1])
            failures.append((f"{host}:{port}", None))
        raise self._nobody(failures)

    def doubt(self) -> None:
        """Ask another sentinel first: the one in front named a server that is no master, or is away."""
        self._hosts.append(self._hosts.pop(0))

    def _first(self, host: str, port: int) -> None:
        self._hosts.sort(key=lambda known: known != (host, port))

    def _nobody(self, failures: Sequence[tuple[str, Exception | None]]) -> ConnectionError:
        reasons = "; ".join(f"{place}: {error or 'knows no such master'}" for place, error in failures)
        refused = any(isinstance(error, AuthenticationError) for _, error in failures)
        kind = AuthenticationError if refused else ConnectionError
        return kind(f"no sentinel named a master for {self._service!r} ({reasons})")


class _DisconnectsFromReplicas:
    """Closes the connection where the server refuses to write: a name, or a sentinel, may point elsewhere by now."""

    disconnects_from_replicas = True

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if not demoted(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise NotMasterError(str(error)) from None


class _AsksSentinels:
    """Connects to whom the sentinels call the master, and makes sure that it agrees."""

    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**kwargs)

    async def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected:  # type: ignore[attr-defined]
            return
        self.host, self.port = await self._sentinels.master()
        try:
            await super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
        except (RedisError, OSError):
            self._sentinels.doubt()
            raise

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        await self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined]
        role = await self.read_response()  # type: ignore[attr-defined]
        if role[0] not in {"master", b"master"}:
            raise NotMasterError(f"{self.host}:{self.port} is not the master now; the sentinels are asked again")


class _DisconnectsFromReplicasSync:
    """:class:`_DisconnectsFromReplicas` for synchronous connections."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if not demoted(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise NotMasterError(str(error)) from None


class _AsksSentinelsSync:
    """:class:`_AsksSentinels` for synchronous connections."""

    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**kwargs)

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self.is_connected:  # type: ignore[attr-defined]
            return
        self.host, self.port = self._sentinels.master_sync()
        try:
            super().connect_check_health(*args, **kwargs)  # type: ignore[misc]
        except (RedisError, OSError):
            self._sentinels.doubt()
            raise

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health=check_health)  # type: ignore[misc]
        self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined]
        role = self.read_response()  # type: ignore[attr-defined]
        if role[0] not in {"master", b"master"}:
            raise NotMasterError(f"{self.host}:{self.port} is not the master now; the sentinels are asked again")


class PlainConnection(_TransportErrors, Connection):
    """A connection by TCP, to whichever node."""


class TlsConnection(_TransportErrors, SSLConnection):
    """A connection by TLS, to whichever node."""


class _Unix(_TransportErrors, UnixDomainSocketConnection):
    pass


class _Tcp(_DisconnectsFromReplicas, PlainConnection):
    pass


class _Tls(_DisconnectsFromReplicas, TlsConnection):
    pass


class _SentinelTcp(_AsksSentinels, _Tcp):
    pass


class _SentinelTls(_AsksSentinels, _Tls):
    pass


class _SyncTcp(_DisconnectsFromReplicasSync, _KeepsPasswordSync, SyncConnection):
    pass


class _SyncTls(_DisconnectsFromReplicasSync, _KeepsPasswordSync, SyncSSLConnection):
    pass


class _SyncUnix(_KeepsPasswordSync, SyncUnixDomainSocketConnection):
    pass


class _SyncSentinelTcp(_AsksSentinelsSync, _SyncTcp):
    pass


class _SyncSentinelTls(_AsksSentinelsSync, _SyncTls):
    pass


# By kind of URL, and whether it is secure.
ASYNC: dict[tuple[str, bool], Any] = {
    ("unix", False): _Unix,
    ("tcp", False): _Tcp,
    ("tcp", True): _Tls,
    ("sentinel", False): _SentinelTcp,
    ("sentinel", True): _SentinelTls,
}
SYNC: dict[tuple[str, bool], Any] = {
    ("unix", False): _SyncUnix,
    ("tcp", False): _SyncTcp,
    ("tcp", True): _SyncTls,
    ("sentinel", False): _SyncSentinelTcp,
    ("sentinel", True): _SyncSentinelTls,
}
