"""Batches: puts tasks on the queue some hundreds at a time, while the next ones are gathered."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from orbiter.distributed.broker.task_broker import TaskBroker
    from orbiter.distributed.models import TaskPayload

BATCH = 250
BATCH_BYTES = 1_000_000
# Batches that have been sent, but not yet accepted.
UNDER_WAY = 3
# Seconds for which a task waits for others, where the source of the tasks is slow.
GATHERED_FOR = 0.05


class Batches:
    """Gathers tasks and sends them; at the end of ``async with`` all have been accepted.

    Args:
        broker: Accepts them.
    """

    def __init__(self, broker: TaskBroker) -> None:
        self._broker = broker
        self._batch: list[tuple[TaskPayload, str]] = []
        self._size = 0
        self._under_way: deque[asyncio.Task[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._start()
                while self._under_way:
                    await self._accepted()
        finally:
            self._stop_timer()
            for sending in self._under_way:
                sending.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    @property
    def full(self) -> bool:
        """Whether the batch is to be sent."""
        return len(self._batch) >= BATCH or self._size >= BATCH_BYTES

    def add(self, task: TaskPayload) -> None:
        """Put a task into the batch.

        Raises:
            InvalidPayloadError: It is not JSON, or too large.
        """
        text = self._broker.checked(task)
        if not self._batch:
            self._timer = asyncio.get_running_loop().call_later(GATHERED_FOR, self._start_in_time)
        self._batch.append((task, text))
        self._size += len(text)

    async def send(self) -> None:
        """Send the batch, once few enough are under way.

        Raises:
            RedisError: An earlier batch was not accepted.
        """
        while len(self._under_way) >= UNDER_WAY:
            await self._accepted()
        self._start()
        # Now it leaves; the next batch is gathered while the server is at this one.
        await asyncio.sleep(0)

    async def _accepted(self) -> None:
        sending = self._under_way[0]
        await asyncio.shield(sending)
        self._under_way.popleft()

    def _start_in_time(self) -> None:
        if len(self._under_way) < UNDER_WAY:
            self._start()
        else:
            self._timer = asyncio.get_running_loop().call_later(GATHERED_FOR, self._start_in_time)

    def _start(self) -> None:
        self._stop_timer()
        if self._batch:
            batch, self._batch, self._size = self._batch, [], 0
            self._under_way.append(asyncio.get_running_loop().create_task(self._broker.submit_checked(batch)))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
