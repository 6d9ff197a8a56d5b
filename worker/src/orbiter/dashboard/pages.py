"""Pages for reading: each is made of what a few questions to the client answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from orbiter.dashboard.charts import SPANS, draw
from orbiter.dashboard.prices import SOURCE, bill
from orbiter.dashboard.timeline import attempts_of, rows_of, text_of
from orbiter.dashboard.view import quote_query
from orbiter.distributed.client.overview import TaskFilter
from orbiter.distributed.models import TaskStatus
from orbiter.distributed.names import check_queue_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from orbiter.distributed.client.overview import Overview, TaskView, WorkerHealth

    # What is computed of answers comes as a function: it is no part of the time that Redis gets.
    Page = Callable[[Overview, Mapping[str, str]], Awaitable[dict[str, Any] | Callable[[], dict[str, Any]]]]

# Seconds that Redis gets to answer all questions of a page.
WITHIN = 5.0
# Workers that a page shows; the others are counted.
MOST_WORKERS = 500
PAGE = 50
# Days of usage that a page can show.
DAYS = (1, 7, 30)
LONGEST_VALUE = 200


class NotFoundError(LookupError):
    """There is no such thing; the message says what."""


async def read(name: str, overview: Overview, query: Mapping[str, str], *, live: bool = False) -> dict[str, Any]:
    """Return what the template of a page needs, or that of the part of it that changes.

    Raises:
        ValueError: Something in the query breaks its rule.
        NotFoundError: What the page is about is not there.
        redis.RedisError: Redis cannot be reached or refuses.
        TimeoutError: It does not answer.
    """
    async with asyncio.timeout(WITHIN):
        found, now = await asyncio.gather((LIVE if live else PAGES)[name](overview, query), overview.now())
    # In a thread: whoever waits for Redis meanwhile would take a long computation for its silence.
    values = await asyncio.to_thread(found) if callable(found) else found
    return {"now": now, "page": name, **values}


async def fleet(overview: Overview, _: Mapping[str, str]) -> dict[str, Any]:
    """Workers, by host."""
    workers = await overview.workers()
    alive = [worker for worker in workers if worker.alive]
    return {
        "workers": sorted(workers, key=lambda worker: not worker.alive)[:MOST_WORKERS],
        "more": max(0, len(workers) - MOST_WORKERS),
        "alive": len(alive),
        "slots": sum(worker.concurrency for worker in alive),
        "busy": sum(worker.active for worker in alive),
        "hosts": len({worker.hostname for worker in alive}),
        "states": Counter(state_of(worker) for worker in workers),
        "releases": sorted({worker.version or "0.1" for worker in alive}),
        "state_of": state_of,
    }


def state_of(worker: WorkerHealth) -> str:
    """Return the word for a worker's state."""
    if not worker.alive:
        return worker.status if worker.status == "unreadable" else "dead"
    return worker.state or "running"


