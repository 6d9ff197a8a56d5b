"""Frames: what supervisor and executor process tell each other over a socket pair.

A frame is a header (length of the body, kind, number of the run; 0 where it is about none) and a body. Both sides write
what has gathered at once, so that under load many frames are one system call.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

HEADER = struct.Struct("!IBI")
NUMBER = struct.Struct("!I")
# Of a start: attempt, flags, length of what was kept for a durable run (JSON); behind that the task's payload.
START = struct.Struct("!IBI")
DURABLE = 1
# A moment by the clock that all processes of a host share (monotonic), seconds; 0 is none.
MOMENT = struct.Struct("!d")
# A step that is kept, and a checkpoint, bytes of JSON: Temporal takes no more at once.
LARGEST_STEP = 2_000_000
# Where an error stands, in place of a result or of an event; its text is cut long before.
LARGEST_REPORT = 200_000
# Whatever says little.
LARGEST_OTHER = 10_000


class Kind(IntEnum):
    """What a frame says."""

    # From the supervisor.
    CONFIGURE = 1
    START = 2
    CANCEL = 3
    CREDIT = 4
    KEPT = 5
    FINISH = 6
    LEASE = 7
    # From the executor process.
    READY = 16
    EVENTS = 17
    COMPLETED = 18
    FAILED = 19
    CANCELLED = 20
    DEAF = 21
    TICK = 22
    APPEND = 23
    SAVE = 24
    BLOCKED = 25
    IMPORTING = 26
    IMPORTED = 27
    SPOILED = 28
    SPENT = 29


class FrameError(Exception):
    """The other side broke a rule."""


def pack(kind: int, run: int = 0, body: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(len(body), kind, run) + body


def name_of(kind: int) -> str:
    """Return what a kind of frames is called; its number where it is none of them."""
    try:
        return Kind(kind).name
    except ValueError:
        return f"kind {kind}"


class Frames:
    """Cuts what arrives into frames.

    Args:
        largest: Largest body, bytes.
        sizes: The same for kinds that have a limit of their own.
    """

    def __init__(self, largest: int, sizes: Mapping[int, int] | None = None) -> None:
        self._largest = largest
        self._sizes = sizes or {}
        self._rest = b""

    def cut(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the frames that are complete now: kind, run and body.

        Raises:
            FrameError: A frame is larger than allowed.
        """
        if self._rest:
            data = self._rest + data
        frames: list[tuple[int, int, bytes]] = []
        at, size, end = 0, HEADER.size, len(data)
        while end - at >= size:
            length, kind, run = HEADER.unpack_from(data, at)
            if length > (largest := self._sizes.get(kind, self._largest)):
                raise FrameError(f"a frame ({name_of(kind)}) of {length} bytes; {largest} are allowed")
            until = at + size + length
            if until > end:
                break
            frames.append((kind, run, data[at + size : until]))
            at = until
        self._rest = data[at:] if at else data
        return frames


class FrameLimit:
    """Tells a flood of frames from frames that have gathered while nobody read them.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._seconds = 1.0
        self._frames = 0

    def count(self, a_second: int) -> None:
        """Count a frame.

        Args:
            a_second: So many may come in a second.

        Raises:
            FrameError: There are more.
        """
        now = self._clock()
        pause, self._last = now - self._last, now
        if now - self._began >= self._seconds or pause > self._seconds:
            # This process may have been stopped or starved. What has gathered over a pause may take as long to come.
            self._began, self._seconds, self._frames = now, max(1.0, pause), 0
        self._frames += 1
        if self._frames > a_second * self._seconds:
            raise FrameError(f"more than {a_second * self._seconds:.0f} frames in {self._seconds:.0f} s")


class Channel(asyncio.Protocol):
    """One end of a socket pair on an event loop.

    Args:
        received: Given each frame.
        lost: Called once, when nothing more can come.
        largest: Largest body that is accepted, bytes.
        sizes: The same for kinds that have a limit of their own.
    """

    def __init__(
        self,
        received: Callable[[int, int, bytes], None],
        lost: Callable[[BaseException | None], None],
        *,
        largest: int,
        sizes: Mapping[int, int] | None = None,
    ) -> None:
        self._received = received
        self._lost = lost
        self._frames = Frames(largest, sizes)
        self._waiting: list[bytes] = []
        self._broken: BaseException | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        end: socket.socket,
        received: Callable[[int, int, bytes], None],
        lost: Callable[[BaseException | None], None],
        *,
        largest: int,
        sizes: Mapping[int, int] | None = None,
    ) -> Channel:
        """Speak over this end of a socket pair from now on."""
        channel = cls(received, lost, largest=largest, sizes=sizes)
        end.setblocking(False)
        await channel._loop.connect_accepted_socket(lambda: channel, end)
        return channel

    def send(self, kind: int, run: int = 0, body: bytes = b"") -> None:
        """Send a frame, with all others of this turn of the loop; never waits."""
        waiting = self._waiting
        waiting.append(HEADER.pack(len(body), kind, run))
        if body:
            waiting.append(body)
        if len(waiting) <= 2:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def backlog(self) -> int:
        """Return the bytes that the other side has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """Say no more."""
        if self._transport is not None:
            self.flush()
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport  # type: ignore[assignment]
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Pass frames on; what breaks a rule ends the channel."""
        try:
            for kind, run, body in self._frames.cut(data):
                self._received(kind, run, body)
        except FrameError as error:
            self._break(error)
        except Exception as error:
            # Odd in a way that nobody thought of, or a fault of ours: nothing that follows can be believed either way.
            logger.exception("a frame could not be taken")
            self._break(FrameError(f"a frame that could not be taken: {type(error).__name__}"))

    def _break(self, error: FrameError) -> None:
        self._broken = error
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        self._lost(self._broken or error)
