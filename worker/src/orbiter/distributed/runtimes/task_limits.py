"""TaskLimits: how much a task may ask for, and what is said of one that asks for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbiter.distributed.errors import TaskLimitError
from orbiter.distributed.limits import MAX_AGENTS, MAX_STEPS, MAX_TASK_RETRIES, MAX_TASK_TIMEOUT, variable
from orbiter.distributed.models import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from orbiter.distributed.models import TaskPayload
    from orbiter.distributed.settings import WorkerSettings


# A number of a message may have thousands of digits.
_SHOWN = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLimits:
    """What the operator allows a task to ask for.

    Attributes:
        timeout: Seconds of one run.
        retries: Runs repeated after an error.
        agents: Agents in one configuration.
        steps: Round trips of an agent, agents that a flow runs, handoffs; each for itself.
    """

    timeout: float = MAX_TASK_TIMEOUT
    retries: int = MAX_TASK_RETRIES
    agents: int = MAX_AGENTS
    steps: int = MAX_STEPS

    @classmethod
    def of(cls, settings: WorkerSettings) -> TaskLimits:
        """Return the limits that a worker was given."""
        return cls(
            timeout=settings.max_task_timeout,
            # What every task gets unasked, a task may ask for.
            retries=max(settings.max_task_retries, settings.max_retries),
            agents=settings.max_agents,
            steps=settings.max_steps,
        )

    def fitted(self, task: TaskPayload) -> TaskPayload:
        """Return the task, or one with a shorter time where the default time, for which nobody asked, is too long.

        Raises:
            TaskLimitError: It asks for more time or more retries than is allowed.
        """
        if task.max_retries is not None and task.max_retries > self.retries:
            raise over_limit("max_retries", task.max_retries, self.retries, "max_task_retries")
        if task.timeout_seconds > self.timeout:
            if task.timeout_seconds != DEFAULT_TIMEOUT:
                asked = f"{task.timeout_seconds:g}"
                raise over_limit("timeout_seconds", asked, f"{self.timeout:g}", "max_task_timeout")
            return task.model_copy(update={"timeout_seconds": self.timeout})
        return task

    def check_agents(self, config: dict[str, Any]) -> None:
        """Count the agents of a configuration, and what its flow runs, before anything else is done with it.

        Raises:
            TaskLimitError: There are more than is allowed.
        """
        agents = int("agents" not in config)
        waiting: list[Any] = [config]
        while waiting:
            found = waiting.pop()
            if isinstance(found, dict):
                inner = [item for key in ("agents", "handoffs") for item in _list(found.get(key))]
                agents += len(inner)
                if agents > self.agents:
                    raise over_limit(
                        "agent_config: number of agents, handoffs included", agents, self.agents, "max_agents"
                    )
                waiting += inner
        flow, steps = config.get("flow"), 0
        if flow and isinstance(flow, str):
            steps = flow.count(">>") + flow.count("|") + 1
        elif config.get("mode", "workflow") == "workflow":
            steps = len(_list(config.get("agents")))
        if steps > self.steps:
            raise over_limit("agent_config.flow: number of agents to run", steps, self.steps, "max_steps")

    def steps_of(self, asked: int, default: int, what: str) -> int:
        """Return how many steps an agent or a swarm gets.

        Args:
            asked: What its configuration says.
            default: What it says where nobody asked for anything.
            what: The field.

        Raises:
            TaskLimitError: That is more than is allowed.
        """
        if asked > self.steps and asked != default:
            shown = asked if asked < _SHOWN else f"{_SHOWN} or more"
            raise over_limit(f"agent_config.{what}", shown, self.steps, "max_steps")
        return min(asked, self.steps)


def over_limit(what: str, asked: object, limit: object, setting: str) -> TaskLimitError:
    """Return the error of a task that asks for more than is allowed."""
    option = setting.replace("_", "-")
    return TaskLimitError(
        f"{what}: {asked} is above the limit of this worker, {limit}:"
        f" ask for less, or have it raised, --{option} ({variable(setting)})"
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
