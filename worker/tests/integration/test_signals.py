"""Signals of a worker process, from its first line to its last."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from orbiter.distributed.execution.processes.pool import REPLACED
from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import Fleet
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, free_port, wait_until

COMMAND = [sys.executable, "-m", "orbiter.cli", "start", "worker"]


@contextlib.contextmanager
def started(
    url: str, output: IO[bytes] | int, prepare: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker ``w`` without a terminal, ready or not; at the end it is killed if it still runs."""
    options = ["--redis-url", url, "--worker-id", "w", "--allow-import", "tests.integration.jobs"]
    process = subprocess.Popen(
        [*COMMAND, *options, "--drain-timeout", "60", "--connect-timeout", "600"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment(PYTHONUNBUFFERED="1"),
        cwd=WORKER_DIRECTORY,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 - no other thread is forking
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def handles(process: subprocess.Popen[bytes], number: int) -> bool:
    """Tell whether the kernel would give the process this signal rather than end it."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return any(int(status[mask], 16) >> (number - 1) & 1 for mask in ("SigCgt", "SigIgn"))


async def state(fleet: Fleet) -> Any:
    return await fleet.client.hget(keys.worker("w"), "state")


def test_signals_are_handled_before_anything_is_imported_that_takes_time() -> None:
    said = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "--help"], capture_output=True, text=True, check=True
    ).stderr
    modules = [line.rpartition("|")[2].strip() for line in said.splitlines()]
    handled = modules.index("orbiter.cli.beginning")
    assert handled < modules.index("click")
    assert "asyncio" not in modules[:handled]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGUSR1, "quiet"), (signal.SIGUSR2, "running"), (signal.SIGHUP, "running")],
    ids=["SIGUSR1", "SIGUSR2", "SIGHUP"],
)
async def test_a_worker_that_is_starting_lives_through_every_signal(
    fleet: Fleet, tmp_path: Path, number: int, expected: str
) -> None:
    """Sent every few milliseconds, from the first moment at which the interpreter runs code of ours."""
    with (tmp_path / "log").open("wb") as output, started(fleet.url, output) as process:
        await wait_until(lambda: handles(process, number) or process.poll() is not None, interval=0.001)

        async def there() -> bool:
            if process.poll() is None:
                process.send_signal(number)
            return process.poll() is not None or await state(fleet) == expected

        await wait_until(there, interval=0.005)
        assert process.poll() is None, process.returncode
        if number == signal.SIGUSR1:
            process.send_signal(signal.SIGUSR2)
            await wait_until(lambda: _is(fleet, "running"))
        process.terminate()
        assert process.wait(PATIENCE) == 0


async def _is(fleet: Fleet, expected: str) -> bool:
    return bool(await state(fleet) == expected)


async def test_a_worker_told_to_be_quiet_before_it_starts_claims_nothing(fleet: Fleet, tmp_path: Path) -> None:
    task_id = await fleet.submit("echo")
    with (tmp_path / "log").open("wb") as output, started(fleet.url, output) as process:
        await wait_until(lambda: handles(process, signal.SIGUSR1), interval=0.001)
        process.send_signal(signal.SIGUSR1)
        await wait_until(lambda: _is(fleet, "quiet"))
        assert (await fleet.store.get_status(task_id)).status == TaskStatus.PENDING  # type: ignore[union-attr]
        process.send_signal(signal.SIGUSR2)
        assert (await fleet.ends(task_id)).status == TaskStatus.COMPLETED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_is_starting_leaves_in_order_at_once(tmp_path: Path, number: int) -> None:
    with (
        (tmp_path / "log").open("wb") as output,
        started(f"redis://127.0.0.1:{free_port()}", output) as process,
    ):
        await wait_until(lambda: handles(process, number), interval=0.001)
        # The interpreter handles SIGINT by itself before that.
        await wait_until(lambda: handles(process, signal.SIGTERM), interval=0.001)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0


async def test_hangup_of_a_worker_without_a_terminal_replaces_its_executor_processes(
    fleet: Fleet, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output, started(fleet.url, output) as process:
        await wait_until(lambda: _is(fleet, "running"))
        running = await fleet.submit("sleep", metadata={"seconds": 3})
        await fleet.runs(running)
        before = {child.pid for child in psutil.Process(process.pid).children()}
        process.send_signal(signal.SIGHUP)
        await wait_until(lambda: REPLACED.encode() in log.read_bytes())
        assert (await fleet.ends(running)).status == TaskStatus.COMPLETED
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED
        await wait_until(lambda: not before & {child.pid for child in psutil.Process(process.pid).children()})


async def test_a_worker_whose_terminal_closes_drains(fleet: Fleet, tmp_path: Path) -> None:
    """Its output is gone as well. The kernel tells of the end once, a shell once more: that is no second wish."""
    until = tmp_path / "until"
    ours, theirs = pty.openpty()
    try:
        with started(fleet.url, theirs, lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0)) as process:
            os.close(theirs)
            await wait_until(lambda: _is(fleet, "running"))
            quick = await fleet.submit("hold", metadata={"until": str(until)})
            await fleet.runs(quick)
            os.close(ours)
            await wait_until(lambda: _is(fleet, "draining"))
            process.send_signal(signal.SIGHUP)
            until.touch()
            assert process.wait(PATIENCE) == 0
    finally:
        with contextlib.suppress(OSError):
            os.close(ours)
    assert (await fleet.ends(quick)).status == TaskStatus.COMPLETED
    assert await fleet.workers() == []


async def test_a_worker_under_nohup_outlives_its_terminal(fleet: Fleet, tmp_path: Path) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    log = tmp_path / "log"
    with log.open("wb") as output, started(fleet.url, output, nohup) as process:
        await wait_until(lambda: _is(fleet, "running"))
        process.send_signal(signal.SIGHUP)
        assert (await fleet.ends(await fleet.submit("echo"))).status == TaskStatus.COMPLETED
    assert b"SIGHUP" not in log.read_bytes()


CHILD = """
import os, signal, sys
# Behaves as a signal would that comes at the worst moment: after the fork, before the child's handlers are put away.
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from orbiter.distributed import signals
signals.hold()
child = os.fork()
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signal.pthread_sigmask(signal.SIG_BLOCK, set()))
"""


def test_a_signal_to_a_child_that_was_forked_this_moment_ends_it() -> None:
    said = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert said.stdout == "-15 set()\n"


AFTER = """
import asyncio, signal
from orbiter.distributed import signals

async def work():
    def handler(*_): ...
    signal.signal(signal.SIGTERM, handler)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    actions = {number: done.set for number in signals.HANDLED}
    with signals.handled(loop, actions):
        with signals.handled(loop, actions):
            pass
        signal.raise_signal(signal.SIGTERM)
        await done.wait()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

asyncio.run(work())
"""


def test_program_has_its_own_signal_handlers_again_after_its_worker() -> None:
    subprocess.run([sys.executable, "-c", AFTER], check=True, timeout=PATIENCE)


SPAWNS = """
import multiprocessing, time
from orbiter.cli import main

def nap(ready):
    ready.set()
    time.sleep(300)

if __name__ == "__main__":
    spawning = multiprocessing.get_context("spawn")
    ready = spawning.Event()
    child = spawning.Process(target=nap, args=(ready,))
    child.start()
    ready.wait(60)
    child.terminate()
    child.join(60)
    print(child.exitcode)
"""


def test_a_process_that_a_tool_spawns_has_default_signals(tmp_path: Path) -> None:
    """It is given the worker's command line, and imports the worker's program, but is none."""
    program = tmp_path / "orbiter"
    program.write_text(SPAWNS)
    command = [sys.executable, str(program), "start", "worker"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert said.stdout == "-15\n", said.stderr
