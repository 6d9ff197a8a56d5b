"""The alert rules as Prometheus evaluates them: ``orbiter alerts export --format prometheus``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orbiter.distributed.alerts.rules import RULES
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.prometheus import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orbiter.distributed.alerts.rules import AlertRule

QUEUE_LABEL = "orbiter_distributed_queue_name"
_RATE = "5m"


def prometheus_rules(rules: Sequence[AlertRule] = RULES, *, queue: str | None = None) -> str:
    """Return a rules file: for every queue, or for one.

    Without workers nothing tells of a queue any more, so that the one rule about them is about all queues together,
    unless ``queue`` names one.
    """
    lines = ["groups:", "  - name: orbiter-distributed", "    rules:"]
    for rule in rules:
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {json.dumps(_expression(rule, queue))}",
            "        labels:",
            f"          severity: {rule.severity}",
            *([f"          {QUEUE_LABEL}: {json.dumps(queue)}"] if queue else []),
            "        annotations:",
            f"          summary: {json.dumps(rule.title)}",
            f"          description: {json.dumps(_description(rule))}",
            f"          runbook_url: {rule.runbook_url}",
        ]
    return "\n".join([*lines, ""])


def _description(rule: AlertRule) -> str:
    unit = f" {rule.unit}" if rule.unit else ""
    where = f"{{{{ with $labels.{QUEUE_LABEL} }}}} on {{{{ . }}}}{{{{ end }}}}"
    return f"{rule.title}: {{{{ $value }}}}{unit}{where} (fires at {rule.comparison} {rule.threshold:g})"


def _expression(rule: AlertRule, queue: str | None) -> str:
    only = f"{{{QUEUE_LABEL}={json.dumps(queue)}}}" if queue else ""
    by = f"by ({QUEUE_LABEL})"
    name = prometheus_name

    def recent(series: str) -> str:
        return f"sum {by} (increase({series}{only}[{_RATE}]))"

    fires = f"{rule.comparison} {rule.threshold:g}"
    failed, completed = recent(name(metrics.FAILED)), recent(name(metrics.COMPLETED))
    wait = name(metrics.WAIT_TIME)
    gauges = {
        "redis_evicting": metrics.REDIS_EVICTING,
        "redis_unsaved": metrics.REDIS_UNSAVED,
        "redis_unsaved_replicas": metrics.REDIS_UNSAVED_REPLICAS,
        "redis_memory_share": metrics.REDIS_MEMORY_SHARE,
    }
    if rule.metric in gauges:
        return f"max {by} ({name(gauges[rule.metric])}{only}) {fires}"
    return {
        # Several workers can have looked: at most a third of a lease apart.
        "queue_depth": f"max {by} ({name(metrics.DEPTH)}{only}) {fires}",
        "failure_rate": f"{failed} / ({failed} + {completed}) {fires}",
        "worker_count": f"(count({name(metrics.RUNNING)}{only}) or vector(0)) {fires}",
        "degraded": f"sum {by} ({name(metrics.DEGRADED)}{only}) {fires}",
        "wait_time": (
            f"{recent(f'{wait}_sum')} / {recent(f'{wait}_count')} {fires}"
            f" or max {by} ({name(metrics.OLDEST)}{only}) {fires}"
        ),
    }[rule.metric]
