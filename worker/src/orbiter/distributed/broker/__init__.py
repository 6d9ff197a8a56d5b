"""Broker: the queue on Redis Streams, its keys, scripts, records, events and dead letters.

``TaskBroker`` is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.lazy import lazily

if TYPE_CHECKING:
    from orbiter.distributed.broker.task_broker import TaskBroker

_HOME = {
    "TaskBroker": "task_broker",
}

__all__ = ["TaskBroker"]

__getattr__ = lazily(__name__, _HOME)
