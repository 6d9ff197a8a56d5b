"""ClusterBroker: the queue's steps where a task's keys and the queue's lie in different slots of a cluster.

What is one script elsewhere is a row of steps here, each on one key (or on the queue's keys, which share a slot), each
harmless when sent again. The outcome comes first, guarded by the fence that the start left in the task's record; then
the final event; the acknowledgement comes last. Whoever dies in between leaves the entry, and whoever claims that next
finds from the record what is still to be done.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import NoScriptError

from orbiter.distributed import faults, keys
from orbiter.distributed.broker import TaskBroker, entries_of
from orbiter.distributed.claims import UNREAD, CancelOutcome, Entry, Started
from orbiter.distributed.redis_url import check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

    from orbiter.distributed.claims import Batch, Begun, Claim, Outcome
    from orbiter.distributed.models import TaskPayload

# What a task's final event calls its status.
_SAID = {"completed": "completed", "failed": "error", "cancelled": "cancelled"}


def broker_for(redis_url: str, **options: Any) -> TaskBroker:
    """Return the broker that this Redis needs.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    kind = ClusterBroker if check(redis_url).kind == "cluster" else TaskBroker
    return kind(redis_url, **options)


class ClusterBroker(TaskBroker):
    """A :class:`TaskBroker` for a cluster."""

    # -- for clients ---------------------------------------------------------------------------------------------

    async def _submit(self, tasks: Sequence[tuple[TaskPayload, str]]) -> None:
        dues = [None if task.not_before is None else math.ceil(task.not_before * 1000) for task, _ in tasks]
        recorded = await self._each(
            "cluster_submit",
            [
                (
                    [keys.task(task.task_id)],
                    [task.task_id, self.queue_name, task.agent_name, str(task.created_at), due or ""],
                )
                for (task, _), due in zip(tasks, dues, strict=True)
            ],
        )
        new = [(*row, due, now) for row, due, now in zip(tasks, dues, recorded, strict=True) if now is not None]
        if not new:
            return
        await self._index({task.task_id: int(now) for task, _, _, now in new})
        faults.reach("between submit steps")
        await self._each(
            "cluster_enqueue",
            [
                (
                    [self.queue_name, *self._parking, keys.tagged(self.queue_name, f"new:{task.task_id}")],
                    [task.task_id, text, due or ""],
                )
                for task, text, due, _ in new
            ],
        )
        async with self.client.pipeline(transaction=False) as pipeline:
            for task, *_ in new:
                pipeline.hdel(keys.task(task.task_id), "submitting")
            await self.within(pipeline.execute())
        self._submitted(task.agent_name for task, *_ in new)

    async def _index(self, created: Mapping[str, int]) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.sadd(keys.INDEX, *created)
            pipeline.zadd(keys.BY_TIME, dict(created), nx=True)
            await self.within(pipeline.execute())

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task wherever it is: at once where it waits, through its worker where it runs."""
        said, status, queue = await self.call("cluster_cancel", [keys.task(task_id)], [task_id, keys.cancel(task_id)])
        if status == "cancelled":
            # Also where that was recorded before: whoever did it may not have come this far.
            await self._end(task_id, status, "")
            queue = queue or self.queue_name
            parking = [keys.tagged(queue, "delayed"), keys.tagged(queue, "parked")]
            await self.call("cluster_unpark", parking, [task_id])
        return self._cancelled(task_id, said)

    # -- for workers: claiming -----------------------------------------------------------------------------------

    async def fetch(self, consumer: str, count: int, *, client: Redis | None = None) -> list[Begun]:
        """Promote what is due and claim up to ``count`` waiting entries without waiting; nothing is started yet."""
        names = [self.queue_name, *self._parking]
        reply = await self.call("cluster_fetch", names, [self.group, consumer, count], client)
        return [_read(entry) for entry in entries_of(reply)]

    async def fetch_blocking(
        self,
        client: Redis,
        consumer: str,
        count: int,
        *,
        wait: float,
        since: str,  # noqa: ARG002 - nothing is started yet
        held: int,  # noqa: ARG002
    ) -> list[Begun]:
        """Claim up to ``count`` entries on a connection of the caller's, waiting up to ``wait`` seconds."""
        reply: Any = await client.xreadgroup(
            self.group, consumer, {self.queue_name: ">"}, count=count, block=int(wait * 1000)
        )
        return [_read(Entry(entry_id, fields)) for _, rows in reply or () for entry_id, fields in rows]

    async def start(self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]]) -> list[Started]:
        """Start claimed tasks; end those which have ended already, or lost too many workers."""
        counts = await self._owned(consumer, [(entry.entry_id, "") for entry, _ in claimed])
        ours = [(entry, task, count) for (entry, task), count in zip(claimed, counts, strict=True) if count]
        rows = await self._each(
            "cluster_start",
            [
                (
                    [keys.task(task.task_id)],
                    [
                        *(entry.entry_id, count, consumer, self.max_crashes),
                        *(task.task_id, self.queue_name, task.agent_name, str(task.created_at)),
                    ],
                )
                for entry, task, count in ours
            ],
        )
        # Put there by a 0.1 client, which writes no record, or the record has expired.
        if unknown := {task.task_id for (_, task, _), row in zip(ours, rows, strict=True) if row[6]}:
            seconds, micros = await self.within(self.client.time())
            await self._index(dict.fromkeys(unknown, seconds * 1000 + micros // 1000))
        started: dict[str, Started] = {}
        acks: list[list[str | int]] = []
        for (entry, task, count), (verdict, attempt, retries, status, error, error_type, _) in zip(
            ours, rows, strict=True
        ):
            if verdict == "over":
                await self._end(task.task_id, status, error)
                failed = status == "failed"
                what = "bury" if failed else "drop"
                acks.append([entry.entry_id, count, what, task.task_id, error, error_type, 0])
                started[entry.entry_id] = Started("dead" if failed else "drop", count, 0, 0)
            elif verdict == "elsewhere":
                acks.append([entry.entry_id, count, "drop", task.task_id, "", "", 0])
                started[entry.entry_id] = Started("drop", count, 0, 0)
            else:
                started[entry.entry_id] = Started(verdict, count, attempt, retries)
        await self._ack(consumer, acks)
        return [started.get(entry.entry_id, Started("drop", 0, 0, 0)) for entry, _ in claimed]

    # -- for workers: settling -----------------------------------------------------------------------------------

    async def say(self, batches: Sequence[Batch]) -> None:
        """Add events to their tasks' streams and announce them, except those of runs that are over."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for batch in batches:
                pipeline.hmget(keys.task(batch.task_id), "attempt", "status")
            known = await self.within(pipeline.execute())
        await self._each(
            "cluster_events",
            [
                (
                    [keys.stream(batch.task_id)],
                    [keys.events(batch.task_id), batch.attempt, batch.seq, "", *batch.events],
                )
                for batch, (attempt, status) in zip(batches, known, strict=True)
                if attempt == str(batch.attempt) and status not in _SAID
            ],
        )

    async def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> list[str]:
        """Record outcomes, end their events, acknowledge; return what stands for each: a status, or ``lost``."""
        recorded: list[str] = await self._each(
            "cluster_settle",
            [
                (
                    [keys.task(outcome.claim.task.task_id)],
                    [_fence(consumer, outcome.claim), outcome.status, *_fields(outcome)],
                )
                for outcome in outcomes
            ],
        )
        faults.reach("between finish steps")
        stands = [pair for pair in zip(outcomes, recorded, strict=True) if pair[1] in _SAID]
        await self._each(
            "cluster_events",
            [
                (
                    [keys.stream(outcome.claim.task.task_id)],
                    [keys.events(outcome.claim.task.task_id), outcome.claim.attempt, outcome.seq, "!", outcome.event],
                )
                for outcome, status in stands
                if status == outcome.status
            ],
        )
        for outcome, status in stands:
            if status != outcome.status:
                await self._end(outcome.claim.task.task_id, status, "")
        faults.reach("between event and ack")
        await self._ack(
            consumer,
            [
                [
                    *(outcome.claim.entry_id, outcome.claim.deliveries, "bury" if status == "failed" else "drop"),
                    *(outcome.claim.task.task_id, outcome.value, outcome.error_type, 0),
                ]
                for outcome, status in stands
            ],
        )
        return [status if status in _SAID else "lost" for status in recorded]

    async def turn(
        self,
        consumer: str,
        outcomes: Sequence[Outcome],
        count: int,  # noqa: ARG002 - what waits is claimed in another step
        *,
        client: Redis | None = None,  # noqa: ARG002
    ) -> tuple[list[str], list[Begun]]:
        """Record outcomes; claim nothing."""
        return await self.finish(consumer, outcomes), []

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return ``retrying``, ``cancelled`` or ``lost``."""
        seconds, micros = await self.within(self.client.time())
        due = f"{seconds + micros / 1e6 + delay:.3f}"
        fields = ["error", error, "error_type", error_type, "next_attempt_at", due]
        return await self._again(consumer, claim, "retrying", fields, int(delay * 1000))

    async def hand_back(self, consumer: str, claim: Claim) -> str:
        """Give a started task back, free of charge; return ``pending``, ``cancelled`` or ``lost``."""
        return await self._again(consumer, claim, "pending", [], 0)

    async def _again(self, consumer: str, claim: Claim, status: str, fields: list[str], delay: int) -> str:
        task_id = claim.task.task_id
        said: str = await self.call("cluster_settle", [keys.task(task_id)], [_fence(consumer, claim), status, *fields])
        if said not in {status, *_SAID}:
            return "lost"
        faults.reach("between finish steps")
        if said in _SAID:
            await self._end(task_id, said, "")
        what = "again" if said == status else "drop"
        await self._ack(consumer, [[claim.entry_id, claim.deliveries, what, task_id, "", "", delay]])
        return said

    async def hand_back_unread(self, consumer: str, entry: Entry) -> None:
        """Give back an entry that was claimed but not started."""
        await self._ack(consumer, [[entry.entry_id, "", "again", "", "", "", 0]])

    # -- for workers: staying alive ------------------------------------------------------------------------------

    async def renew(self, client: Redis, consumer: str, claims: Sequence[Claim]) -> list[str]:
        """Renew leases on a connection of the caller's; say ``ok``, ``lost`` or ``cancel`` for each."""
        rows = [(claim.entry_id, claim.deliveries) for claim in claims]
        counts = await self._owned(consumer, rows, client=client)
        async with client.pipeline(transaction=False) as pipeline:
            for claim in claims:
                pipeline.hmget(keys.task(claim.task.task_id), "status", "cancel_requested_at")
            known = await self.within(pipeline.execute())
        async with client.pipeline(transaction=False) as pipeline:
            for claim in claims:
                pipeline.expire(keys.task(claim.task.task_id), 86400)
                pipeline.expire(keys.stream(claim.task.task_id), self.event_ttl)
            await self.within(pipeline.execute())
        return [
            "lost" if not count else "cancel" if asked or status == "cancelled" else "ok"
            for count, (status, asked) in zip(counts, known, strict=True)
        ]

    async def beat(self, client: Redis, worker_id: str, ttl: int, fields: Mapping[str, str]) -> str | None:
        """Publish a worker's heartbeat; return what somebody wants it to do: ``drain``, ``quiet`` or ``resume``."""
        pairs = [part for pair in fields.items() for part in pair]
        now, *wanted = await self.call("cluster_beat", [keys.worker(worker_id)], [ttl, *pairs], client)
        async with client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(keys.FLEET, {worker_id: now})
            pipeline.expire(keys.FLEET, 86400)
            await self.within(pipeline.execute())
        return cast("str | None", wanted[0] if wanted else None)

    async def leave(self, worker_id: str) -> None:
        """Take a worker that stops in order off the listings, and its empty consumer off the group."""
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.delete(keys.worker(worker_id))
            pipeline.zrem(keys.FLEET, worker_id)
            await self.within(pipeline.execute())
        await self.call("cluster_leave", [self.queue_name], [self.group, worker_id])

    async def reader_id(self, reader: Redis) -> int:
        """Return the id of a reader's connection to the node that holds the queue."""
        return cast("int", await self._at_queue(reader, "CLIENT ID"))

    async def unblock(self, reader_id: int) -> None:
        """End a blocking read, without losing what it was given."""
        await self._at_queue(self.client, "CLIENT UNBLOCK", reader_id)

    def _run(
        self, script: AsyncScript, names: Sequence[str], args: Sequence[str | bytes | int], client: Redis | None
    ) -> Awaitable[Any]:
        return script(keys=names, args=args, client=client)

    # -- steps ---------------------------------------------------------------------------------------------------

    async def _at_queue(self, client: Any, *command: str | int) -> Any:
        await self.within(client.initialize())
        node = client.get_node_from_key(self.queue_name)
        return await self.within(client.execute_command(*command, target_nodes=node))

    async def _owned(
        self, consumer: str, rows: Sequence[tuple[str, str | int]], *, client: Redis | None = None
    ) -> list[int]:
        """Return the delivery count of each claim, 0 where it is not ours; with a client, renew them as well."""
        args = [self.group, consumer, "" if client is None else "1", *(part for row in rows for part in row)]
        return cast("list[int]", await self.call("cluster_owned", [self.queue_name], args, client))

    async def _end(self, task_id: str, status: str, error: str) -> None:
        """End a task's events, unless they have ended."""
        message = error or (f"Task {task_id} cancelled" if status == "cancelled" else "")
        await self.call("cluster_end", [keys.stream(task_id)], [keys.events(task_id), _SAID[status], message])

    async def _ack(self, consumer: str, rows: Sequence[Sequence[str | int]]) -> None:
        if rows:
            names = [self.queue_name, self.dead, *self._parking]
            await self.call("cluster_ack", names, [self.group, consumer, *(part for row in rows for part in row)])

    async def _each(self, name: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        """Run a script once for each row of keys and arguments, a round trip to each node in all."""
        if not calls:
            return []
        script = self._script(name)
        for last in (False, True):
            async with self.client.pipeline(transaction=False) as pipeline:
                for names, args in calls:
                    pipeline.execute_command("EVALSHA", script.sha, len(names), *names, *args)
                try:
                    return cast("list[Any]", await self.within(pipeline.execute()))
                except NoScriptError:
                    if last:
                        raise
            # A node that has just become master knows no scripts. Those calls that were done are harmless to repeat.
            await self.within(self.client.script_load(script.script))
        raise AssertionError("unreachable")


def _read(entry: Entry) -> Begun:
    return entry, UNREAD


def _fence(consumer: str, claim: Claim) -> str:
    return f"{claim.entry_id} {claim.deliveries} {consumer}"


def _fields(outcome: Outcome) -> list[str]:
    if outcome.status == "failed":
        return ["error", outcome.value, "error_type", outcome.error_type]
    return ["result", outcome.value] if outcome.status == "completed" else []
