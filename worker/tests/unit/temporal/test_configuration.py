"""Durable execution where temporalio is missing, what it costs where it is not wanted, and how Temporal is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orbiter.distributed.errors import ConfigurationError, how_to_install
from orbiter.distributed.temporal import HAS_TEMPORAL
from orbiter.distributed.temporal.connection import connect_options
from orbiter.distributed.temporal.executor import TemporalExecutor
from orbiter.distributed.temporal.wire import TASK_QUEUE, task_queue, workflow_id
from tests.support import environment

MISSING = f"Temporal executor requires temporalio to be installed. Install it with: {how_to_install('temporal')}"
WITHOUT = "import sys; sys.modules['temporalio'] = None\n"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)


@pytest.mark.guide("Temporal Execution", "…and the error without it")
def test_without_temporalio_the_worker_says_what_to_install() -> None:
    code = "from orbiter.distributed import Worker\nWorker('redis://localhost', executor='temporal')"
    assert python(WITHOUT + code).stderr.splitlines()[-1] == f"ImportError: {MISSING}"


@pytest.mark.guide("Temporal Execution", "…and the error without it")
def test_without_temporalio_the_command_says_what_to_install() -> None:
    code = "from orbiter.cli import main\nsys.argv = ['orbiter', 'start', 'worker', '--redis-url', 'redis://localhost',"
    said = python(WITHOUT + code + " '--executor', 'temporal']\nmain()")
    assert (said.returncode, said.stderr.strip()) == (1, f"Error: {MISSING}")


def test_without_temporalio_the_package_says_so() -> None:
    code = "from orbiter.distributed import temporal\nprint(temporal.HAS_TEMPORAL)\ntemporal.TemporalExecutor"
    said = python(WITHOUT + code)
    assert said.stdout == "False\n"
    assert said.stderr.splitlines()[-1] == f"ImportError: {MISSING}"


def test_a_local_worker_imports_no_temporalio() -> None:
    code = "import sys\nfrom orbiter.distributed import Worker, HAS_TEMPORAL\nWorker('redis://localhost')\n"
    said = python(code + "print(HAS_TEMPORAL, 'temporalio' in sys.modules)")
    assert said.stdout == "True False\n", said.stderr


def test_the_public_names_are_there() -> None:
    from orbiter.distributed import temporal

    assert HAS_TEMPORAL
    assert [getattr(temporal, name).__name__ for name in temporal.__all__ if name != "HAS_TEMPORAL"] == [
        "AgentExecutionWorkflow",
        "TemporalExecutor",
        "execute_agent_activity",
    ]
    assert workflow_id("x", "abc") == "orbiter-task-x-abc"
    assert task_queue(TASK_QUEUE, "abc") == "orbiter-tasks-abc"


@pytest.fixture(autouse=True)
def without_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TEMPORAL_HOST", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))


@pytest.mark.guide("Environment Variables", "both, their defaults")
def test_the_guides_defaults() -> None:
    executor = TemporalExecutor()
    assert (executor.host, executor.namespace, executor.task_queue) == ("localhost:7233", "default", "orbiter-tasks")


def test_the_guides_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_HOST", "temporal:7233")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "other:7233")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "agents")
    executor = TemporalExecutor()
    assert (executor.host, executor.namespace) == ("temporal:7233", "agents")
    assert TemporalExecutor(host="mine:1", namespace="own").host == "mine:1"


def test_temporals_own_configuration_brings_tls_and_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text('[profile.default]\naddress = "cloud:7233"\nnamespace = "ns"\napi_key = "secret"\n')
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    options = connect_options()
    assert (options["target_host"], options["namespace"], options["api_key"]) == ("cloud:7233", "ns", "secret")
    assert options["tls"]


def test_a_configuration_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text("nonsense [")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    with pytest.raises(ConfigurationError, match="Temporal's configuration"):
        connect_options()
