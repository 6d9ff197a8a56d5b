"""What an inventory says of its hosts, such as ansible_become, does not reach the tasks of the controller."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from plays import Task, tasks

CONTROLLER = {
    "ansible_become": False,
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}
# Delegated by the value of a variable: to a host of the fleet, or to one that may be the controller.
ELSEWHERE = ("lock_host", "__retire_asked", "{{ item }}", "{{ item.item }}")
EITHER = {"{{ image_build_host }}": {"ansible_become": "{{ __image_become }}"}}
EVERY = list(tasks())


def runs_on(task: Task) -> str:
    """Return where a task runs, if not on the hosts of its play."""
    if "local_action" in task.own or task.keywords.get("connection") == "local":
        return "localhost"
    hosts = task.keywords.get("hosts", "")
    return str(task.keywords.get("delegate_to", "localhost" if hosts == "localhost" else ""))


HERE = [task for task in EVERY if runs_on(task) == "localhost"]


def lacking(task: Task, variables: dict[str, Any]) -> dict[str, Any]:
    """Return the variables that a task has not, or has with another value."""
    return {name: value for name, value in variables.items() if task.variables.get(name) != value}


def test_every_place_that_tasks_are_delegated_to_is_known():
    places = {runs_on(task) for task in EVERY}
    assert {place for place in places if not any(name in place for name in ELSEWHERE)} == {"", "localhost", *EITHER}
    assert len(HERE) > 15  # they are found


def test_every_task_of_the_controller_is_free_of_the_inventory():
    wrong = {task.place: lacking(task, CONTROLLER) for task in HERE if lacking(task, CONTROLLER)}
    wrong |= {
        task.place: lacking(task, EITHER[runs_on(task)])
        for task in EVERY
        if runs_on(task) in EITHER and lacking(task, EITHER[runs_on(task)])
    }
    assert wrong == {}


def test_every_task_that_must_not_become_root_is_free_of_the_inventory():
    """The variable wins over the keyword."""
    as_user = [task for task in EVERY if task.keywords.get("become") is False]
    assert as_user
    assert [task.place for task in as_user if lacking(task, {"ansible_become": False})] == []


@pytest.fixture
def inventory(tmp_path: Path) -> list[str]:
    """Return an inventory whose hosts need sudo, and another Python, and whose controller has neither."""
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    lines = ["host ansible_host=192.0.2.1", "[all:vars]", "ansible_become=true", f"ansible_become_exe={sudo}"]
    return [*lines, "ansible_user=deploy", "ansible_python_interpreter=/usr/bin/python-of-hosts"]


@pytest.mark.parametrize("named", [False, True], ids=["implicit", "in the inventory"])
def test_the_controller_asks_for_no_password_of_sudo(ansible, inventory, monkeypatch, named):
    """Each set of keywords that tasks of the controller have, around a module that only answers."""
    monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "true")  # root asks sudo, too
    kept = [
        {"delegate_to": "localhost", "ansible.builtin.ping": None, "become": task.keywords.get("become", True)}
        | {"vars": {name: value for name, value in task.variables.items() if name.startswith("ansible_")}}
        for task in HERE
    ]
    lines = sorted({f"    - {json.dumps(task, sort_keys=True)}\n" for task in kept})
    done = ansible([*(["localhost"] if named else []), *inventory], "".join(lines), "--limit=host")
    assert done.returncode == 0, done.stdout


def test_the_authority_is_made_without_sudo(ansible, inventory, monkeypatch, tmp_path):
    monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "true")
    tasks_of_role = """
    - include_role: {name: orbiter.fleet.authority}
      vars: {authority_name: "{{ inventory_hostname }}", authority_hosts: [192.0.2.1]}
"""
    done = ansible(
        ["localhost", *inventory], tasks_of_role, "--limit=host", f"--extra-vars=authority_directory={tmp_path}/tls"
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "tls/host.pem").stat().st_uid == os.getuid()


def test_what_may_be_silent_does_not_end_the_play_where_it_is_asked_once():
    """With run_once a host that is away ends the play for all, whatever ignore_unreachable says."""
    asked = [task for task in EVERY if "run_once" in task.keywords and task.keywords.get("ignore_unreachable")]
    remote = [task for task in asked if not {"ansible.builtin.assert", "ansible.builtin.debug"} & task.own.keys()]
    assert remote
    assert [task.place for task in remote if not task.keywords.get("ignore_errors")] == []
