"""TaskBroker: the queue. With ``scripts/*.lua`` the only place that knows how tasks wait, move and end.

Every change of a task's state is one script, fenced by the claim it is made under: (entry id, delivery count,
consumer).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from redis.exceptions import NoScriptError, ResponseError

from orbiter.distributed import calls, keys, metrics
from orbiter.distributed.claims import UNREAD, Batch, Begun, CancelOutcome, Claim, Entry, Outcome, Started
from orbiter.distributed.connected import Connected
from orbiter.distributed.deadlines import Deadlines, Limit
from orbiter.distributed.lua import EVENT_TTL, TASK_TTL, script
from orbiter.distributed.models import DEFAULT_QUEUE, PayloadTooLargeError, TaskPayload
from orbiter.distributed.settings import payload_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

T = TypeVar("T")

SUBMIT_BATCH = 500
SUBMIT_BYTES = 4_000_000


_PREFIXES = (keys.TASK_PREFIX, keys.STREAM_PREFIX, keys.EVENTS_PREFIX)

_FIRST_RUN = Started("run", 1, 1, 0)


def _entry(entry_id: str, fields: Sequence[str]) -> Entry:
    return Entry(entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))


def _begun(row: Any) -> Begun:
    return _entry(row[0], row[1]), Started(*row[2:])


def entries_of(reply: Any) -> list[Entry]:
    """Read entries as a script returns them."""
    return [_entry(*row) for row in reply if row[1]]


class TaskBroker(Connected):
    """Submits, claims and settles tasks on one queue.

    Args:
        redis_url: Where Redis is.
        queue_name: The stream.
        max_retries: Runs repeated after an error.
        max_crashes: Runs repeated after a lost worker.
        max_payload_bytes: Largest task accepted; ``ORBITER_MAX_PAYLOAD_BYTES`` or 1 MB unless given.
        task_ttl: Seconds for which the record of a task that has ended is kept.
        event_ttl: Seconds for which a task's events are kept.
        patience: Seconds that a step may take, or ``None``: a connection that died without a word must not hold a
            worker up.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queue_name: str = DEFAULT_QUEUE,
        max_retries: int = 3,
        max_crashes: int = 3,
        max_payload_bytes: int | None = None,
        task_ttl: int = TASK_TTL,
        event_ttl: int = EVENT_TTL,
        patience: float | None = None,
        client: Redis | None = None,
    ) -> None:
        super().__init__(redis_url, client=client)
        self.queue_name = queue_name
        self.max_retries = max_retries
        self.max_crashes = max_crashes
        self.max_payload_bytes = payload_limit() if max_payload_bytes is None else max_payload_bytes
        self.event_ttl = event_ttl
        self._kept = {"task_ttl": task_ttl, "event_ttl": event_ttl}
        self.group = keys.group(queue_name)
        self.dead = keys.tagged(queue_name, "dead")
        self._parking = keys.tagged(queue_name, "delayed"), keys.tagged(queue_name, "parked")
        self._patience = patience
        self._deadlines = Deadlines()
        self._scripts: dict[str, AsyncScript] = {}

    async def connect(self) -> None:
        """Connect and make sure that the queue and its group exist."""
        await super().connect()
        await self.ensure_group()

    async def disconnect(self) -> None:
        """Close the connection, if it is our own."""
        await super().disconnect()
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
        await self._submit([(task, self._checked(task))])
        return task.task_id

    async def submit_many(self, tasks: Iterable[TaskPayload]) -> list[str]:
        """Put tasks on the queue, a few hundred a round trip; return their ids in order.

        Raises:
            PayloadTooLargeError: One of them is; none has been submitted then.
        """
        ready = [(task, self._checked(task)) for task in tasks]
        batch, size = [], 0
        for task, text in ready:
            batch.append((task, text))
            size += len(text)
            if len(batch) == SUBMIT_BATCH or size > SUBMIT_BYTES:
                await self._submit(batch)
                batch, size = [], 0
        if batch:
            await self._submit(batch)
        return [task.task_id for task, _ in ready]

    async def _submit(self, tasks: Sequence[tuple[TaskPayload, str]]) -> None:
        names = [self.queue_name, *self._parking, keys.INDEX, keys.BY_TIME]
        args: list[str | int] = []
        agents = []
        for task, text in tasks:
            names.append(keys.task(task.task_id))
            agents.append(task.agent_name)
            due = "" if task.not_before is None else math.ceil(task.not_before * 1000)
            args += (task.task_id, text, agents[-1], str(task.created_at), due)
        self._submitted(agents[: await self.call("submit", names, args)])

    def _submitted(self, agents: Iterable[str]) -> None:
        """Count tasks that were not known before, by agent."""
        for agent, count in Counter(agents).items():
            metrics.record_task_submitted(task_id="", queue_name=self.queue_name, agent_name=agent, count=count)

    def _checked(self, task: TaskPayload) -> str:
        text = task.to_json()
        if len(text) > self.max_payload_bytes:
            raise PayloadTooLargeError(
                f"task {task.task_id}: {len(text)} bytes as JSON are more than {self.max_payload_bytes};"
                " put large input elsewhere and name it, or raise ORBITER_MAX_PAYLOAD_BYTES here and for the workers"
            )
        return text

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task wherever it is: at once where it waits, through its worker where it runs."""
        said = await self.call(
            "cancel",
            [*self._parking, keys.task(task_id), keys.stream(task_id)],
            [task_id, keys.events(task_id), keys.cancel(task_id)],
        )
        return self._cancelled(task_id, said)

    def _cancelled(self, task_id: str, said: str) -> CancelOutcome:
        """Count what was cancelled here; what runs is counted where it ends."""
        if said == CancelOutcome.CANCELLED:
            metrics.record_task_cancelled(task_id=task_id, worker_id="", queue_name=self.queue_name)
        return CancelOutcome(said)

    # -- for workers: claiming -----------------------------------------------------------------------------------

    async def fetch(self, consumer: str, count: int, *, client: Redis | None = None) -> list[Begun]:
        """Promote what is due, claim up to ``count`` waiting entries without waiting, start what can be started."""
        return (await self.turn(consumer, (), count, client=client))[1]

    async def fetch_blocking(
        self, client: Redis, consumer: str, count: int, *, wait: float, since: str, held: int
    ) -> list[Begun]:
        """Wait up to ``wait`` seconds, on a connection of the caller's, to claim and start up to ``count`` tasks.

        Args:
            client: The connection.
            consumer: The consumer.
            count: How many at most.
            wait: How long.
            since: Id of an entry that was delivered before all that this can claim.
            held: How many claims the consumer has besides, at most.
        """
        read = ("XREADGROUP", "GROUP", self.group, consumer, "COUNT", count, "BLOCK", int(wait * 1000), "STREAMS")
        names = [self.queue_name]
        args: list[str | int] = [self.group, consumer, keys.TASK_PREFIX, since, count + held, self.max_payload_bytes]
        given = self._script("given")
        # The server comes to the second command when the first has ended: what was read has started when we hear of it.
        reply, rows = await calls.ask(client, (*read, self.queue_name, ">"), calls.words(given, names, args))
        for said in (reply, rows):
            if isinstance(said, ResponseError) and not isinstance(said, NoScriptError):
                raise said
        if isinstance(rows, NoScriptError):
            rows = await self.call("given", names, args, client)
        started = set(rows)
        # By RESP3 a map, by RESP2 pairs; nothing where the wait was in vain.
        streams = reply.items() if isinstance(reply, dict) else reply or ()
        return [
            (_entry(*row), _FIRST_RUN if row[0] in started else UNREAD) for _, entries in streams for row in entries
        ]

    async def recover(
        self, consumer: str, count: int, *, running: Collection[str], given_up: Collection[str], reborn: bool
    ) -> list[Entry]:
        """Return up to ``count`` entries that are pending on this consumer, but do not run.

        Args:
            consumer: The consumer.
            count: How many at most.
            running: Ids of entries that run.
            given_up: Ids of entries that ran, and were given up as lost.
            reborn: Whether an earlier process of this name may have run them.
        """
        mine = json.dumps({"running": list(running), "given_up": list(given_up), "reborn": reborn})
        return entries_of(await self.call("recover", [self.queue_name], [self.group, consumer, count, mine]))

    async def start(self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]]) -> list[Started]:
        """Start claimed tasks, one call for all of them."""
        names = [self.queue_name, self.dead, keys.INDEX, keys.BY_TIME]
        args: list[str | int] = [self.group, consumer, self.max_crashes]
        for entry, task in claimed:
            names += (keys.task(task.task_id), keys.stream(task.task_id))
            args += (entry.entry_id, task.task_id, task.agent_name, str(task.created_at), keys.events(task.task_id))
        return [Started(*row) for row in await self.call("start", names, args)]

    # -- for workers: settling -----------------------------------------------------------------------------------

    async def say(self, batches: Sequence[Batch]) -> None:
        """Add events to their tasks' streams and announce them, one call for all."""
        names: list[str] = []
        args: list[str | int] = []
        for batch in batches:
            names += (keys.stream(batch.task_id), keys.task(batch.task_id))
            args += (keys.events(batch.task_id), batch.attempt, batch.seq, len(batch.events), *batch.events)
        await self.call("events", names, args)

    async def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> list[str]:
        """Record outcomes, one call for all; return what stands for each: a status, or ``lost``."""
        return (await self.turn(consumer, outcomes, 0))[0]

    async def turn(
        self, consumer: str, outcomes: Sequence[Outcome], count: int, *, client: Redis | None = None
    ) -> tuple[list[str], list[Begun]]:
        """Record outcomes, then claim and start up to ``count`` waiting tasks, all in one call.

        Returns:
            What stands for each outcome, a status or ``lost``; and what was claimed.
        """
        args: list[str | int] = [self.group, consumer, *_PREFIXES, count, self.max_crashes, self.max_payload_bytes]
        for outcome in outcomes:
            claim = outcome.claim
            args += (
                *(claim.entry_id, claim.deliveries, claim.task.task_id, outcome.status, outcome.value),
                *(outcome.error_type, f"{claim.attempt}-{outcome.seq}!", outcome.event),
            )
        recorded, begun = await self.call("turn", [self.queue_name, *self._parking, self.dead], args, client)
        return recorded, [_begun(row) for row in begun]

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return ``retrying``, ``cancelled`` or ``lost``."""
        task_id = claim.task.task_id
        said = await self.call(
            "retry",
            [self.queue_name, *self._parking, keys.task(task_id), keys.stream(task_id)],
            [
                *(self.group, consumer, claim.entry_id, claim.deliveries, task_id),
                *(int(delay * 1000), error, error_type, keys.events(task_id)),
            ],
        )
        return cast("str", said)

    async def hand_back(self, consumer: str, claim: Claim) -> str:
        """Give a started task back, free of charge; return ``pending``, ``cancelled`` or ``lost``."""
        task_id = claim.task.task_id
        said = await self.call(
            "hand_back",
            [self.queue_name, keys.task(task_id), keys.stream(task_id)],
            [self.group, consumer, claim.entry_id, claim.deliveries, task_id, keys.events(task_id), "1"],
        )
        return cast("str", said)

    async def transfer(self, consumer: str, claim: Claim, workflow_id: str) -> str:
        """Let go of a task that Temporal has accepted: it is Temporal's from now on."""
        task_id = claim.task.task_id
        await self.call("temporal_own", [keys.task(task_id)], [workflow_id])
        # An entry that is another's by now is left to that one, who finds whose the task is.
        row = (claim.entry_id, claim.deliveries, "drop", task_id, "", "", 0)
        await self.call("cluster_ack", [self.queue_name, self.dead, *self._parking], [self.group, consumer, *row])
        return "transferred"

    async def hand_back_unread(self, consumer: str, entry: Entry) -> None:
        """Give back an entry that was claimed but not started."""
        await self.call("hand_back", [self.queue_name, "", ""], [self.group, consumer, entry.entry_id, "", "", "", "0"])

    async def bury(self, consumer: str, entry: Entry, reason: str) -> None:
        """Move an entry that names no task to the dead letters."""
        await self.call("bury", [self.queue_name, self.dead], [self.group, consumer, entry.entry_id, reason])

    # -- for workers: staying alive ------------------------------------------------------------------------------

    async def renew(self, client: Redis, consumer: str, claims: Sequence[Claim]) -> list[str]:
        """Renew leases on a connection of the caller's; say ``ok``, ``lost`` or ``cancel`` for each."""
        ids = [claim.task.task_id for claim in claims]
        names = [self.queue_name, *(name for task_id in ids for name in (keys.task(task_id), keys.stream(task_id)))]
        args = [part for claim in claims for part in (claim.entry_id, claim.deliveries)]
        return cast("list[str]", await self.call("renew", names, [self.group, consumer, *args], client))

    async def beat(self, client: Redis, worker_id: str, ttl: int, fields: Mapping[str, str]) -> str | None:
        """Publish a worker's heartbeat; return what somebody wants it to do: ``drain``, ``quiet`` or ``resume``."""
        pairs = [part for pair in fields.items() for part in pair]
        said = await self.call("beat", [keys.worker(worker_id), keys.FLEET], [worker_id, ttl, *pairs], client)
        return cast("str | None", said)

    async def leave(self, worker_id: str) -> None:
        """Take a worker that stops in order off the listings, and its empty consumer off the group."""
        await self.call("leave", [self.queue_name, keys.worker(worker_id), keys.FLEET], [self.group, worker_id])

    async def reader_id(self, reader: Redis) -> int:
        """Return the id of a reader's connection, for :meth:`unblock`."""
        return cast("int", await self.within(reader.client_id()))

    async def unblock(self, reader_id: int) -> None:
        """End a blocking read, without losing what it was given."""
        await self.within(self.client.client_unblock(reader_id))

    # -- scripts -------------------------------------------------------------------------------------------------

    def _script(self, name: str) -> AsyncScript:
        if name not in self._scripts:
            self._scripts[name] = script(self.client, name, **self._kept)
        return self._scripts[name]

    async def call(
        self, name: str, names: Sequence[str], args: Sequence[str | bytes | int], client: Redis | None = None
    ) -> Any:
        """Run a script, within the broker's patience."""
        reply = self._run(self._script(name), names, args, client)
        return await (reply if self._patience is None else self.within(reply))

    def _run(
        self, script: AsyncScript, names: Sequence[str], args: Sequence[str | bytes | int], client: Redis | None
    ) -> Awaitable[Any]:
        return calls.run(client or self.client, script, names, args)

    async def within(self, reply: Awaitable[T]) -> T:
        """Await a reply of Redis, within the broker's patience."""
        if self._patience is None:
            return await reply
        with Limit(self._deadlines, self._patience):
            return await reply
