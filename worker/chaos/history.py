"""What is known of a run once it is over, from outside the code that is judged by it. Times are monotonic seconds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Submitted:
    """A task that producers wanted.

    Attributes:
        kind: What it is like.
        ends: The statuses in which it may end.
        guilty: Whether it does harm to its process.
        began: When it was first sent.
        accepted: When a submit first said that it was accepted; ``None`` where none did.
        not_before: The moment before which it must not run, 0 where there is none.
        cancel_asked: When somebody wanted it cancelled.
    """

    kind: str
    ends: list[str]
    guilty: bool = False
    began: float = 0.0
    accepted: float | None = None
    not_before: float = 0.0
    cancel_asked: float | None = None


@dataclass
class Run:
    """One run of a task, as it noted itself in a file of its process.

    Attributes:
        how: ``ends``, ``raises``, ``stopped``, or ``no end``.
        alive_until: When its process was last seen alive; ``None`` where it was to the end.
    """

    task: str
    attempt: int
    worker: str
    pid: int
    began: float
    ended: float | None = None
    how: str = "no end"
    alive_until: float | None = None

    @property
    def until(self) -> float:
        """When it was over at the latest; a process that was never seen to die did not."""
        if self.ended is not None:
            return self.ended
        return self.alive_until if self.alive_until is not None else float("inf")


@dataclass
class Record:
    """What Redis keeps of a task in the end.

    Attributes:
        said_by: Attempt and worker that its result names.
        held: Whether the queue holds it: an entry, or a place among the delayed ones.
        first_end: The status in which it was first seen to have ended.
    """

    status: str
    attempt: int = 0
    retries: int = 0
    losses: int = 0
    crashes: int = 0
    handoffs: int = 0
    worker: str = ""
    error_type: str = ""
    error: str = ""
    said_by: list[Any] = field(default_factory=list)
    held: bool = False
    first_end: str = ""

    @property
    def ended(self) -> bool:
        """Whether it has ended for good."""
        return self.status in {"completed", "failed", "cancelled"}


@dataclass
class Claim:
    """A claim as the pending list showed it, looked at again and again.

    Attributes:
        first: When it was first renewed, or made.
        renewed: When it was last renewed.
    """

    entry: str
    deliveries: int
    worker: str
    first: float
    renewed: float


@dataclass
class Happened:
    """A fault, or what else was done."""

    kind: str
    at: float
    until: float
    worker: str = ""
    text: str = ""


@dataclass
class Reader:
    """Somebody who read a task's events.

    Attributes:
        how: ``final``, ``no final event``, ``raised …`` or ``hung``.
    """

    task: str
    began: float
    ended: float | None = None
    how: str = "hung"


@dataclass
class Event:
    """An event on a task's stream."""

    attempt: int
    seq: int
    kind: str
    final: bool = False
    status: str = ""


@dataclass
class Exit:
    """A worker that exited.

    Attributes:
        asked: Which signals it had been sent.
    """

    worker: str
    at: float
    code: int
    asked: list[str] = field(default_factory=list)


@dataclass
class Sample:
    """What the fleet takes, at a moment: memory (bytes), descriptors, connections, consumers, keys.

    Attributes:
        workers: Memory of each worker's own process.
        children: Memory of each of their executor processes.
    """

    at: float
    workers: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    descriptors: int = 0
    connections: int = 0
    consumers: int = 0
    keys: int = 0


@dataclass
class History:
    """A run.

    Attributes:
        lease: Seconds.
        began: When the first task was submitted.
        over: When the last fault was.
        healed: When nothing was left to do; ``None`` where that was not reached.
        claims: Of each task, in order.
        leftovers: What stood in Redis in the end that should not.
        topology: Which kind of :mod:`chaos.topology` there was.
    """

    seed: int
    duration: float
    lease: float
    began: float = 0.0
    over: float = 0.0
    healed: float | None = None
    submitted: dict[str, Submitted] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    claims: dict[str, list[Claim]] = field(default_factory=dict)
    faults: list[Happened] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    topology: str = "single"

    def to_json(self) -> str:
        """Return all of it, to be looked at, or judged again."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        lists = {"runs": Run, "faults": Happened, "readers": Reader, "exits": Exit, "samples": Sample}
        data |= {name: [kind(**row) for row in data[name]] for name, kind in lists.items()}
        data["submitted"] = {task: Submitted(**row) for task, row in data["submitted"].items()}
        data["records"] = {task: Record(**row) for task, row in data["records"].items()}
        for name, kind in {"events": Event, "claims": Claim}.items():
            data[name] = {task: [kind(**row) for row in rows] for task, rows in data[name].items()}
        return cls(**data)
