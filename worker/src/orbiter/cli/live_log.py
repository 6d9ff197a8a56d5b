"""The live log of everything that happens: events of all tasks, lines of the worker, news of the command itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from pydantic import ValidationError
from redis.exceptions import RedisError
from rich.text import Text

from orbiter.cli.event_printer import describe
from orbiter.cli.render import console
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.inert import inert
from orbiter.distributed.models import Event, ReasoningEvent, TextEvent, event_from_json, is_final
from orbiter.distributed.names import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from rich.console import Console

_SHORT_ID = 8
_PAUSE = 0.2


class LiveLog:
    """Prints lines of several sources in the order in which they come.

    Where several tasks run, each line begins with the short id of its task: their answers come at the same time. So
    does a line that follows one of another task.
    """

    def __init__(self, output: Console | None = None) -> None:
        self._console = output or console()
        self._attempts: dict[str, int] = {}
        self._open: str | None = None
        self._last = ""

    def print(self, text: str, *, style: str = "bold") -> None:
        """Print a line of our own."""
        self._line(Text(inert(text), style=style))

    def worker(self, text: str) -> None:
        """Print a line that the worker or its code has written."""
        line = inert(text, keep="\t")
        self._line(Text(f"worker | {line}", style="dim"))

    def event(self, task_id: str, event: Event) -> None:
        """Print a task's event."""
        if task_id not in self._attempts:
            self._line(Text(f"task {inert(task_id)}", style="bold"))
            self._attempts[task_id] = 1
            self._last = task_id
        named = len(self._attempts) > 1 or self._last != task_id
        prefix = Text(f"{inert(task_id[:_SHORT_ID])} | ", style="cyan") if named else Text()
        self._last = task_id
        if event.attempt > self._attempts[task_id]:
            self._attempts[task_id] = event.attempt
            self._line(prefix + Text(f"attempt {event.attempt}", style="magenta"))
        if isinstance(event, TextEvent | ReasoningEvent):
            self._flow(task_id, prefix, event.text, style="dim" if isinstance(event, ReasoningEvent) else "")
        else:
            self._line(prefix + describe(event))
        if is_final(event):
            del self._attempts[task_id]

    def close(self) -> None:
        """End the line that is open, if any."""
        if self._open is not None:
            self._console.print()
            self._open = None

    def _flow(self, task_id: str, prefix: Text, text: str, *, style: str) -> None:
        for part in text.splitlines(keepends=True):
            if self._open != task_id:
                self.close()
                self._console.print(prefix, end="", soft_wrap=True)
            self._console.print(Text(inert(part, keep="\n\t"), style=style), end="", soft_wrap=True)
            self._open = None if part.endswith("\n") else task_id

    def _line(self, text: Text) -> None:
        self.close()
        self._console.print(text, soft_wrap=True)


async def follow_all_tasks(
    redis_url: str, log: LiveLog, listening: asyncio.Event, *, namespace: str = DEFAULT_NAMESPACE
) -> None:
    """Print the events of every task, as they are published, until cancelled.

    Args:
        redis_url: Where Redis is.
        log: What prints them.
        listening: Set once nothing is missed any more.
        namespace: Whose tasks.
    """
    prefix = Keys(namespace).events_prefix
    client = connect(redis_url, max_connections=1)
    try:
        while True:
            with contextlib.suppress(RedisError, OSError):
                async with client.pubsub() as channels:
                    await channels.psubscribe(f"{prefix}*")
                    listening.set()
                    while True:
                        message = await channels.get_message(ignore_subscribe_messages=True, timeout=None)
                        if message is not None:
                            _show(log, message["channel"].removeprefix(prefix), message["data"])
            await asyncio.sleep(_PAUSE)
    finally:
        await client.aclose()


def _show(log: LiveLog, task_id: str, text: str) -> None:
    try:
        log.event(task_id, event_from_json(text))
    except ValidationError:
        log.print(f"task {task_id}: not an event: {text}", style="red")
