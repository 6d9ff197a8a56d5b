"""A real Redis for the integration tests: a server of our own on a free port, emptied before each test."""

from __future__ import annotations

import gc
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio

from tests.fleet import Fleet
from tests.support import PATIENCE, free_port
from tests.temporal import TemporalServer, temporal_server


@pytest.fixture(scope="session", autouse=True)
def frozen() -> None:
    """What is there before the first test stays: to look through it after each one takes longer than some tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_leaks() -> Iterator[None]:
    """What a test leaves open is an error of that test, and not of the one that runs when Python finds it."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lives as long as the test session and writes nothing to disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("redis-server is not installed: apt-get install redis-server")
    directory: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    log = directory / "redis.log"
    options = {"port": str(port), "bind": "127.0.0.1", "dir": str(directory), "save": "", "appendonly": "no"}
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for_answer(port, server, log)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _wait_for_answer(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    with redis.Redis(port=port, retry=None) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"redis-server did not start:\n{log.read_text()}")
                time.sleep(0.02)
            else:
                return


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of that Redis which answers with text."""
    client = redis.asyncio.Redis.from_url(redis_url, decode_responses=True, encoding_errors="replace")
    yield client
    await client.aclose()


@pytest.fixture
async def fleet(redis_url: str, redis_client: redis.asyncio.Redis) -> Fleet:
    """A fleet without workers on that Redis."""
    fleet = Fleet(redis_url, redis_client)
    await fleet.broker.connect()
    await fleet.broker.ensure_group()
    return fleet


@pytest.fixture
def temporal_alone(tmp_path: Path) -> Iterator[TemporalServer]:
    """A Temporal server of the test's own: what another test left running would be taken up by this one's workers."""
    with temporal_server(tmp_path) as server:
        yield server


@pytest.fixture(params=["local", "temporal"])
def executor(request: pytest.FixtureRequest) -> dict[str, str]:
    """What a worker's environment says of the executor: the test runs once with each."""
    if request.param == "local":
        return {"ORBITER_EXECUTOR": "local"}
    server: TemporalServer = request.getfixturevalue("temporal_alone")
    return {"ORBITER_EXECUTOR": "temporal", "TEMPORAL_HOST": server.host}


@pytest.fixture
def temporal(temporal_alone: TemporalServer, monkeypatch: pytest.MonkeyPatch) -> TemporalServer:
    """A Temporal server, known to workers of this process."""
    monkeypatch.setenv("TEMPORAL_HOST", temporal_alone.host)
    return temporal_alone
