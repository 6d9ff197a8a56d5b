"""Evaluation of the alert rules: readings of a queue, and the manager that tells callbacks.

A reading comes from Redis alone (the queue, the heartbeats, in which workers tell what they counted during the last
five minutes, and what its servers say of themselves), so any process can take it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from redis.exceptions import RedisError

from orbiter.distributed.alerts.rules import RULES, Alert, AlertRule, Reading, Severity, judge
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.queue_info import read_backlog
from orbiter.distributed.broker.storage import Threat, read_storage
from orbiter.distributed.broker.worker_health import get_worker_fleet_status
from orbiter.distributed.connection.connected import client_for
from orbiter.distributed.errors import describe
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import DEFAULT_NAMESPACE, check_queue_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from redis.asyncio import Redis

    from orbiter.distributed.broker.keys import QueueKeys

    Callback: TypeAlias = Callable[["Alert"], Awaitable[None] | None]

logger = logging.getLogger(__name__)

WATCH_EVERY = 15.0
_RECENT = ("recent_completed", "recent_failed", "recent_starts", "recent_waited")


async def read_queue(
    redis_url: str,
    queue: str = DEFAULT_QUEUE,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    client: Redis | None = None,
) -> Reading:
    """Take a reading of one queue.

    Args:
        redis_url: Where Redis is.
        queue: The queue's name.
        namespace: The first word of all keys.
        client: A client to share instead of a connection of its own.

    Raises:
        InvalidNameError: No queue can have this name.
        RedisUrlError: The URL cannot be used.
        redis.RedisError: Redis cannot be reached or refuses.
    """
    check_queue_name(queue, namespace)
    async with client_for(redis_url, client, name="orbiter-alerts") as redis:
        return await _read(redis_url, Keys(namespace).of_queue(queue), redis)


async def _read(redis_url: str, keys: QueueKeys, client: Redis) -> Reading:
    queue, backlog = keys.stream, await read_backlog(client, keys)
    fleet = await get_worker_fleet_status(redis_url, namespace=keys.namespace, client=client)
    here = [worker for worker in fleet if worker.alive and worker.queue in {"", queue}]
    completed, failed, starts, waited = await _recently(client, keys, [worker.worker_id for worker in here])
    ended = completed + failed
    storage = await read_storage(redis_url, client)
    return Reading(
        queue=queue,
        queue_depth=backlog.waiting,
        failure_rate=failed / ended if ended else 0.0,
        worker_count=len(here),
        degraded=sum(worker.state == "degraded" for worker in here),
        wait_time=max(backlog.oldest_waiting or 0.0, waited / starts if starts else 0.0),
        redis_evicting=storage.count(Threat.EVICTION),
        redis_unsaved=storage.count(Threat.NOT_PERSISTENT),
        redis_unsaved_replicas=storage.count(Threat.REPLICA_NOT_PERSISTENT),
        redis_memory_share=storage.memory_share,
    )


async def _recently(client: Redis, keys: Keys, workers: Sequence[str]) -> list[float]:
    """Add up what these workers counted; one of 0.1 tells nothing."""
    async with client.pipeline(transaction=False) as pipeline:
        for worker_id in workers:
            pipeline.hmget(keys.worker(worker_id), *_RECENT)
        found: list[Any] = await pipeline.execute(raise_on_error=False) if workers else []
    # A heartbeat that is none tells nothing, and must not silence the alerts.
    rows = [row for row in found if isinstance(row, list)]
    return [sum(_number(row[place]) for row in rows) for place in range(len(_RECENT))]


def _number(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 <= value < float("inf") else 0.0


class AlertManager:
    """Keeps rules, and the callbacks that alerts go to."""

    def __init__(self) -> None:
        self.rules: list[AlertRule] = []
        self._callbacks: list[Callback] = []
        self._notified: dict[tuple[str, str], float] = {}

    def register(self, rule: AlertRule) -> None:
        """Evaluate this rule too, instead of another one of that name."""
        self.rules = [known for known in self.rules if known.name != rule.name] + [rule]

    def on_alert(self, callback: Callback) -> None:
        """Call this, plain or ``async``, with every alert that fires."""
        if callback not in self._callbacks:
            self._callbacks.append(callback)

    def clear(self) -> None:
        """Forget rules and callbacks."""
        self.rules, self._callbacks = [], []
        self._notified.clear()

    async def evaluate(self, reading: Reading) -> list[Alert]:
        """Return the alerts that fire now; log those that are new, and tell the callbacks.

        One that goes on firing is new again when its cooldown is over, or when it had stopped in between.
        """
        now, alerts = time.monotonic(), judge(reading, self.rules)
        for alert in alerts:
            key = (alert.rule.name, alert.queue)
            if not alert.firing:
                self._notified.pop(key, None)
            elif now - self._notified.get(key, float("-inf")) >= alert.rule.cooldown:
                self._notified[key] = now
                await self._notify(alert)
        return [alert for alert in alerts if alert.firing]

    async def _notify(self, alert: Alert) -> None:
        level = logging.CRITICAL if alert.rule.severity is Severity.CRITICAL else logging.WARNING
        logger.log(level, "alert: %s", alert.message, extra={"alert": alert.rule.name})
        for callback in list(self._callbacks):
            try:
                result = callback(alert)
                if result is not None:
                    await result
            except Exception:
                # A callback must not keep the others, or the watch itself, from going on.
                logger.exception("the callback of an alert failed", extra={"alert": alert.rule.name})

    async def watch(
        self,
        redis_url: str,
        queue: str = DEFAULT_QUEUE,
        *,
        every: float = WATCH_EVERY,
        namespace: str = DEFAULT_NAMESPACE,
        client: Redis | None = None,
    ) -> None:
        """Evaluate the rules every so many seconds, until cancelled, whatever becomes of Redis."""
        while True:
            try:
                async with asyncio.timeout(every):
                    reading = await read_queue(redis_url, queue, namespace=namespace, client=client)
            except (RedisError, OSError) as error:
                logger.warning("alerts cannot be evaluated: %s", describe(error))
            else:
                await self.evaluate(reading)
            await asyncio.sleep(every)


alert_manager = AlertManager()


def register_distributed_alerts(callback: Callback | None = None) -> list[AlertRule]:
    """Let the workers of this process evaluate all rules while they run, and return them.

    Alerts that fire are logged, and passed to the callback if there is one. A process without a worker runs
    ``alert_manager.watch(redis_url)``.
    """
    for rule in RULES:
        alert_manager.register(rule)
    if callback is not None:
        alert_manager.on_alert(callback)
    return list(RULES)
