"""Whether hosts get a firewall: what the inventory says, or else what they served until now."""

from __future__ import annotations

import json
import re

import pytest
from plays import CHECKOUT

FLEET = ["[redis]", "r1", "r2", "r3", "[workers]", "w1", "[all:vars]", "redis_bind=192.0.2.1"]
FRESH, SERVES, GUARDED = [], ["redis"], ["redis", "firewall"]


@pytest.mark.parametrize(
    ("seen", "said", "wanted"),
    [
        ([FRESH, FRESH, FRESH], None, "on"),
        ([SERVES, SERVES, SERVES], None, "left"),
        ([SERVES, SERVES, FRESH], None, "left"),
        ([GUARDED, GUARDED, FRESH], None, "on"),
        ([FRESH, None, None], None, "left"),
        ([GUARDED, None, None], None, "on"),
        ([SERVES, SERVES, SERVES], "yes", "on"),
        ([GUARDED, GUARDED, GUARDED], "no", "off"),
        ([FRESH, FRESH, FRESH], False, "off"),
    ],
    ids=str,
)
def test_new_hosts_get_a_firewall_and_hosts_that_serve_without_are_asked_for(ansible, tmp_path, seen, said, wanted):
    there = {f"r{number}": files for number, files in enumerate(seen, 1) if files is not None}
    variables = [f"{CHECKOUT}/playbooks/vars/{name}.yml" for name in ("fleet", "firewall")]
    note = {"set_fact": {"__site_serves": "{{ there[inventory_hostname] }}"}, "when": "inventory_hostname in there"}
    show = {"debug": {"msg": "STATE={{ __site_firewall }}="}}
    play = {"hosts": "redis", "gather_facts": False, "vars_files": variables, "vars": {"there": there}}
    (tmp_path / "show.yml").write_text(json.dumps([play | {"tasks": [note, show]}]))
    given = [] if said is None else ["--extra-vars", json.dumps({"orbiter_firewall": said})]
    done = ansible(FLEET, tmp_path / "show.yml", *given)
    assert re.findall("STATE=(.*?)=", done.stdout) == [wanted] * 3, done.stdout


@pytest.mark.parametrize(
    "tag",
    [f"{role}{part}" for role in ("redis", "temporal") for part in ("", "_install", "_configure", "_service")],
)
def test_what_begins_to_serve_has_a_firewall_before_whatever_part_of_site_it_is_made_by(ansible, tag):
    fleet = ["[redis]", "r1", "[temporal]", "t1", "[workers]", "w1"]
    done = ansible(fleet, CHECKOUT / "site.yml", "--list-tasks", f"--tags={tag}")
    assert done.returncode == 0, done.stderr
    before, found, after = done.stdout.partition("Let in the fleet")
    role = f"orbiter.fleet.{tag.partition('_')[0]} : "
    assert found
    assert role in after
    prepared = before.rpartition("(Firewall)")[0]
    assert role not in prepared.rpartition("(Lock)")[2]
