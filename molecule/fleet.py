"""What the scenarios' tests do with a fleet from outside: put load on its queue, and ask Redis what became of it."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
import tomllib
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from redis.exceptions import RedisError

from orbiter.distributed.client.client import Client
from orbiter.distributed.connection.redis_url import connect_sync
from orbiter.distributed.models import TaskPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Thing = TypeVar("Thing")
QUEUE = "orbiter:tasks"
# Of this checkout's worker. The tests' own releases are 99.0.1 to 99.0.4 (later), and 0.0.9 (earlier).
VERSION = tomllib.loads((Path(__file__).parents[1] / "worker/pyproject.toml").read_text())["project"]["version"]


class Fleet:
    """A fleet as its Redis shows it."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self.redis: Any = connect_sync(redis_url)

    def submit(self, seconds: Iterable[float]) -> list[str]:
        """Submit a task for each duration; return their ids."""

        async def submit() -> list[str]:
            async with Client(self.redis_url) as client:
                handles = await client.submit_payloads(sleepy(duration) for duration in seconds)
                return [handle.task_id for handle in handles]

        return asyncio.run(submit())

    def tasks(self, ids: Iterable[str]) -> list[dict[str, str]]:
        """Return the tasks' hashes."""
        pipeline = self.redis.pipeline(transaction=False)
        for task_id in ids:
            pipeline.hgetall(f"orbiter:task:{task_id}")
        return pipeline.execute()  # type: ignore[no-any-return]

    def statuses(self, ids: Iterable[str]) -> list[str]:
        """Return the tasks' statuses."""
        return [task.get("status", "") for task in self.tasks(ids)]

    def wait_until_done(self, ids: Sequence[str], *, within: float) -> None:
        """Wait until each task has ended."""
        ended = {"completed", "failed", "cancelled"}
        left = list(ids)

        def all_ended() -> bool:
            left[:] = [one for one, status in zip(left, self.statuses(left), strict=True) if status not in ended]
            return not left

        wait_until(all_ended, within=within, what=lambda: f"statuses: {counted(self.statuses(ids))}")

    def final_events(self, task_id: str) -> list[str]:
        """Return the final statuses that a task's event stream tells of: one, if it ended once.

        A task that completed and said nothing has no stream: its record tells the end.
        """
        if not self.redis.exists(f"orbiter:stream:{task_id}"):
            return ["completed"] if self.statuses([task_id]) == ["completed"] else []
        events = [json.loads(fields["event"]) for _, fields in self.redis.xrange(f"orbiter:stream:{task_id}")]
        final = {"completed", "cancelled", "error"}
        return [event["status"] for event in events if event["type"] == "status" and event["status"] in final]

    def workers(self) -> list[dict[str, str]]:
        """Return the heartbeats of all workers."""
        # Many keys at a time, as a load asks several times a second.
        pipeline = self.redis.pipeline(transaction=False)
        for key in self.redis.scan_iter("orbiter:workers:*", count=10_000):
            pipeline.hgetall(key)
        return pipeline.execute()  # type: ignore[no-any-return]

    def instances(self) -> set[tuple[str, str]]:
        """Return (host, instance) of each worker that claims tasks."""
        return {(beat["hostname"], beat["instance"]) for beat in self.workers() if beat and beat["state"] == "running"}

    def running(self, ids: Iterable[str]) -> dict[tuple[str, str], int]:
        """Return how many of the tasks each (host, instance) runs right now; heartbeats say it with a delay."""
        holders = [task["worker_id"] for task in self.tasks(ids) if task["status"] == "running"]
        beats = {holder: self.redis.hgetall(f"orbiter:workers:{holder}") for holder in set(holders)}
        return counted((beats[holder].get("hostname", ""), beats[holder].get("instance", "")) for holder in holders)

    def left_over(self) -> dict[str, int]:
        """Return what an idle queue must not hold."""
        groups = self.redis.xinfo_groups(QUEUE)
        return {"waiting": self.redis.xlen(QUEUE), "pending": sum(group["pending"] for group in groups)}

    def assert_nothing_lost(self, ids: Sequence[str], *, within: float = 60) -> None:
        """Check that every task completed, once, at the first try, and that nothing is left."""
        self.wait_until_done(ids, within=within)
        assert counted(self.statuses(ids)) == {"completed": len(ids)}
        for task_id, task in zip(ids, self.tasks(ids), strict=True):
            assert self.final_events(task_id) == ["completed"], task
            assert int(task["attempt"]) == 1 + int(task.get("handoffs") or 0), task
            assert [int(task.get(count) or 0) for count in ("retries", "losses", "crashes")] == [0, 0, 0], task
        # The answer is stored a moment before the queue forgets the task.
        nothing = {"waiting": 0, "pending": 0}
        wait_until(lambda: self.left_over() == nothing, within=10, what=lambda: str(self.left_over()))


