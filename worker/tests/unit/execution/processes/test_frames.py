"""Frames: what is cut at any border arrives whole, and what breaks a rule ends the channel."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbiter.distributed.execution.processes.frames import (
    HEADER,
    Channel,
    FrameError,
    FrameLimit,
    Frames,
    Kind,
    pack,
)
from tests.unit.execution.processes.support import until

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=8)


def test_frames_are_whole_wherever_what_arrives_is_cut() -> None:
    sent = [(int(Kind.START), 7, b"abc"), (int(Kind.READY), 0, b""), (int(Kind.EVENTS), 2**32 - 1, b"x" * 50)]
    data = b"".join(pack(*frame) for frame in sent)
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            frames = Frames(50)
            parts = data[:first], data[first:second], data[second:]
            assert [frame for part in parts for frame in frames.cut(part)] == sent


@given(FRAMES, st.randoms(use_true_random=False))
def test_frames_survive_any_packing(sent: list[tuple[int, int, bytes]], dice: random.Random) -> None:
    data = b"".join(pack(*frame) for frame in sent)
    frames, received = Frames(40), []
    while data:
        size = dice.randint(1, len(data))
        received += frames.cut(data[:size])
        data = data[size:]
    assert received == sent


def test_frame_comes_as_soon_as_its_last_byte_has() -> None:
    data = pack(Kind.TICK, 3, b"12345")
    frames = Frames(5)
    for at in range(len(data) - 1):
        assert frames.cut(data[at : at + 1]) == []
    assert frames.cut(data[-1:]) == [(Kind.TICK, 3, b"12345")]


@pytest.mark.parametrize("before", [b"", pack(Kind.READY), pack(Kind.READY)[:4]], ids=["first", "second", "partial"])
def test_frame_that_is_too_large_is_refused_by_its_header(before: bytes) -> None:
    frames = Frames(10)
    if 0 < len(before) < HEADER.size:
        frames.cut(before)
        before = pack(Kind.READY)[4:]
    with pytest.raises(FrameError, match=r"\(EVENTS\) of 11 bytes; 10 are allowed"):
        frames.cut(before + HEADER.pack(11, Kind.EVENTS, 1))


def test_kinds_may_have_a_size_of_their_own() -> None:
    frames = Frames(10, {Kind.COMPLETED: 20, Kind.TICK: 5})
    assert frames.cut(pack(Kind.COMPLETED, 1, b"x" * 20)) == [(Kind.COMPLETED, 1, b"x" * 20)]
    with pytest.raises(FrameError, match=r"\(TICK\) of 6 bytes; 5 are allowed"):
        frames.cut(HEADER.pack(6, Kind.TICK, 0))
    with pytest.raises(FrameError, match=r"\(kind 200\) of 11 bytes; 10 are allowed"):
        Frames(10, {}).cut(HEADER.pack(11, 200, 0))


class Clock:
    """Stands still, unless it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_frames_in_a_second_are_limited() -> None:
    clock = Clock()
    limit = FrameLimit(clock)
    for _ in range(3):
        clock.now += 1
        for _ in range(10):
            limit.count(10)
    clock.now += 0.9
    with pytest.raises(FrameError, match="more than 10 frames in 1 s"):
        limit.count(10)


def test_frames_of_a_pause_may_take_as_long_to_come() -> None:
    clock = Clock()
    limit = FrameLimit(clock)
    limit.count(10)
    clock.now += 300
    for _ in range(1000):
        limit.count(10)
    # Not all of them come at once.
    clock.now += 100
    for _ in range(1000):
        limit.count(10)
    clock.now += 199
    for _ in range(1000):
        limit.count(10)
    with pytest.raises(FrameError, match="more than 3000 frames in 300 s"):
        limit.count(10)


def test_a_second_is_one_again_after_a_pause() -> None:
    clock = Clock()
    limit = FrameLimit(clock)
    clock.now += 300
    for _ in range(602):
        limit.count(10)
        clock.now += 0.5
    for _ in range(10):
        limit.count(10)
    with pytest.raises(FrameError, match="more than 10 frames in 1 s"):
        limit.count(10)


async def test_channels_of_a_pair_hear_each_other_in_order() -> None:
    ends = socket.socketpair()
    heard: list[tuple[int, int, bytes]] = []
    lost: list[Any] = []
    here = await Channel.open(ends[0], lambda *_: None, lost.append, largest=100)
    there = await Channel.open(ends[1], lambda *frame: heard.append(frame), lost.append, largest=100)
    for number in range(50):
        here.send(Kind.CREDIT, number, b"x" * number)
    assert heard == []  # they leave together, at the end of this turn
    await until(lambda: len(heard) == 50)
    assert heard == [(Kind.CREDIT, number, b"x" * number) for number in range(50)]
    here.send(Kind.FINISH)
    here.close()
    await until(lambda: len(lost) == 2)
    assert heard[-1] == (Kind.FINISH, 0, b"")
    assert lost == [None, None]
    here.send(Kind.FINISH)
    here.flush()
    assert there.backlog() == 0


async def test_channel_reports_once_what_broke_a_rule() -> None:
    ours, theirs = socket.socketpair()
    lost: list[Any] = []
    channel = await Channel.open(ours, lambda *_: None, lost.append, largest=10)
    with theirs:
        theirs.sendall(pack(Kind.EVENTS, 1, b"x" * 11) + pack(Kind.READY))
        await until(lambda: bool(lost))
    await asyncio.sleep(0)
    [error] = lost
    assert isinstance(error, FrameError)
    channel.close()


async def test_channel_ends_where_its_owner_refuses_a_frame() -> None:
    ours, theirs = socket.socketpair()
    lost: list[Any] = []
    heard: list[int] = []

    def refuse(kind: int, run: int, body: bytes) -> None:
        heard.append(run)
        raise FrameError("no")

    await Channel.open(ours, refuse, lost.append, largest=10)
    with theirs:
        theirs.sendall(pack(Kind.READY, 1) + pack(Kind.READY, 2))
        await until(lambda: bool(lost))
    assert heard == [1]
    assert isinstance(lost[0], FrameError)


async def test_backlog_is_what_the_other_side_has_not_taken() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, lambda *_: None, lambda _: None, largest=10)
    with theirs:
        channel.send(Kind.START, 1, b"x" * 4_000_000)
        channel.flush()
        assert channel.backlog() > 1_000_000
    channel.close()
    await asyncio.sleep(0)


async def test_channel_ends_where_a_frame_meets_a_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    lost: list[Any] = []

    def stumble(kind: int, run: int, body: bytes) -> None:
        raise ZeroDivisionError

    await Channel.open(ours, stumble, lost.append, largest=10)
    with theirs:
        theirs.sendall(pack(Kind.READY))
        await until(lambda: bool(lost))
    assert isinstance(lost[0], FrameError)
    assert "ZeroDivisionError" in caplog.text
