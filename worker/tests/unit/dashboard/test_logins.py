"""Passwords, sessions and form tokens; and how often somebody may guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbiter.dashboard.attempts import IN_ALL, OF_AN_ADDRESS, Attempts
from orbiter.dashboard.options import DashboardError
from orbiter.dashboard.passwords import Passwords, hash_line
from orbiter.dashboard.seals import Seals


def written(directory: Path, text: str, mode: int = 0o640) -> Path:
    path = directory / "users"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_the_right_password_is_taken_and_no_other(tmp_path: Path) -> None:
    passwords = Passwords(written(tmp_path, f"# users\n\n{hash_line('anna', 'correct horse')}\n"))
    assert await passwords.right("anna", "correct horse")
    assert not await passwords.right("anna", "correct horse ")
    assert not await passwords.right("nobody", "correct horse")
    assert "correct" not in (tmp_path / "users").read_text()


def test_one_password_has_many_hashes() -> None:
    assert hash_line("anna", "correct horse") != hash_line("anna", "correct horse")


@pytest.mark.parametrize(("user", "password"), [("a:b", "long enough"), ("", "long enough"), ("anna", "short")])
def test_what_is_no_user_or_password_is_refused(user: str, password: str) -> None:
    with pytest.raises(DashboardError):
        hash_line(user, password)


@pytest.mark.parametrize("text", ["", "anna:secret", "# nobody\n", "anna:scrypt$x$y"])
def test_a_file_without_hashes_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DashboardError, match="hash-password"):
        Passwords(written(tmp_path, text))


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DashboardError, match="chmod 0640"):
        Passwords(written(tmp_path, hash_line("anna", "correct horse"), 0o644))


def test_seals_of_others_do_not_open() -> None:
    ours, theirs = Seals(), Seals()
    sealed = ours.seal("session", "anna")
    assert ours.opened("session", sealed, lasts=60) == "anna"
    assert ours.opened("said", sealed, lasts=60) is None
    assert ours.opened("session", sealed, lasts=0) is None
    assert theirs.opened("session", sealed, lasts=60) is None
    for broken in ("", ".", "x.y", sealed[:-1], "x" * 10_000, "é.ü"):
        assert ours.opened("session", broken, lasts=60) is None


def test_tokens_are_those_of_one_visit_and_one_person() -> None:
    seals = Seals()
    token = seals.token("visit", "anna")
    assert seals.fits(token, "visit", "anna")
    for wrong in (("visit", "ben"), ("other", "anna"), ("", "anna")):
        assert not seals.fits(token, *wrong)
    assert not seals.fits("", "visit", "anna")
    assert not seals.fits("é", "visit", "anna")


def test_guesses_of_an_address_are_few() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(OF_AN_ADDRESS):
        assert not attempts.wait("a")
        attempts.failed("a")
    assert attempts.wait("a") == pytest.approx(60)
    assert not attempts.wait("b")
    now[0] = 61
    assert not attempts.wait("a")


def test_guesses_of_many_addresses_are_few_in_all() -> None:
    attempts = Attempts(lambda: 0.0)
    for number in range(IN_ALL):
        attempts.failed(f"address {number}")
    assert attempts.wait("another one")


def test_what_is_kept_of_guesses_does_not_grow() -> None:
    attempts = Attempts(lambda: 0.0)
    for number in range(5000):
        attempts.failed(f"address {number}")
    assert len(attempts._by_address) <= 1000


def test_the_right_password_forgets_wrong_ones() -> None:
    attempts = Attempts(lambda: 0.0)
    for _ in range(OF_AN_ADDRESS):
        attempts.failed("a")
    attempts.succeeded("a")
    assert not attempts.wait("a")
