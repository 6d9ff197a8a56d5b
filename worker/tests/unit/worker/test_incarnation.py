"""Lives: one process's time under a worker id, and when it is over for certain."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orbiter.distributed.worker import incarnation
from orbiter.distributed.worker.incarnation import died_here, machine_id, new_life


def test_lives_are_never_equal() -> None:
    assert new_life() != new_life()


@pytest.mark.parametrize(
    ("life", "pid"),
    [
        (new_life, lambda dead: str(os.getpid())),
        (lambda: "elsewhere/1", lambda dead: dead),
        (lambda: "-/1", lambda dead: dead),
        (lambda: "", lambda dead: dead),
        (new_life, lambda dead: ""),
        (new_life, lambda dead: "9" * 30),
    ],
    ids=["lives", "elsewhere", "nowhere", "0.1", "no pid", "no such pid"],
)
def test_life_may_live_where_its_end_is_not_certain(
    life: Callable[[], str], pid: Callable[[str], str], dead_pid: str
) -> None:
    assert not died_here(life(), pid(dead_pid))


def test_life_is_over_where_its_process_here_is_gone(dead_pid: str) -> None:
    assert died_here(new_life(), dead_pid)


def test_life_names_no_place_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch, dead_pid: str) -> None:
    def unreadable(*_: object, **__: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", unreadable)
    incarnation._place.cache_clear()
    try:
        life = new_life()
        assert life.startswith("-/")
        assert not died_here(life, dead_pid)
    finally:
        incarnation._place.cache_clear()


def test_life_of_another_user_may_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert not died_here(new_life(), "1")


@pytest.mark.parametrize(
    ("text", "known"), [("0" * 31 + "1\n", True), ("", False), ("uninitialized\n", False), (None, False)]
)
def test_machine_is_named_by_a_hash_of_its_id(
    text: str | None, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "machine-id"
    if text is not None:
        place.write_text(text)
    monkeypatch.setattr(incarnation, "_MACHINE", place)
    name = machine_id.__wrapped__()
    assert bool(name) is known
    assert name != "0" * 31 + "1"
