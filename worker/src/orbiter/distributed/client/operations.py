"""Operations: what an operator may do to a fleet, each written to the audit stream with who did it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from orbiter.distributed.broker.audit import Action, Audit
from orbiter.distributed.broker.cluster_broker import broker_for
from orbiter.distributed.broker.dead_letters import DeadLetterError
from orbiter.distributed.broker.records import CancelOutcome, Command
from orbiter.distributed.client.control import WorkerControl
from orbiter.distributed.connection.connected import redis_time
from orbiter.distributed.names import check_queue_name, check_task_id, check_worker_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orbiter.distributed.client.client import Client
    from orbiter.distributed.client.overview import Overview
    from orbiter.distributed.models import TaskPayload

logger = logging.getLogger(__name__)

# Tasks or dead letters that one bulk action is about.
MOST = 500
_CANCELLED = {
    CancelOutcome.CANCELLED: "cancelled",
    CancelOutcome.REQUESTED: "its worker has been asked to cancel it",
    CancelOutcome.FINISHED: "has already ended",
    CancelOutcome.UNKNOWN: "not found",
}


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action.

    Attributes:
        done: How many it was done to.
        refused: How many it was not done to.
        message: The same as a sentence, with the reason of the first refusal.
    """

    done: int
    refused: int
    message: str


class KnownTaskError(ValueError):
    """There is a task of this id already; nothing was submitted."""


