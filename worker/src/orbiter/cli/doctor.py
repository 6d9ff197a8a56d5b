"""``orbiter doctor``: what is wrong between this machine, Redis and the workers, and how to mend it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
import redis
from redis.exceptions import NoPermissionError

from orbiter.cli.options import fleet_options, json_option, namespace, open_redis, queue_option, run
from orbiter.cli.output import print_line
from orbiter.cli.render import format_seconds, print_json
from orbiter.distributed.broker.calls import core
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.queue_info import get_queue_info
from orbiter.distributed.broker.store import TaskStore
from orbiter.distributed.broker.worker_health import get_worker_fleet_status
from orbiter.distributed.connection.connected import clock_skew
from orbiter.distributed.connection.redis_url import check, explain, mask, user_of
from orbiter.distributed.connection.refusals import ANOTHER_USER, apart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from orbiter.distributed.broker.worker_health import WorkerHealth

OLDEST_REDIS = 7
_ANSWER_WITHIN = 5.0
# Without them nothing more can be asked.
_AWAY = (redis.ConnectionError, redis.TimeoutError)
_MEND_REDIS = "Mend it in Redis, by what it says: most often its disk, its replicas or maxmemory (docs/redis.md)"


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: ``reach``, ``version``, ``rights``, ``storage``, ``clock``, ``workers`` or ``queue``.
        state: How it ended.
        message: What is so.
        remedy: What to do about it; empty where nothing is wrong.
    """

    check: str
    state: State
    message: str
    remedy: str = ""


@click.command("doctor")
@fleet_options
@queue_option
@json_option
def doctor(redis_url: str, queue: str, as_json: bool) -> None:
    """Say what is wrong between this machine, Redis and the workers, and how to mend it; exit 1 for a problem."""
    findings = run(redis_url, _examine(redis_url, queue))
    well = not any(finding.state is State.PROBLEM for finding in findings)
    if as_json:
        print_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print_line(f"{finding.state:<8} {finding.check:<8} {finding.message}")
            if finding.remedy:
                print_line(f"{'':<17} -> {finding.remedy}")
    if not well:
        raise click.exceptions.Exit(1)


async def _examine(url: str, queue: str) -> list[Finding]:
    began = time.monotonic()
    try:
        async with open_redis(url) as client:
            took = format_seconds(time.monotonic() - began)
            findings = [Finding("reach", State.OK, f"Redis at {mask(url)} answered after {took}")]
            unseen: dict[str, str] = {}
            for checks, names in (
                (_version(client, url), ("version",)),
                (_rights(client, url, queue), ()),
                (_clock(client), ("clock",)),
                (_queue(client, url, queue), ("storage", "queue")),
                (_workers(client, url, queue), ("workers",)),
            ):
                findings += await _found(checks, names, unseen)
            return findings + _not_seen(unseen, url)
    except (*_AWAY, TimeoutError) as error:
        return [_unreachable(error, url)]
    except NoPermissionError as error:
        remedy = "Give it the rights of docs/redis-rights.md by orbiter.fleet.redis, or take another user's URL"
        return [Finding("rights", State.PROBLEM, f"this user of Redis may not connect as clients do: {error}", remedy)]
    except redis.RedisError as error:
        return [Finding("reach", State.PROBLEM, f"Redis at {mask(url)} refuses: {error}", _MEND_REDIS)]


def _unreachable(error: Exception, url: str) -> Finding:
    what, remedy = apart(explain(error, url))
    return Finding("reach", State.PROBLEM, what, remedy)


async def _found(checks: AsyncIterator[Finding], names: Sequence[str], unseen: dict[str, str]) -> list[Finding]:
    """Return what checks find; one that Redis refuses is told and hides no other.

    Args:
        checks: Find it.
        names: What they look at.
        unseen: Gets those that this user may not look at, with what Redis says.
    """
    found: list[Finding] = []
    try:
        async for finding in checks:
            found.append(finding)  # noqa: PERF401 - what was found before an error counts
    except NoPermissionError as error:
        seen = {finding.check for finding in found}
        unseen.update((name, str(error)) for name in names if name not in seen)
    except _AWAY:
        raise
    except redis.RedisError as error:
        found.append(Finding("reach", State.PROBLEM, f"Redis refuses: {error}", _MEND_REDIS))
    return found


def _not_seen(unseen: dict[str, str], url: str) -> list[Finding]:
    """Return one finding for all that this user may not look at."""
    if not unseen:
        return []
    *others, last = unseen
    what = f"{', '.join(others)} and {last}" if others else last
    why = "; ".join(dict.fromkeys(text.removesuffix(".") for text in unseen.values()))
    message = f"not looked at: {what}; the user {user_of(url)!r} of Redis may not: {why}"
    return [Finding("rights", State.WARNING, message, ANOTHER_USER)]


async def _version(client: Redis, url: str) -> AsyncIterator[Finding]:
    if check(url).kind == "cluster":
        return
    facts: Any = await client.info("server")
    found = str(facts.get("redis_version", ""))
    if found.partition(".")[0].isdigit() and int(found.partition(".")[0]) < OLDEST_REDIS:
        remedy = f"Upgrade Redis to {OLDEST_REDIS}.0 or newer"
        yield Finding("version", State.PROBLEM, f"Redis {found} lacks what the scripts need", remedy)
    else:
        yield Finding("version", State.OK, f"Redis {found}, this command {version('orbiter-distributed')}")


