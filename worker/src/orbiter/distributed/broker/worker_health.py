"""Who works in the fleet, and how fresh each worker's heartbeat is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import ResponseError

from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.connected import client_for
from orbiter.distributed.connection.redis_url import connect_sync, mask
from orbiter.distributed.inert import inert
from orbiter.distributed.names import DEFAULT_NAMESPACE
from orbiter.distributed.plain_json import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis.asyncio import Redis

HEARTBEAT_TIMEOUT = 60.0
_STALE_SHARE = 0.8
_SCAN_COUNT = 1000
_LARGEST_NUMBER = 1e15
_SHOWN = 60


@dataclass(frozen=True)
class WorkerHealth:
    """One worker as its heartbeat describes it. Times are epoch seconds.

    Attributes:
        worker_id: The worker's unique name.
        status: ``running``, or ``dead`` when not ``alive``.
        tasks_processed: Tasks completed.
        tasks_failed: Runs that failed.
        current_task_id: A task that runs now.
        started_at: When the process started.
        last_heartbeat: When it was last heard of.
        concurrency: Its slots.
        hostname: Its machine.
        alive: Whether the last heartbeat is younger than 60 s.
        instance: The N of ``orbiter-worker@N``, or whatever label its operator gave it.
        version: Release of orbiter-distributed; empty for an 0.1 worker.
        queue: The queue it reads.
        state: ``starting``, ``running``, ``quiet`` or ``draining``; empty for an 0.1 worker.
        active: Slots in use.
        pid: Its process id on its machine.
        executor: ``local`` or ``temporal``.
        isolation: ``process``, ``task`` or ``none``; empty for an older worker.
        processes: Executor processes that live.
        rss_bytes: Memory of the worker and its executor processes; 0 where it is not known.
        loop_lag_ms: The longest that one of the loops that run tasks has been silent, lately.
        blocked_by: The task that blocks a loop now.
        abandoned_threads: Threads that run code of tasks that have been given up.
        problem: Why it takes no tasks.
        failed_imports: What could not be imported, as ``module: reason``.
        unreadable: Which fields of the heartbeat cannot be read; they have their defaults.
        clock_skew_ms: Milliseconds that its machine's clock is ahead of Redis'; ``None`` where it does not say.
        machine_id: A hash of its machine's id, the same whatever the host is called; empty where there is none.
        unit: The systemd unit that it is the process of.
        recorded: Whether its heartbeat is there to be read; without it, counts and slots are not known.
    """

    worker_id: str
    status: str
    tasks_processed: int = 0
    tasks_failed: int = 0
    current_task_id: str | None = None
    started_at: float | None = None
    last_heartbeat: float | None = None
    concurrency: int = 1
    hostname: str = ""
    alive: bool = True
    instance: str = ""
    version: str = ""
    queue: str = ""
    state: str = ""
    active: int = 0
    pid: int | None = None
    executor: str = ""
    isolation: str = ""
    processes: int = 0
    rss_bytes: int = 0
    loop_lag_ms: float = 0.0
    blocked_by: str = ""
    abandoned_threads: int = 0
    problem: str = ""
    failed_imports: tuple[str, ...] = ()
    unreadable: str = ""
    clock_skew_ms: float | None = None
    machine_id: str = ""
    unit: str = ""
    recorded: bool = True


async def get_worker_fleet_status(
    redis_url: str, *, namespace: str = DEFAULT_NAMESPACE, client: Redis | None = None, unlisted: bool = True
) -> list[WorkerHealth]:
    """Return every worker heard of during the last day, ordered by host, instance and id.

    Args:
        redis_url: Where the fleet's Redis is.
        namespace: The first word of all keys.
        client: A client to share instead of a connection of its own.
        unlisted: Whether to look through all keys where no listed worker lives: a fleet of 0.1 alone lists none.

    Raises:
        RedisUrlError: The URL cannot be used.
        redis.RedisError: Redis cannot be reached or refuses.
    """
    async with client_for(redis_url, client, name="orbiter-health") as redis:
        return await _read_fleet(redis, Keys(namespace), unlisted=unlisted)


async def _read_fleet(client: Redis, keys: Keys, *, unlisted: bool) -> list[WorkerHealth]:
    try:
        beats: Any = await client.zrange(keys.fleet, 0, -1, withscores=True)
    except ResponseError:
        beats = []
    ids = sorted(worker_id for worker_id, _ in beats)
    now, hashes = await _read_beats(client, keys, ids)
    if unlisted and not any(hashes):
        # Workers of 0.1 do not list themselves; one of ours that works beside them does it for them.
        names = {name async for name in client.scan_iter(match=f"{keys.worker_prefix}*", count=_SCAN_COUNT)}
        ids = [name.removeprefix(keys.worker_prefix) for name in sorted(names)]
        now, hashes = await _read_beats(client, keys, ids)
    last_beats = {worker_id: score / 1000 for worker_id, score in beats}
    fleet = [
        worker_health(worker_id, fields, now=now) if isinstance(fields, dict) else _no_heartbeat(worker_id, fields)
        for worker_id, fields in zip(ids, hashes, strict=True)
        if fields
    ]
    present = {worker.worker_id for worker in fleet}
    fleet += [
        WorkerHealth(
            worker_id=worker_id,
            status="dead",
            last_heartbeat=beat,
            hostname=_host_of(worker_id),
            alive=False,
            recorded=False,
        )
        for worker_id, beat in last_beats.items()
        if worker_id not in present
    ]
    return sorted(fleet, key=lambda worker: (worker.hostname, worker.instance, worker.worker_id))


async def _read_beats(client: Redis, keys: Keys, worker_ids: Sequence[str]) -> tuple[float, list[Any]]:
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    for worker_id in worker_ids:
        pipeline.hgetall(keys.worker(worker_id))
    # Errors stay with their key: something foreign below the prefix stands for itself, and must not hide the fleet.
    (seconds, micros), *hashes = await pipeline.execute(raise_on_error=False)
    return seconds + micros / 1e6, hashes


def _no_heartbeat(worker_id: str, error: object) -> WorkerHealth:
    why = "the heartbeat is no hash in Redis" if str(error).startswith("WRONGTYPE") else str(error)
    return WorkerHealth(worker_id=worker_id, status="unreadable", alive=False, unreadable=why, recorded=False)


def _host_of(worker_id: str) -> str:
    # A generated id is {hostname}-{pid}-{8 hex}; of a chosen one nothing is known.
    host, _, random = worker_id.rpartition("-")
    host, _, pid = host.rpartition("-")
    return host if pid.isdigit() and len(random) == 8 else ""


def worker_health(worker_id: str, fields: Mapping[str, str], *, now: float) -> WorkerHealth:
    """Read a heartbeat hash. What is missing or no number gets its default: one odd worker must not hide the rest."""
    found = _Fields(fields)
    number, last_heartbeat = found.number, found.number("last_heartbeat")
    # A worker told to beat more rarely than the timeout is alive for as long as it promised to be.
    timeout = max(HEARTBEAT_TIMEOUT, number("heartbeat_ttl") or 0)
    alive = last_heartbeat is None or now - last_heartbeat < timeout
    pid = number("pid")
    return WorkerHealth(
        worker_id=worker_id,
        status=(fields.get("status") or "running") if alive else "dead",
        tasks_processed=int(number("tasks_processed") or 0),
        tasks_failed=int(number("tasks_failed") or 0),
        current_task_id=fields.get("current_task_id") or None,
        started_at=number("started_at"),
        last_heartbeat=last_heartbeat,
        concurrency=int(number("concurrency") or 1),
        hostname=fields.get("hostname") or "",
        alive=alive,
        instance=fields.get("instance") or "",
        version=fields.get("version") or "",
        queue=fields.get("queue") or "",
        state=fields.get("state") or "",
        active=int(number("active") or 0),
        pid=None if pid is None else int(pid),
        executor=fields.get("executor") or "",
        isolation=fields.get("isolation") or "",
        processes=int(number("processes") or 0),
        rss_bytes=int(number("rss_bytes") or 0),
        loop_lag_ms=number("loop_lag_ms") or 0.0,
        blocked_by=fields.get("blocked_by") or "",
        abandoned_threads=int(number("abandoned_threads") or 0),
        problem=fields.get("problem") or "",
        failed_imports=found.texts("failed_imports"),
        clock_skew_ms=number("clock_skew_ms", signed=True),
        machine_id=fields.get("machine_id") or "",
        unit=fields.get("unit") or "",
        unreadable="; ".join(found.wrong),
    )


class _Fields:
    """Reads fields; keeps what is wrong with them."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self.wrong: list[str] = []

    def number(self, name: str, *, signed: bool = False) -> float | None:
        if text := self._fields.get(name):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if (-_LARGEST_NUMBER if signed else 0) <= value <= _LARGEST_NUMBER:
                return value
            self.wrong.append(f"{name}: {inert(text, limit=_SHOWN)!r} is no number{'' if signed else ' from 0 on'}")
        return None

    def texts(self, name: str) -> tuple[str, ...]:
        text = self._fields.get(name) or "[]"
        try:
            values = read_json(text)
        except ValueError:
            values = None
        if isinstance(values, list):
            return tuple(str(value) for value in values)
        self.wrong.append(f"{name}: {inert(text, limit=_SHOWN)!r} is no list in JSON")
        return ()


