"""Whether hosts get a firewall: what the inventory says, or else what they served until now."""

from __future__ import annotations

import json
import re
import sys

import pytest
from plays import CHECKOUT

HERE = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
FLEET = ["[redis]", "r1", "r2", "r3", "[temporal]", "t1", "[workers]", "w1"]
FRESH, SERVES, GUARDED = [], ["users", "aclfile"], ["users", "aclfile", "firewall"]
DERIVED = [f"{CHECKOUT}/playbooks/roles/derived"]


@pytest.fixture
def shown(ansible, tmp_path):
    """Return a function that shows an expression on hosts of which something was seen: facts by host."""

    def run(expression, fleet, facts, *options):
        show = {"debug": {"msg": f"{{{{ inventory_hostname }}}}={{{{ {expression} }}}};"}}
        seen = [(host, {"set_fact": known | {"cacheable": True}}) for host, known in facts.items()]
        plays = [{"hosts": host, "gather_facts": False, "tasks": [task]} for host, task in seen]
        plays += [{"hosts": "all", "gather_facts": False, "roles": DERIVED, "tasks": [show]}]
        (tmp_path / "show.yml").write_text(json.dumps(plays))
        done = ansible([*fleet, "[all:vars]", "redis_bind=192.0.2.1"], tmp_path / "show.yml", *options)
        found = dict(re.findall('"msg": "(.*?)=(.*?);"', done.stdout))
        assert found, done.stdout
        return found

    return run


def served(files, *, installed=True):
    """Return what a run has seen of a host with some of the roles' files."""
    packages = {"redis-server": "5:7.0.15-1"} if installed and set(files) - {"temporal", "firewall"} else {}
    return {"__site_serves": files, "__redis_seen": {"packages": packages, "redis": {"foreign": []}}}


@pytest.mark.parametrize(
    ("seen", "said", "wanted"),
    [
        ([FRESH, FRESH, FRESH], None, "on"),
        ([SERVES, SERVES, SERVES], None, "left"),
        ([SERVES, SERVES, FRESH], None, "left"),
        ([GUARDED, GUARDED, FRESH], None, "on"),
        ([FRESH, None, None], None, "on"),
        ([GUARDED, None, None], None, "on"),
        ([SERVES, SERVES, SERVES], "yes", "on"),
        ([GUARDED, GUARDED, GUARDED], "no", "off"),
        ([FRESH, FRESH, FRESH], False, "off"),
    ],
    ids=str,
)
def test_new_hosts_get_a_firewall_and_hosts_that_serve_without_are_asked_for(shown, seen, said, wanted):
    facts = {f"r{number}": served(files) for number, files in enumerate(seen, 1) if files is not None}
    given = [] if said is None else ["--extra-vars", json.dumps({"orbiter_firewall": said})]
    found = shown("__site_firewalls", FLEET, facts, *given)
    states = json.loads(found["r1"].replace("'", '"'))
    assert {states[host] for host in facts} == {wanted}


def test_a_firewall_that_one_host_is_asked_for_is_not_made_on_another(shown):
    """Neither in the run that makes it, nor in one after it."""
    fleet = [*FLEET[:1], "r1 orbiter_firewall=yes", *FLEET[2:]]
    for has in (SERVES, GUARDED):
        facts = {"r1": served(has), "r2": served(SERVES), "r3": served(SERVES)}
        found = shown("__site_firewall", [*fleet[:4], "[workers]", "w1"], facts)
        assert [found[host] for host in ("r1", "r2", "r3")] == ["on", "left", "left"]


def test_a_new_host_of_temporal_gets_one_beside_a_redis_that_is_left_without(shown):
    facts = {"r1": served(SERVES), "t1": served(FRESH)}
    found = shown("__site_firewall", ["[redis]", "r1", "[temporal]", "t1", "[workers]", "w1"], facts)
    assert (found["r1"], found["t1"]) == ("left", "on")


