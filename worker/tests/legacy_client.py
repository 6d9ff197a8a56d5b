"""A client and a worker of 0.1, as ``wire-format.md`` describes them: what they send, and all that they choke on.

Written from that description alone, with none of our package: whatever ours becomes, these stay what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

import redis.asyncio
from redis.exceptions import ResponseError

QUEUE = "orbiter:tasks"
GROUP = "orbiter:tasks:group"
STATUSES = {"pending", "running", "completed", "failed", "cancelled", "retrying"}
# The fields without a default, by type of event.
REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "text": {"text": str},
    "tool_call": {"tool_name": str, "tool_call_id": str},
    "step": {"step_number": int, "agent_name": str, "status": str, "started_at": (int, float)},
    "tool_result": {"tool_name": str, "tool_call_id": str},
    "reasoning": {"text": str},
    "error": {"error": str, "error_type": str},
    "status": {"status": str},
    "usage": {"usage": dict},
}
EVENT_STATUSES = {
    "status": {"starting", "running", "waiting_for_tool", "completed", "cancelled", "error"},
    "step": {"started", "completed"},
}


def read_event(text: str) -> dict[str, Any]:
    """Decode an event; an unknown type or status ends the subscriber with a ``ValueError``."""
    event: dict[str, Any] = json.loads(text)
    if event["type"] not in REQUIRED:
        raise ValueError(f"Unknown event type: {event['type']}")
    for name, kind in REQUIRED[event["type"]].items():
        if not isinstance(event.get(name), kind):
            raise ValueError(f"{event['type']}.{name}: {event.get(name)!r}")  # noqa: TRY004 - what pydantic raises
    if event["type"] in EVENT_STATUSES and event["status"] not in EVENT_STATUSES[event["type"]]:
        raise ValueError(f"{event['type']}.status: {event['status']!r}")
    return event


def read_task(fields: dict[str, str]) -> dict[str, Any]:
    """Decode a task hash; an unknown status, a number that is none or a result that is no object is an error."""
    present = {name: text for name, text in fields.items() if text}
    status = present.get("status", "pending")
    if status not in STATUSES:
        raise ValueError(f"{status!r} is not a valid TaskStatus")
    result = json.loads(present["result"]) if "result" in present else None
    if result is not None and not isinstance(result, dict):
        raise ValueError("result: Input should be a valid dictionary")
    times = {name: float(present[name]) if name in present else None for name in ("started_at", "completed_at")}
    texts = {name: present.get(name) for name in ("error", "worker_id")}
    return {"status": status, "result": result, "retries": int(present.get("retries", "0")), **times, **texts}


class _Connected:
    """What both have: a client of their own."""

    def __init__(self, url: str) -> None:
        self.redis = redis.asyncio.from_url(url, decode_responses=True)

    async def __aenter__(self) -> Self:
        with contextlib.suppress(ResponseError):  # BUSYGROUP
            await self.redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()


class LegacyClient(_Connected):
    """Submits and follows tasks as 0.1's ``distributed()`` and its handle do."""

    async def submit(self, agent_config: dict[str, Any], text: str, *, detailed: bool = False, **metadata: Any) -> str:
        payload = {
            "task_id": uuid.uuid4().hex,
            "agent_config": agent_config,
            "input": text,
            "messages": [],
            "model": None,
            "detailed": detailed,
            "metadata": metadata,
            "created_at": time.time(),
            "timeout_seconds": 300.0,
        }
        await self.redis.xadd(QUEUE, {"payload": json.dumps(payload)})
        return str(payload["task_id"])

    async def subscribe(self, task_id: str, listening: asyncio.Event | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield what is published from now on; ends at a final status event only."""
        async with self.redis.pubsub() as channel:
            await channel.subscribe(f"orbiter:events:{task_id}")
            while True:
                message = await channel.get_message(ignore_subscribe_messages=False, timeout=1.0)
                if message is not None and message["type"] == "subscribe" and listening is not None:
                    listening.set()
                if message is not None and message["type"] == "message":
                    event = read_event(message["data"])
                    yield event
                    if event["type"] == "status" and event["status"] in {"completed", "error", "cancelled"}:
                        return
                await asyncio.sleep(0.01)

    async def replay(self, task_id: str, from_id: str = "0") -> list[dict[str, Any]]:
        rows = await self.redis.xrange(f"orbiter:stream:{task_id}", min=from_id, max="+")
        return [read_event(fields["event"]) for _, fields in rows]

    async def status(self, task_id: str) -> dict[str, Any] | None:
        fields = await self.redis.hgetall(f"orbiter:task:{task_id}")
        return read_task(fields) if fields else None

    async def result(self, task_id: str, *, poll_interval: float = 0.5) -> dict[str, Any]:
        while True:
            task = await self.status(task_id)
            if task is not None:
                if task["status"] == "completed":
                    return task["result"] or {}
                if task["status"] == "cancelled":
                    raise RuntimeError(f"Task {task_id} was cancelled")
                if task["status"] == "failed":
                    raise RuntimeError(f"Task {task_id} failed: {task['error'] or 'unknown error'}")
            await asyncio.sleep(poll_interval)

    async def cancel(self, task_id: str) -> None:
        """Write the end into the record, whatever is there, then tell."""
        await self.redis.hset(f"orbiter:task:{task_id}", "status", "cancelled")
        await self.redis.publish(f"orbiter:cancel:{task_id}", "cancel")

    async def list_tasks(self) -> dict[str, dict[str, Any]]:
        """Read every task of the index; one that cannot be read breaks the listing."""
        found = {}
        for task_id in await self.redis.smembers("orbiter:task:index"):
            task = await self.status(task_id)
            if task is not None:
                found[task_id] = task
        return found

    async def list_workers(self) -> dict[str, dict[str, Any]]:
        """Read every worker; a key below the prefix that is no hash, or a number that is none, breaks the listing."""
        found = {}
        async for key in self.redis.scan_iter(match="orbiter:workers:*", count=100):
            fields = await self.redis.hgetall(key)
            beat = fields.get("last_heartbeat")
            found[key.removeprefix("orbiter:workers:")] = {
                "status": fields.get("status", "unknown"),
                "alive": beat is None or time.time() - float(beat) < 60,
                "current_task_id": fields.get("current_task_id") or None,
                "started_at": float(fields["started_at"]),
                **{name: int(fields[name]) for name in ("tasks_processed", "tasks_failed", "concurrency")},
            }
        return found


class LegacyWorker(_Connected):
    """Claims and settles one task at a time, by hand, as 0.1's worker does."""

    def __init__(self, url: str, worker_id: str) -> None:
        super().__init__(url)
        self.worker_id = worker_id
        self._entries: dict[str, tuple[str, str]] = {}

    async def beat(self, ttl: int = 30) -> None:
        """Write a heartbeat: no ``version``, no ``heartbeat_ttl``."""
        key, now = f"orbiter:workers:{self.worker_id}", str(time.time())
        fields = {"status": "running", "tasks_processed": "0", "tasks_failed": "0", "current_task_id": ""}
        times = {"started_at": now, "last_heartbeat": now, "concurrency": "1", "hostname": "old01"}
        await self.redis.hset(key, mapping=fields | times)
        await self.redis.expire(key, ttl)

    async def claim(self) -> dict[str, Any] | None:
        """Take one entry from the queue, waiting for a second."""
        reply: Any = await self.redis.xreadgroup(GROUP, self.worker_id, {QUEUE: ">"}, count=1, block=1000)
        if not reply:
            return None
        ((_, ((entry_id, fields),)),) = reply
        task: dict[str, Any] = json.loads(fields["payload"])
        self._entries[task["task_id"]] = (entry_id, fields["payload"])
        await self._set_status(task["task_id"], "running", worker_id=self.worker_id, started_at=time.time())
        return task

    async def say(self, task_id: str, text: str) -> None:
        """Publish a text event, then keep it."""
        event = json.dumps({"type": "text", "text": text, "agent_name": "a"})
        await self.redis.publish(f"orbiter:events:{task_id}", event)
        await self.redis.xadd(f"orbiter:stream:{task_id}", {"event": event})
        await self.redis.expire(f"orbiter:stream:{task_id}", 3600)

    async def complete(self, task_id: str, output: str) -> None:
        """Record the result, acknowledge; the entry stays."""
        await self._set_status(task_id, "completed", completed_at=time.time(), result=json.dumps({"output": output}))
        await self.redis.xack(QUEUE, GROUP, self._entries.pop(task_id)[0])

    async def fail_and_retry(self, task_id: str, error: str, retries: int) -> None:
        """Fail for all to see, then put the payload on the queue again."""
        entry_id, payload = self._entries.pop(task_id)
        await self._set_status(task_id, "failed", completed_at=time.time(), error=error)
        await self._set_status(task_id, "retrying", retries=retries)
        await self.redis.xack(QUEUE, GROUP, entry_id)
        await self.redis.xadd(QUEUE, {"payload": payload})

    async def _set_status(self, task_id: str, status: str, **fields: object) -> None:
        key = f"orbiter:task:{task_id}"
        values = {name: str(value) for name, value in fields.items()}
        await self.redis.hset(key, mapping={"task_id": task_id, "status": status} | values)
        await self.redis.expire(key, 86400)
        await self.redis.sadd("orbiter:task:index", task_id)
