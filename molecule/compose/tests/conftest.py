"""What the tests of compose stacks look at: replicas, as Docker on their host knows them."""

from __future__ import annotations

import json
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


@pytest.fixture(scope="session")
def nothing_lost(fleet: Fleet) -> Callable[[Any], None]:
    """Return a function that checks that every task of a load completed, once, at the first try."""

    def check(load: Any) -> None:
        assert len(load.ids) > 5
        fleet.assert_nothing_lost(load.ids, within=90)

    return check
