"""Actions: what a form asks for, done by the client's operations. Each is shown with its number before it is done."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.dashboard.pages import WITHIN, letter_place, task_filter
from orbiter.distributed.client.operations import MOST
from orbiter.distributed.client.overview import Command
from orbiter.distributed.models import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orbiter.distributed.client.operations import Done, Operations
    from orbiter.distributed.client.overview import Overview

# Where a form may send the browser back to: a page of ours.
_BACK = re.compile(r"/(fleet|queue|tasks|task|errors|dead|alerts)(\?[A-Za-z0-9_.~%=&:+-]{0,2000})?")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of action.

    Attributes:
        verb: What the button says.
        of: What it is done to: ``task``, ``worker`` or ``letter``.
        effect: What it means, for the person who is asked.
        danger: Whether it takes something away.
    """

    verb: str
    of: str
    effect: str
    danger: bool = False


KINDS = {
    "cancel": Kind("Cancel", "task", "Waiting tasks end at once, running ones are cancelled.", danger=True),
    "retry": Kind("Retry", "task", "They run again from the beginning, with all their retries before them."),
    "drain": Kind("Drain", "worker", "It claims nothing more, lets running tasks end, then stops.", danger=True),
    "quiet": Kind("Quiet", "worker", "It claims nothing more and stays; resume lets it claim again."),
    "resume": Kind("Resume", "worker", "It claims tasks again."),
    "retry-letters": Kind("Retry", "letter", "Their tasks run again, with all their retries before them."),
    "drop-letters": Kind("Drop", "letter", "They are deleted for good; their tasks cannot be run again.", danger=True),
}


def kind_of(name: str) -> Kind:
    """Return a kind of action.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in KINDS:
        raise ValueError(f"what: {name[:40]!r} is no action; use one of {', '.join(KINDS)}")
    return KINDS[name]


def back_to(text: str) -> str:
    """Return the page to go back to: one of ours, whatever the form says."""
    return text if _BACK.fullmatch(text) else "/fleet"


async def chosen(overview: Overview, query: Mapping[str, str], what: str) -> tuple[Sequence[str], str]:
    """Return what an action would be done to, and words for how it was chosen.

    Raises:
        ValueError: Something in the query breaks its rule.
    """
    kind = kind_of(what)
    if query.get("id"):
        return [query["id"]], ""
    if kind.of == "task":
        return await _tasks(overview, query, what)
    if kind.of == "letter":
        after = letter_place(query)
        letters, total = await overview.dead_letters(queue=query.get("queue", ""), limit=MOST, after=after)
        more = f"{MOST} of {total}, the newest first; begin with an older page for the others" if total > MOST else ""
        return [letter.entry_id for letter in letters], more
    raise ValueError("id: name the worker")


async def _tasks(overview: Overview, query: Mapping[str, str], what: str) -> tuple[list[str], str]:
    """Return the tasks of a filter for which the action makes sense, from the page that was shown on."""
    sought, sensible = task_filter(overview, query), _sensible(what)
    found: list[str] = []
    looked_at, after, began = 0, query.get("after", ""), time.monotonic()
    while True:
        page = await overview.tasks(sought, after=after, limit=MOST)
        found += [task.task_id for task in page.tasks if task.status in sensible]
        looked_at, after = looked_at + page.looked_at, page.after
        if len(found) > MOST or (after and len(found) == MOST):
            return found[:MOST], f"the first {MOST}, the newest first; repeat it for the others"
        if not after:
            return found, ""
        if time.monotonic() - began > WITHIN:
            return (
                found,
                f"of {looked_at} tasks that were looked at in time; begin with an older page for the others",
            )


def _sensible(what: str) -> frozenset[TaskStatus]:
    if what == "retry":
        return frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED})
    return frozenset({TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.RETRYING})


async def act(operations: Operations, what: str, fields: Mapping[str, list[str]]) -> Done:
    """Do what a form asks for.

    Raises:
        ValueError: A value breaks its rule, or there are too many of them.
        redis.RedisError: Redis cannot be reached or refuses.
    """
    kind, ids = kind_of(what), fields.get("id", [])
    if not 1 <= len(ids) <= MOST:
        raise ValueError(f"id: {len(ids)} are given; name 1 to {MOST}")
    queue = "".join(fields.get("queue", []))
    if kind.of == "worker":
        return await operations.steer(ids[0], Command(what))
    does: dict[str, Any] = {
        "cancel": lambda: operations.cancel(ids),
        "retry": lambda: operations.retry(ids),
        "retry-letters": lambda: operations.retry_letters(ids, queue=queue),
        "drop-letters": lambda: operations.drop_letters(ids, queue=queue),
    }
    done: Done = await does[what]()
    return done
