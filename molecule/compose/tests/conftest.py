"""What the tests of compose stacks look at: replicas, as Docker on their host knows them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

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


@pytest.fixture
def nothing_lost(fleet: Fleet, workers: dict[str, Any]) -> Callable[[Any], None]:
    """Return a function that checks that every task of a load completed, once, at the first try.

    First that no replica was killed since the test began: its tasks would run again, and its log is gone with it.
    """
    began = time.time()
    events = "docker events --since %s --until %s --filter event=die --format %s"
    shape = "{{.Time}} {{.ID}} {{.Actor.Attributes.exitCode}}"

    def check(load: Any) -> None:
        ended = [host.check_output(events, f"{began:.0f}", f"{time.time():.0f}", shape) for host in workers.values()]
        assert [line for text in ended for line in text.splitlines() if not line.endswith(" 0")] == []
        assert len(load.ids) > 5
        fleet.assert_nothing_lost(load.ids, within=90)

    return check
