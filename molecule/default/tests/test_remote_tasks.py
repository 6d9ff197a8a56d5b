"""A deploy that changes nothing costs each host few round trips: that is what bounds how large a fleet can be."""

from __future__ import annotations

import json

import pytest

MOST = 12


@pytest.fixture(scope="module")
def again(play, tmp_path_factory, monkeypatch_module):
    """Deploy once more; return the tasks that ran on each host, and what Ansible said."""
    assert play("site.yml").returncode == 0  # whatever other tests have left
    file = tmp_path_factory.mktemp("count") / "tasks.json"
    monkeypatch_module.setenv("ANSIBLE_CALLBACK_PLUGINS", "molecule/plugins/callback")
    monkeypatch_module.setenv("ANSIBLE_CALLBACKS_ENABLED", "remote_tasks")
    monkeypatch_module.setenv("ORBITER_REMOTE_TASKS", str(file))
    done = play("site.yml")
    assert done.returncode == 0
    return json.loads(file.read_text()), done.stdout


@pytest.fixture(scope="module")
def monkeypatch_module():
    """Return a monkeypatch that lasts as long as the module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_few_tasks_run_on_a_worker_host(again, workers):
    ran, _ = again
    for name in workers:
        print(name, len(ran[name]), *ran[name], sep="\n  ")
        assert 3 < len(ran[name]) <= MOST  # it counts at all, and not too many


def test_nothing_changes(again):
    assert not [line for line in again[1].splitlines() if line.startswith("changed:")]
