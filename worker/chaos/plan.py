"""What a seed makes of a run: which tasks are submitted when, and which faults strike meanwhile."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

WORKERS = 4
# Workers that reach Redis through a proxy each; the others reach it directly.
PROXIED = 2
# Each with how often it is drawn, and between how many seconds it lasts.
FAULTS: dict[str, tuple[float, tuple[float, float]]] = {
    "kill worker": (4, (0, 0)),
    "end worker": (3, (0, 0)),
    "end worker twice": (2, (0, 0)),
    "end deaf worker": (1.5, (0, 0)),
    "freeze worker": (3, (0.5, 6)),
    "kill executor": (4, (0, 0)),
    "freeze executor": (3, (0.5, 9)),
    "freeze redis": (2, (0.3, 5)),
    "restart redis": (1.5, (0, 0)),
    "kill redis": (1.5, (0, 0)),
    "pause clients": (2, (0.3, 5)),
    "kill clients": (3, (0, 0)),
    "fill redis": (1.5, (0.5, 4)),
    "delay": (2, (1, 5)),
    "drop": (3, (1, 8)),
    "reset": (3, (0, 0)),
    "half-open": (3, (2, 10)),
    "shift clock": (3, (0, 0)),
    "roll worker": (4, (0, 0)),
    "kill master": (2, (0, 2)),
    "freeze master": (2, (0, 4)),
    "switch master": (2, (0, 0)),
    "temporal away": (3, (0.5, 8)),
}
# Of workers that are reached through a proxy.
OF_NETWORK = frozenset({"end deaf worker", "delay", "drop", "reset", "half-open"})
# One of these at a time.
OF_REDIS = frozenset({"freeze redis", "restart redis", "kill redis", "pause clients", "fill redis"})
# Of a master that has a replica. As replication is asynchronous they can cost what was acknowledged a moment before.
FAILOVERS = frozenset({"kill master", "freeze master", "switch master"})
# What strikes no single worker.
OF_ALL = OF_REDIS | FAILOVERS | {"kill clients", "temporal away"}
_OF_WORKERS = ("kill worker", "end worker", "end worker twice", "freeze worker", "kill executor", "freeze executor")
# Drawn where they are asked for: another release has to be named, and logs with wrong times are hard to read.
NAMED = ("shift clock", "roll worker")
BETWEEN_FAULTS = 2.0
TASKS_A_SECOND = 14.0


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        at: Seconds after the beginning.
        kind: One of :data:`FAULTS`.
        seconds: How long it lasts.
        worker: Whom it strikes, where it strikes one.
        draw: A fraction, for what is only known when it strikes: which connection, which process.
    """

    at: float
    kind: str
    seconds: float
    worker: int
    draw: float


@dataclass
class Work:
    """One task of a run.

    Attributes:
        at: Seconds after the beginning at which it is submitted.
        task_id: The task.
        kind: What it is like.
        job: The function of :mod:`chaos.jobs` that it runs.
        metadata: What that is told.
        ends: The statuses in which it may end.
        guilty: Whether it does harm to its process.
        times: How often it is submitted.
        cancel_after: Seconds after which somebody wants it cancelled.
        delay: Seconds before which it must not run.
        options: Fields of its payload.
        read: Whether somebody reads its events, from the beginning.
    """

    at: float
    task_id: str
    kind: str
    job: str
    metadata: dict[str, Any] = field(default_factory=dict)
    ends: tuple[str, ...] = ("completed",)
    guilty: bool = False
    times: int = 1
    cancel_after: float | None = None
    delay: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    read: bool = False


def drawn_in(topology: str) -> tuple[str, ...]:
    """Return the kinds of fault that are drawn in a topology unless others are named."""
    if topology in {"sentinel", "cluster"}:
        return (*_OF_WORKERS, "kill clients", *sorted(FAILOVERS))
    if topology == "temporal":
        return (*_OF_WORKERS, "kill clients", "reset", "restart redis", "temporal away")
    return tuple(kind for kind in FAULTS if kind not in {*NAMED, *FAILOVERS, "temporal away"})


