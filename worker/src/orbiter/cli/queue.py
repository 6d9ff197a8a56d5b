"""``orbiter queue``: what waits, runs, is delayed or dead, and who works on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orbiter.cli.application import LazyGroup
from orbiter.cli.options import fleet_options, json_option, namespace, queue_option
from orbiter.cli.render import format_bytes, format_seconds, format_time, page
from orbiter.cli.watching import View, Watchable, show, watch_option
from orbiter.distributed.broker.queue_info import QueueInfo, get_queue_info
from orbiter.distributed.connection.connected import SKEW_ALLOWED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis.asyncio import Redis

    from orbiter.distributed.broker.storage import Server, Storage


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

    show(redis_url, View(look=look, draw=_draw, as_json=_json), watch=watch, as_json=as_json)


def _json(found: QueueInfo) -> dict[str, Any]:
    servers = [asdict(server) | {"persistent": server.persistent} for server in found.storage.servers]
    return asdict(found) | {"storage": servers, "warnings": [asdict(warning) for warning in found.storage.warnings]}


def _draw(found: QueueInfo) -> Text:
    oldest = "" if found.oldest_waiting is None else f" (the oldest for {format_seconds(found.oldest_waiting)})"
    due = "" if found.next_due is None else f" (the next is due {format_time(found.next_due)})"
    letters = " (orbiter task dead list)" if found.dead else ""
    nobody = " (nobody works on this queue)" if not found.workers and found.waiting else ""
    warnings = [("Warning", Text(warning.message, style="yellow")) for warning in found.storage.warnings]
    lines = (
        ("Waiting", f"{found.waiting}{oldest}"),
        ("Running", str(found.running)),
        ("Delayed", f"{found.delayed}{due}"),
        ("Dead", f"{found.dead}{letters}"),
        ("Workers", f"{found.workers}{nobody}"),
        ("Slots", f"{found.slots}, {found.busy} busy"),
        ("Consumers", str(found.consumers)),
        ("Memory", _memory(found)),
        *_storage(found.storage),
        ("Clock", _clock(found.clock_skew_ms)),
        *warnings,
    )
    return page(f"Queue {found.queue}", lines)


def _storage(storage: Storage) -> list[tuple[str, str]]:
    masters = [server for server in storage.servers if not server.replica]
    replicas = [server for server in storage.servers if server.replica]
    lines = [
        ("Eviction", _all_of(server.eviction_policy or "unknown" for server in masters)),
        ("On disk", _all_of(map(_on_disk, masters))),
    ]
    shown = "; ".join(f"{server.name}: {_on_disk(server)}" for server in replicas)
    return lines + ([("Replicas", f"{len(replicas)} (on disk: {shown})")] if replicas else [])


def _all_of(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts)) or "unknown"


def _on_disk(server: Server) -> str:
    if server.append_only:
        return "append-only file"
    if server.snapshots:
        return "snapshots only"
    return "unknown" if server.persistent is None else "nothing"


def _clock(skew_ms: float | None) -> str | Text:
    if skew_ms is None:
        return "-"
    side = "ahead of" if skew_ms >= 0 else "behind"
    text = f"of this machine {format_seconds(abs(skew_ms) / 1000)} {side} Redis'"
    return Text(text, style="yellow") if abs(skew_ms) > SKEW_ALLOWED * 1000 else text


def _memory(found: QueueInfo) -> str:
    if found.memory_used is None:
        return "-"
    if not found.memory_max:
        return f"{format_bytes(found.memory_used)}, no limit"
    share = 100 * found.memory_used / found.memory_max
    return f"{format_bytes(found.memory_used)} of {format_bytes(found.memory_max)} ({share:.0f} %)"
