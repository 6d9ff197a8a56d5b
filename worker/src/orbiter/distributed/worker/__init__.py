"""Worker: the process that claims tasks, runs them in slots, and leaves without losing one.

``Worker`` is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbiter.distributed.lazy import lazily

if TYPE_CHECKING:
    from orbiter.distributed.worker.worker import Worker

_HOME = {
    "Worker": "worker",
}

__all__ = ["Worker"]

__getattr__ = lazily(__name__, _HOME)
