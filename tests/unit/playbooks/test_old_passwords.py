"""What Redis' users had before stays valid while a worker host may use it: the plays of site.yml that end it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
LOCAL = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
INVENTORY = ["[redis]", f"redis1 {LOCAL}", "[workers]", f"worker1 {LOCAL}", f"worker2 {LOCAL}"]


@pytest.fixture
def end(ansible, tmp_path):
    """Return a function that plays the end of site.yml after workers have failed, and tells what it did."""

    def run(pending, *options, failed=(), inventory=None):
        plays = {play["name"]: play for play in yaml.safe_load((PLAYBOOKS / "site.yml").read_text())}
        ends = [plays["See who is well"], plays["Give up the old passwords"]]
        for play in ends:
            play["roles"] = [str(PLAYBOOKS / "roles/derived")]
            play["become"] = False
        [leave] = [task for task in ends[1]["tasks"] if "ansible.builtin.include_role" in task]
        leave.pop("ansible.builtin.include_role")
        leave["ansible.builtin.debug"] = {"msg": "given up"}
        before = {"hosts": "all", "gather_facts": False, "tags": ["always"], "tasks": [
            {"ansible.builtin.set_fact": {"__redis_pending": pending}},
            {"ansible.builtin.fail": {}, "when": f"inventory_hostname in {list(failed)}"},
        ]}  # fmt: skip
        (tmp_path / "end.yml").write_text(yaml.safe_dump([before, *ends]))
        done = ansible(inventory or INVENTORY, tmp_path / "end.yml", *options)
        assert done.returncode == (2 if failed else 0), done.stdout + done.stderr
        said = " ".join(done.stdout.split())
        return "given up" in said, json.dumps(said)

    return run


def test_they_end_when_all_workers_are_well(end):
    assert end(["default", "worker"])[0]


def test_they_stay_while_a_worker_host_is_not_well_and_it_is_named(end):
    given_up, said = end(["default", "worker"], failed=["worker2"])
    assert not given_up
    assert "stays valid (default, worker)" in said
    assert "may use it: worker2." in said


@pytest.mark.parametrize("options", [["--limit=redis1,worker1"], ["--tags=redis"], ["--skip-tags=worker"]])
def test_they_stay_where_workers_are_left_out(end, options):
    given_up, said = end(["worker"], *options)
    assert not given_up
    assert "worker2" in said.rpartition("may use it: ")[2]


def test_those_that_no_worker_uses_end_in_any_case(end):
    assert end(["reports", "client"], failed=["worker2"])[0]


def test_where_nothing_is_to_end_nothing_is_said(end):
    given_up, said = end([], failed=["worker2"])
    assert not given_up
    assert "may use it" not in said


def test_who_has_a_url_with_a_user_of_the_fleet_may_use_it_and_who_uses_another_redis_may_not(end):
    for url, may in (("redis://worker:x@nat:1", True), ("redis://somebody:x@elsewhere:1", False)):
        inventory = [*INVENTORY, f"worker3 {LOCAL} orbiter_redis_url={url}"]
        given_up, said = end(["worker"], "--limit=redis1,worker1,worker2", inventory=inventory)
        assert given_up is not may
        assert ("may use it: worker3." in said) is may
