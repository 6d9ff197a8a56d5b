"""The five alert rules: evaluated in this process with callbacks, by ``orbiter alerts check``, or by Prometheus.

A reading of one queue holds what the rules look at. It comes from Redis alone (the queue, and the heartbeats, in which
workers tell what they counted during the last five minutes), so any process can take it.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from redis.exceptions import RedisError

from orbiter.distributed import keys
from orbiter.distributed.health import get_worker_fleet_status
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.queue_info import read_backlog
from orbiter.distributed.redis_url import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from redis.asyncio import Redis

    Callback: TypeAlias = Callable[["Alert"], Awaitable[None] | None]

logger = logging.getLogger(__name__)

WATCH_EVERY = 15.0
COOLDOWN = 300.0
_COMPARISONS = {">": operator.gt, "==": operator.eq}
_RECENT = ("recent_completed", "recent_failed", "recent_starts", "recent_waited")


class Severity(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When an alert fires.

    Attributes:
        name: As in 0.1.
        title: As in the guide.
        metric: Which field of a :class:`Reading` it looks at.
        comparison: ``>`` or ``==``.
        threshold: What that is compared with.
        severity: How bad it is.
        unit: What the value counts, for messages.
        cooldown: Seconds for which callbacks are not told again while it goes on firing.
    """

    name: str
    title: str
    metric: str
    comparison: str
    threshold: float
    severity: Severity
    unit: str = ""
    cooldown: float = COOLDOWN

    def holds(self, value: float) -> bool:
        """Tell whether this value makes the alert fire."""
        return bool(_COMPARISONS[self.comparison](value, self.threshold))


