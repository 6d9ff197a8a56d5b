"""No password of a URL and no key is ever told: percent-encoded or not, wherever it stands, whatever refuses it."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from orbiter.cli import main
from orbiter.distributed import Client, Worker
from orbiter.distributed.broker.worker_health import WorkerHealthCheck
from orbiter.distributed.connection.redis_url import check, mask
from tests import keys
from tests.fleet import Fleet
from tests.servers import Server, plain_server
from tests.support import orbiter, worker_process

# Two pieces that stand in no message by chance, and what may be between them.
PIECES = ("qzjx", "wvkq")
CHARACTERS = "/#?@:&=+%[] \\\"'\u00fc\t\n\x1b"
PASSWORDS = [*(f"qzjx{char}wvkq" for char in CHARACTERS), "qzjx%2Fwvkq", "[qzjx]wvkq", "1234/qzjx@wvkq"]
FORMS = [
    "redis://user:{}@127.0.0.1:1/0",
    "redis://:{}@127.0.0.1:1",
    "redis://{}@127.0.0.1:1/0",
    "rediss://user:{}@127.0.0.1:1/0",
    "redis+sentinel://user:{}@127.0.0.1:1/m/0",
    "redis+sentinel://127.0.0.1:1/m/0?sentinel_password={}",
    "redis+cluster://user:{}@127.0.0.1:1",
    "unix://user:{}@/nowhere/redis.sock",
    "unix:///nowhere/redis.sock?password={}",
    "redis://127.0.0.1:1/0?password={}",
    "Redis://user:{}@127.0.0.1:1/0",
    "user:{}@127.0.0.1:1",
    "redis:/user:{}@127.0.0.1:1",
    "redis://127.0.0.1:1/{}",
]


def told(text: str) -> list[str]:
    return [piece for piece in PIECES if piece in text]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_url_tells_its_password(form: str) -> None:
    for password in PASSWORDS:
        url = form.format(password)
        said = mask(url)
        try:
            said += repr(check(url))
        except ValueError as error:
            said += "".join(traceback.format_exception_only(error))
            assert error.__cause__ is None
            assert error.__suppress_context__ or error.__context__ is None
        # What would be read as a host, or as a socket, is none of a password.
        assert told(said) == [], (url, said)


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_command_tells_a_password(password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = FORMS[0].format(password)
    (tmp_path / "own.toml").write_text(f"redis_url = {json.dumps(url)}\n")
    commands = (
        ["queue", "info"],
        ["config", "show"],
        ["config", "show", "--json"],
        ["start", "worker", "--concurrency", "0"],
    )
    for command in commands:
        ways: list[tuple[list[str], dict[str, str | None]]] = [
            ([], {"ORBITER_CONFIG": str(tmp_path / "own.toml"), "ORBITER_REDIS_URL": None})
        ]
        ways.append(([], {"ORBITER_REDIS_URL": url}))
        if command[0] != "config":
            ways.append((["--redis-url", url], {}))
        for more, env in ways:
            done = CliRunner(env=env).invoke(main, [*command, *more], prog_name="orbiter")
            assert told(done.output) == [], (command, done.output)
            assert done.exception is None or isinstance(done.exception, SystemExit)


@pytest.fixture(scope="module")
def without_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that does not know AUTH, as some proxies, and repeats what it was given."""
    with plain_server(
        tmp_path_factory.mktemp("redis"), "rename-command AUTH NO1", "rename-command HELLO NO2"
    ) as server:
        yield server


@pytest.mark.parametrize("command", [("queue", "info"), ("start", "worker"), ("task", "list")])
def test_a_server_that_repeats_the_login_is_not_quoted(without_auth: Server, command: tuple[str, ...]) -> None:
    done = orbiter(*command, ORBITER_REDIS_URL=f"redis://user:qzjxwvkq@127.0.0.1:{without_auth.port}/0")
    assert done.returncode != 0
    assert "unknown command" in done.stderr
    assert told(done.stdout + done.stderr) == [], done.stderr


def test_neither_client_nor_health_check_quote_the_login(without_auth: Server) -> None:
    url = f"redis://user:qzjxwvkq@127.0.0.1:{without_auth.port}/0"
    assert told(repr(WorkerHealthCheck(url, "w").check())) == []

    async def ask() -> None:
        async with Client(url, retries=0) as client:
            assert told(repr(client)) == []
            await client.status("t")

    with pytest.raises(Exception, match="unknown command") as caught:
        asyncio.run(ask())
    assert told("".join(traceback.format_exception(caught.value, chain=True)).replace("qzjxwvkq@127", "")) == []
    assert told(repr(Worker(url))) == []


@pytest.mark.parametrize("isolation", ["none", "process"])
async def test_no_error_of_a_task_tells_the_key_of_a_provider(fleet: Fleet, tmp_path: Path, isolation: str) -> None:
    log = tmp_path / "log"
    options = ("--max-retries", "1", "--retry-backoff", "0.01", "--isolation", isolation)
    with worker_process(fleet.url, "w1", log, *options, OPENAI_API_KEY="qzjx/key+wvkq"):
        task = await fleet.ends(await fleet.submit("tells_its_key"))
    assert task.error == "401: *** is no key; at https://models/?key=***"
    events = await fleet.client.xrange(keys.stream(task.task_id))
    [(_, letter)] = await fleet.client.xrange("{orbiter:tasks}:dead")
    assert "401: *** is no key" in repr(events)
    assert "401: *** is no key" in repr(letter)
    assert told(repr((events, letter))) == []
    if isolation == "process":  # elsewhere a task writes to the worker's own output
        assert "printed: ***" in log.read_text()
        assert told(log.read_text()) == []
