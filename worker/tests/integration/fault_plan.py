"""What a seed makes of a minute: which faults happen when, and which tasks are submitted meanwhile."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from orbiter.distributed.models import TaskPayload

SIDES = ("left", "right")
# Each with how often it is drawn.
KINDS = {"reset": 5, "cut": 4, "hold": 6, "slow": 2, "stall": 2, "pause": 4}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        at: Seconds after the beginning.
        kind: ``reset`` and ``cut`` end connections; ``hold`` delivers late what is said, ``slow`` a little late;
            ``stall`` cuts all connections and holds the new ones; ``pause`` is CLIENT PAUSE.
        seconds: How long it lasts.
        sides: Whose connections.
        one: Which of them, as a fraction of their number; ``None`` for all.
        ways: Which directions are held.
        new: Whether connections that are made meanwhile are held as well.
        writes_only: Whether a pause stops writing alone.
        quiet: Which worker is told to be quiet in the middle of a pause, and to resume.
        until_resumed: Seconds from the one to the other.
    """

    at: float
    kind: str
    seconds: float = 0.0
    sides: tuple[str, ...] = SIDES
    one: float | None = None
    ways: tuple[str, ...] = ("up", "down")
    new: bool = False
    writes_only: bool = False
    quiet: str | None = None
    until_resumed: float = 0.0


def draw_faults(seed: int, seconds: float, kinds: Collection[str] = tuple(KINDS)) -> list[Fault]:
    """Return the faults of a run, in order; without some kinds the others stay what they are.

    The first is a pause in which an idle worker is told to be quiet.
    """
    draw = random.Random(f"faults {seed}")
    pause = Fault(1, "pause", seconds=draw.uniform(3, 5), writes_only=True, quiet="left", until_resumed=0.5)
    faults, at, paused_until = [pause], 1 + pause.seconds * 0.6, 2 + pause.seconds
    while at < seconds - 1:
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        lasts = {"hold": (1, 12), "slow": (1, 5), "stall": (2, 8), "pause": (0.3, 7)}.get(kind, (0, 0))
        fault = Fault(
            at,
            kind,
            # No fault outlives the minute: what follows it is to heal.
            seconds=min(draw.uniform(*lasts), seconds - at),
            sides=draw.choices([("left",), ("right",), SIDES], [2, 2, 1])[0],
            one=draw.random() if draw.random() < 0.5 else None,
            ways=draw.choices([("up", "down"), ("up",), ("down",)], [3, 1, 1])[0],
            new=draw.random() < 0.3,
            writes_only=draw.random() < 0.5,
            quiet=draw.choice([*SIDES, None]),
            until_resumed=draw.uniform(0.2, 3),
        )
        if kind != "pause" or at > paused_until:
            faults.append(fault)
            if kind == "pause":
                paused_until = at + fault.seconds + 1
        at += draw.expovariate(1 / 1.5)
    return [fault for fault in faults if fault.kind in kinds]


@dataclass
class Work:
    """One task of a run.

    Attributes:
        at: Seconds after the beginning at which it is submitted.
        task: The task.
        ends: The statuses it may end in.
        cancel_at: When somebody wants it cancelled.
    """

    at: float
    task: TaskPayload
    ends: tuple[str, ...] = ("completed",)
    cancel_at: float | None = None


def draw_work(seed: int, number: int, seconds: float) -> list[Work]:
    """Return so many tasks in the order in which they are submitted: in bursts, over most of the time."""
    draw = random.Random(f"work {seed}")
    works: list[Work] = []
    while len(works) < number:
        # Nobody has anything to do in the pause that comes first.
        at = draw.uniform(seconds * 0.08, seconds * 0.8)
        works += [_draw_one(draw, at) for _ in range(min(draw.randint(1, 40), number - len(works)))]
    works.sort(key=lambda work: work.at)
    for n, work in enumerate(works):
        work.task = work.task.model_copy(update={"task_id": f"s{seed}-{n:04}"})
    return works


# What a task does, and how often it is drawn.
_JOBS = {"short": 46, "rest": 16, "long": 1, "fails": 8, "never": 2, "talk": 8, "stream": 6, "block": 5, "cancel": 8}


def _draw_one(draw: random.Random, at: float) -> Work:
    kind = draw.choices(list(_JOBS), list(_JOBS.values()))[0]
    if kind == "fails":
        return Work(at, _task(kind, "fail", times=draw.randint(1, 3)))
    if kind == "never":
        return Work(at, _task(kind, "fail", times=1000, max_retries=1), ("failed",))
    if kind in {"talk", "stream"}:
        words = draw.choice([20, 100, 400] if kind == "talk" else [5, 40])
        return Work(at, _task(kind, kind, words=words, seconds=draw.uniform(0.1, 2)))
    if kind == "block":
        return Work(at, _task(kind, "block", seconds=draw.uniform(0.1, 1.5)))
    lasts = {"short": (0, 0), "rest": (0.2, 3), "long": (4, 8), "cancel": (0.5, 4)}[kind]
    task = _task(kind, "rest", seconds=draw.uniform(*lasts))
    if kind == "cancel":
        return Work(at, task, ("completed", "cancelled"), cancel_at=at + draw.uniform(0, 3))
    return Work(at, task)


def _task(kind: str, job: str, *, max_retries: int | None = None, **metadata: Any) -> TaskPayload:
    config = {"runtime": "callable", "target": f"tests.integration.noted_jobs:{job}", "name": kind}
    return TaskPayload(agent_config=config, metadata=metadata, max_retries=max_retries)


def bursts(works: Sequence[Work]) -> list[tuple[float, list[Work]]]:
    """Return works that are submitted together, in order."""
    found: dict[float, list[Work]] = {}
    for work in works:
        found.setdefault(work.at, []).append(work)
    return sorted(found.items())
