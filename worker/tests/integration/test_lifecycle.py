"""What a worker does from its first line to its exit, as its operator sees it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orbiter.distributed.models import TaskStatus
from tests import keys
from tests.fleet import Fleet, working
from tests.support import PATIENCE, WORKER_DIRECTORY, environment, free_port, slowness, wait_until, worker_process


@contextlib.contextmanager
def started(log: Path, *options: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``orbiter start worker``, ready or not; at the end it is killed if it still runs."""
    command = [sys.executable, "-m", "orbiter.cli", "start", "worker", *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment(**env), cwd=WORKER_DIRECTORY)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def exit_code(process: subprocess.Popen[bytes], within: float = PATIENCE) -> int:
    return process.wait(within)


@pytest.mark.alone
async def test_an_idle_worker_exits_within_a_fifth_of_a_second(fleet: Fleet, tmp_path: Path) -> None:
    took = []
    for number in range(7):
        with worker_process(fleet.url, f"idle-{number}", tmp_path / "log") as process:
            began = time.monotonic()
            process.terminate()
            assert exit_code(process) == 0
            took.append((time.monotonic() - began) / slowness())
    assert statistics.median(took) <= 0.2 * slowness()
    assert await fleet.workers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_redis_is_unreachable_ends_the_worker_at_once(tmp_path: Path, number: int) -> None:
    options = ("--redis-url", f"redis://127.0.0.1:{free_port()}/0", "--connect-timeout", "600")
    with started(tmp_path / "log", *options) as process:
        await wait_until(lambda: b"trying again" in (tmp_path / "log").read_bytes())
        process.send_signal(number)
        assert exit_code(process) == 0