class Load:
    """Submits a task of 1 to 3 s every now and then, and counts who is at work, until told to stop."""

    def __init__(self, fleet: Fleet, *, interval: float = 0.4) -> None:
        self._fleet = fleet
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.ids: list[str] = []
        self.live: list[int] = []  # how many instances were at work, several times a second

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._end.wait(0.2):
            self.live.append(len(self._fleet.instances()))
            if time.monotonic() >= due:
                self.ids += self._fleet.submit([random.uniform(1, 3)])
                due += self._interval


class StubbornLoad(Load):
    """A load whose client tries again while Redis refuses, by each of its fleets in turn; what was accepted counts."""

    def __init__(self, *fleets: Fleet) -> None:
        super().__init__(fleets[0])
        self._fleets = list(fleets)
        self.refused: list[str] = []

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            try:
                self.ids += self._fleets[0].submit([random.uniform(0.5, 1.5)])
            except (RedisError, OSError) as error:
                self.refused.append(str(error))
                self._fleets.append(self._fleets.pop(0))


def kill_master(
    load: StubbornLoad,
    fleet: Fleet,
    servers: dict[str, Any],
    first: str,
    *,
    units: Sequence[str],
    role: Callable[[Any], str],
) -> None:
    """Kill the master and its sentinel while tasks run; wait until there is another one, which accepts tasks.

    Args:
        load: What submits meanwhile.
        fleet: The fleet that it submits to.
        servers: The Redis hosts by name.
        first: The name of the master.
        units: The units of server and sentinel.
        role: Returns what a host's server says that it is: master, slave, or nothing.
    """
    others = {name: host for name, host in servers.items() if name != first}
    wait_until(
        lambda: "running" in fleet.statuses(list(load.ids)), within=60, what=lambda: str(fleet.statuses(load.ids))
    )
    names = " ".join(units)
    servers[first].check_output(f"systemctl kill --signal=KILL {names}; systemctl stop {names}")
    wait_until(
        lambda: "master" in [role(host) for host in others.values()],
        within=90,
        what=lambda: str({name: role(host) for name, host in others.items()}),
    )
    already = len(load.ids)
    wait_until(lambda: len(load.ids) > already + 10, within=90, what=lambda: f"refused: {load.refused[-3:]}")


@contextmanager
def somebody(fleet: Fleet) -> Iterator[None]:
    """Stay connected until the block ends, through restarts of Redis."""
    end = threading.Event()

    def stay() -> None:
        while not end.wait(0.1):
            with suppress(RedisError):
                fleet.redis.ping()

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        fleet.redis.close()


def nightly_but(cases: Iterable[str], *daily: str) -> list[Any]:
    """Return the cases of a parametrized test, of which those that are not named here are nightly."""
    known = list(cases)
    assert set(daily) <= set(known), f"no such case: {set(daily) - set(known)}"
    return [case if case in daily else pytest.param(case, marks=pytest.mark.nightly) for case in known]


def listening(host: Any) -> set[int]:
    """Return the ports that Redis, and a sentinel, listen at on a host."""
    found = host.check_output("ss --no-header --listening --tcp --numeric --processes | grep redis-")
    return {int(line.split()[3].rpartition(":")[2]) for line in found.splitlines()}


def releases(workers: dict[str, Any]) -> dict[str, str]:
    """Return the release that each host uses."""
    link = "basename $(readlink /opt/orbiter/current)"
    return {name: host.check_output(link) for name, host in workers.items()}


def sleepy(seconds: float) -> TaskPayload:
    """Return a task of the demo's callable that takes so long."""
    return TaskPayload(
        agent_config={"runtime": "callable", "name": "sleepy", "target": "demo_agent.steps:sleepy"},
        metadata={"seconds": seconds},
        created_at=time.time(),
    )


def counted(things: Iterable[Thing]) -> dict[Thing, int]:
    """Return how often each thing occurs."""
    return dict(Counter(things))


def wait_until(true: Callable[[], bool], *, within: float, what: Callable[[], str]) -> None:
    """Wait for a condition; fail with what there is instead."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s; {what()}"
        time.sleep(0.05)