class HealthStatus(StrEnum):
    """The verdict of a health check."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True)
class HealthResult:
    """What a health check found, at ``checked_at`` (epoch seconds)."""

    status: HealthStatus
    message: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    checked_at: float = field(default_factory=time.time)


class WorkerHealthCheck:
    """Checks one worker's heartbeat: stale after 80 % of the timeout, expired after all of it.

    Args:
        redis_url: Where Redis is.
        worker_id: The worker.
        heartbeat_timeout: Seconds after which a heartbeat has expired.
        namespace: The first word of all keys.

    Attributes:
        name: ``worker:{worker_id}``.
    """

    def __init__(
        self,
        redis_url: str,
        worker_id: str,
        *,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
        namespace: str = DEFAULT_NAMESPACE,
    ) -> None:
        self.name = f"worker:{worker_id}"
        self._redis_url = redis_url
        self._worker_id = worker_id
        self._timeout = heartbeat_timeout
        self._keys = Keys(namespace)

    def check(self) -> HealthResult:
        """Ask Redis now. An unreachable Redis is a finding (unhealthy), not an error.

        Raises:
            RedisUrlError: The URL cannot be used.
        """
        try:
            with connect_sync(self._redis_url) as client:
                pipeline = client.pipeline(transaction=False)
                pipeline.time()
                pipeline.hgetall(self._keys.worker(self._worker_id))
                (seconds, micros), fields = pipeline.execute()
        except redis.RedisError as error:
            return self._found(HealthStatus.UNHEALTHY, f"cannot be checked: Redis at {mask(self._redis_url)}: {error}")
        if not fields:
            return self._found(HealthStatus.UNHEALTHY, "not found (no heartbeat)")
        worker = worker_health(self._worker_id, fields, now=seconds + micros / 1e6)
        age = 0.0 if worker.last_heartbeat is None else max(0.0, seconds + micros / 1e6 - worker.last_heartbeat)
        details = {
            "heartbeat_age_seconds": age,
            "tasks_processed": worker.tasks_processed,
            "tasks_failed": worker.tasks_failed,
        }
        if age > self._timeout:
            return self._found(HealthStatus.UNHEALTHY, f"heartbeat expired ({age:.1f}s ago)", **details)
        if age > self._timeout * _STALE_SHARE:
            return self._found(HealthStatus.DEGRADED, f"heartbeat stale ({age:.1f}s ago)", **details)
        return self._found(HealthStatus.HEALTHY, f"healthy (heartbeat {age:.1f}s ago)", **details)

    def _found(self, status: HealthStatus, finding: str, **details: Any) -> HealthResult:
        metadata = {"worker_id": self._worker_id, **details}
        return HealthResult(status=status, message=f"Worker {self._worker_id} {finding}", metadata=metadata)
