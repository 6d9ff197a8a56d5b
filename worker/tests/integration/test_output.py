"""Output that nobody reads, or that cannot be written: the command ends as every program on the system does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support import PATIENCE, WORKER_DIRECTORY, environment, orbiter, start_orbiter, wait_until, worker_process

AGENT = '{"name": "say", "runtime": "callable", "target": "tests.integration.jobs:say"}'
# What a shell says of a program that SIGPIPE ended.
UNREAD = 141


def unread(*arguments: str, errors: bool = False, stdin: str = AGENT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a reader that has left: of its output, or of its errors."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-m", "orbiter.cli", *arguments],
            input=stdin,
            stdout=subprocess.PIPE if errors else write,
            stderr=write if errors else subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment(**env),
            cwd=WORKER_DIRECTORY,
            check=False,
        )
    finally:
        os.close(write)


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> object:
    with worker_process(redis_url, "w1", tmp_path / "log") as process:
        yield process


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("task", "list", "--help"),
        ("completion", "bash"),
        ("config", "show"),
        ("config", "show", "--json"),
        ("alerts", "export"),
    ],
    ids=" ".join,
)
def test_what_needs_no_redis_ends_with_its_reader(arguments: tuple[str, ...]) -> None:
    done = unread(*arguments)
    assert (done.returncode, done.stderr) == (UNREAD, "")


COMMANDS = [
    "task list",
    "task list --json",
    "task list --watch 0.1",
    "task list --watch 0.1 --json",
    "task status known",
    "task status known --json",
    "task events known",
    "task events known --json",
    "task events known --follow",
    "task dead list",
    "task submit hi --agent -",
    "task submit hi --agent - --json",
    "task submit hi --agent - --count 3 --wait",
    "task submit hi --agent - --stream",
    "task submit hi --agent - --stream --json",
    "queue info",
    "worker list",
    "worker list --json",
    "alerts check",
    "start worker",
]


def test_every_command_ends_with_its_reader(redis_url: str, worker: object) -> None:
    done = orbiter("task", "submit", "hi", "--agent", "-", "--task-id", "known", "--wait", stdin=AGENT, **at(redis_url))
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        cut = unread(*command.split(), **at(redis_url))
        assert cut.returncode == UNREAD, (command, cut.stderr)
        assert [word for word in ("Traceback", "Exception", "Error") if word in cut.stderr] == [], command


def at(redis_url: str) -> dict[str, str]:
    return {"ORBITER_REDIS_URL": redis_url}


@pytest.mark.parametrize(
    "arguments", [("dance",), ("task", "status", "nobody"), ("worker", "list", "--redis-url", "x")]
)
def test_an_error_that_nobody_reads_is_no_other_error(redis_url: str, arguments: tuple[str, ...]) -> None:
    done = unread(*arguments, errors=True, **at(redis_url))
    assert (done.returncode, done.stdout) == (UNREAD, "")


async def test_a_log_that_nobody_reads_ends_no_worker(redis_url: str, redis_client: Redis) -> None:
    """Its reader may have been `head`; tasks are worth more."""
    read, write = os.pipe()
    with start_orbiter_into(write, redis_url) as process:
        os.close(write)
        with os.fdopen(read) as lines:
            lines.readline()
            await wait_until(lambda: redis_client.hget("orbiter:workers:w1", "state"))
        done = orbiter("task", "submit", "hi", "--agent", "-", "--wait", stdin=AGENT, **at(redis_url))
        assert done.returncode == 0, done.stderr
        process.terminate()
        assert process.wait(PATIENCE) == 0


def start_orbiter_into(write: int, redis_url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "orbiter.cli", "start", "worker", "--worker-id", "w1", "--allow-import", "tests"],
        stdout=write,
        stderr=write,
        env=environment(**at(redis_url)),
        cwd=WORKER_DIRECTORY,
    )


def test_a_full_disk_is_one_line(redis_url: str) -> None:
    with Path("/dev/full").open("w") as full:
        for arguments in (("task", "list"), ("task", "list", "--json"), ("--help",)):
            done = subprocess.run(
                [sys.executable, "-m", "orbiter.cli", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(**at(redis_url)),
                check=False,
            )
            (line,) = done.stderr.splitlines()
            assert (done.returncode, line.startswith("Error: cannot write: ")) == (1, True)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_as_good_as_dev_null(redis_url: str, closed: str) -> None:
    for arguments in ("task list", "worker list --json", "--help"):
        line = f"{sys.executable} -m orbiter.cli {arguments} {closed}"
        done = subprocess.run(["bash", "-c", line], env=environment(**at(redis_url)), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("last", ["Redis at", "orbiter task submit"])
def test_dev_ends_with_its_reader_and_leaves_nothing_running(tmp_path: Path, last: str) -> None:
    """Also where the reader leaves before the worker says that it is ready."""
    with start_orbiter("dev", "--watch-dir", str(tmp_path)) as process:
        try:
            assert process.stdout is not None
            while last not in (line := process.stdout.readline()):
                assert line
            process.stdout.close()
            assert process.wait(PATIENCE) == UNREAD
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_a_locale_that_knows_no_more_than_ascii_changes_no_task(redis_url: str, worker: object) -> None:
    submit = (
        "task",
        "submit",
        "\U0001f680 ä",
        "--agent",
        "-",
        "--wait",
        "--json",
        "--task-id",
        "ä",
        "--metadata",
        "k=ä",
    )
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = orbiter(*submit, stdin=AGENT, **narrow, **at(redis_url))
    assert done.returncode == 0, done.stderr
    shown = orbiter("task", "status", "ä", "--json", **narrow, **at(redis_url))
    assert shown.returncode == 0, shown.stderr
