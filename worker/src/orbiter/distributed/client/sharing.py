"""Shared clients: calls that name only a URL and a queue use one client for each in an event loop.

Nobody closes these. Each closes its connections when no call has used them for a second, and for good when the loop
ends.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, TypeAlias

from orbiter.distributed.client.client import Client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    Clients: TypeAlias = dict[tuple[str, str, str], Client]

# Seconds without a call after which connections are closed; the next call opens them again.
IDLE = 1.0

_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Clients, AsyncGenerator[None]]] = (
    weakref.WeakKeyDictionary()
)


async def shared_client(redis_url: str, queue: str, namespace: str) -> Client:
    """Return the client of this event loop for a URL and a queue of a namespace.

    Raises:
        ValueError: The URL cannot be used.
        InvalidNameError: No worker can read a queue of this name.
    """
    loop = asyncio.get_running_loop()
    known = _clients.get(loop)
    if known is None:
        _forget_closed_loops()
        clients: Clients = {}
        ending = _close_at_the_end(clients)
        _clients[loop] = known = clients, ending
        # The loop closes the generators that were begun in it before it ends: asyncio.run(), asyncio.Runner and
        # uvloop.run() do so, and whoever calls shutdown_asyncgens().
        await anext(ending)
    place = redis_url, queue, namespace
    client = known[0].get(place)
    if client is None or client.using.closed:
        client = known[0][place] = Client(redis_url, queue=queue, namespace=namespace, idle_after=IDLE)
    return client


async def _close_at_the_end(clients: Clients) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        _clients.pop(asyncio.get_running_loop(), None)
        for client in list(clients.values()):
            await client.aclose()


def _forget_closed_loops() -> None:
    for loop in [loop for loop in _clients if loop.is_closed()]:
        del _clients[loop]