async def _rights(client: Redis, url: str, queue: str) -> AsyncIterator[Finding]:
    """Try what clients do, by calls that change nothing."""
    broker = broker_for(url, queue_name=queue, namespace=namespace(), client=client)
    store = TaskStore(url, namespace=namespace(), client=client)
    tries: dict[str, Callable[[], Awaitable[Any]]] = {
        "read tasks": lambda: store.list_tasks(limit=1),
        "cancel tasks": lambda: broker.cancel(f"doctor-{uuid.uuid4().hex}"),
    }
    if check(url).kind != "cluster":
        tries["submit tasks"] = lambda: broker.run(core.submit(broker.keys, [], []))
    may: list[str] = []
    for name, attempt in tries.items():
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await attempt()
        except NoPermissionError as error:
            remedy = (
                f"Give the user {user_of(url)!r} of Redis that right"
                " (docs/redis-rights.md lists them), or take another user's URL"
            )
            yield Finding("rights", State.WARNING, f"may not {name} of queue {queue}: {error}", remedy)
        except TimeoutError:
            remedy = "Start a worker, which loads them; a user that may load scripts needs none"
            yield Finding("rights", State.PROBLEM, f"cannot {name}: Redis does not know our scripts", remedy)
        except _AWAY:
            raise
        except redis.RedisError as error:
            yield Finding("rights", State.PROBLEM, f"cannot {name} of queue {queue}: {error}", _MEND_REDIS)
        else:
            may.append(name)
    if may:
        yield Finding("rights", State.OK, f"may {', '.join(may)} of queue {queue}")


async def _clock(client: Redis) -> AsyncIterator[Finding]:
    skew = await clock_skew(client)
    side = "ahead of" if skew.seconds >= 0 else "behind"
    text = f"this machine's clock is {format_seconds(abs(skew.seconds))} {side} Redis'"
    if skew.matters:
        remedy = "Let both follow a time server; until then, times that are shown here are off by that much"
        yield Finding("clock", State.WARNING, text, remedy)
    else:
        yield Finding("clock", State.OK, text)


async def _queue(client: Redis, url: str, queue: str) -> AsyncIterator[Finding]:
    info = await get_queue_info(url, queue, namespace=namespace(), client=client)
    warnings = info.storage.warnings
    for warning in warnings:
        what, _, remedy = warning.message.partition(". Remedy: ")
        yield Finding("storage", State.WARNING, what, remedy)
    if not warnings:
        policies = {server.eviction_policy or "unknown" for server in info.storage.servers}
        yield Finding("storage", State.OK, f"nothing threatens what Redis holds (eviction: {', '.join(policies)})")
    text = f"{info.waiting} waiting, {info.running} running, {info.delayed} delayed, {info.dead} dead"
    if info.waiting and not info.workers:
        yield Finding("queue", State.PROBLEM, f"{text}; nobody works on {queue}", "Start a worker with this --queue")
    elif info.dead:
        remedy = "Look: orbiter task dead list; then run them again or drop them"
        yield Finding("queue", State.WARNING, text, remedy)
    else:
        yield Finding("queue", State.OK, text)


async def _workers(client: Redis, url: str, queue: str) -> AsyncIterator[Finding]:
    fleet = await get_worker_fleet_status(url, namespace=namespace(), client=client)
    alive = [worker for worker in fleet if worker.alive and worker.queue in {"", queue}]
    if not alive:
        remedy = "Start one: orbiter start worker, or orbiter dev to try agents out"
        yield Finding("workers", State.PROBLEM, f"no worker reads queue {queue}", remedy)
    else:
        yield Finding("workers", State.OK, f"{len(alive)} alive on queue {queue}: {_versions(alive)}")
    others = {worker.version for worker in alive} - {version("orbiter-distributed")}
    if others:
        remedy = "Finish the upgrade of the fleet, or install the same version here"
        yield Finding("workers", State.WARNING, f"this command is {version('orbiter-distributed')}", remedy)
    for worker in fleet:
        for what in _ailments(worker):
            remedy = f"orbiter worker list --wide; its journal has more (host {worker.hostname or 'unknown'})"
            yield Finding("workers", State.WARNING, f"worker {worker.worker_id}: {what}", remedy)


def _versions(alive: list[WorkerHealth]) -> str:
    counts = Counter(worker.version or "0.1" for worker in alive)
    return ", ".join(f"{count} of version {name}" for name, count in sorted(counts.items()))


def _ailments(worker: WorkerHealth) -> list[str]:
    if not worker.alive:
        return [
            f"it died without a farewell: {worker.unreadable}" if worker.unreadable else "it died without a farewell"
        ]
    found = [worker.problem] if worker.problem else []
    found += [f"import of {text}" for text in worker.failed_imports]
    found += [f"task {worker.blocked_by} blocks its event loop"] if worker.blocked_by else []
    return found
