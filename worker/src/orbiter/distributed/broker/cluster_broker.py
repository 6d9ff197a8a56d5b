"""ClusterBroker: the queue's steps where a task's keys and the queue's lie in different slots of a cluster.

What is one script elsewhere is a row of steps here, each on one key (or on the queue's keys, which share a slot), each
harmless when sent again. The outcome comes first, guarded by the fence that the start left in the task's record; then
the final event; the acknowledgement comes last. Whoever dies in between leaves the entry, and whoever claims that next
finds from the record what is still to be done.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from redis.exceptions import NoScriptError, RedisError

from orbiter.distributed import failpoints
from orbiter.distributed.broker import loading
from orbiter.distributed.broker.calls import cluster, core
from orbiter.distributed.broker.records import EVENT_STATUS, UNREAD, CancelOutcome, Entry, StartResult, ended_score
from orbiter.distributed.broker.spoilt import readable
from orbiter.distributed.broker.task_broker import RELIST_KEYS, TaskBroker
from orbiter.distributed.connection.redis_url import check
from orbiter.distributed.limits import FLEET_TTL, TASK_TTL
from orbiter.distributed.names import check_task_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping, Sequence

    from redis.asyncio import Redis

    from orbiter.distributed.broker.calls import Call
    from orbiter.distributed.broker.rates import Counts
    from orbiter.distributed.broker.records import Batch, Claim, Delivery, Lost, Outcome, Renewal
    from orbiter.distributed.models import TaskPayload

T = TypeVar("T")

RELIST_STEPS = 10


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
        recorded = await self._run_each([cluster.submit(self.keys, task) for task, _ in tasks])
        new = [(*row, now) for row, now in zip(tasks, recorded, strict=True) if now is not None]
        if not new:
            return
        await self._index({task.task_id: now for task, _, now in new})
        failpoints.reach("between submit steps")
        entries = await self._run_each([cluster.enqueue(self.keys, task, text) for task, text, _ in new])
        await self._run_each(
            [core.note_entry(self.keys, task.task_id, entry) for (task, *_), entry in zip(new, entries, strict=True)]
        )
        self._submitted(task.agent_name for task, *_ in new)

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task wherever it is: at once where it waits, through its worker where it runs."""
        check_task_id(task_id)
        done = await self.run(cluster.cancel(self.keys, task_id))
        if done.status == "cancelled":
            # Also where that was recorded before: whoever did it may not have come this far.
            await self.end_events(task_id, done.status, "")
            await self.run(cluster.unpark(self.keys.of_queue(done.queue or self.queue_name), task_id))
        return self._cancelled(task_id, done.outcome)

    # -- for workers: claiming -----------------------------------------------------------------------------------

    async def fetch(self, consumer: str, count: int, *, client: Redis | None = None) -> list[Delivery]:
        """Promote what is due and claim up to ``count`` waiting entries without waiting; nothing is started yet."""
        return [_read(entry) for entry in await self.run(cluster.claim(self.keys, consumer, count), client)]

    async def fetch_blocking(
        self,
        client: Redis,
        consumer: str,
        count: int,
        *,
        wait: float,
        since: str,  # noqa: ARG002 - nothing is started yet
        held: int,  # noqa: ARG002
    ) -> list[Delivery]:
        """Claim up to ``count`` entries on a connection of the caller's, waiting up to ``wait`` seconds."""
        reply: Any = await client.xreadgroup(
            self.group, consumer, {self.queue_name: ">"}, count=count, block=int(wait * 1000)
        )
        return [_read(Entry(entry_id, fields)) for _, rows in reply or () for entry_id, fields in rows]

    async def start(
        self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]], *, alive: Collection[str] = ()
    ) -> list[StartResult]:
        """Start claimed tasks; end those which have ended already, or lost too many workers."""
        counts = await self.run(cluster.renew(self.keys, consumer, [(entry.entry_id, None) for entry, _ in claimed]))
        ours = [(entry, task, count) for (entry, task), count in zip(claimed, counts, strict=True) if count]
        rows = await self._run_each(
            [
                cluster.start(
                    self.keys, consumer, (entry.entry_id, count), task, max_crashes=self.max_crashes, alive=alive
                )
                for entry, task, count in ours
            ]
        )
        # Put there by a 0.1 client, which writes no record, or the record has expired.
        if unknown := {task.task_id for (_, task, _), row in zip(ours, rows, strict=True) if row.new}:
            await self._index(dict.fromkeys(unknown, int(await self.now() * 1000)))
        started: dict[str, StartResult] = {}
        acks: list[core.Acknowledgement] = []
        for (entry, task, count), row in zip(ours, rows, strict=True):
            if row.verdict == "over":
                await self.end_events(task.task_id, row.status, row.error)
                why = (task.task_id, row.error, row.error_type)
                acks.append(core.Acknowledgement(entry.entry_id, count, _then(row.status), *why))
                started[entry.entry_id] = StartResult("dead" if row.status == "failed" else "drop", count, 0, 0)
            elif row.verdict == "elsewhere":
                acks.append(core.Acknowledgement(entry.entry_id, count, "drop", task.task_id))
                started[entry.entry_id] = StartResult("drop", count, 0, 0)
            else:
                started[entry.entry_id] = StartResult("run", count, row.attempt, row.retries, row.alone)
        await self._ack(consumer, acks)
        return [started.get(entry.entry_id, StartResult("drop", 0, 0, 0)) for entry, _ in claimed]

    # -- for workers: settling -----------------------------------------------------------------------------------

    async def append_events(self, batches: Sequence[Batch]) -> None:
        """Add events to their tasks' streams and publish them, except those of runs that are over."""
        async with self.client.pipeline(transaction=False) as pipeline:
            for batch in batches:
                pipeline.hmget(self.keys.task(batch.task_id), "attempt", "status")
            known = readable(await self.within(pipeline.execute(raise_on_error=False)), [None] * 2)
        await self._run_each(
            [
                cluster.append_events(self.keys, batch)
                for batch, (attempt, status) in zip(batches, known, strict=True)
                if attempt == str(batch.attempt) and status not in EVENT_STATUS
            ]
        )

    async def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> list[str]:
        """Record outcomes, end their events, acknowledge; return what stands for each: a status, or ``lost``."""
        recorded = await self._run_each(
            [
                cluster.settle(self.keys, consumer, outcome.claim, outcome.status, _fields(outcome))
                for outcome in outcomes
            ]
        )
        failpoints.reach("between finish steps")
        stands = [pair for pair in zip(outcomes, recorded, strict=True) if pair[1] in EVENT_STATUS]
        await self._run_each(
            [cluster.append_final_event(self.keys, outcome) for outcome, status in stands if status == outcome.status]
        )
        await self._list_ended({outcome.claim.task.task_id: status for outcome, status in stands})
        for outcome, status in stands:
            if status != outcome.status:
                await self.end_events(outcome.claim.task.task_id, status, "")
        failpoints.reach("between event and ack")
        await self._ack(
            consumer,
            [
                core.Acknowledgement(
                    outcome.claim.entry_id,
                    outcome.claim.deliveries,
                    _then(status),
                    task_id=outcome.claim.task.task_id,
                    reason=outcome.value,
                    error_type=outcome.error_type,
                )
                for outcome, status in stands
            ],
        )
        return [status if status in EVENT_STATUS else "lost" for status in recorded]

    async def settle_and_claim(
        self,
        consumer: str,
        outcomes: Sequence[Outcome],
        count: int,  # noqa: ARG002 - what waits is claimed in another step
        *,
        client: Redis | None = None,  # noqa: ARG002
    ) -> tuple[list[str], list[Delivery]]:
        """Record outcomes; claim nothing."""
        return await self.finish(consumer, outcomes), []

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return ``retrying``, ``cancelled`` or ``lost``."""
        due = f"{await self.now() + delay:.3f}"
        fields = ["error", error, "error_type", error_type, "next_attempt_at", due]
        return await self._reschedule(consumer, claim, "retrying", fields, int(delay * 1000))

    async def requeue(self, consumer: str, claim: Claim) -> str:
        """Requeue a started task, free of charge; return ``pending``, ``cancelled`` or ``lost``."""
        return await self._reschedule(consumer, claim, "pending", [], 0)

    async def _reschedule(self, consumer: str, claim: Claim, status: str, fields: list[str], delay_ms: int) -> str:
        stands = await self.run(cluster.settle(self.keys, consumer, claim, status, fields))
        if stands not in {status, *EVENT_STATUS}:
            return "lost"
        failpoints.reach("between finish steps")
        task_id = claim.task.task_id
        if stands in EVENT_STATUS:
            await self.end_events(task_id, stands, "")
        then: Literal["requeue", "drop"] = "requeue" if stands == status else "drop"
        row = core.Acknowledgement(claim.entry_id, claim.deliveries, then, task_id, delay_ms=delay_ms)
        await self._ack(consumer, [row])
        if then == "requeue":
            await self._put_back(claim, delay_ms)
        return stands

    async def _put_back(self, claim: Claim, delay_ms: int) -> None:
        """Put a task that runs again on the queue by the payload that is kept here, where its entry had gone before."""
        if not claim.payload:
            return
        task_id = claim.task.task_id
        if await self.within(self.client.hget(self.keys.task(task_id), "held_until")) is None:
            return
        due = int(await self.now() * 1000) + delay_ms if delay_ms else ""
        entry = await self.run(cluster.enqueue_again(self.keys, claim, due))
        await self.run(core.note_entry(self.keys, task_id, entry))

    async def _lose(self, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool) -> str:
        why = {"reason": reason, "error_type": error_type}
        run = await self.run(
            cluster.lose(self.keys, consumer, claim, **why, guilty=guilty, max_crashes=self.max_crashes)
        )
        stands = run.status
        if stands not in {"pending", *EVENT_STATUS}:
            return "lost"
        failpoints.reach("between finish steps")
        task_id = claim.task.task_id
        if stands in EVENT_STATUS:
            await self.end_events(task_id, stands, run.error)
        then = "requeue" if stands == "pending" else _then(stands)
        row = core.Acknowledgement(claim.entry_id, claim.deliveries, then, task_id, run.error, run.error_type)
        await self._ack(consumer, [row])
        if then == "requeue":
            await self._put_back(claim, 0)
        return stands

    async def requeue_unread(self, consumer: str, entry: Entry) -> None:
        """Requeue an entry that was claimed but not started."""
        await self._ack(consumer, [core.Acknowledgement(entry.entry_id, None, "requeue")])

    # -- for workers: staying alive ------------------------------------------------------------------------------

    async def renew(
        self, client: Redis, consumer: str, claims: Sequence[Claim], *, lease: float = 30.0
    ) -> list[Renewal]:
        """Renew leases on a connection of the caller's; return ``ok``, ``lost`` or ``cancel`` for each."""
        rows = [(claim.entry_id, claim.deliveries) for claim in claims]
        counts = await self.run(cluster.renew(self.keys, consumer, rows), client)
        async with client.pipeline(transaction=False) as pipeline:
            for claim in claims:
                pipeline.hmget(self.keys.task(claim.task.task_id), "status", "cancel_requested_at", "fence")
            known = readable(await self.within(pipeline.execute(raise_on_error=False)), [None] * 3)
        held_until = int(await self.now() * 1000 + lease * 2000) if -1 in counts else 0
        verdicts: list[Renewal] = []
        async with client.pipeline(transaction=False) as pipeline:
            for claim, count, (status, asked, fence) in zip(claims, counts, known, strict=True):
                task = self.keys.task(claim.task.task_id)
                ours = f"{claim.entry_id} {claim.deliveries} {consumer}"
                # Its entry is gone: from now on the record alone says that this worker runs it, and for how long.
                alone = count == -1 and (status, fence) == ("running", ours)
                if alone:
                    pipeline.hset(task, "held_until", str(held_until))
                pipeline.expire(task, TASK_TTL)
                pipeline.expire(self.keys.event_stream(claim.task.task_id), self.event_ttl)
                lost = count <= 0 and not alone
                verdicts.append("lost" if lost else "cancel" if asked or status == "cancelled" else "ok")
            await self.within(pipeline.execute(raise_on_error=False))
        return verdicts

    async def _beat(self, client: Redis, beat: core.Heartbeat) -> str | None:
        now, command = await self.run(cluster.heartbeat(self.keys, beat), client)
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(self.keys.fleet, {beat.worker_id: now})
            pipeline.expire(self.keys.fleet, FLEET_TTL)
            await self.within(pipeline.execute())
        # The heartbeat stands, and the command was taken: neither depends on charts.
        with suppress(RedisError, OSError):
            await self.run(cluster.count(self.keys, beat.counts), client)
        return command

    async def deregister(self, worker_id: str, *, life: str = "", counts: Counts | None = None) -> None:
        """Take a worker that stops in order off the listings, and its empty consumer off the group."""
        # One step after the other: a life that begins between the two beats again.
        if await self.within(self.client.hget(self.keys.worker(worker_id), "life")) not in {None, life}:
            return
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.delete(self.keys.worker(worker_id))
            pipeline.zrem(self.keys.fleet, worker_id)
            await self.within(pipeline.execute())
        if counts is not None and (counts.text() or counts.used()):
            await self.run(cluster.count(self.keys, counts))
        await self.run(cluster.deregister(self.keys, worker_id))

    def hang_up(self, reader: Any) -> None:
        """End the blocking read of a client's, without losing what was delivered to it."""
        reader.hang_up()

    async def _move(self, *, count: int, max_bytes: int) -> int:
        left, moved = await self.run(core.move_entries(self.keys, count=count, max_bytes=max_bytes, one_slot=False))
        await self._run_each([core.note_entry(self.keys, task_id, entry_id) for entry_id, task_id in moved])
        return left

    def _send(self, call: Call[Any], client: Redis | None) -> Awaitable[Any]:
        return loading.call(client or self.client, self._script(call.script), call.keys, call.args)

    # -- for workers: reconciling --------------------------------------------------------------------------------

    async def relist(self, place: str) -> str:
        """List some records again that are on no list: a node that failed over may have lost its lists only.

        Args:
            place: Where to go on: number of the node and cursor there; empty to begin.

        Returns:
            Where to go on the next time.
        """
        client: Any = self.client
        nodes = sorted(client.get_primaries(), key=lambda node: str(node.name))
        number, _, text = place.partition(" ")
        at, cursor, left = int(number or 0), int(text or 0), len(nodes)
        for _ in range(RELIST_STEPS):
            node = nodes[at % len(nodes)]
            scan = client.scan(cursor=cursor, match=f"{self.keys.task_prefix}*", count=RELIST_KEYS, target_nodes=node)
            cursors, names = await self.within(scan)
            await self._list(names)
            cursor = next(iter(cursors.values()))
            if cursor == 0:
                at, left = (at + 1) % len(nodes), left - 1
                if not left:
                    break
        return f"{at} {cursor}"

    async def end_lost(self, lost: Lost) -> str:
        """End a task that the queue does not hold any more; return the status that stands, or an empty text."""
        status = await self.run(cluster.end_lost(self.keys, lost))
        if status == "failed":
            await self.end_events(lost.task_id, status, lost.reason)
            letter = {"error_type": core.LOST, "payload": "", "attempt": lost.known["attempt"]}
            await self.run(core.dead_letter_once(self.keys, lost.task_id, reason=lost.reason, **letter))
        elif status == "cancelled":
            await self.end_events(lost.task_id, status, "")
        return status

    async def end_events(self, task_id: str, status: str, error: str) -> None:
        """End the events of a task that has ended, unless they have, and list it among those that ended so."""
        await super().end_events(task_id, status, error)
        await self._list_ended({task_id: status})

    async def _list_ended(self, ended: Mapping[str, str]) -> None:
        if not ended:
            return
        now = int(await self.now() * 1000)
        async with self.client.pipeline(transaction=False) as pipeline:
            for task_id, status in ended.items():
                pipeline.zadd(self.keys.ended, {task_id: ended_score(status, now)})
            # No outcome depends on it; whoever reconciles lists what is on no list.
            await self.within(pipeline.execute(raise_on_error=False))

    # -- steps ---------------------------------------------------------------------------------------------------

    async def _ack(self, consumer: str, rows: Sequence[core.Acknowledgement]) -> None:
        if rows:
            await self.run(core.acknowledge(self.keys, consumer, rows))

    async def _run_each(self, calls: Sequence[Call[T]]) -> list[T]:
        """Run calls of one script, a round trip to each node in all."""
        if not calls:
            return []
        script = self._script(calls[0].script)
        missing = loading.Missing(self.client, script)
        while True:
            async with self.client.pipeline(transaction=False) as pipeline:
                for call in calls:
                    pipeline.execute_command("EVALSHA", script.sha, len(call.keys), *call.keys, *call.args)
                try:
                    replies = await self.within(pipeline.execute())
                except NoScriptError:
                    pass
                else:
                    return [call.read(reply) for call, reply in zip(calls, replies, strict=True)]
            # A node that has just become master knows no scripts. Those calls that were done are harmless to repeat.
            await self.within(missing.load())


def _read(entry: Entry) -> Delivery:
    return entry, UNREAD


def _then(status: str) -> Literal["dead_letter", "drop"]:
    """Return what becomes of an entry whose task has ended with this status."""
    return "dead_letter" if status == "failed" else "drop"


def _fields(outcome: Outcome) -> list[str]:
    if outcome.status == "failed":
        return ["error", outcome.value, "error_type", outcome.error_type]
    return ["result", outcome.value] if outcome.status == "completed" else []
