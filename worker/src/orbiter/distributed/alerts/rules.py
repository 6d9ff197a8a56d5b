"""The alert rules, and what each says of a reading of one queue: the guide's five, and those about its Redis."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COOLDOWN = 300.0
_RUNBOOK = "https://github.com/orbiter-fleet/orbiter.fleet/blob/main/docs/runbook.md"
_COMPARISONS = {">": operator.gt, ">=": operator.ge, "==": operator.eq}


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
        comparison: ``>``, ``>=`` or ``==``.
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

    @property
    def runbook_url(self) -> str:
        """Where it says what to look at and what to do: the heading of docs/runbook.md that is the title."""
        return f"{_RUNBOOK}#{self.title.lower().replace(' ', '-')}"

    def holds(self, value: float) -> bool:
        """Tell whether this value makes the alert fire."""
        return bool(_COMPARISONS[self.comparison](value, self.threshold))


RULES = (
    AlertRule("dist_queue_depth_warning", "Queue depth high", "queue_depth", ">", 100, Severity.WARNING, "tasks"),
    AlertRule("dist_queue_depth_critical", "Queue depth critical", "queue_depth", ">", 500, Severity.CRITICAL, "tasks"),
    AlertRule("dist_failure_rate_warning", "Task failure rate", "failure_rate", ">", 0.1, Severity.WARNING),
    AlertRule("dist_worker_count_critical", "Worker count zero", "worker_count", "==", 0, Severity.CRITICAL, "workers"),
    AlertRule("dist_wait_time_warning", "Task wait time high", "wait_time", ">", 60, Severity.WARNING, "seconds"),
    AlertRule(
        "dist_redis_eviction_critical", "Redis may evict tasks", "redis_evicting", ">", 0, Severity.CRITICAL, "servers"
    ),
    AlertRule(
        "dist_redis_persistence_warning",
        "Redis keeps nothing on disk",
        *("redis_unsaved", ">", 0, Severity.WARNING, "servers"),
    ),
    AlertRule(
        "dist_redis_replica_warning",
        "Redis replica keeps nothing on disk",
        *("redis_unsaved_replicas", ">", 0, Severity.WARNING, "servers"),
    ),
    AlertRule(
        "dist_redis_memory_warning", "Redis memory near limit", "redis_memory_share", ">=", 0.9, Severity.WARNING
    ),
    AlertRule("dist_worker_degraded", "Worker degraded", "degraded", ">", 0, Severity.WARNING, "workers"),
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
        redis_evicting: Redis servers whose ``maxmemory-policy`` lets them delete tasks.
        redis_unsaved: Masters that keep nothing on disk.
        redis_unsaved_replicas: Replicas that keep nothing on disk.
        redis_memory_share: Used part of ``maxmemory``, of the fullest server; 0 without a limit.
        degraded: Live workers that read the queue and cannot work as they should.
    """

    queue: str
    queue_depth: float
    failure_rate: float
    worker_count: float
    wait_time: float
    redis_evicting: float = 0
    redis_unsaved: float = 0
    redis_unsaved_replicas: float = 0
    redis_memory_share: float = 0.0
    degraded: float = 0.0


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


def judge(reading: Reading, rules: Sequence[AlertRule] = RULES) -> list[Alert]:
    """Return what each rule says of a reading."""
    found = []
    for rule in rules:
        value = float(getattr(reading, rule.metric))
        found.append(Alert(rule, reading.queue, value, firing=rule.holds(value)))
    return found
