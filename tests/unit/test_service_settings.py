"""A service reads no settings where tasks write: the real command, with the environment that the role gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import COMMAND, live, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[2]
SHOW = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_values, public: true}
    - keep:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown:
          settings: "{{ lookup('template', 'worker.env.j2') }}"
          command: "{{ lookup('template', 'orbiter.j2') }}"
"""
WISHES = 'allow_import = ["*"]\nallow_models = ["*"]\nmax_agents = 4999\nmax_result_bytes = 4999\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder that a unit's tasks may write to: its working directory, and the home of its user."""
    home = tmp_path / "state"
    home.mkdir()
    return home


@pytest.fixture
def rendered(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[dict[str, str], str]]:
    """Return a function that gives what a unit has for its environment, and the command of root."""

    def render(**values: Any) -> tuple[dict[str, str], str]:
        if not (tmp_path / "templates").exists():
            (tmp_path / "templates").symlink_to(CHECKOUT / "roles/worker/templates")
        given = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_managed": "managed",
        }
        done = ansible(["host"], SHOW, "--extra-vars=" + json.dumps(given | values))
        assert done.returncode == 0, done.stdout
        shown = json.loads((tmp_path / "shown.json").read_text())
        script = f"set -a\n{shown['settings']}\nexec env -0"
        read = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
        return dict(line.split("=", 1) for line in read.stdout.decode().split("\0") if line), shown["command"]

    return render


def orbiter(env: dict[str, str], home: Path, *arguments: str) -> Any:
    """Run the command as the service, and read its JSON."""
    done = subprocess.run(
        [COMMAND, *arguments], env=env | {"HOME": str(home)}, cwd=home, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Unit:
    """A worker with the environment of a unit, in the folder that its tasks may write to."""

    def __init__(self, server: Any, env: dict[str, str], home: Path) -> None:
        self._env = env | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parent), "ORBITER_DRAIN_TIMEOUT": "1"}
        self._server, self._home = server, home

    def __enter__(self) -> Unit:
        with (self._home.parent / "worker.log").open("ab") as log:
            command = [COMMAND, "start", "worker"]
            self._process = subprocess.Popen(command, env=self._env, cwd=self._home, stdout=log, stderr=log)
        wait_until(lambda: live(self._server), within=60)
        return self

    def run(self, target: str, text: str = "") -> dict[str, Any]:
        """Run a callable; return what is known of its task."""
        agent = self._home.parent / "agent.json"
        agent.write_text(json.dumps({"runtime": "callable", "target": target}))
        submit = ("task", "submit", text, "--agent", str(agent), "--max-retries", "0", "--json")
        task_id = orbiter(self._env, self._home, *submit)["task_id"]

        def ended() -> Any:
            task = orbiter(self._env, self._home, "task", "status", task_id, "--json")
            return task if task["status"] in ("completed", "failed") else None

        wait_until(ended, within=60)
        found: dict[str, Any] = ended()
        return found

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        wait_until(lambda: not live(self._server), within=60)


def test_settings_that_a_task_writes_do_not_count_after_a_restart(server, rendered, home):
    env = rendered(worker_redis_url=server.url, worker_allow_imports=["jobs"])[0]
    with Unit(server, env, home) as unit:
        assert unit.run("jobs:write_settings", WISHES)["status"] == "completed"
    assert (home / "orbiter.toml").read_text() == WISHES
    assert (home / ".config/orbiter/orbiter.toml").read_text() == WISHES
    # The next one may import nothing, says the inventory.
    env = rendered(worker_redis_url=server.url, worker_allow_imports=[])[0]
    with Unit(server, env, home) as unit:
        task = unit.run("json:dumps")
        assert (task["status"], task["error_type"]) == ("failed", "ImportRefusedError")
        known = orbiter(env, home, "config", "show", "--json")
    assert known["settings"]["allow_import"] == {"value": [], "source": "environment (ORBITER_ALLOW_IMPORT)"}
    assert [name for name, setting in known["settings"].items() if setting["value"] in (4999, ["*"])] == []
    # By hand, in the same folder, the file counts.
    by_hand = {"PATH": os.environ["PATH"]}
    assert orbiter(by_hand, home, "config", "show", "--json")["settings"]["allow_import"]["value"] == ["*"]


def test_temporal_s_own_file_in_the_home_does_not_count_either(rendered, home):
    folder = home / ".config/temporalio"
    folder.mkdir(parents=True)
    (folder / "temporal.toml").write_text('[profile.default]\nnamespace = "theirs"\napi_key = "theirs"\n')
    ask = "from orbiter.distributed.temporal.connection import connect_options; print(connect_options())"
    env = rendered(worker_redis_url="redis://queue", worker_executor="temporal", worker_temporal_host="temporal:7233")[
        0
    ]
    for known, theirs in ((env, False), ({}, True)):
        said = subprocess.run(
            [sys.executable, "-c", ask],
            env=known | {"HOME": str(home)},
            cwd=home,
            text=True,
            capture_output=True,
            check=True,
        )
        assert ("theirs" in said.stdout) is theirs, said.stdout


def test_command_of_root_reads_no_settings_from_the_folder_that_root_is_in(rendered, home):
    (home / "orbiter.toml").write_text(WISHES)
    command = rendered(worker_redis_url="redis://queue")[1]
    script = command.replace("/opt/orbiter/current/bin/orbiter", COMMAND).replace("/etc/orbiter", str(home / "none"))
    # There is no such user here.
    script = script.replace("--reuid=orbiter-command --regid=orbiter ", f"--reuid={os.getuid()} --regid={os.getgid()} ")
    done = subprocess.run(
        ["/bin/sh", "-c", script, "orbiter", "config", "show", "--json"],
        env={"HOME": str(home)},
        cwd=home,
        text=True,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["file"] == "/dev/null"