class Operations:
    """Acts on a fleet.

    Args:
        client: The client that acts.
        overview: Where dead letters are found.
        who: Who asked for it.
        where: From which address.
    """

    def __init__(self, client: Client, overview: Overview, *, who: str, where: str) -> None:
        self._client = client
        self._overview = overview
        self._who, self._where = who, where
        self._audit = Audit(client.redis_url, namespace=client.namespace, client=client.redis)
        self._unwritten = ""

    async def steer(self, worker_id: str, command: Command) -> Done:
        """Send a worker a command, without waiting until it obeys.

        Raises:
            InvalidNameError: No worker can have this id.
        """
        control = WorkerControl(self._client.redis_url, namespace=self._client.namespace, client=self._client.redis)
        outcome = await control.send(check_worker_id(worker_id), command, wait=False)
        await self._note(command.value, worker_id, outcome.message)
        return Done(int(outcome.done), int(not outcome.done), outcome.message + self._unwritten)

    async def cancel(self, task_ids: Iterable[str]) -> Done:
        """Ask for the end of tasks.

        Raises:
            InvalidNameError: No task can have such an id.
        """
        done, refusals = 0, []
        for task_id in [check_task_id(task_id) for task_id in task_ids]:
            broker = broker_for(
                self._client.redis_url,
                queue_name=await self._queue_of(task_id),
                namespace=self._client.namespace,
                client=self._client.redis,
            )
            outcome = await broker.cancel(task_id)
            await self._note("cancel", task_id, _CANCELLED[outcome])
            if outcome in {CancelOutcome.CANCELLED, CancelOutcome.REQUESTED}:
                done += 1
            else:
                refusals.append(f"Task {task_id}: {_CANCELLED[outcome]}")
        return self._summary("asked to end", done, refusals)

    async def retry(self, task_ids: Iterable[str]) -> Done:
        """Run failed or cancelled tasks again.

        Raises:
            InvalidNameError: No task can have such an id.
        """
        done, refusals = 0, []
        queues: dict[str, list[str]] = {}
        for task_id in [check_task_id(task_id) for task_id in task_ids]:
            queues.setdefault(await self._queue_of(task_id), []).append(task_id)
        for queue, ids in queues.items():
            letters = self._overview.letters(queue)
            # Once for all of them: there may be many, and large ones.
            entries = await letters.entries(set(ids))
            for task_id in ids:
                try:
                    await letters.retry_task(task_id, entry_id=entries.get(task_id, ""))
                except DeadLetterError as error:
                    refusals.append(str(error))
                    await self._note("retry", task_id, str(error))
                else:
                    done += 1
                    await self._note("retry", task_id, "runs again")
        return self._summary("will run again", done, refusals)

    async def submit(self, task: TaskPayload, *, queue: str = "", like: str = "") -> Done:
        """Submit a task of its own.

        Args:
            task: The task.
            queue: Where it waits; the client's queue without it.
            like: The task that it was made from.

        Raises:
            KnownTaskError: There is a task of this id already.
            InvalidNameError: No queue can have this name.
            InvalidPayloadError: The task is not JSON, or too large.
        """
        name = check_queue_name(queue or self._client.queue, self._client.namespace)
        broker = broker_for(
            self._client.redis_url, queue_name=name, namespace=self._client.namespace, client=self._client.redis
        )
        task = task.model_copy(update={"created_at": await redis_time(self._client.redis)})
        await broker.submit(task)
        # The record tells, not the reply: a call whose reply was lost is repeated, and finds its own task.
        record = await self._client.status(task.task_id)
        if record is not None and record.created_at != task.created_at:
            await self._note("submit", task.task_id, "exists already")
            raise KnownTaskError(f"task_id: task {task.task_id} exists already ({record.status.value})")
        await self._note("submit", task.task_id, f"on queue {name}{f', like task {like}' if like else ''}")
        workers = await self._overview.workers()
        reads = any(worker.alive and worker.queue in {"", name} for worker in workers)
        message = f"Task {task.task_id} is on queue {name}{'' if reads else ', which no worker reads yet'}."
        return Done(1, 0, message + self._unwritten)

    async def retry_letters(self, entry_ids: Iterable[str], *, queue: str = "") -> Done:
        """Run the tasks of dead letters again.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        letters, done, refusals = self._overview.letters(queue), 0, []
        for entry_id in entry_ids:
            try:
                task_id = await letters.retry(await letters.get(entry_id))
            except DeadLetterError as error:
                refusals.append(str(error))
                await self._note("retry dead letter", entry_id, str(error))
            else:
                done += 1
                await self._note("retry dead letter", f"{entry_id} (task {task_id})", "runs again")
        return self._summary("will run again", done, refusals)

    async def drop_letters(self, entry_ids: Iterable[str], *, queue: str = "") -> Done:
        """Delete dead letters for good.

        Raises:
            InvalidNameError: No queue can have this name.
        """
        letters, done, refusals = self._overview.letters(queue), 0, []
        for entry_id in entry_ids:
            letter = await letters.at(entry_id)
            dropped = await letters.drop([entry_id]) if letter is not None else 0
            done += dropped
            if not dropped:
                refusals.append(f"Dead letter not found on queue {letters.queue_name}: {entry_id}")
            task = f" (task {letter.task_id})" if letter is not None else ""
            await self._note("drop dead letter", f"{entry_id}{task}", "dropped" if dropped else "not found")
        return self._summary("dropped", done, refusals)

    async def _queue_of(self, task_id: str) -> str:
        found = await self._client.status(task_id)
        return check_queue_name((found and found.queue) or self._client.queue, self._client.namespace)

    async def _note(self, what: str, target: str, outcome: str) -> None:
        try:
            await self._audit.append(Action(self._who, self._where, what, target, outcome))
        except RedisError as error:
            # It is done by now: who asked for it is told so, and what is left to do is done.
            logger.error("action not in the audit", extra={"what": what, "target": target, "error": str(error)})  # noqa: TRY400 - the reason is one line
            self._unwritten = f" The audit stream does not have all of it: {error}"

    def _summary(self, what: str, done: int, refusals: list[str]) -> Done:
        message = f"{done} {what}."
        if refusals:
            more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
            message += f" {len(refusals)} not: {refusals[0]}{more}"
        return Done(done, len(refusals), message + self._unwritten)