RULES = (
    AlertRule("dist_queue_depth_warning", "Queue depth high", "queue_depth", ">", 100, Severity.WARNING, "tasks"),
    AlertRule("dist_queue_depth_critical", "Queue depth critical", "queue_depth", ">", 500, Severity.CRITICAL, "tasks"),
    AlertRule("dist_failure_rate_warning", "Task failure rate", "failure_rate", ">", 0.1, Severity.WARNING),
    AlertRule("dist_worker_count_critical", "Worker count zero", "worker_count", "==", 0, Severity.CRITICAL, "workers"),
    AlertRule("dist_wait_time_warning", "Task wait time high", "wait_time", ">", 60, Severity.WARNING, "seconds"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rules look at, of one queue.

    Attributes:
        queue: Its name.
        queue_depth: Tasks that nobody has claimed.
        failure_rate: Share of failed tasks among those that ended during the last five minutes; 0 where none did.
        worker_count: Live workers that read the queue.
        wait_time: Seconds that the task which waits longest has waited, or, where that is more, those that started
            during the last five minutes on average.
    """

    queue: str
    queue_depth: float
    failure_rate: float
    worker_count: float
    wait_time: float


@dataclass(frozen=True, slots=True)
class Alert:
    """What a rule says of a reading; ``value`` is what it looked at."""

    rule: AlertRule
    queue: str
    value: float
    firing: bool

    @property
    def message(self) -> str:
        """One line for people."""
        rule, unit = self.rule, f" {self.rule.unit}" if self.rule.unit else ""
        return f"{rule.title}: {self.value:g}{unit} on {self.queue} (fires at {rule.comparison} {rule.threshold:g})"


async def read_queue(redis_url: str, queue: str = DEFAULT_QUEUE, *, client: Redis | None = None) -> Reading:
    """Take a reading of one queue.

    Args:
        redis_url: Where Redis is.
        queue: The queue's name.
        client: A client to share instead of a connection of its own.

    Raises:
        RedisUrlError: The URL cannot be used.
        redis.RedisError: Redis cannot be reached or refuses.
    """
    if client is not None:
        return await _read(redis_url, queue, client)
    own = connect(redis_url, max_connections=1, name="orbiter-alerts")
    try:
        return await _read(redis_url, queue, own)
    finally:
        await own.aclose()


async def _read(redis_url: str, queue: str, client: Redis) -> Reading:
    backlog = await read_backlog(client, queue)
    fleet = await get_worker_fleet_status(redis_url, client=client)
    here = [worker.worker_id for worker in fleet if worker.alive and worker.queue in {"", queue}]
    completed, failed, starts, waited = await _recently(client, here)
    ended = completed + failed
    return Reading(
        queue=queue,
        queue_depth=backlog.waiting,
        failure_rate=failed / ended if ended else 0.0,
        worker_count=len(here),
        wait_time=max(backlog.oldest_waiting or 0.0, waited / starts if starts else 0.0),
    )


async def _recently(client: Redis, workers: Sequence[str]) -> list[float]:
    """Add up what these workers counted; one of 0.1 tells nothing."""
    async with client.pipeline(transaction=False) as pipeline:
        for worker_id in workers:
            pipeline.hmget(keys.worker(worker_id), *_RECENT)
        rows: list[Any] = await pipeline.execute() if workers else []
    return [sum(_number(row[place]) for row in rows) for place in range(len(_RECENT))]


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def judge(reading: Reading, rules: Sequence[AlertRule] = RULES) -> list[Alert]:
    """Return what each rule says of a reading."""
    found = []
    for rule in rules:
        value = float(getattr(reading, rule.metric))
        found.append(Alert(rule, reading.queue, value, firing=rule.holds(value)))
    return found


class AlertManager:
    """Remembers rules and whom to tell."""

    def __init__(self) -> None:
        self.rules: list[AlertRule] = []
        self._callbacks: list[Callback] = []
        self._told: dict[tuple[str, str], float] = {}

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
        self._told.clear()

    async def evaluate(self, reading: Reading) -> list[Alert]:
        """Return the alerts that fire now; log those that are new, and tell the callbacks.

        One that goes on firing is new again when its cooldown is over, or when it had stopped in between.
        """
        now, alerts = time.monotonic(), judge(reading, self.rules)
        for alert in alerts:
            key = (alert.rule.name, alert.queue)
            if not alert.firing:
                self._told.pop(key, None)
            elif now - self._told.get(key, float("-inf")) >= alert.rule.cooldown:
                self._told[key] = now
                await self._tell(alert)
        return [alert for alert in alerts if alert.firing]

    async def _tell(self, alert: Alert) -> None:
        level = logging.CRITICAL if alert.rule.severity is Severity.CRITICAL else logging.WARNING
        logger.log(level, "alert: %s", alert.message, extra={"alert": alert.rule.name})
        for callback in list(self._callbacks):
            try:
                told = callback(alert)
                if told is not None:
                    await told
            except Exception:
                # Whoever is to be told must not keep the others, or the watch itself, from going on.
                logger.exception("the callback of an alert failed", extra={"alert": alert.rule.name})

    async def watch(
        self,
        redis_url: str,
        queue: str = DEFAULT_QUEUE,
        *,
        every: float = WATCH_EVERY,
        client: Redis | None = None,
    ) -> None:
        """Evaluate the rules every so many seconds, until cancelled, whatever becomes of Redis."""
        while True:
            try:
                async with asyncio.timeout(every):
                    reading = await read_queue(redis_url, queue, client=client)
            except (RedisError, OSError) as error:
                logger.warning("alerts cannot be evaluated: %s", error or type(error).__name__)
            else:
                await self.evaluate(reading)
            await asyncio.sleep(every)


alert_manager = AlertManager()


def register_distributed_alerts(callback: Callback | None = None) -> list[AlertRule]:
    """Let the workers of this process evaluate the five rules while they run, and return them.

    Alerts that fire are logged, and told to the callback if there is one. A process without a worker runs
    ``alert_manager.watch(redis_url)``.
    """
    for rule in RULES:
        alert_manager.register(rule)
    if callback is not None:
        alert_manager.on_alert(callback)
    return list(RULES)
