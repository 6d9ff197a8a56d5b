"""Makes what the role `monitoring` brings with it, from the worker's metrics and rules. Usage: monitoring.py [--check].

``orbiter.rules`` is what ``orbiter alerts export`` says, ``grafana.json`` a dashboard. Made here, so that a deploy
needs no worker and no network for them, and has those of its own collection.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbiter.distributed.alerts.export import QUEUE_LABEL, prometheus_rules
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.telemetry.prometheus import prometheus_name

if TYPE_CHECKING:
    from orbiter.distributed.telemetry.instruments import Instrument

FILES = Path(__file__).resolve().parent.parent / "roles/monitoring/files"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What Grafana asks for: the time between two of its points, at least four scrapes.
RATE = "[$__rate_interval]"
QUEUES = f'{{{QUEUE_LABEL}=~"$queue"}}'
AGENT_LABEL, HOST_LABEL = "orbiter_distributed_agent_name", "host"
# Panels by row: title, unit, and lines, each a legend and an expression. Grafana counts a row in 24 columns.
WIDTH, HEIGHT = 24, 8


def series(instrument: Instrument, suffix: str = "") -> str:
    """Return the name of a series, of the queues that are chosen."""
    return prometheus_name(instrument) + suffix + QUEUES


def by_queue(instrument: Instrument) -> tuple[str, str]:
    """Return the line of a gauge of a queue, which each of its workers may have read."""
    return f"{{{{{QUEUE_LABEL}}}}}", f"max by ({QUEUE_LABEL}) ({series(instrument)})"


def total(instrument: Instrument, legend: str) -> tuple[str, str]:
    """Return the line of how often something happens in a minute."""
    return legend, f"60 * sum(rate({series(instrument)}{RATE}))"


def quantile(instrument: Instrument, share: float) -> tuple[str, str]:
    """Return the line of a time that this share is below."""
    buckets = f"sum by (le) (rate({series(instrument, '_bucket')}{RATE}))"
    return f"p{share * 100:g}", f"histogram_quantile({share:g}, {buckets})"


def by_host(instrument: Instrument, how: str) -> tuple[str, str]:
    """Return the line of a gauge of a host's workers."""
    return f"{{{{{HOST_LABEL}}}}}", f"{how} by ({HOST_LABEL}) ({series(instrument)})"


def rows() -> list[tuple[str, list[tuple[str, str, list[tuple[str, str]]]]]]:
    """Return what there is to see: rows of panels."""
    m = metrics
    return [
        (
            "Queue",
            [
                ("Tasks that wait", "short", [by_queue(m.DEPTH)]),
                ("Oldest wait", "s", [by_queue(m.OLDEST)]),
                (
                    "Delayed, and dead letters",
                    "short",
                    [("delayed", by_queue(m.DELAYED)[1]), ("dead", by_queue(m.DEAD_LETTERS)[1])],
                ),
            ],
        ),
        (
            "Tasks",
            [
                (
                    "Ended, a minute",
                    "short",
                    [total(m.COMPLETED, "completed"), total(m.FAILED, "failed"), total(m.CANCELLED, "cancelled")],
                ),
                ("Wait until the start", "s", [quantile(m.WAIT_TIME, share) for share in (0.5, 0.95, 0.99)]),
                ("Duration of runs", "s", [quantile(m.DURATION, share) for share in (0.5, 0.95, 0.99)]),
                (
                    "Failed, a minute, by agent",
                    "short",
                    [(f"{{{{{AGENT_LABEL}}}}}", f"60 * sum by ({AGENT_LABEL}) (rate({series(m.FAILED)}{RATE}))")],
                ),
                (
                    "Run again, a minute",
                    "short",
                    [
                        total(m.RETRIED, "after an error"),
                        total(m.RECLAIMED, "after a loss"),
                        total(m.HANDED_BACK, "after a drain"),
                        total(m.DEAD_LETTERED, "not any more"),
                    ],
                ),
            ],
        ),
        (
            "Workers",
            [
                ("Workers", "short", [by_host(m.RUNNING, "count")]),
                ("Tasks that run", "short", [by_host(m.RUNNING, "sum")]),
                ("Memory", "bytes", [by_host(m.MEMORY, "sum")]),
                ("Loop lag", "s", [by_host(m.LOOP_LAG, "max")]),
                ("Degraded", "short", [by_host(m.DEGRADED, "sum")]),
                ("Processes lost, a minute", "short", [total(m.EXECUTOR_LOSSES, "lost")]),
            ],
        ),
        (
            "Redis",
            [
                ("Used part of maxmemory", "percentunit", [by_queue(m.REDIS_MEMORY_SHARE)]),
                ("Steps without an answer, a minute", "short", [total(m.DISRUPTIONS, "not answered")]),
                (
                    "Servers that may lose tasks",
                    "short",
                    [("for memory", by_queue(m.REDIS_EVICTING)[1]), ("on disk", by_queue(m.REDIS_UNSAVED)[1])],
                ),
            ],
        ),
    ]


def panel(number: int, place: dict[str, int], title: str, unit: str, lines: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a chart over time."""
    targets = [
        {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for index, (legend, expression) in enumerate(lines)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def panels() -> list[dict[str, Any]]:
    """Return all charts below the titles of their rows, three beside each other."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, row in rows():
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        for index, (name, unit, lines) in enumerate(row):
            width = WIDTH // 3
            place = {"h": HEIGHT, "w": width, "x": index % 3 * width, "y": top + index // 3 * HEIGHT}
            found.append(panel(len(found) + 1, place, name, unit, lines))
        top += -(-len(row) // 3) * HEIGHT
    return found


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana 9 and newer read it."""
    labels = f"label_values({prometheus_name(metrics.RUNNING)}, {QUEUE_LABEL})"
    return {
        "uid": "orbiter-fleet",
        "title": "Orbiter fleet",
        "tags": ["orbiter"],
        "schemaVersion": 37,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "queue",
                    "label": "Queue",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": labels, "refId": "queues"},
                    "definition": labels,
                    "refresh": 2,
                    "sort": 1,
                    "multi": True,
                    "includeAll": True,
                },
            ]
        },
        "panels": panels(),
    }


def made() -> dict[str, str]:
    """Return what each file holds."""
    return {"orbiter.rules": prometheus_rules(), "grafana.json": json.dumps(dashboard(), indent=2) + "\n"}


def main() -> int:
    """Write the files, or tell which differ."""
    check = sys.argv[1:] == ["--check"]
    stale = [
        name for name, text in made().items() if not (FILES / name).is_file() or (FILES / name).read_text() != text
    ]
    if check:
        told = [f"{FILES / name} is not what the worker says: run python tools/monitoring.py\n" for name in stale]
        sys.stderr.write("".join(told))
        return 1 if stale else 0
    for name in stale:
        (FILES / name).write_text(made()[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
