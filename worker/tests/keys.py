"""Names of the keys of the default namespace, for tests that look into Redis."""

from __future__ import annotations

from orbiter.distributed.broker.keys import Keys, group, tagged

_KEYS = Keys()

INDEX, BY_TIME, ENDED, FLEET = _KEYS.index, _KEYS.by_time, _KEYS.ended, _KEYS.fleet
TASK_PREFIX, WORKER_PREFIX = _KEYS.task_prefix, _KEYS.worker_prefix
task, stream, events, cancel = _KEYS.task, _KEYS.event_stream, _KEYS.events, _KEYS.cancel
worker, control = _KEYS.worker, _KEYS.control

__all__ = [
    "BY_TIME",
    "ENDED",
    "FLEET",
    "INDEX",
    "TASK_PREFIX",
    "WORKER_PREFIX",
    "cancel",
    "control",
    "events",
    "group",
    "stream",
    "tagged",
    "task",
    "worker",
]
