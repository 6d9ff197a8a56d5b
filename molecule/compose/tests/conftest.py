"""What the tests of compose stacks look at: replicas, as Docker on their host knows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fleet import counted, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet import Fleet


@pytest.fixture(scope="session")
def replicas() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that inspects a host's replicas, the ones that do not run too."""

    def inspect(host: Any, *, project: str = "orbiter") -> list[dict[str, Any]]:
        labels = ("project=" + project, "service=worker", "oneoff=False")
        filters = " ".join(f"--filter label=com.docker.compose.{label}" for label in labels)
        ids = host.check_output(f"docker ps --all --quiet {filters}").split()
        rows = json.loads(host.check_output("docker inspect " + " ".join(ids))) if ids else []
        return sorted(rows, key=lambda row: int(row["Config"]["Labels"]["com.docker.compose.container-number"]))

    return inspect


@pytest.fixture(scope="session")
def nothing_lost(fleet: Fleet) -> Callable[[Any], None]:
    """Return a function that checks that every task of a load completed, once, at the first try."""

    def check(load: Any) -> None:
        assert len(load.ids) > 5
        fleet.wait_until_done(load.ids, within=90)
        assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}
        for task_id, task in zip(load.ids, fleet.tasks(load.ids), strict=True):
            assert fleet.final_events(task_id) == ["completed"]
            assert int(task["attempt"]) == 1 + int(task.get("handoffs") or 0)
            assert int(task.get("retries") or 0) == int(task.get("crashes") or 0) == 0
        # The answer is stored a moment before the queue forgets the task.
        nothing = {"waiting": 0, "pending": 0}
        wait_until(lambda: fleet.left_over() == nothing, within=10, what=lambda: str(fleet.left_over()))

    return check
