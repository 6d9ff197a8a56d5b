"""TaskBroker: the queue. With ``scripts/*.lua`` the only place that knows how tasks wait, move and end.

Every change of a task's state is one script, fenced by the claim it is made under: (entry id, delivery count,
consumer).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import ResponseError

from orbiter.distributed import keys
from orbiter.distributed.models import DEFAULT_QUEUE, StatusEvent, TaskPayload
from orbiter.distributed.redis_url import connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

    from orbiter.distributed.settings import WorkerSettings

SUBMIT_BATCH = 500


class CancelOutcome(StrEnum):
    """What a request to cancel did."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    FINISHED = "finished"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One queue entry as delivered: its id and its fields, not yet known to be a task."""

    entry_id: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Started:
    """What :meth:`TaskBroker.start` said of one claim.

    Attributes:
        verdict: ``run``; ``drop`` (ended, cancelled or no longer ours); ``dead`` (lost too many workers).
        deliveries: Delivery count, part of the fence.
        attempt: Which run this is, from 1.
        retries: How many runs ended in an error before.
    """

    verdict: str
    deliveries: int
    attempt: int
    retries: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A started task that is ours while its lease lives."""

    entry_id: str
    task: TaskPayload
    deliveries: int
    attempt: int
    retries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended, ready to be recorded.

    Attributes:
        claim: The claim it ran under.
        status: ``completed``, ``failed`` or ``cancelled``.
        value: The result as JSON, or the error's text, or empty.
        error_type: Class name of the error, or empty.
        event: The final event as JSON.
    """

    claim: Claim
    status: str
    value: str
    error_type: str
    event: str


@cache
def _source(name: str) -> str:
    folder = files("orbiter.distributed") / "scripts"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    return "\n".join((shebang, (folder / "_lib.lua").read_text(), body))


def script(client: Redis, name: str) -> AsyncScript:
    """Return one of ``scripts/*.lua``, callable on this client."""
    return client.register_script(_source(name))


def _entries(reply: Any) -> list[Entry]:
    return [Entry(row[0], dict(zip(row[1][::2], row[1][1::2], strict=True))) for row in reply if row[1]]