async def test_a_signal_while_redis_does_not_answer_ends_the_worker(tmp_path: Path) -> None:
    """A server that accepts and says nothing: half a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        with started(tmp_path / "log", "--redis-url", url, "--connect-timeout", "600") as process:
            accepted, _ = server.accept()
            with accepted:
                process.terminate()
                assert exit_code(process) == 0


async def test_a_signal_right_after_the_banner_ends_the_worker_in_order(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(3):
        with started(tmp_path / "log", "--redis-url", fleet.url) as process:
            await wait_until(lambda: b"Orbiter Worker Starting" in (tmp_path / "log").read_bytes())
            process.terminate()
            assert exit_code(process) == 0
    assert await fleet.workers() == []


async def test_a_second_signal_hands_back_at_once_and_exits_in_order(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "hurried", tmp_path / "log", "--drain-timeout", "600") as process:
        task_id = await fleet.submit("sleep", metadata={"seconds": 600})
        await fleet.runs(task_id)
        process.terminate()
        await wait_until(lambda: b"draining" in (tmp_path / "log").read_bytes())
        process.terminate()
        assert exit_code(process) == 0
    task = await fleet.store.get_status(task_id)
    assert task is not None
    assert (task.status, task.handoffs, task.retries) == (TaskStatus.PENDING, 1, 0)


async def test_redis_that_stops_answering_in_a_drain_does_not_keep_the_worker(fleet: Fleet, tmp_path: Path) -> None:
    """The drain ends at its deadline with exit 0; the task runs elsewhere once its lease is over."""
    options = ("--drain-timeout", "1", "--heartbeat-ttl", "3")
    with worker_process(fleet.url, "cut-off", tmp_path / "log", *options) as process:
        task_id = await fleet.submit("sleep", metadata={"seconds": 4})
        await fleet.runs(task_id)
        await fleet.client.client_pause(8000, all=True)
        process.terminate()
        assert exit_code(process) == 0
    async with working(fleet, worker_id="heir", heartbeat_ttl=3):
        task = await fleet.ends(task_id)
    assert task.status == TaskStatus.COMPLETED
    await fleet.check_invariants([task_id])


async def test_quiet_claims_nothing_and_stays_and_resume_claims_again(fleet: Fleet, tmp_path: Path) -> None:
    with worker_process(fleet.url, "quiet", tmp_path / "log") as process:
        running = await fleet.submit("sleep", metadata={"seconds": 3})
        await fleet.runs(running)
        process.send_signal(signal.SIGUSR1)
        await wait_until(lambda: state(fleet, "quiet", "quiet"))
        waiting = await fleet.submit("echo", "later")
        assert (await fleet.ends(running)).status == TaskStatus.COMPLETED
        assert (await fleet.store.get_status(waiting)).status == TaskStatus.PENDING  # type: ignore[union-attr]
        process.send_signal(signal.SIGUSR2)
        assert (await fleet.ends(waiting)).status == TaskStatus.COMPLETED
        assert await state(fleet, "quiet", "running")


@pytest.mark.parametrize("way", ["channel", "heartbeat"])
async def test_an_operator_can_quiet_resume_and_drain_a_worker(fleet: Fleet, tmp_path: Path, way: str) -> None:
    """Told over its channel a worker obeys at once; where the message was lost, its next heartbeat tells it."""

    async def tell(wish: str) -> None:
        if way == "channel":
            # A worker that just started may not listen yet: told again until somebody hears.
            await wait_until(lambda: fleet.client.publish(keys.control("told"), wish))
        else:
            await fleet.client.hset(keys.worker("told"), "wanted", wish)

    with worker_process(fleet.url, "told", tmp_path / "log", "--heartbeat-ttl", "3") as process:
        await tell("quiet")
        await wait_until(lambda: state(fleet, "told", "quiet"))
        await tell("resume")
        await wait_until(lambda: state(fleet, "told", "running"))
        await tell("nonsense")
        await tell("drain")
        assert exit_code(process) == 0
    assert await fleet.workers() == []


async def state(fleet: Fleet, worker_id: str, expected: str) -> bool:
    return bool(await fleet.client.hget(keys.worker(worker_id), "state") == expected)


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


async def test_the_health_port_tells_alive_from_ready(fleet: Fleet, tmp_path: Path) -> None:
    port = free_port()
    options = ("--health-port", str(port), "--heartbeat-ttl", "3", "--drain-timeout", "60")
    with worker_process(fleet.url, "asked", tmp_path / "log", *options) as process:
        assert ask(port, "/livez") == (200, {"status": "ok"})
        assert ask(port, "/readyz") == (200, {"status": "ok"})
        assert ask(port, "/else")[0] == 404
        await fleet.client.client_pause(8000, all=True)

        def unready() -> dict[str, Any] | None:
            assert ask(port, "/livez")[0] == 200
            status, said = ask(port, "/readyz")
            return said if status == 503 else None

        assert "Redis" in (await wait_until(unready))["reason"]
        await wait_until(lambda: ask(port, "/readyz")[0] == 200)
        until = tmp_path / "until"
        task_id = await fleet.submit("hold", metadata={"until": str(until)})
        await fleet.runs(task_id)
        process.terminate()
        await wait_until(lambda: ask(port, "/readyz") == (503, {"reason": "the worker is draining"}))
        assert ask(port, "/livez")[0] == 200
        until.touch()


@pytest.mark.guide("Worker heartbeat expired", "no blocking code in agents")
async def test_a_blocked_event_loop_is_not_alive(fleet: Fleet, tmp_path: Path) -> None:
    port = free_port()
    options = ("--isolation", "none", "--health-port", str(port), "--heartbeat-ttl", "1")
    with worker_process(fleet.url, "stuck", tmp_path / "log", *options) as process:
        await fleet.submit("hog", metadata={"seconds": 600})
        await wait_until(lambda: ask(port, "/livez")[0] == 503)
        assert "blocked" in ask(port, "/livez")[1]["reason"]
        process.kill()


async def test_a_taken_health_port_is_one_clear_line(fleet: Fleet, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with started(tmp_path / "log", "--redis-url", fleet.url, "--health-port", str(port)) as process:
            assert exit_code(process) == 1
    assert f"Error: --health-port {port}" in (tmp_path / "log").read_text()


async def test_systemd_hears_ready_status_watchdog_and_stopping(fleet: Fleet, tmp_path: Path) -> None:
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        with started(tmp_path / "log", "--redis-url", fleet.url, "--worker-id", "notified", **env) as process:
            while not any("WATCHDOG=1" in line for line in said):
                said.append(channel.recv(4096).decode())
            assert any(line.startswith("READY=1\nSTATUS=running: 0 of 1 slots busy") for line in said)
            process.terminate()
            while not any("STOPPING=1" in line for line in said):
                said.append(channel.recv(4096).decode())
            assert exit_code(process) == 0


async def test_log_lines_name_task_worker_attempt_and_queue_and_no_payload(fleet: Fleet, tmp_path: Path) -> None:
    url = fleet.url.replace("redis://", "redis://default:secret-of-redis@")
    await fleet.client.config_set("requirepass", "secret-of-redis")
    try:
        log = tmp_path / "log"
        options = ("--log-format", "json", "--allow-import", "tests.integration.jobs", "--worker-id", "json")
        with started(log, "--redis-url", url, *options) as process:
            await fleet.ends(await fleet.submit("echo", "the secret input"))
            process.terminate()
            exit_code(process)
    finally:
        await fleet.client.config_set("requirepass", "")
    text = log.read_text()
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    completed = next(row for row in rows if row["message"].startswith("completed"))
    assert completed.items() >= {"worker_id": "json", "queue": "orbiter:tasks", "attempt": 1, "level": "info"}.items()
    assert re.fullmatch("[0-9a-f]{32}", completed["task_id"])
    assert "secret" not in text


async def test_a_worker_needs_no_more_than_what_is_in_its_environment(fleet: Fleet, tmp_path: Path) -> None:
    """Every option of a worker can be a variable; systemd units and containers set nothing else."""
    env = {"ORBITER_REDIS_URL": fleet.url, "ORBITER_WORKER_ID": "env", "ORBITER_CONCURRENCY": "3"}
    with started(tmp_path / "log", **env, ORBITER_HEARTBEAT_TTL="7", ORBITER_INSTANCE="9"):
        await wait_until(lambda: state(fleet, "env", "running"))
        beat = await fleet.client.hgetall(keys.worker("env"))
    assert (beat["concurrency"], beat["heartbeat_ttl"], beat["instance"]) == ("3", "7", "9")
