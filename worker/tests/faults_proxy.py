"""A way to Redis that breaks on demand: resets, ends, silences and delays, for one connection or for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

# What a connection of a worker is for, by what it says first of these; the others carry commands.
_ROLES = {b"XREADGROUP": "reader", b"SUBSCRIBE": "listener", b"tasks_processed": "lease"}
_LINGER_0 = struct.pack("ii", 1, 0)


@dataclass
class Piece:
    """What one side has said at once. Times are monotonic.

    Attributes:
        link: On which connection.
        way: ``up`` to the server or ``down`` from it.
        said: The bytes.
        taken: When it was said.
        passed: When it was passed on; ``None`` where it was not.
    """

    link: Link
    way: str
    said: bytes
    taken: float
    passed: float | None = None


class _End(Enum):
    """How one side has ended a connection."""

    CLOSED = "closed"
    RESET = "reset"


class _Way:
    """One direction of a connection: takes all that comes at once, and passes it on when it may.

    As a network does, it still delivers what its sender said before it went away.

    Attributes:
        closed_until: Monotonic time before which nothing passes.
        slow_until: Monotonic time until which each piece takes longer.
        latency: How much longer, seconds.
        said: What was said last, passed on or not.
    """

    def __init__(self, link: Link, name: str, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        self.closed_until = 0.0
        self.slow_until = 0.0
        self.latency = 0.0
        self.said = b""
        self._link = link
        self._name = name
        self._source = source
        self._target = target
        self._under_way: asyncio.Queue[Piece | _End] = asyncio.Queue()

    async def take(self) -> None:
        try:
            while said := await self._source.read(65536):
                self._link.overhear(said)
                self.said = said
                piece = Piece(self._link, self._name, said, time.monotonic())
                self._link.trace.append(piece)
                self._under_way.put_nowait(piece)
        except OSError:
            self._under_way.put_nowait(_End.RESET)
        else:
            self._under_way.put_nowait(_End.CLOSED)
        self._link.left = True

    async def deliver(self) -> None:
        while True:
            piece = await self._under_way.get()
            if time.monotonic() < self.slow_until:
                await asyncio.sleep(self.latency)
            while (left := self.closed_until - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if isinstance(piece, _End):
                end(self._target, hard=piece is _End.RESET)
                return
            if self._target.transport.is_closing():
                return
            with contextlib.suppress(OSError):
                self._target.write(piece.said)
                piece.passed = time.monotonic()
                await self._target.drain()


class Link:
    """One connection through the proxy.

    Attributes:
        number: Which one, in the order in which they came.
        trace: Where everything is kept that is said.
        role: What the worker uses it for, as far as that has been heard.
        left: Whether one side has ended it; what that side said before may still be under way.
    """

    def __init__(
        self,
        number: int,
        trace: list[Piece],
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.number = number
        self.trace = trace
        self.role = ""
        self.left = False
        self._writers = near[1], far[1]
        # By what they carry: commands go up, replies come down.
        self.ways = {"up": _Way(self, "up", near[0], far[1]), "down": _Way(self, "down", far[0], near[1])}

    def __str__(self) -> str:
        return f"{self.number} ({self.role or 'commands'})"

    def overhear(self, said: bytes) -> None:
        if not self.role:
            self.role = next((role for word, role in _ROLES.items() if word in said), "")

    async def carry(self) -> None:
        """Pass on what is said until both sides have ended."""
        tasks = [asyncio.ensure_future(step) for way in self.ways.values() for step in (way.take(), way.deliver())]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.end(hard=True)

    def lose_server(self, until: float) -> None:
        """End the server's side by RST; the other hears nothing of that until then (monotonic)."""
        self.ways["down"].closed_until = until
        end(self._writers[1], hard=True)

    def end(self, *, hard: bool) -> None:
        """End both sides at once, whatever is under way: by RST or by FIN."""
        for writer in self._writers:
            end(writer, hard=hard)


def end(writer: asyncio.StreamWriter, *, hard: bool) -> None:
    """Close a connection; ``hard`` sends an RST instead of a FIN."""
    if writer.transport.is_closing():
        return
    if not hard:
        writer.close()
        return
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()


class FaultsProxy:
    """Stands between a worker and its Redis.

    Attributes:
        url: Where it listens.
        links: The connections that nobody has ended, the oldest first.
        count: How many there have been.
        trace: All that was said.
    """

    def __init__(self, port: int) -> None:
        self.url = ""
        self._port = port
        self.count = 0
        self.trace: list[Piece] = []
        self._carried: dict[asyncio.Task[None], Link | None] = {}
        self._closed_until = {"up": 0.0, "down": 0.0}

    @property
    def links(self) -> list[Link]:
        return sorted((link for link in self._carried.values() if link and not link.left), key=lambda link: link.number)

    def reset(self, links: Iterable[Link]) -> None:
        """Answer with RST on both sides, as a firewall or a rebooted router does; what is under way is lost."""
        for link in links:
            link.end(hard=True)

    def cut(self, links: Iterable[Link]) -> None:
        """Close both sides; what is under way is lost."""
        for link in links:
            link.end(hard=False)

    def hold(self, links: Iterable[Link], until: float, *, ways: Sequence[str] = ("up", "down"), new: bool) -> None:
        """Let nothing through until then (monotonic), and nobody know; then deliver all of it, late.

        Args:
            links: Which connections.
            until: The time.
            ways: Which directions, ``up`` to the server or ``down`` from it.
            new: Whether connections that are made meanwhile are held as well.
        """
        for way in ways:
            for link in links:
                link.ways[way].closed_until = max(link.ways[way].closed_until, until)
            if new:
                self._closed_until[way] = max(self._closed_until[way], until)

    def slow(self, links: Iterable[Link], until: float, latency: float) -> None:
        """Let each piece take ``latency`` seconds longer, until then (monotonic)."""
        for link in links:
            for way in link.ways.values():
                way.slow_until, way.latency = until, latency

    # -- connections ---------------------------------------------------------------------------------------------

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection. Not a coroutine: the server would keep those in tasks of its own."""
        carrying = asyncio.ensure_future(self._carry(reader, writer))
        self._carried[carrying] = None
        carrying.add_done_callback(self._carried.pop)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            end(writer, hard=True)
            return
        self.count += 1
        link = Link(self.count, self.trace, (reader, writer), far)
        for name, way in link.ways.items():
            way.closed_until = self._closed_until[name]
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carried[carrying] = link
        await link.carry()

    async def close(self) -> None:
        """End every connection."""
        carried = list(self._carried)
        for carrying in carried:
            carrying.cancel()
        if carried:
            await asyncio.wait(carried)


@contextlib.asynccontextmanager
async def faults_proxy(port: int) -> AsyncIterator[FaultsProxy]:
    """Listen on a loopback port for whoever wants to reach the Redis on ``port``."""
    proxy = FaultsProxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
