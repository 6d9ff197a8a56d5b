"""Redis goes away and comes back, under load: restarted, or silent as behind a broken network."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.integration.load import all_end, keep_submitting
from tests.servers import eventually, plain_server
from tests.support import slowness, wait_until, worker_process

DURABLE = ("appendonly yes", "appendfsync always")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_worker_goes_on_by_itself_after_a_restart_of_redis(tmp_path: Path, signal_number: int) -> None:
    """The append-only file holds what was acknowledged; while Redis loads it, LOADING is waited for like silence."""
    log = tmp_path / "worker.log"
    with plain_server(tmp_path, *DURABLE) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with worker_process(url, "w1", log, "--concurrency", "8", "--heartbeat-ttl", "3") as process:
            async with keep_submitting(url) as load:
                await wait_until(lambda: len(load.accepted) > 50)
                server.process.send_signal(signal_number)
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(eventually, server.answers, what="the server is back")
                back = time.time()
                first = await wait_until(lambda: load.completed_after(back))
            assert first - back < 5 * slowness()
            await all_end(url, load)
            assert process.poll() is None
        assert process.returncode == 0, log.read_text()


async def test_a_redis_that_falls_silent_is_noticed_and_waited_for(tmp_path: Path) -> None:
    """Frozen, it answers nothing and closes nothing: half a connection. No step waits for ever."""
    log = tmp_path / "worker.log"
    with plain_server(tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        with worker_process(url, "w1", log, "--concurrency", "8", "--heartbeat-ttl", "3") as process:
            async with keep_submitting(url) as load:
                await wait_until(lambda: len(load.accepted) > 50)
                server.process.send_signal(signal.SIGSTOP)
                try:
                    await wait_until(lambda: "heartbeat not delivered" in log.read_text())
                    # The lease runs out meanwhile: what ran is stopped, as nobody can tell whether it is still ours.
                    await asyncio.sleep(8)
                finally:
                    server.process.send_signal(signal.SIGCONT)
                back = time.time()
                first = await wait_until(lambda: load.completed_after(back))
            assert first - back < 5 * slowness()
            await all_end(url, load)
            assert process.poll() is None
        assert process.returncode == 0, log.read_text()
