"""Fixtures of all scenarios: hosts over the connection that the inventory names, and the fleet's Redis from outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import testinfra.utils.ansible_runner

sys.path.insert(0, str(Path(__file__).parent))

from fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def runner() -> Any:
    """Return the scenario's inventory."""
    return testinfra.utils.ansible_runner.AnsibleRunner(os.environ["MOLECULE_INVENTORY_FILE"])


@pytest.fixture(scope="session")
def on(runner: Any) -> Callable[[str], Any]:
    """Return a function that gives a host by name."""
    return lambda name: runner.get_host(name)


@pytest.fixture(scope="session")
def workers(runner: Any) -> dict[str, Any]:
    """Return the worker hosts by name."""
    return {name: runner.get_host(name) for name in sorted(runner.get_hosts("workers"))}


@pytest.fixture(scope="session")
def fleet(runner: Any) -> Fleet:
    """Return the fleet, as seen from the controller."""
    variables = runner.get_variables("redis1")
    return Fleet(f"redis://:{quote(variables['orbiter_redis_password'], safe='')}@{variables['redis_bind']}:6379/0")
