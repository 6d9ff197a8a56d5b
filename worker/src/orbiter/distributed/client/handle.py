"""``distributed()``: submits one agent run by the client that this event loop shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orbiter.distributed.client.client import namespace_or_variable, url_or_variable
from orbiter.distributed.client.payloads import Agent
from orbiter.distributed.client.sharing import shared_client
from orbiter.distributed.client.task import TaskHandle
from orbiter.distributed.models import DEFAULT_QUEUE
from orbiter.distributed.names import check_queue_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

__all__ = ["Agent", "TaskHandle", "distributed"]


async def distributed(
    agent: Agent | Mapping[str, Any],
    input: str,  # noqa: A002 - the name that callers of 0.1 use
    *,
    messages: Sequence[Mapping[str, Any]] | None = None,
    redis_url: str | None = None,
    detailed: bool = False,
    timeout: float = 300.0,  # noqa: ASYNC109 - the limit of the task's run, not of this call
    metadata: Mapping[str, Any] | None = None,
    queue: str = DEFAULT_QUEUE,
    namespace: str | None = None,
    task_id: str | None = None,
    not_before: float | datetime | timedelta | None = None,
    max_retries: int | None = None,
) -> TaskHandle:
    """Submit one agent run and return a handle on it.

    Calls for one URL and queue share a client, and so its connections, in their event loop. They close themselves: when
    no call has used them for a second, and when the loop ends.

    Args:
        agent: An agent with ``to_dict()``, or an ``agent_config`` itself.
        input: The user's prompt.
        messages: Earlier turns of the conversation.
        redis_url: Where the queue is; ``ORBITER_REDIS_URL`` unless given.
        detailed: Publish steps, usage and tool results beside text.
        timeout: Limit of one run, seconds.
        metadata: Free for the caller; must be JSON.
        queue: Queue name.
        namespace: First word of all keys in Redis; ``ORBITER_NAMESPACE`` unless given, or else ``orbiter``.
        task_id: Unique name of the task; submitting the same id twice is one task.
        not_before: When it may run at the earliest: epoch seconds, a datetime with a time zone, or a timedelta from
            now, which is by Redis' clock.
        max_retries: Runs repeated after an error; the worker's own limit unless given.

    Raises:
        ValueError: No Redis URL, a wrong one, or an argument breaks its rule.
        TypeError: ``agent`` is neither a mapping nor has ``to_dict()``.
    """
    namespace = namespace_or_variable(namespace)
    queue = check_queue_name(queue, namespace)
    client = await shared_client(url_or_variable(redis_url), queue, namespace)
    return await client.submit(
        agent,
        input,
        messages=messages,
        detailed=detailed,
        timeout=timeout,
        metadata=metadata,
        task_id=task_id,
        not_before=not_before,
        max_retries=max_retries,
    )
