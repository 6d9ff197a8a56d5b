"""TaskBroker: the queue. With ``calls`` and ``lua`` the only place that knows how tasks wait, move and end.

Every change of a task's state is one script, fenced by the claim it is made under: (entry id, delivery count,
consumer).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from orbiter.distributed.broker.calls import Call, core, temporal
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.loading import Missing, keep_client_scripts, load_client_scripts, refused
from orbiter.distributed.broker.rates import Counts
from orbiter.distributed.broker.records import EVENT_STATUS, FIRST_RUN, UNREAD, CancelOutcome
from orbiter.distributed.broker.scripts import script
from orbiter.distributed.connection import fast_path
from orbiter.distributed.connection.connected import Connected
from orbiter.distributed.connection.deadlines import Deadlines, Limit
from orbiter.distributed.limits import EVENT_TTL, STREAM_EVENTS, TASK_TTL, payload_limit
from orbiter.distributed.models import DEFAULT_QUEUE, PayloadTooLargeError, TaskPayload
from orbiter.distributed.names import DEFAULT_NAMESPACE, check_queue_name, check_task_id
from orbiter.distributed.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

    from orbiter.distributed.broker.records import (
        Batch,
        Claim,
        Delivery,
        Entry,
        Lost,
        Mended,
        Outcome,
        Renewal,
        StartResult,
    )

T = TypeVar("T")

SUBMIT_BATCH = 500
SUBMIT_BYTES = 4_000_000
RELIST_KEYS = 1000
MOVE_ENTRIES = 500
MOVE_BYTES = 4_000_000
MOVE_STEPS = 100
# Types of the keys beside the queue. Those that tell whose turn it is have a time to live that any worker shortens.
_BESIDE = {
    "delayed": "zset",
    "parked": "hash",
    "dead": "stream",
    "moving": "stream",
    "reconcile": "hash",
    "missing": "hash",
    "id": "string",
    # Last: what was moved aside since somebody reported it.
    "broken": "hash",
}


class TaskBroker(Connected):
    """Submits, claims and settles tasks on one queue.

    Args:
        redis_url: Where Redis is.
        queue_name: The stream. Where the namespace is not the default one, it begins with that, given or not.
        namespace: The first word of all keys and channels.
        max_retries: Runs repeated after an error.
        max_crashes: Crashes that a task is allowed; of all losses, two more.
        max_payload_bytes: Largest task accepted; ``ORBITER_MAX_PAYLOAD_BYTES`` or 1 MB unless given.
        task_ttl: Seconds for which the record of a task that has ended is kept.
        event_ttl: Seconds for which a task's events are kept.
        stream_events: How many events a task's stream keeps, the newest.
        patience: Seconds that a step may take, or ``None``: a connection that died without a word must not hold a
            worker up.
        client: A client to share; without one, :meth:`connect` makes one of its own.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        queue_name: str = DEFAULT_QUEUE,
        namespace: str = DEFAULT_NAMESPACE,
        max_retries: int = 3,
        max_crashes: int = 3,
        max_payload_bytes: int | None = None,
        task_ttl: int = TASK_TTL,
        event_ttl: int = EVENT_TTL,
        stream_events: int = STREAM_EVENTS,
        patience: float | None = None,
        client: Redis | None = None,
    ) -> None:
        super().__init__(redis_url, client=client)
        self.keys = Keys(namespace).of_queue(queue_name)
        self.queue_name = self.keys.stream
        self.max_retries = max_retries
        self.max_crashes = max_crashes
        self.max_payload_bytes = payload_limit() if max_payload_bytes is None else max_payload_bytes
        self.event_ttl = event_ttl
        self._kept = {"task_ttl": task_ttl, "event_ttl": event_ttl, "stream_events": stream_events}
        self.group = self.keys.group
        self._lists = {self.keys.index, self.keys.by_time, self.keys.ended}
        self._patience = patience
        self._deadlines = Deadlines()
        self._scripts: dict[str, AsyncScript] = {}

    async def connect(self) -> None:
        """Connect. The queue's group is made by workers: clients have no right to, and need none to submit.

        Raises:
            InvalidNameError: No worker can read a queue of this name.
        """
        check_queue_name(self.queue_name, self.keys.namespace)
        await super().connect()

    async def disconnect(self) -> None:
        """Close the connection, if it is our own."""
        await super().disconnect()
        self._scripts.clear()

    async def ensure_group(self) -> None:
        """Create the queue and its consumer group where they are missing.

        Raises:
            RedisError: The queue's key is of another type, or Redis cannot be reached.
        """
        try:
            await self.client.xgroup_create(self.queue_name, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    # -- for clients ---------------------------------------------------------------------------------------------

    async def submit(self, task: TaskPayload) -> str:
        """Put a task on the queue and return its id. An id that is known already is left as it is.

        Raises:
            InvalidNameError: No worker can read a queue of this name.
            PayloadTooLargeError: The task is too large.
        """
        await self._submit([(task, self._checked(task))])
        return task.task_id

    async def submit_many(self, tasks: Iterable[TaskPayload]) -> list[str]:
        """Put tasks on the queue, a few hundred a round trip; return their ids in order.

        Raises:
            InvalidNameError: No worker can read a queue of this name.
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
        agents = [task.agent_name for task, _ in tasks]
        new = await self.run(core.submit(self.keys, tasks, agents))
        # Few are known before, if any: which ones they are makes no difference to the counts by agent.
        self._submitted(agents[:new])

    def _submitted(self, agents: Iterable[str]) -> None:
        """Count tasks that were not known before, by agent."""
        for agent, count in Counter(agents).items():
            metrics.record_task_submitted(task_id="", queue_name=self.queue_name, agent_name=agent, count=count)

    def _checked(self, task: TaskPayload) -> str:
        check_queue_name(self.queue_name, self.keys.namespace)
        text = task.to_json()
        if len(text) > self.max_payload_bytes:
            raise PayloadTooLargeError(
                f"task {task.task_id}: {len(text)} bytes as JSON are more than {self.max_payload_bytes};"
                " put large input elsewhere and name it, or raise ORBITER_MAX_PAYLOAD_BYTES here and for the workers"
            )
        return text

    async def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task wherever it is: at once where it waits, through its worker where it runs.

        Raises:
            InvalidNameError: No task can have this id.
        """
        check_task_id(task_id)
        return self._cancelled(task_id, await self.run(core.cancel(self.keys, task_id)))

    def _cancelled(self, task_id: str, outcome: CancelOutcome) -> CancelOutcome:
        """Count what was cancelled here; what runs is counted where it ends."""
        if outcome is CancelOutcome.CANCELLED:
            metrics.record_task_cancelled(task_id=task_id, worker_id="", queue_name=self.queue_name)
        return outcome

    # -- for workers: claiming -----------------------------------------------------------------------------------

    async def fetch(self, consumer: str, count: int, *, client: Redis | None = None) -> list[Delivery]:
        """Promote what is due, claim up to ``count`` waiting entries without waiting, start what can be started."""
        return (await self.settle_and_claim(consumer, (), count, client=client))[1]

    async def fetch_blocking(
        self, client: Redis, consumer: str, count: int, *, wait: float, since: str, held: int
    ) -> list[Delivery]:
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
        call = core.start_new(self.keys, consumer, since=since, count=count + held, max_bytes=self.max_payload_bytes)
        start = fast_path.words(self._script(call.script), call.keys, call.args)
        # The server comes to the second command when the first has ended: what was read has started when we hear of it.
        reply, rows = await fast_path.ask(client, (*read, self.queue_name, ">"), start)
        for answer in (reply, rows):
            if isinstance(answer, ResponseError) and not isinstance(answer, NoScriptError):
                raise answer
        started = await self.run(call, client) if isinstance(rows, NoScriptError) else call.read(rows)
        # By RESP3 a map, by RESP2 pairs; nothing where the wait was in vain.
        streams = reply.items() if isinstance(reply, dict) else reply or ()
        return [
            (core.entry(*row), FIRST_RUN if row[0] in started else UNREAD) for _, entries in streams for row in entries
        ]

    async def recover(
        self, consumer: str, count: int, *, running: Collection[str], given_up: Mapping[str, int], born: float
    ) -> list[Entry]:
        """Return up to ``count`` entries that are pending on this consumer, but do not run.

        A call that arrives late, or twice, changes nothing about what was recovered meanwhile.

        Args:
            consumer: The consumer.
            count: How many at most.
            running: Ids of entries that run.
            given_up: Of entries that ran, and were given up as lost: the delivery counts of their claims, by entry id.
            born: When this process began to claim, epoch seconds of Redis' clock (:meth:`now`): what was delivered
                before, an earlier process of this name may have run.
        """
        call = core.recover(self.keys, consumer, count, running=running, given_up=given_up, born=born)
        return await self.run(call)

    async def now(self) -> float:
        """Return the time by Redis' clock, epoch seconds."""
        seconds, micros = await self.within(self.client.time())
        return float(seconds + micros / 1e6)

    async def start(
        self, consumer: str, claimed: Sequence[tuple[Entry, TaskPayload]], *, alive: Collection[str] = ()
    ) -> list[StartResult]:
        """Start claimed tasks, one call for all of them; of workers ``alive`` no run was lost by a crash."""
        return await self.run(core.start(self.keys, consumer, claimed, max_crashes=self.max_crashes, alive=alive))

    # -- for workers: settling -----------------------------------------------------------------------------------

    async def append_events(self, batches: Sequence[Batch]) -> None:
        """Add events to their tasks' streams and publish them, one call for all."""
        await self.run(core.append_events(self.keys, batches))

    async def finish(self, consumer: str, outcomes: Sequence[Outcome]) -> list[str]:
        """Record outcomes, one call for all; return what stands for each: a status, or ``lost``."""
        return (await self.settle_and_claim(consumer, outcomes, 0))[0]

    async def settle_and_claim(
        self, consumer: str, outcomes: Sequence[Outcome], count: int, *, client: Redis | None = None
    ) -> tuple[list[str], list[Delivery]]:
        """Record outcomes, then claim and start up to ``count`` waiting tasks, all in one call.

        Returns:
            What stands for each outcome, a status or ``lost``; and what was claimed.
        """
        limits = {"max_crashes": self.max_crashes, "max_bytes": self.max_payload_bytes}
        return await self.run(core.settle_and_claim(self.keys, consumer, outcomes, count, **limits), client)

    async def retry(self, consumer: str, claim: Claim, *, delay: float, error: str, error_type: str) -> str:
        """Let the task run again in ``delay`` seconds; return ``retrying``, ``cancelled`` or ``lost``."""
        why: Any = {"delay": delay, "error": error, "error_type": error_type}
        return await self._settle(claim, lambda payload: core.retry(self.keys, consumer, claim, payload, **why))

    async def requeue(self, consumer: str, claim: Claim) -> str:
        """Requeue a started task, free of charge; return ``pending``, ``cancelled`` or ``lost``."""
        return await self._settle(claim, lambda payload: core.requeue(self.keys, consumer, claim, payload))

    async def _settle(self, claim: Claim, call: Callable[[str], Call[Any]]) -> str:
        """Run a call that may need the payload, which it asks for where the entry is gone."""
        stands: str = await self.run(call(""))
        if stands == "gone" and claim.payload:
            stands = await self.run(call(claim.payload))
        return "lost" if stands == "gone" else stands

    async def lose(self, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool, host: bool) -> str:
        """Settle a run whose process died, while this worker lives on.

        Args:
            consumer: The worker.
            claim: What ran, and whether it ran alone.
            reason: What the process died of, in words.
            error_type: Class name of the error by which the task fails, if it does.
            guilty: Whether the task is to blame, if it ran alone.
            host: Whether the host is to blame: the task is requeued then, and nothing is counted.

        Returns:
            ``pending`` (it runs again, alone if the host is not to blame); ``failed`` (it has lost too many runs);
            ``cancelled``; or ``lost``.
        """
        if host:
            return await self.requeue(consumer, claim)
        return await self._lose(consumer, claim, reason=reason, error_type=error_type, guilty=guilty)

    async def _lose(self, consumer: str, claim: Claim, *, reason: str, error_type: str, guilty: bool) -> str:
        why: Any = {"reason": reason, "error_type": error_type, "guilty": guilty, "max_crashes": self.max_crashes}
        return await self._settle(claim, lambda payload: core.lose(self.keys, consumer, claim, payload, **why))

    async def note_waiting(self, consumer: str, claim: Claim, *, waits: bool) -> None:
        """Note that a started task has to wait before it runs alone: should the worker be lost, it is not to blame."""
        await self.run(core.note_waiting(self.keys, consumer, claim, waits=waits))

    async def requeue_unread(self, consumer: str, entry: Entry) -> None:
        """Requeue an entry that was claimed but not started."""
        await self.run(core.requeue_unread(self.keys, consumer, entry.entry_id))

    async def delegate(self, consumer: str, claim: Claim, workflow_id: str) -> str:
        """Let go of a task that Temporal has accepted: it is Temporal's from now on."""
        await self.run(temporal.delegate(self.keys, claim.task.task_id, workflow_id))
        # An entry that is another's by now is left to that one, who finds whose the task is.
        row = core.Acknowledgement(claim.entry_id, claim.deliveries, "drop", claim.task.task_id)
        await self.run(core.acknowledge(self.keys, consumer, [row]))
        return "delegated"

    async def dead_letter(self, consumer: str, entry: Entry, reason: str) -> None:
        """Make a dead letter of a claimed entry that names no task."""
        await self.run(core.dead_letter(self.keys, consumer, entry.entry_id, reason))

    # -- for workers: staying alive ------------------------------------------------------------------------------

    async def renew(
        self, client: Redis, consumer: str, claims: Sequence[Claim], *, lease: float = 30.0
    ) -> list[Renewal]:
        """Renew leases of so many seconds on a connection of the caller's.

        Returns:
            ``ok``, ``lost`` or ``cancel`` for each.
        """
        return await self.run(core.renew(self.keys, consumer, claims, lease=lease), client)

    async def beat(
        self,
        client: Redis,
        worker_id: str,
        ttl: int,
        fields: Mapping[str, str],
        *,
        life: str = "",
        replace: str = "",
        counts: Counts | None = None,
    ) -> str | None:
        """Write a worker's heartbeat; return the command that an operator left for it, if any.

        Args:
            client: A connection of the caller's.
            worker_id: The worker.
            ttl: Seconds for which the heartbeat stands.
            fields: What it says.
            life: Which process's time under this id it is.
            replace: Another life, known to be over, whose heartbeat may still stand.
            counts: What it counted since the heartbeat before.

        Raises:
            WorkerIdTakenError: The heartbeat of another life stands.
        """
        return await self._beat(
            client, core.Heartbeat(worker_id, ttl, life, replace or life, fields, counts or Counts())
        )

    async def _beat(self, client: Redis, beat: core.Heartbeat) -> str | None:
        return await self.run(core.heartbeat(self.keys, beat), client)

    async def deregister(self, worker_id: str, *, life: str = "", counts: Counts | None = None) -> None:
        """Take a worker that stops in order off the listings, and its empty consumer off the group.

        Args:
            worker_id: The worker.
            life: Which process's time under this id it is.
            counts: What it counted since its last heartbeat.
        """
        await self.run(core.deregister(self.keys, worker_id, life, counts or Counts()))

    def hang_up(self, reader: Any) -> None:
        """End the blocking read of a client's, without losing what was delivered to it."""
        reader.connection_pool.hang_up()

    # -- for workers: mending ------------------------------------------------------------------------------------

    async def mend(self) -> list[Mended]:
        """Put keys away that are of another type than they should be, and make the group where it is missing.

        Returns:
            What was put away.
        """
        beside = {self.keys.beside(name): kind for name, kind in _BESIDE.items()}
        calls = [core.mend({self.queue_name: "stream", **beside}, then="aside")]
        calls += [
            core.mend({self.keys.index: "set"}, then="remove"),
            core.mend({self.keys.by_time: "zset"}, then="remove"),
        ]
        mended = [row for call in calls for row in await self.run(call)]
        for name in (self.keys.ended, self.keys.tasks):
            # Only listings need these: the rights of an earlier release do not name them.
            with contextlib.suppress(NoPermissionError):
                rows: list[Mended] = await self.run(core.mend({name: "zset"}, then="remove"))
                mended += rows
        if any(key == self.queue_name for key, _ in mended):
            await self.ensure_group()
        return mended

    async def renew_stream(self) -> bool:
        """Make the queue a new stream where the old one can take no more; go on moving what waited on that.

        Returns:
            Whether that happened.
        """
        if await self.run(core.renew_stream(self.keys)) == "fine":
            return False
        for _ in range(MOVE_STEPS):
            if not await self._move(count=MOVE_ENTRIES, max_bytes=MOVE_BYTES):
                break
        return True

    async def _move(self, *, count: int, max_bytes: int) -> int:
        left, _ = await self.run(core.move_entries(self.keys, count=count, max_bytes=max_bytes, one_slot=True))
        return left

    async def keep_delayed(self, task_id: str, due: float) -> bool:
        """Give a delayed task that has lost its place a place again, due then (epoch seconds); tell if it was kept."""
        kept: int = await self.run(core.keep_delayed(self.keys, task_id, int(due * 1000)))
        return bool(kept)

    # -- for workers: reconciling --------------------------------------------------------------------------------

    async def relist(self, place: str) -> str:
        """List some records again that are on no list, as after somebody deleted the lists.

        Args:
            place: Where to go on: ``0`` and a cursor; empty to begin.

        Returns:
            Where to go on the next time.
        """
        cursor = int(place.partition(" ")[2] or 0)
        scan: Any = self.client.scan(cursor=cursor, match=f"{self.keys.task_prefix}*", count=RELIST_KEYS)
        cursor, names = await self.within(scan)
        await self._list(names)
        return f"0 {cursor}"

    async def _list(self, records: Sequence[str]) -> None:
        task_ids = [name.removeprefix(self.keys.task_prefix) for name in records if name not in self._lists]
        if not task_ids:
            return
        listed: list[float | None] = await self.within(self.client.zmscore(self.keys.by_time, list(task_ids)))
        missing = [task_id for task_id, score in zip(task_ids, listed, strict=True) if score is None]
        if missing:
            seconds, micros = await self.within(self.client.time())
            await self._index(dict.fromkeys(missing, seconds * 1000 + micros // 1000), ours=False)

    async def _index(self, created: Mapping[str, int], *, ours: bool = True) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            pipeline.sadd(self.keys.index, *created)
            pipeline.zadd(self.keys.by_time, dict(created), nx=True)
            if ours:
                pipeline.zadd(self.keys.tasks, dict(created), nx=True)
            replies = await self.within(pipeline.execute(raise_on_error=False))
        # Only listings need the third: the rights of an earlier release do not name it.
        for reply in replies[:2]:
            if isinstance(reply, Exception):
                raise reply

    async def end_lost(self, lost: Lost) -> str:
        """End a task that the queue does not hold any more; return the status that stands, or an empty text.

        Nothing happens where its record has changed, or the queue holds it after all.
        """
        return await self.run(core.end_lost(self.keys, lost))

    async def end_events(self, task_id: str, status: str, error: str) -> None:
        """End the events of a task that has ended, unless they have."""
        message = error or (f"Task {task_id} cancelled" if status == "cancelled" else "")
        await self.run(core.end_events(self.keys, task_id, EVENT_STATUS[status], message))

    # -- scripts -------------------------------------------------------------------------------------------------

    async def run(self, call: Call[T], client: Redis | None = None) -> T:
        """Run a call of a script, within the broker's patience; on a connection of the caller's where one is named."""
        reply = self._send(call, client)
        try:
            return call.read(await (reply if self._patience is None else self.within(reply)))
        except NoPermissionError as error:
            raise refused(error) from error

    def _send(self, call: Call[Any], client: Redis | None) -> Awaitable[Any]:
        return fast_path.run(client or self.client, self._script(call.script), call.keys, call.args, Missing)

    async def keep_client_scripts(self) -> None:
        """Load what clients run whenever Redis has lost it, until cancelled: their users may load no scripts."""
        await keep_client_scripts(lambda: self.within(load_client_scripts(self.client)))

    def _script(self, name: str) -> AsyncScript:
        if name not in self._scripts:
            self._scripts[name] = script(self.client, name, **self._kept)
        return self._scripts[name]

    async def within(self, reply: Awaitable[T]) -> T:
        """Await a reply of Redis, within the broker's patience."""
        if self._patience is None:
            return await reply
        with Limit(self._deadlines, self._patience):
            return await reply

    # -- for clients: tasks in batches of their own ----------------------------------------------------------------

    def checked(self, task: TaskPayload) -> str:
        """Return a task as JSON, as it may be put on the queue.

        Raises:
            InvalidPayloadError: It is not JSON.
            PayloadTooLargeError: It is too large.
        """
        return self._checked(task)

    async def submit_checked(self, tasks: Sequence[tuple[TaskPayload, str]]) -> None:
        """Put tasks on the queue, each with its JSON, in one round trip."""
        await self._submit(tasks)
