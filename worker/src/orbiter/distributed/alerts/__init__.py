"""Alerts: six rules over one queue, evaluated in this process, by a command, or by Prometheus.

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.lazy import lazily

if TYPE_CHECKING:
    from orbiter.distributed.alerts.evaluation import (
        AlertManager,
        alert_manager,
        read_queue,
        register_distributed_alerts,
    )
    from orbiter.distributed.alerts.export import prometheus_rules
    from orbiter.distributed.alerts.rules import RULES, Alert, AlertRule, Reading, Severity, judge

_HOME = {
    "Alert": "rules",
    "AlertManager": "evaluation",
    "AlertRule": "rules",
    "RULES": "rules",
    "Reading": "rules",
    "Severity": "rules",
    "alert_manager": "evaluation",
    "judge": "rules",
    "prometheus_rules": "export",
    "read_queue": "evaluation",
    "register_distributed_alerts": "evaluation",
}

__all__ = [
    "RULES",
    "Alert",
    "AlertManager",
    "AlertRule",
    "Reading",
    "Severity",
    "alert_manager",
    "judge",
    "prometheus_rules",
    "read_queue",
    "register_distributed_alerts",
]

__getattr__ = lazily(__name__, _HOME)
