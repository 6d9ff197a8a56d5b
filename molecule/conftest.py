"""Fixtures of all scenarios: hosts over the connection that the inventory names, and the fleet's Redis from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import testinfra.utils.ansible_runner

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from fleet import VERSION, Fleet  # noqa: E402 - beside this file, which is no package

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def inventory() -> str:
    """Return the path of the scenario's inventory."""
    # The file holds molecule's own variables only; the hosts lie beside it.
    return str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)


@pytest.fixture(scope="session")
def runner(inventory: str) -> Any:
    """Return the scenario's inventory, read."""
    return testinfra.utils.ansible_runner.AnsibleRunner(inventory)


@pytest.fixture(scope="session")
def play(inventory: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a playbook of the repository with options and variables, as an operator would."""
    folder = tmp_path_factory.mktemp("play")

    def run(playbook: str, *options: str, **variables: object) -> subprocess.CompletedProcess[str]:
        # Among them may be passwords, which no command line shows.
        file = folder / "variables.json"
        file.write_text(json.dumps(variables))
        command = ["ansible-playbook", "--inventory", inventory, "--extra-vars", f"@{file}", playbook, *options]
        environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, text=True, capture_output=True, check=False)
        print((done.stdout + done.stderr)[-100_000:])  # pytest shows it where the test fails
        return done

    return run


@pytest.fixture(scope="session")
def counted_play(
    play: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, list[str]], dict[str, list[str]]]]:
    """Return a function that runs a playbook; it gives what was said, and by host the tasks that ran there, and all."""
    file = tmp_path_factory.mktemp("count") / "tasks.json"

    def run(*words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, list[str]], dict[str, list[str]]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANSIBLE_CALLBACKS_ENABLED", f"{os.environ['ANSIBLE_CALLBACKS_ENABLED']},remote_tasks")
            patch.setenv("ORBITER_REMOTE_TASKS", str(file))
            done = play(*words)
        counted = json.loads(file.read_text())
        return done, counted["remote"], counted["results"]

    return run


@pytest.fixture(scope="session")
def on(runner: Any) -> Callable[[str], Any]:
    """Return a function that gives a host by name."""
    return runner.get_host  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def workers(runner: Any) -> dict[str, Any]:
    """Return the worker hosts by name."""
    return {name: runner.get_host(name) for name in sorted(runner.get_hosts("workers"))}


@pytest.fixture(scope="session")
def fleet(runner: Any, inventory: str) -> Fleet:
    """Return the fleet, as seen from the controller; with TLS unless the inventory says no, as playbooks have it."""
    variables = runner.get_variables("redis1")
    place = f"admin:{quote(variables['orbiter_redis_password'], safe='')}@{variables['redis_bind']}:6379/0"
    plain = variables.get("redis_tls", True) is False
    return Fleet(f"redis://{place}" if plain else f"rediss://{place}?ssl_ca_certs={inventory}/.redis-tls/ca.pem")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that copies the worker's project as another version, with a line more in its start command."""

    def copy(version: str, *, start: str = "") -> str:
        folder = tmp_path_factory.mktemp("source") / "worker"
        unwanted = shutil.ignore_patterns("tests", "benchmarks", "__pycache__", ".*", "*.egg-info", "build", "dist")
        shutil.copytree(CHECKOUT / "worker", folder, ignore=unwanted)
        project = folder / "pyproject.toml"
        project.write_text(project.read_text().replace(f'\nversion = "{VERSION}"\n', f'\nversion = "{version}"\n'))
        with (folder / "src/orbiter/cli/start.py").open("a") as command:
            command.write(start)
        return str(folder)

    return copy