class TaskBroker:
    """Submits, claims and settles tasks on one queue.

    Args:
        redis_url: Where Redis is.
        queue_name: The stream.
        max_retries: Runs repeated after an error.
        max_crashes: Runs repeated after a lost worker.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queue_name: str = DEFAULT_QUEUE,
        max_retries: int = 3,
        max_crashes: int = 3,
        client: Redis | None = None,
    ) -> None:
        self.redis_url = redis_url
        self.queue_name = queue_name
        self.max_retries = max_retries
        self.max_crashes = max_crashes
        self.group = keys.group(queue_name)
        self._shared = client
        self._client = client
        self._scripts: dict[str, AsyncScript] = {}

    @property
    def client(self) -> Redis:
        """The client in use.

        Raises:
            RuntimeError: :meth:`connect` has not been called.
        """
        if self._client is None:
            raise RuntimeError("TaskBroker is not connected. Call connect() first.")
        return self._client

    async def connect(self) -> None:
        """Connect and make sure that the queue and its group exist."""
        if self._client is None:
            self._client = connect(self.redis_url)
        await self.ensure_group()

    async def disconnect(self) -> None:
        """Close the connection, if it is our own."""
        if self._client is not None and self._shared is None:
            await self._client.aclose()
        self._client = self._shared
        self._scripts.clear()

    async def ensure_group(self) -> None:
        """Create the queue and its consumer group where they are missing."""
        try:
            await self.client.xgroup_create(self.queue_name, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    # -- for clients ---------------------------------------------------------------------------------------------

    async def submit(self, task: TaskPayload) -> str:
        """Put a task on the queue and return its id. An id that is known already is left as it is."""
        return (await self.submit_many([task]))[0]

    async def submit_many(self, tasks: Iterable[TaskPayload]) -> list[str]:
        """Put tasks on the queue, a few hundred a round trip; return their ids in order."""
        waiting, ids = list(tasks), []
        for at in range(0, len(waiting), SUBMIT_BATCH):
            async with self.client.pipeline(transaction=False) as pipeline:
                for task in waiting[at : at + SUBMIT_BATCH]:
                    await cast(
                        "Awaitable[Any]",
                        self._script("submit")(
                            keys=[self.queue_name, keys.task(task.task_id), keys.INDEX, keys.BY_TIME],
                            args=[task.task_id, task.to_json(), task.agent_name, str(task.created_at)],
                            client=pipeline,
                        ),
                    )
                    ids.append(task.task_id)
                await pipeline.execute()
        return ids

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task wherever it is: at once where it waits, through its worker where it runs."""
        said = await self._script("cancel")(
            keys=[*self._parking, keys.task(task_id), keys.stream(task_id)],
            args=[task_id, keys.events(task_id), keys.cancel(task_id)],
        )
        return CancelOutcome(said)

    # -- for workers ---------------------------------------------------------------------------------------------

    async def fetch(self, consumer: str, count: int) -> list[Entry]:
        """Promote what is due and claim up to ``count`` waiting entries, without waiting."""
        return _entries(
            await self._script("fetch")(
                keys=[self.queue_name, *self._parking],
                args=[self.group, consumer, count],
            )
        )

    async def fetch_blocking(self, client: Redis, consumer: str, count: int, *, wait: float) -> list[Entry]:
        """Claim up to ``count`` entries on a connection of the caller's, waiting up to ``wait`` seconds."""
        reply: Any = await client.xreadgroup(
            self.group, consumer, {self.queue_name: ">"}, count=count, block=int(wait * 1000)
        )
        return [Entry(entry_id, fields) for _, rows in reply or () for entry_id, fields in rows]

    async def reclaim(self, consumer: str, count: int, settings: WorkerSettings, *, interval: float) -> list[Entry]:
        """Claim up to ``count`` entries of workers that stopped renewing, if no other worker sweeps right now."""
        entries, _ = await self._script("reclaim")(
            keys=[self.queue_name, keys.tagged(self.queue_name, "sweep"), keys.FLEET],
            args=[
                self.group,
                consumer,
                count,
                settings.heartbeat_ttl * 1000,
                max(1, int(interval * 1000)),
                keys.WORKER_PREFIX,
            ],
        )
        return _entries(entries)

    async def start(self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]]) -> list[Started]:
        """Start claimed tasks, one call for all of them."""
        lost = StatusEvent(status="error", message="lost its worker too often", seq=1).to_json()
        names = [self.queue_name, keys.tagged(self.queue_name, "dead"), keys.INDEX, keys.BY_TIME]
        args: list[str | int] = [self.group, consumer, self.max_crashes]
        for entry, task in claimed:
            names += (keys.task(task.task_id), keys.stream(task.task_id))
            args += (entry.entry_id, task.task_id, task.agent_name, str(task.created_at))
            args += (keys.events(task.task_id), lost)
        return [Started(*row) for row in await self._script("start")(keys=names, args=args)]

    async def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> list[str]:
        """Record outcomes, one call for all; return what stands for each: a status, or ``lost``."""
        names = [self.queue_name, keys.tagged(self.queue_name, "dead")]
        args: list[str | int] = [self.group, consumer]
        for outcome in outcomes:
            claim, task_id = outcome.claim, outcome.claim.task.task_id
            names += (keys.task(task_id), keys.stream(task_id))
            args += (claim.entry_id, claim.deliveries, task_id, outcome.status)
            args += ("result" if outcome.status == "completed" else "error", outcome.value, outcome.error_type)
            args += (keys.events(task_id), outcome.event)
        return cast("list[str]", await self._script("finish")(keys=names, args=args))

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return ``retrying``, ``cancelled`` or ``lost``."""
        task_id = claim.task.task_id
        return cast(
            "str",
            await self._script("retry")(
                keys=[self.queue_name, *self._parking, keys.task(task_id), keys.stream(task_id)],
                args=[
                    self.group,
                    consumer,
                    claim.entry_id,
                    claim.deliveries,
                    task_id,
                    int(delay * 1000),
                    error,
                    error_type,
                    keys.events(task_id),
                ],
            ),
        )

    async def hand_back(self, consumer: str, claim: Claim) -> str:
        """Give a started task back, free of charge; return ``pending``, ``cancelled`` or ``lost``."""
        task_id = claim.task.task_id
        return cast(
            "str",
            await self._script("hand_back")(
                keys=[self.queue_name, keys.task(task_id), keys.stream(task_id)],
                args=[self.group, consumer, claim.entry_id, claim.deliveries, task_id, keys.events(task_id), "1"],
            ),
        )

    async def hand_back_unread(self, consumer: str, entry: Entry) -> None:
        """Give back an entry that was claimed but not started."""
        await self._script("hand_back")(
            keys=[self.queue_name, "", ""],
            args=[self.group, consumer, entry.entry_id, "", "", "", "0"],
        )

    async def bury(self, consumer: str, entry: Entry, reason: str) -> None:
        """Move an entry that names no task to the dead letters."""
        await self._script("bury")(
            keys=[self.queue_name, keys.tagged(self.queue_name, "dead")],
            args=[self.group, consumer, entry.entry_id, reason],
        )

    async def renew(self, client: Redis, consumer: str, claims: Sequence[Claim]) -> list[str]:
        """Renew leases on a connection of the caller's; say ``ok``, ``lost`` or ``cancel`` for each."""
        args: list[str | int] = [self.group, consumer]
        for claim in claims:
            args += (claim.entry_id, claim.deliveries)
        return cast(
            "list[str]",
            await self._script("renew")(
                keys=[self.queue_name, *(keys.task(claim.task.task_id) for claim in claims)], args=args, client=client
            ),
        )

    async def beat(self, client: Redis, worker_id: str, ttl: int, fields: Mapping[str, str]) -> None:
        """Publish a worker's heartbeat."""
        pairs = [part for pair in fields.items() for part in pair]
        await self._script("beat")(
            keys=[keys.worker(worker_id), keys.FLEET], args=[worker_id, ttl, *pairs], client=client
        )

    async def leave(self, worker_id: str) -> None:
        """Take a worker that stops in order off the listings, and its empty consumer off the group."""
        await self._script("leave")(
            keys=[self.queue_name, keys.worker(worker_id), keys.FLEET], args=[self.group, worker_id]
        )

    @property
    def _parking(self) -> tuple[str, str]:
        return keys.tagged(self.queue_name, "delayed"), keys.tagged(self.queue_name, "parked")

    def _script(self, name: str) -> AsyncScript:
        if name not in self._scripts:
            self._scripts[name] = script(self.client, name)
        return self._scripts[name]
