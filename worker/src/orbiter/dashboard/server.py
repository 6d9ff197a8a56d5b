"""The server: uvicorn with the limits that the dashboard needs."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orbiter.dashboard.app import Dashboard
from orbiter.dashboard.options import DashboardError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orbiter.dashboard.options import Options

# Connections at once, those of event streams with them, and of them those of one address.
MOST_CONNECTIONS = 1000
OF_AN_ADDRESS = 250
LONGEST_HEAD = 16 * 1024
# Seconds that the head of a request may take to come, from the connection's beginning or the answer before.
HEAD_WITHIN = 10.0
# Seconds that an answer may lie there without anybody reading on.
READ_WITHIN = 30.0
_POLL = 0.01


class _Heard(H11Protocol):
    """A connection that ends where nobody asks anything whole by it for some seconds, or reads what it was answered."""

    _unheard: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, unless this address has as many connections as it may."""
        super().connection_made(transport)
        address, others = (self.client or ("",))[0], (one for one in self.connections if isinstance(one, _Heard))
        if sum((one.client or ("",))[0] == address for one in others) > OF_AN_ADDRESS:
            transport.abort()
        else:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        """Wait for the next request; single bytes of it prolong nothing."""
        super().on_response_complete()
        self._wait_for_request()

    def pause_writing(self) -> None:
        """Wait until somebody reads on."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _wait_for_request(self) -> None:
        if self._unheard is not None:
            self._unheard.cancel()
        self._unheard = self.loop.call_later(HEAD_WITHIN, self._end_unheard)

    def _end_unheard(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            # Not close(): that waits until somebody has read what is left.
            self.transport.abort()


@asynccontextmanager
async def serving(options: Options) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """Serve the dashboard; give its address, and the task that ends when it does.

    Raises:
        DashboardError: So it would let strangers in, or certificate, key or address cannot be used.
    """
    dashboard = Dashboard(options)
    config = uvicorn.Config(
        dashboard.app,
        loop="none",
        http=_Heard,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=1,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:
        raise DashboardError(f"--tls-certificate {options.certificate}, --tls-key {options.key}: {error}") from None
    listening = _listen(options)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve([listening]))  # noqa: SLF001 - serve() takes signals for itself
    try:
        while not (server.started or running.done()):  # noqa: ASYNC110 - uvicorn has no event of it
            await asyncio.sleep(_POLL)
        yield _address(options, listening), running
    finally:
        dashboard.over.set()
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await running
        listening.close()


def _listen(options: Options) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise DashboardError(f"--host {options.host}: {error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(512)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise DashboardError(
            f"--host {options.host} --port {options.port}: cannot listen there: {error.strerror}; take another --port"
        ) from None
    return listening


def _address(options: Options, listening: socket.socket) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "https" if options.certificate else "http"
    return f"{scheme}://{host}:{listening.getsockname()[1]}"
