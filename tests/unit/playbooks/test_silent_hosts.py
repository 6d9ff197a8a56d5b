"""A host that is silent, and may be, ends no run by the way; and one that fails does, whoever is left out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import free_port

CHECKOUT = Path(__file__).parents[3]
PLAYBOOKS = CHECKOUT / "playbooks"
HERE = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
SILENT = f"ansible_host=127.0.0.1 ansible_port={free_port()} ansible_become=false"
GROUPS = ["[redis]", "redis1", "[workers]", "worker1"]
GOES_ON = {"hosts": "workers", "gather_facts": False, "tasks": [{"debug": {"msg": "GOES ON"}}]}


@pytest.mark.parametrize("part", ["lock", "finish"])
def test_a_redis_host_that_is_silent_and_left_out_ends_no_run(ansible, tmp_path, part):
    (tmp_path / "run.yml").write_text(json.dumps([{"import_playbook": str(PLAYBOOKS / f"{part}.yml")}, GOES_ON]))
    done = ansible([f"redis1 {SILENT}", f"worker1 {HERE}", *GROUPS], tmp_path / "run.yml", "--limit=worker1")
    assert done.returncode == 0, done.stdout
    assert "GOES ON" in done.stdout
    if part == "lock":
        assert "redis1: the host does not answer" in " ".join(done.stdout.split())


@pytest.mark.parametrize("part", ["lock", "finish"])
def test_a_lock_that_cannot_be_asked_for_on_a_host_that_answers_ends_the_run(ansible, tmp_path, part):
    (tmp_path / "run.yml").write_text(json.dumps([{"import_playbook": str(PLAYBOOKS / f"{part}.yml")}, GOES_ON]))
    broken = f"redis1 {HERE}".replace(sys.executable, "/bin/false")
    done = ansible([broken, f"worker1 {HERE}", *GROUPS], tmp_path / "run.yml", "--limit=worker1")
    assert done.returncode == 2, done.stdout
    assert "redis1: " in done.stdout
    assert "GOES ON" not in done.stdout


WORKERS = [f"worker1 {SILENT}", f"worker2 {HERE}", f"worker3 {HERE}", f"redis1 {HERE}", "[redis]", "redis1"]
WORKERS += ["[workers]", "worker[1:3]", "[all:vars]", "orbiter_skip_unreachable=yes"]


@pytest.mark.parametrize(("hosts", "deploy"), [("__site_worker_hosts", "systemd"), ("__site_compose_hosts", "compose")])
def test_what_fails_ends_the_run_also_where_a_host_was_left_out(ansible, tmp_path, hosts, deploy):
    """Ansible goes on with other plays unless all hosts of one have failed, and counts those that it cannot reach."""
    play = {"hosts": f"{{{{ {hosts} }}}}", "gather_facts": False, "roles": [str(PLAYBOOKS / "roles/derived")]}
    fails = {"fail": {"msg": "UNFIT"}, "when": "inventory_hostname == 'worker2'"}
    change = {"hosts": "redis", "gather_facts": False, "tasks": [{"debug": {"msg": "CHANGES"}}]}
    run = [
        {"import_playbook": str(PLAYBOOKS / "reach.yml")},
        play | {"any_errors_fatal": True, "tasks": [fails]},
        change,
    ]
    (tmp_path / "run.yml").write_text(json.dumps(run))
    done = ansible([*WORKERS, f"worker_deploy={deploy}"], tmp_path / "run.yml")
    assert "UNFIT" in done.stdout, done.stdout
    assert "CHANGES" not in done.stdout


def test_no_play_counts_hosts_that_were_left_out():
    after = (
        "prepare",
        "left_queue",
        "lock",
        "stage",
        "site",
        "connect",
        "rolling_update",
        "move",
        "rollback",
        "undrain",
    )
    plays = [(name, play) for name in after for play in yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text())]
    strict = [(name, play) for name, play in plays if "serial" in play or play.get("any_errors_fatal")]
    assert len(strict) > len(after)
    counted = [f"{name}: {play['name']}" for name, play in strict if re.search("orbiter_worker_hosts", play["hosts"])]
    assert counted == ["prepare: Check the inventory"]  # which contacts none
