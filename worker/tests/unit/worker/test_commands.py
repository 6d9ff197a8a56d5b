"""Commands: what is wanted of a worker."""

from __future__ import annotations

import pytest

from orbiter.distributed.broker.records import Command
from orbiter.distributed.errors import WorkerIdTakenError
from orbiter.distributed.worker.commands import Commands


def _set(commands: Commands) -> set[str]:
    return {name for name in ("stopping", "hurry", "changed", "beat") if getattr(commands, name).is_set()}


def test_stop_hurries_the_second_time() -> None:
    commands = Commands()
    commands.stop()
    assert _set(commands) == {"stopping"}
    commands.stop()
    assert _set(commands) == {"stopping", "hurry"}


def test_drain_never_hurries_however_often_it_comes() -> None:
    commands = Commands()
    commands.drain()
    commands.apply(Command.DRAIN)
    assert _set(commands) == {"stopping"}


@pytest.mark.parametrize(
    ("text", "event", "quiet"),
    [("quiet", "changed", True), ("resume", "changed", False), ("beat", "beat", False), ("drain", "stopping", False)],
)
def test_command_sets_what_whoever_obeys_waits_for(text: str, event: str, quiet: bool) -> None:
    commands = Commands()
    commands.apply(text)
    assert _set(commands) == {event}
    assert commands.quiet is quiet


def test_command_of_a_later_release_is_passed_over() -> None:
    commands = Commands()
    commands.apply("reboot")
    assert _set(commands) == set()


def test_worker_gives_up_an_id_at_once() -> None:
    commands, error = Commands(), WorkerIdTakenError("w1", "life", "host", "1", "0")
    commands.give_up_id(error)
    assert commands.taken is error
    assert _set(commands) == {"stopping", "hurry"}