def test_settings_that_a_removed_redis_has_left_behind_are_no_service(shown):
    for has, wanted in ((SERVES, "on"), ([*SERVES, "temporal"], "left")):
        found = shown("__site_firewall", ["[redis]", "r1", "[workers]", "w1"], {"r1": served(has, installed=False)})
        assert found["r1"] == wanted


def test_a_host_with_addresses_of_one_family_only_was_looked_at(shown):
    six = {"all_ipv4_addresses": [], "all_ipv6_addresses": ["2001:db8::7", "fe80::7"]}
    four = {"all_ipv4_addresses": ["192.0.2.8"], "all_ipv6_addresses": []}
    fleet = ["[redis]", "r1", "[workers]", "w1", "w2"]
    facts = {"r1": six, "w1": four}
    assert shown("__site_unseen", fleet, facts)["r1"] == "['w2']"
    assert shown("__site_addresses", fleet, facts)["r1"] == "['2001:db8::7', '192.0.2.8']"


@pytest.mark.parametrize(
    ("reached", "members", "waits"),
    [
        # Behind a name, and seen by nobody in this run: only for a member that may become master is that a reason.
        ("ansible_host=w1.example.net", ["r1", "r2 ansible_host=192.0.2.2"], True),
        ("ansible_host=192.0.2.9", ["r1", "r2 ansible_host=192.0.2.2"], False),
        ("ansible_host=w1.example.net", ["r1"], False),
    ],
)
def test_a_new_member_of_a_group_shuts_out_nobody_whose_address_is_unknown(shown, reached, members, waits):
    fleet = ["[redis]", *members, "[workers]", f"w1 {reached}"]
    own = {"all_ipv4_addresses": ["192.0.2.1"], "all_ipv6_addresses": []}
    for files, expected in ((FRESH, waits), (GUARDED, False)):
        assert shown("__site_firewall_waits", fleet, {"r1": served(files) | own})["r1"] == str(expected)


@pytest.mark.parametrize(
    ("option", "wanted"),
    [
        ("--forks=5", {"r1", "t1", "both"}),
        ("--tags=worker", set()),
        ("--skip-tags=redis", {"t1", "both"}),
        ("--skip-tags=temporal", {"r1", "both"}),
        ("--skip-tags=temporal_install,worker", {"r1", "t1", "both"}),
        ("--tags=redis_configure", {"r1", "both"}),
        ("--tags=temporal", {"t1", "both"}),
        ("--tags=temporal_service", {"t1", "both"}),
    ],
)
def test_what_a_run_has_to_do_with_has_its_firewall_whatever_else_is_left_out(ansible, option, wanted):
    """Seen by the first task of the role, which looks whether there is one to remove."""
    fleet = [f"{host} {HERE}" for host in ("r1", "both", "t1")]
    fleet += ["[redis]", "r1", "[temporal]", "t1", "both", "[redis]", "both", "[workers]", "w1"]
    done = ansible([*fleet, "[all:vars]", "orbiter_firewall=no"], CHECKOUT / "playbooks/firewall.yml", option)
    assert done.returncode == 0, done.stdout
    looked = done.stdout.partition("See whether there is one of ours")[2].partition("TASK [")[0]
    assert set(re.findall(r"ok: \[(\w+)\]", looked)) == wanted


def test_what_begins_to_serve_has_a_firewall_before(ansible):
    fleet = ["[redis]", "r1", "[temporal]", "t1", "[workers]", "w1"]
    done = ansible(fleet, CHECKOUT / "site.yml", "--list-tasks")
    assert done.returncode == 0, done.stderr
    before, found, after = done.stdout.partition("Let in the fleet")
    assert found
    for role in ("orbiter.fleet.redis : ", "orbiter.fleet.temporal : "):
        assert role in after
        assert role not in before.rpartition("(Firewall)")[0].rpartition("(Lock)")[2]