def draw_faults(seed: int, seconds: float, kinds: Collection[str]) -> list[Fault]:
    """Return the faults of a run, in order: as many of some kinds as there would be of all."""
    known = [kind for kind in FAULTS if kind in kinds]
    if not known:
        return []
    draw = random.Random(f"faults {seed}")
    faults: list[Fault] = []
    at, redis_free = 1.0, 0.0
    while at < seconds - 0.5:
        kind = draw.choices(known, [FAULTS[kind][0] for kind in known])[0]
        # None outlives the run: what follows it is to heal.
        lasts = min(draw.uniform(*FAULTS[kind][1]), seconds - at)
        worker = draw.randrange(PROXIED if kind in OF_NETWORK else WORKERS)
        fault = Fault(at, kind, lasts, worker, draw.random())
        of_redis = kind in OF_REDIS | FAILOVERS
        if not of_redis or at > redis_free:
            faults.append(fault)
            if of_redis:
                # A master takes its time to be replaced, and to come back.
                redis_free = at + lasts + (10 if kind in FAILOVERS else 2)
        at += 0.2 + draw.expovariate(1 / BETWEEN_FAULTS)
    return faults


# What a task does, and how often it is drawn.
_KINDS = {
    "short": 50,
    "long": 12,
    "fails": 7,
    "fails for good": 1,
    "tool": 6,
    "cancelled": 6,
    "timed out": 2,
    "submitted twice": 6,
    "delayed": 5,
    "stream": 6,
    "segfault": 0.5,
    "memory": 0.15,
    "blocked loop": 0.25,
    "fork": 0.6,
}


def draw_work(seed: int, seconds: float, *, rate: float = TASKS_A_SECOND, poison: bool = True) -> list[Work]:
    """Return the tasks of a run in the order in which they are submitted: in bursts, over most of the time."""
    draw = random.Random(f"work {seed}")
    works: list[Work] = []
    number = int(rate * seconds)
    while len(works) < number:
        at = draw.uniform(0, seconds * 0.92)
        works += [_draw_one(draw, at) for _ in range(min(draw.randint(1, 12), number - len(works)))]
    works.sort(key=lambda work: work.at)
    for place, work in enumerate(works):
        work.task_id = f"c{seed}-{place:05}"
        # Readers know no difference between kinds, so one task in three is as good as another.
        work.read = place % 3 == 0
    return works if poison else [work for work in works if not work.guilty]


def _draw_one(draw: random.Random, at: float) -> Work:  # noqa: PLR0911 - one for each kind
    kind = draw.choices(list(_KINDS), list(_KINDS.values()))[0]
    match kind:
        case "fails":
            return Work(at, "", kind, "fail", {"times": draw.randint(1, 3)})
        case "fails for good":
            return Work(at, "", kind, "fail", {"times": 1000}, ("failed",), options={"max_retries": 1})
        case "tool":
            return Work(at, "", kind, "tool", {"calls": draw.randint(1, 5), "seconds": draw.uniform(0, 0.4)})
        case "stream":
            return Work(at, "", kind, "stream", {"words": draw.choice([5, 40, 150]), "seconds": draw.uniform(0.1, 2)})
        case "cancelled":
            work = Work(at, "", kind, "rest", {"seconds": draw.uniform(0.5, 3)}, ("completed", "cancelled"))
            work.cancel_after = draw.uniform(0, 3)
            return work
        case "timed out":
            options = {"max_retries": 0, "timeout_seconds": draw.uniform(0.5, 1.5)}
            return Work(at, "", kind, "rest", {"seconds": 60}, ("failed",), options=options)
        case "submitted twice":
            return Work(at, "", kind, "rest", {"seconds": draw.uniform(0, 0.5)}, times=2)
        case "delayed":
            return Work(at, "", kind, "rest", {"seconds": 0}, delay=draw.uniform(0.5, 6))
        case "segfault" | "memory" | "blocked loop":
            job = {"segfault": "segfault", "memory": "grow", "blocked loop": "block"}[kind]
            return Work(at, "", kind, job, ends=("failed",), guilty=True)
        case "fork":
            return Work(at, "", kind, "fork")
    return Work(at, "", kind, "rest", {"seconds": draw.uniform(1, 5) if kind == "long" else draw.uniform(0, 0.05)})
