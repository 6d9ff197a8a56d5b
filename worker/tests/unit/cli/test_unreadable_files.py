"""A file that the command may not read: the error names the user that the command runs as, and the remedy."""

from __future__ import annotations

import codecs
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orbiter.cli import main
from orbiter.cli.settings_file import FILE_VARIABLE
from orbiter.dashboard.options import DashboardError
from orbiter.dashboard.passwords import Passwords
from orbiter.distributed.connection.redis_url import RedisUrlError, check
from orbiter.distributed.reading import this_user

NOBODY = 65534
URL = "redis://127.0.0.1:1"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(params=["file", "directory"])
def secret(request: pytest.FixtureRequest, place: Path) -> Iterator[Path]:
    """A file of another user's, and one in a directory that only the other user may enter."""
    path = place / "inner" / "secret file"
    path.parent.mkdir()
    path.write_text("{}")
    closed = path if request.param == "file" else path.parent
    closed.chmod(0)
    yield path
    closed.chmod(0o700)


@contextmanager
def as_somebody_else() -> Iterator[str]:
    """Run as another user where this one may read everything; gives the user's name."""
    if os.geteuid():
        yield this_user()
        return
    os.seteuid(NOBODY)
    try:
        yield this_user()
    finally:
        os.seteuid(0)


def invoke(*arguments: str, **env: str) -> Result:
    # The other user may not be able to read Python's code and ours: all that is imported late is imported now.
    for module in ("cli.submit", "cli.config", "cli.dashboard", "cli.dev", "cli.start", "dashboard.server"):
        importlib.import_module(f"orbiter.{module}")
    codecs.lookup("utf-8-sig")
    with as_somebody_else():
        return CliRunner(env={FILE_VARIABLE: os.devnull, **env}).invoke(main, list(arguments), prog_name="orbiter")


def test_an_agent_file_goes_by_standard_input(secret: Path) -> None:
    result = invoke("task", "submit", "hi", "--agent", str(secret), "--redis-url", URL)
    with as_somebody_else() as user:
        assert result.exit_code == 2
        assert f"'--agent': {secret}: may not be read by {user}, which this command runs as" in result.stderr
        assert f"give it on standard input (--agent - < '{secret}'), or make it readable to that user" in result.stderr
        assert "Permission denied" not in result.stderr


@pytest.mark.parametrize("option", ["--password-file", "--tls-certificate", "--tls-key"])
def test_files_of_the_dashboard(secret: Path, option: str) -> None:
    result = invoke("dashboard", option, str(secret), "--redis-url", URL)
    assert result.exit_code == 2
    assert f"'{option}': {secret}: may not be read by user" in result.stderr
    assert "make it readable to that user" in result.stderr
    assert "standard input" not in result.stderr


@pytest.mark.parametrize(("command", "option"), [(("dev",), "--watch-dir"), (("start", "worker"), "--import-from")])
def test_directories(place: Path, command: tuple[str, ...], option: str) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0)
    result = invoke(*command, option, str(closed), ORBITER_REDIS_URL=URL)
    assert f"'{option}': {closed}: may not be read by user" in result.stderr


@pytest.mark.parametrize("command", [("config", "show"), ("worker", "list", "--redis-url", URL)])
def test_the_settings_file(secret: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, **{FILE_VARIABLE: str(secret)})
    assert result.exit_code == 2
    assert f"{secret}: may not be read by user" in result.stderr
    assert "make it readable to that user" in result.stderr


def test_files_of_the_url(secret: Path) -> None:
    url = f"rediss://127.0.0.1:1?ssl_ca_certs={str(secret).replace(' ', '%20')}"
    with (
        as_somebody_else(),
        pytest.raises(RedisUrlError, match="ssl_ca_certs names a file that may not be read by user"),
    ):
        check(url)


def test_passwords_of_a_dashboard_that_code_starts(secret: Path) -> None:
    with as_somebody_else(), pytest.raises(DashboardError, match=r"may not be read by user .*make it readable"):
        Passwords(secret)
