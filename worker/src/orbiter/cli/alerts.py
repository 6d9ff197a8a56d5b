"""``orbiter alerts``: whether something is wrong with a queue, for people, cron, systemd and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orbiter.cli.application import LazyGroup
from orbiter.cli.options import (
    fleet_options,
    json_option,
    namespace,
    namespace_option,
    open_redis,
    queue_filter_option,
    queue_option,
    run,
)
from orbiter.cli.output import print_line, print_raw
from orbiter.cli.render import print_json

if TYPE_CHECKING:
    from orbiter.distributed.alerts import Alert


@click.group(cls=LazyGroup)
def alerts() -> None:
    """Check the fleet's alert rules, or export them for Prometheus."""


@alerts.command("check")
@fleet_options
@queue_option
@json_option
@click.pass_context
def check(ctx: click.Context, redis_url: str, queue: str, as_json: bool) -> None:
    """Evaluate the rules on one queue now. Exits 1 if an alert fires (or nothing can be said), 0 if none does."""
    found = run(redis_url, _judge(redis_url, queue))
    firing = [alert for alert in found if alert.firing]
    if as_json:
        print_json({"queue": queue, "firing": len(firing), "alerts": [_row(alert) for alert in found]}, indent=None)
    else:
        for alert in found:
            print_line(f"{alert.rule.severity if alert.firing else 'ok':<8}  {alert.message}")
    ctx.exit(1 if firing else 0)


async def _judge(redis_url: str, queue: str) -> list[Alert]:
    from orbiter.distributed.alerts import judge, read_queue  # noqa: PLC0415 - not needed to print help

    async with open_redis(redis_url) as client:
        return judge(await read_queue(redis_url, queue, namespace=namespace(), client=client))


def _row(alert: Alert) -> dict[str, Any]:
    rule = alert.rule
    return {
        "name": rule.name,
        "title": rule.title,
        "severity": rule.severity.value,
        "firing": alert.firing,
        "value": alert.value,
        "comparison": rule.comparison,
        "threshold": rule.threshold,
    }


@alerts.command("export")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["prometheus"]),
    default="prometheus",
    show_default=True,
    help="Format: prometheus is a rules file of Prometheus.",
)
@namespace_option
@queue_filter_option
def export(kind: str, only_queue: str | None) -> None:  # noqa: ARG001 - there is one kind so far
    """Print the rules in the form that another program evaluates."""
    from orbiter.distributed.alerts.export import prometheus_rules  # noqa: PLC0415 - not needed to print help

    print_raw(prometheus_rules(queue=only_queue), nl=False)
