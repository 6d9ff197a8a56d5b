"""A command of an operator is confined as the workers are, and shows nobody their secrets."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _exec
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError
from ansible_collections.orbiter.fleet.plugins.modules.worker_exec import words_of

CHECKOUT = Path(__file__).parents[4]


@pytest.fixture
def properties():
    """Return what a command gets of the unit of the role, all of whose conditions hold."""
    text = (CHECKOUT / "roles/worker/templates/orbiter-worker@.service.j2").read_text()
    text = re.sub(r"\{\{[^}]*\}\}", "7", re.sub(r"^\{%.*?%\}\n", "", text, flags=re.MULTILINE))
    drop_in = "# /etc/systemd/system/x.d/mine.conf\n[Service]\nCPUQuota=50%\n[Unit]\nAfter=mine.service\n"
    return _exec.properties(f"{text}\n{drop_in}")


def test_a_command_is_confined_as_the_workers_are(properties):
    wanted = {"EnvironmentFile=/etc/orbiter/worker.env", "LoadCredential=7:7/7", "NoNewPrivileges=yes", "CPUQuota=50%"}
    wanted |= {"ProtectSystem=strict", "SystemCallFilter=~@privileged", "CapabilityBoundingSet=", "MemoryMax=7"}
    assert wanted - set(properties) == set()


def test_a_command_is_not_the_workers_user_nor_gets_their_folder(properties):
    """Systemd would give /var/lib/orbiter to the command's user."""
    names = {one.partition("=")[0] for one in properties}
    assert names & {"User", "StateDirectory", "ExecStart", "ExecStartPre", "Type", "WatchdogSec", "Restart"} == set()
    assert "Group=orbiter" in properties
    assert _exec.USER != "orbiter"


def test_what_is_an_instance_s_own_is_not_a_command_s(properties):
    assert [one for one in properties if "%i" in one or "%d" in one] == []
    assert "After=mine" not in properties


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("orbiter queue info", ["orbiter", "queue", "info"]),
        ('python -c "a b"', ["python", "-c", "a b"]),
        (["a", 1], ["a", "1"]),
    ],
)
def test_a_command_is_words(command, words):
    assert words_of(command) == words


@pytest.mark.parametrize("command", ["", "  ", 'a "b', [], [[]], {"a": 1}, 7])
def test_what_is_no_command_is_refused(command):
    with pytest.raises(ValueError, match="exec_command"):
        words_of(command)


SETTINGS = r"""
ORBITER_REDIS_URL="rediss://worker-w1:pa%2Fss\"w\$rd@redis:6379/0?sentinel_password=s3ntinel"
ORBITER_NAMESPACE="orbiter"
OPENAI_API_KEY="sk-1234567"
PIN_TOKEN="1234"
TASK_HOME="/home/somewhere"
"""


def test_secrets_are_those_of_settings_and_credentials(tmp_path):
    (tmp_path / "worker.env").write_text(SETTINGS)
    (tmp_path / "credentials/0a").mkdir(parents=True)
    (tmp_path / "credentials/0a/api").write_text("first line\n\nlast line\n")
    found = _exec.secrets(tmp_path / "worker.env", tmp_path / "credentials")
    assert found == {
        *('pa%2Fss"w$rd', 'pa/ss"w$rd', "s3ntinel", "sk-1234567", "first line", "last line"),
    }


def test_a_host_without_settings_has_no_secrets(tmp_path):
    assert _exec.secrets(tmp_path / "worker.env", tmp_path / "credentials") == set()


def test_a_command_ends_with_its_code_and_both_outputs():
    assert _exec.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 60, None) == (3, "out\nerr\n")


def test_a_command_that_takes_too_long_is_stopped():
    began, stopped = time.monotonic(), []
    with pytest.raises(GateError, match="exec_timeout"):
        _exec.run(["sleep", "600"], 0.2, lambda: stopped.append(True), patience=0)
    assert stopped == [True]
    assert time.monotonic() - began < 60


def test_where_nothing_is_deployed_nothing_runs(module):
    for deploy in ("systemd", "compose"):
        assert "orbiter.fleet.site" in module("worker_exec", command="id", deploy=deploy)["msg"]


def test_a_check_runs_nothing(module):
    told = module("worker_exec", command="id", check=True)
    assert (told["changed"], told["code"], told["lines"]) == (True, None, [])
