"""Worker: all its parts together, from the start to the end, around a scripted queue."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from orbiter.distributed.alerts import alert_manager
from orbiter.distributed.alerts.rules import RULES
from orbiter.distributed.broker.announcements import Announcement
from orbiter.distributed.errors import RedisUnavailableError, SettingsError, WorkerIdTakenError
from orbiter.distributed.execution.endings import Completed
from orbiter.distributed.worker import worker as module
from orbiter.distributed.worker.wiring import Parts, assemble
from orbiter.distributed.worker.worker import Worker
from tests.support import free_port
from tests.unit.scripted import (
    ScriptedChannel,
    ScriptedExecutor,
    ScriptedHousekeeping,
    ScriptedQueue,
    begun,
    queue_name,
)
from tests.unit.virtual_time import clock, never, turns

URL = "redis://127.0.0.1:1"


class Client:
    """A connection that only notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True
        raise RedisConnectionError


class Working:
    """A worker with scripted surroundings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any] | None = None, **settings: Any) -> None:
        self.queue, self.channel = ScriptedQueue(), ScriptedChannel()
        self.executor = ScriptedExecutor(work)
        self.clients = [Client() for _ in range(4)]
        monkeypatch.setattr("orbiter.distributed.worker.wiring._executor", lambda *_, **__: self.executor)
        monkeypatch.setattr(module, "build_parts", self._build)
        self.worker = Worker(URL, worker_id="w1", queue_name=queue_name(), **settings)

    def _build(self, url: str, settings: Any) -> Parts:
        broker: Any = self.queue
        clients: Any = tuple(self.clients)
        self.parts = assemble(settings, broker, ScriptedHousekeeping(), self.channel, clients, clock=clock)
        return self.parts

    async def start(self, seconds: float = 0.5) -> asyncio.Task[None]:
        self.running = asyncio.create_task(self.worker.start())
        await asyncio.sleep(seconds)
        return self.running

    async def stop(self) -> None:
        await self.worker.stop()
        await self.running

    @property
    def states(self) -> list[str]:
        """What the heartbeats said, once each."""
        states: list[str] = []
        for fields, _ in self.queue.of("beat"):
            if states[-1:] != [fields["state"]]:
                states.append(fields["state"])
        return states


async def test_worker_runs_tasks_and_leaves_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    assert working.worker.state == "running"
    assert working.worker.tasks_processed == 1
    assert [rows for rows, *_ in working.queue.of("settle_and_claim")] == [[("t1", "completed")]]
    await working.stop()
    assert working.worker.state == "stopped"
    assert working.states == ["starting", "running", "draining"]
    assert working.queue.calls[-1] == ("deregister", "w1")
    assert all(client.closed for client in working.clients)


async def test_worker_counts_runs_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails() -> Any:
        raise ValueError

    working = Working(monkeypatch, fails, max_retries=0)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    assert (working.worker.tasks_processed, working.worker.tasks_failed) == (0, 1)
    await working.stop()


async def test_drain_lets_a_task_end_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def takes_ten_seconds() -> Any:
        await asyncio.sleep(10)
        return Completed("null")

    working = Working(monkeypatch, takes_ten_seconds, drain_timeout=25)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    began = clock()
    await working.stop()
    assert 9 < clock() - began < 11
    assert working.worker.tasks_processed == 1
    assert working.queue.of("requeue") == []
    # The lease is renewed until the end.
    assert working.queue.of("renew") != []


async def test_drain_requeues_a_task_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, never, drain_timeout=25)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    began = clock()
    await working.stop()
    assert 25 <= clock() - began < 26
    assert working.queue.of("requeue") == [["t1"]]


async def test_second_stop_hurries_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, never, drain_timeout=25)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    await working.worker.stop()
    await asyncio.sleep(3)
    began = clock()
    await working.stop()
    assert clock() - began < 1
    assert working.queue.of("requeue") == [["t1"]]


async def test_quiet_worker_claims_nothing_until_it_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    await working.start()
    working.worker.quiet()
    await asyncio.sleep(1)
    assert working.worker.state == "quiet"
    working.queue.calls.clear()
    await asyncio.sleep(60)
    assert working.queue.of("fetch") == []
    assert working.queue.of("beat") != []
    working.worker.resume()
    await asyncio.sleep(1)
    assert working.worker.state == "running"
    assert working.queue.of("fetch") != []
    await working.stop()


async def test_worker_that_resumes_before_it_is_quiet_stays_running(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    working.queue.will("fetch", lambda: asyncio.sleep(5, []))
    await working.start()
    working.worker.quiet()
    await turns()
    working.worker.resume()
    await asyncio.sleep(10)
    assert working.states == ["starting", "running"]
    await working.stop()


async def test_worker_may_be_quiet_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    working.worker.quiet()
    await working.start(2)
    assert working.worker.state == "quiet"
    assert working.queue.of("fetch") == []
    await working.stop()


async def test_cancellation_that_is_announced_stops_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, never)
    working.queue.will("fetch", [begun("t1", "1-0")])
    working.channel.will("next", lambda: asyncio.sleep(3, Announcement(cancelled="t1")))
    await working.start(2)
    assert working.queue.of("settle_and_claim") == []
    await asyncio.sleep(2)
    assert [rows for rows, *_ in working.queue.of("settle_and_claim")] == [[("t1", "cancelled")]]
    assert working.executor.cancelled == ["t1"]
    await working.stop()


@pytest.mark.parametrize(
    ("number", "state"),
    [(signal.SIGUSR1, "quiet"), (signal.SIGTERM, "stopped"), (signal.SIGINT, "stopped")],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_worker_obeys_a_signal(number: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    await working.start()
    signal.raise_signal(number)
    await asyncio.sleep(3)
    assert working.worker.state == state
    if state == "quiet":
        signal.raise_signal(signal.SIGUSR2)
        await asyncio.sleep(1)
        assert working.worker.state == "running"
        await working.stop()
    await working.running


async def test_worker_without_a_terminal_goes_on_after_sighup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbiter.distributed.signals.has_terminal", lambda: False)
    working = Working(monkeypatch)
    await working.start()
    signal.raise_signal(signal.SIGHUP)
    await asyncio.sleep(1)
    assert working.worker.state == "running"
    await working.stop()


async def test_worker_that_cannot_reach_redis_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, connect_timeout=3)
    working.queue.will("ensure_group", *[RedisConnectionError("gone")] * 100)
    began = clock()
    with pytest.raises(RedisUnavailableError):
        await working.worker.start()
    assert clock() - began == pytest.approx(3)
    assert all(client.closed for client in working.clients)


async def test_worker_told_to_stop_while_it_registers_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    working.queue.will("ensure_group", never)
    await working.start(1)
    await working.stop()
    assert working.queue.of("deregister") == working.queue.of("fetch") == []


async def test_worker_asks_another_life_to_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    working.queue.will("beat", *[WorkerIdTakenError("w1", "elsewhere/1", "host", "1", beat) for beat in "12"])
    with pytest.raises(WorkerIdTakenError):
        await working.worker.start()
    assert working.queue.of("publish") == [["beat"], ["beat"]]


async def test_worker_whose_id_is_taken_leaves_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, never, drain_timeout=25)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    working.queue.will("beat", WorkerIdTakenError("w1", "elsewhere/1", "host", "1", "0"))
    began = clock()
    with pytest.raises(WorkerIdTakenError):
        await working.running
    assert clock() - began < 15
    assert working.queue.of("deregister") == []


async def test_fault_of_the_worker_leaves_its_tasks_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch, never)
    working.queue.will("fetch", [begun("t1", "1-0")])
    await working.start()
    [slot] = working.parts.flow.runs.held.values()
    working.queue.will("beat", KeyError("a fault"))
    working.parts.commands.beat.set()
    with pytest.raises(BaseExceptionGroup):
        await working.running
    assert slot.reason == "lost"
    assert working.queue.of("deregister") == []


async def test_worker_leaves_although_redis_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    working = Working(monkeypatch)
    await working.start()
    working.queue.will("deregister", never)
    began = clock()
    await working.stop()
    assert clock() - began < 5


async def test_drain_counts_what_the_executor_gives_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    working = Working(monkeypatch)
    working.executor.drained = 3
    await working.start()
    await working.stop()
    [record] = [record for record in caplog.records if record.message.startswith("drained")]
    assert record.args[2] == 3  # type: ignore[index]


async def test_worker_watches_alerts_where_there_are_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[tuple[str, str]] = []

    async def watch(url: str, queue: str, *, namespace: str, client: Any) -> None:
        watched.append((queue, namespace))
        await never()

    monkeypatch.setattr(alert_manager, "watch", watch)
    monkeypatch.setattr(alert_manager, "rules", [RULES[0]])
    working = Working(monkeypatch)
    await working.start()
    await working.stop()
    assert watched == [(working.worker.settings.queue, working.worker.settings.namespace)]


async def test_health_port_tells_whether_the_worker_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    working = Working(monkeypatch, health_port=port)

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    # The checks run in the server's threads, which have no loop of their own to ask for the time.
    moment = clock()
    for part in (working.parts.watchdog, working.parts.lease):
        part._clock = lambda: moment  # type: ignore[attr-defined]
    await working.start()
    assert get("/livez")[0] == get("/readyz")[0] == 200
    assert "orbiter_distributed" in get("/metrics")[1]
    working.parts.flow.heard = moment - 31
    assert get("/readyz")[0] == 503
    working.parts.flow.heard = moment
    working.worker.quiet()
    await asyncio.sleep(1)
    status, text = get("/readyz")
    assert status == 503
    assert "quiet" in json.loads(text)["reason"]
    await working.stop()


def test_worker_refuses_a_setting_that_breaks_its_rule() -> None:
    with pytest.raises(SettingsError):
        Worker(URL, concurrency=0)
