"""Listener: cancellations and commands, heard at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.broker.announcements import Announcement
from orbiter.distributed.worker.commands import Commands
from orbiter.distributed.worker.listener import AGAIN_AFTER, Listener
from tests.unit.scripted import ScriptedChannel, queue_name
from tests.unit.virtual_time import turns

PATIENCE = 10.0


class Listening:
    """A listener on a scripted channel."""

    def __init__(self, *heard: Any) -> None:
        self.channel, self.commands = ScriptedChannel(), Commands()
        self.channel.will("next", *heard)
        self.cancelled: list[str] = []
        listener = Listener(
            self.channel,
            queue=queue_name(),
            cancel=self.cancelled.append,
            commands=self.commands,
            patience=PATIENCE,
        )
        self.running = asyncio.create_task(listener.run())

    def count(self, step: str) -> int:
        return len(self.channel.of(step))


async def test_listener_cancels_the_task_that_is_announced() -> None:
    listening = Listening(Announcement(), Announcement(cancelled="t1"), Announcement(cancelled="t2"))
    await turns()
    assert listening.cancelled == ["t1", "t2"]


async def test_listener_obeys_a_command() -> None:
    listening = Listening(Announcement(command="quiet"))
    await turns()
    assert listening.commands.quiet


async def test_listener_probes_a_channel_that_is_silent() -> None:
    listening = Listening(None)
    await turns()
    assert listening.count("probe") == 1
    assert listening.count("open") == 1


async def test_listener_stays_while_probes_are_answered() -> None:
    answer = Announcement()
    listening = Listening(None, answer, None, answer, None, answer)
    await turns()
    assert (listening.count("probe"), listening.count("open")) == (3, 1)


async def test_listener_listens_anew_where_a_probe_is_not_answered() -> None:
    listening = Listening()
    await asyncio.sleep(PATIENCE * 2 + 0.1)
    assert (listening.count("probe"), listening.count("open")) == (1, 1)
    await asyncio.sleep(AGAIN_AFTER)
    assert listening.count("open") == 2


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), OSError()], ids=["redis", "system"])
async def test_listener_listens_anew_after_an_error(error: Exception) -> None:
    listening = Listening(error, Announcement(cancelled="t1"))
    await turns()
    assert listening.cancelled == []
    await asyncio.sleep(AGAIN_AFTER + 0.1)
    assert listening.cancelled == ["t1"]