async def queue(overview: Overview, query: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """One queue, with what workers counted of it, and which others there are."""
    name, span = queue_name(overview, query), query.get("span") or next(iter(SPANS))
    if span not in SPANS:
        raise ValueError(f"span: {span!r} is none; use one of {', '.join(SPANS)}")
    info, workers, (minutes, now), deploys = await asyncio.gather(
        overview.queue_info(name),
        overview.workers(),
        overview.rates(name, minutes=SPANS[span][0]),
        overview.deploys(),
    )
    others = sorted({overview.queue, name, *(worker.queue for worker in workers if worker.alive and worker.queue)})
    return lambda: {
        "info": info,
        "queue": name,
        "queues": others,
        "span": span,
        "spans": list(SPANS),
        "drawn": draw(minutes, deploys, name=span, now=now),
        "deploys": deploys,
    }


async def tasks(overview: Overview, query: Mapping[str, str]) -> dict[str, Any]:
    """Tasks by a filter."""
    sought = task_filter(overview, query)
    page = await overview.tasks(sought, after=query.get("after", ""), limit=PAGE)
    return {"found": page, "sought": sought, "filters": filters(query), "after": query.get("after", "")}


async def task(overview: Overview, query: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """One task."""
    view = await _task(overview, query)
    events = [*view.events, *view.last]
    return lambda: {
        "view": view,
        "task": view.task,
        "attempts": attempts_of(events, view.task),
        "rows": rows_of(view.events),
        "last_rows": rows_of(view.last),
        "answer": text_of(events, view.task.attempt),
        "last_event": events[-1].entry_id if events else "",
    }


async def live_task(overview: Overview, query: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """One task, without what was submitted, and without its events, which come by themselves."""
    view = await _task(overview, query, payload=False)
    return lambda: {"task": view.task, "attempts": attempts_of([*view.events, *view.last], view.task)}


async def _task(overview: Overview, query: Mapping[str, str], *, payload: bool = True) -> TaskView:
    view = await overview.task(query.get("id", ""), payload=payload)
    if view is None:
        raise NotFoundError(
            "There is no task of this id. Records are kept for a day after a task's end (--task-ttl), then they expire."
        )
    return view


async def errors(overview: Overview, _: Mapping[str, str]) -> dict[str, Any]:
    """Failed tasks by agent and kind of error."""
    return {"failures": await overview.failures(), "sought_by": sought_by}


async def dead(overview: Overview, query: Mapping[str, str]) -> dict[str, Any]:
    """Dead letters of a queue."""
    name, after = queue_name(overview, query), letter_place(query)
    letters, total = await overview.dead_letters(queue=name, after=after, limit=PAGE)
    return {"letters": letters, "total": total, "queue": name, "after": after, "full": len(letters) == PAGE}


async def alerts(overview: Overview, query: Mapping[str, str]) -> dict[str, Any]:
    """The rules, and which of them fire now."""
    name = queue_name(overview, query)
    found = await overview.alerts(name)
    return {"alerts": sorted(found, key=lambda alert: not alert.firing), "queue": name}


async def usage(overview: Overview, query: Mapping[str, str]) -> Callable[[], dict[str, Any]]:
    """What a queue's tasks used of models, and what that cost."""
    name, days = queue_name(overview, query), query.get("days") or str(DAYS[1])
    if days not in map(str, DAYS):
        raise ValueError(f"days: {days!r} is none; use one of {', '.join(map(str, DAYS))}")
    rows = await overview.usage(name, days=int(days))
    return lambda: {"bill": bill(rows), "queue": name, "days": int(days), "spans": DAYS, "source": SOURCE}


async def actions(overview: Overview, _: Mapping[str, str]) -> dict[str, Any]:
    """What people did by this dashboard."""
    return {"actions": await overview.actions()}


PAGES: dict[str, Page] = {
    "fleet": fleet,
    "queue": queue,
    "tasks": tasks,
    "task": task,
    "errors": errors,
    "dead": dead,
    "usage": usage,
    "alerts": alerts,
    "actions": actions,
}
LIVE = PAGES | {"task": live_task}
_FILTERS = ("status", "queue", "agent", "worker", "error_type", "since", "until")
# What changes a page; whatever else a query has makes it no other one.
_KNOWN = {
    "queue": ("queue", "span"),
    "tasks": (*_FILTERS, "after"),
    "task": ("id",),
    "dead": ("queue", "after"),
    "usage": ("queue", "days"),
    "alerts": ("queue",),
}


def known_query(name: str, query: Mapping[str, str]) -> str:
    """Return of a page's query what the page knows."""
    return quote_query(**{known: query.get(known) for known in _KNOWN.get(name, ())})


def queue_name(overview: Overview, query: Mapping[str, str]) -> str:
    """Return the queue that is asked for, or that of the dashboard.

    Raises:
        InvalidNameError: No queue can have this name.
    """
    return check_queue_name(query.get("queue") or overview.queue, overview.namespace)


def letter_place(query: Mapping[str, str]) -> str:
    """Return the dead letter behind which a page begins; nothing for the first one.

    Raises:
        ValueError: It is no entry id.
    """
    after = query.get("after", "")
    if after and not after.replace("-", "", 1).isdecimal():
        raise ValueError("after: no entry id of a dead letter; begin with the first page")
    return after


def filters(query: Mapping[str, str]) -> dict[str, str]:
    """Return what a query filters tasks by, as it was typed."""
    return {name: query.get(name, "").strip()[:LONGEST_VALUE] for name in _FILTERS}


def sought_by(text: str) -> bool:
    """Tell whether a filter can be for this value: not for none, nor for what it would take as another one."""
    return bool(text) and filters({"agent": text})["agent"] == text


def task_filter(overview: Overview, query: Mapping[str, str]) -> TaskFilter:
    """Return the filter that a query asks for.

    Raises:
        ValueError: A value breaks its rule.
    """
    typed = filters(query)
    known = ", ".join(TaskStatus)
    if typed["status"] and typed["status"] not in set(TaskStatus):
        raise ValueError(f"status: {typed['status']!r} is none; use one of {known}")
    return TaskFilter(
        status=TaskStatus(typed["status"]) if typed["status"] else None,
        queue=check_queue_name(typed["queue"], overview.namespace) if typed["queue"] else "",
        agent=typed["agent"],
        worker=typed["worker"],
        error_type=typed["error_type"],
        since=moment_in("since", typed["since"]),
        until=moment_in("until", typed["until"]),
    )


def moment_in(name: str, text: str) -> float | None:
    """Return a time as a browser's field gives it, UTC, as epoch seconds; ``None`` for none.

    Raises:
        ValueError: It is no time.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: {text!r} is no time; write 2026-01-31T12:00, which is UTC") from None
