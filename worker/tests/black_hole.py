"""A way to Redis that can go dead without a word, as a firewall or a pulled cable does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class BlackHole:
    """Passes bytes on until :attr:`open` is false; then it takes what comes, says nothing and closes nothing."""

    def __init__(self, port: int) -> None:
        self.open = True
        self.url = ""
        self._port = port
        self._pipes: set[asyncio.Task[None]] = set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            pipe = asyncio.create_task(self._pipe(source, target))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while said := await source.read(65536):
                if self.open:
                    target.write(said)
        with contextlib.suppress(OSError):
            target.close()

    async def close(self) -> None:
        for pipe in list(self._pipes):
            pipe.cancel()
        if self._pipes:
            await asyncio.wait(self._pipes)


@contextlib.asynccontextmanager
async def black_hole(redis_url: str) -> AsyncIterator[BlackHole]:
    """Listen on a loopback port for whoever wants to reach that Redis."""
    hole = BlackHole(urlsplit(redis_url).port or 6379)
    server = await asyncio.start_server(hole._accept, "127.0.0.1", 0)
    hole.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield hole
    finally:
        server.close()
        await hole.close()
