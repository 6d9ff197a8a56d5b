"""``orbiter queue``: what waits, runs, is delayed or dead, and who works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orbiter.cli.application import LazyGroup
from orbiter.cli.options import fleet_options, json_option, namespace, queue_option
from orbiter.cli.render import format_bytes, format_seconds, format_time, page
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.queue_info import QueueInfo, get_queue_info

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from rich.text import Text


@click.group(cls=LazyGroup)
def queue() -> None:
    """See what waits, runs, is delayed or dead."""


@queue.command("info", cls=Watchable)
@fleet_options
@queue_option
@watch_option
@json_option
def info(redis_url: str, queue: str, watch: float | None, as_json: bool) -> None:
    """Show one queue: its tasks, its workers and the memory it has."""

    async def look(client: Redis) -> QueueInfo:
        return await get_queue_info(redis_url, queue, namespace=namespace(), client=client)

    show(redis_url, View(look=look, draw=_draw, as_json=asdict), watch=watch, as_json=as_json)


def _draw(found: QueueInfo) -> Text:
    oldest = "" if found.oldest_waiting is None else f" (the oldest for {format_seconds(found.oldest_waiting)})"
    due = "" if found.next_due is None else f" (the next is due {format_time(found.next_due)})"
    letters = " (orbiter task dead list)" if found.dead else ""
    nobody = " (nobody works on this queue)" if not found.workers and found.waiting else ""
    lines = (
        ("Waiting", f"{found.waiting}{oldest}"),
        ("Running", str(found.running)),
        ("Delayed", f"{found.delayed}{due}"),
        ("Dead", f"{found.dead}{letters}"),
        ("Workers", f"{found.workers}{nobody}"),
        ("Slots", f"{found.slots}, {found.busy} busy"),
        ("Consumers", str(found.consumers)),
        ("Memory", _memory(found)),
    )
    return page(f"Queue {found.queue}", lines)


def _memory(found: QueueInfo) -> str:
    if found.memory_used is None:
        return "-"
    if not found.memory_max:
        return f"{format_bytes(found.memory_used)}, no limit"
    share = 100 * found.memory_used / found.memory_max
    return f"{format_bytes(found.memory_used)} of {format_bytes(found.memory_max)} ({share:.0f} %)"
