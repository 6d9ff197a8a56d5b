"""What one queue looks like now: what waits, runs, is delayed or dead, and who works on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, ResponseError

from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.storage import Server, Storage, read_storage
from orbiter.distributed.broker.worker_health import get_worker_fleet_status
from orbiter.distributed.connection.connected import client_for, clock_skew
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import DEFAULT_NAMESPACE, check_queue_name

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from orbiter.distributed.broker.keys import QueueKeys

MOST_CLAIMS = 10_000


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue. Ages are seconds, times epoch seconds, all by Redis' own clock.

    Attributes:
        queue: Its name.
        waiting: Tasks that no worker has claimed.
        running: Tasks that are claimed.
        delayed: Tasks that wait for a moment: a retry's, or the one they were submitted for.
        dead: Dead letters.
        oldest_waiting: Age of the task that waits longest, ``None`` where none waits.
        next_due: When the next delayed task is due, ``None`` where there is none.
        consumers: Members of the consumer group, live or not.
        workers: Live workers that read this queue.
        slots: Tasks that these can run at the same time.
        busy: Slots in use.
        memory_used: Bytes that Redis uses, ``None`` where it does not tell this user; of a cluster's fullest master.
        memory_max: Its limit, 0 where there is none.
        storage: How Redis keeps all that, whichever queue it is of.
        clock_skew_ms: Milliseconds that the clock of the machine that asks is ahead of Redis'.
    """

    queue: str
    waiting: int = 0
    running: int = 0
    delayed: int = 0
    dead: int = 0
    oldest_waiting: float | None = None
    next_due: float | None = None
    consumers: int = 0
    workers: int = 0
    slots: int = 0
    busy: int = 0
    memory_used: int | None = None
    memory_max: int | None = None
    storage: Storage = field(default_factory=Storage, compare=False)
    clock_skew_ms: float | None = field(default=None, compare=False)


async def get_queue_info(
    redis_url: str,
    queue: str = DEFAULT_QUEUE,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    client: Redis | None = None,
    unlisted: bool = True,
) -> QueueInfo:
    """Look at a queue. One that does not exist is an empty one.

    Args:
        redis_url: Where Redis is.
        queue: The queue's name.
        namespace: The first word of all keys.
        client: A client to share instead of a connection of its own.
        unlisted: As in :func:`get_worker_fleet_status`.

    Raises:
        InvalidNameError: No queue can have this name.
        RedisUrlError: The URL cannot be used.
        redis.RedisError: Redis cannot be reached or refuses.
    """
    check_queue_name(queue, namespace)
    async with client_for(redis_url, client, name="orbiter-queue-info") as redis:
        return await _look(redis, redis_url, Keys(namespace).of_queue(queue), unlisted=unlisted)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What there is to do on one queue; the attributes are those of :class:`QueueInfo`."""

    waiting: int = 0
    running: int = 0
    delayed: int = 0
    dead: int = 0
    oldest_waiting: float | None = None
    consumers: int = 0


async def read_backlog(client: Redis, keys: QueueKeys) -> Backlog:
    """Look at a queue without looking at who works on it.

    Raises:
        redis.RedisError: Redis cannot be reached or refuses.
    """
    queue = keys.stream
    group = await _group(client, keys)
    running = int(group.get("pending", 0))
    waiting = await _waiting(client, keys, group)
    return Backlog(
        waiting=waiting,
        running=running,
        delayed=await client.zcard(keys.delayed),
        dead=await client.xlen(keys.dead),
        oldest_waiting=await _oldest(client, queue, group.get("last-delivered-id", "0-0")) if waiting else None,
        consumers=int(group.get("consumers", 0)),
    )


async def _look(client: Redis, redis_url: str, keys: QueueKeys, *, unlisted: bool) -> QueueInfo:
    queue, backlog = keys.stream, await read_backlog(client, keys)
    due: Any = await client.zrange(keys.delayed, 0, 0, withscores=True)
    fleet = await get_worker_fleet_status(redis_url, namespace=keys.namespace, client=client, unlisted=unlisted)
    here = [worker for worker in fleet if worker.alive and worker.queue in {"", queue}]
    storage = await read_storage(redis_url, client)
    fullest = _fullest(storage)
    skew = await clock_skew(client)
    return QueueInfo(
        queue=queue,
        waiting=backlog.waiting,
        running=backlog.running,
        delayed=backlog.delayed,
        dead=backlog.dead,
        oldest_waiting=backlog.oldest_waiting,
        next_due=due[0][1] / 1000 if due else None,
        consumers=backlog.consumers,
        workers=len(here),
        slots=sum(worker.concurrency for worker in here),
        busy=sum(worker.active for worker in here),
        memory_used=fullest.memory_used,
        memory_max=fullest.memory_max,
        storage=storage,
        clock_skew_ms=round(skew.seconds * 1000, 1),
    )


async def _group(client: Redis, keys: QueueKeys) -> dict[str, Any]:
    if not await client.exists(keys.stream):
        return {}
    try:
        groups: Any = await client.xinfo_groups(keys.stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return {}
        raise
    return next((group for group in groups if group["name"] == keys.group), {})


async def _waiting(client: Redis, keys: QueueKeys, group: dict[str, Any]) -> int:
    """Count what nobody has claimed: Redis' own count, the lag, knows nothing of entries that were trimmed or deleted.

    They were trimmed from the beginning: of what is claimed, the entries in front of the first one are gone.
    """
    lag, length = group.get("lag"), await client.xlen(keys.stream)
    pending = int(group.get("pending", 0))
    if lag is not None and int(lag) == length - pending:
        return int(lag)
    with suppress(NoPermissionError):
        if pending:
            first: Any = await client.xrange(keys.stream, count=1)
            claims: Any = first and await client.xpending_range(keys.stream, keys.group, first[0][0], "+", MOST_CLAIMS)
            pending = len(claims or ())
    left = max(0, length - pending)
    # What 0.1 workers have acknowledged stays on the stream; the lag does not count it.
    return left if lag is None else min(int(lag), left)


async def _oldest(client: Redis, queue: str, last_delivered: str) -> float | None:
    try:
        rows: Any = await client.xrange(queue, min=f"({last_delivered}", count=1)
    except ResponseError:  # nothing can be behind the largest id
        return None
    if not rows:
        return None
    seconds, micros = await client.time()
    return max(0.0, seconds + micros / 1e6 - int(rows[0][0].partition("-")[0]) / 1000)


def _fullest(storage: Storage) -> Server:
    masters = [server for server in storage.servers if not server.replica]
    return max(masters, key=lambda server: (server.memory_share or 0.0, server.memory_used or 0), default=Server())
