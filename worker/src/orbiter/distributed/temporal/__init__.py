"""Durable execution: tasks that outlive every worker, as workflows of Temporal.

Nothing here imports ``temporalio`` before it is used; ``HAS_TEMPORAL`` says whether it is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from orbiter.distributed.errors import how_to_install
from orbiter.distributed.lazy import lazily

if TYPE_CHECKING:
    from orbiter.distributed.temporal.activities import execute_agent_activity
    from orbiter.distributed.temporal.executor import TemporalExecutor
    from orbiter.distributed.temporal.workflow import AgentExecutionWorkflow

HAS_TEMPORAL = find_spec("temporalio") is not None

_HOME = {
    "AgentExecutionWorkflow": "workflow",
    "TemporalExecutor": "executor",
    "execute_agent_activity": "activities",
}

__all__ = ["HAS_TEMPORAL", "AgentExecutionWorkflow", "TemporalExecutor", "execute_agent_activity"]


def require_temporal() -> None:
    """Make sure that temporalio is installed.

    Raises:
        ImportError: It is not.
    """
    if not HAS_TEMPORAL:
        raise ImportError(
            f"Temporal executor requires temporalio to be installed. Install it with: {how_to_install('temporal')}"
        )


__getattr__ = lazily(__name__, _HOME, first=require_temporal)
