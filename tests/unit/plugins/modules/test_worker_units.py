"""What is to become of a host's instances is decided from what was seen there, before anything changes."""

from __future__ import annotations

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _systemd
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import TARGET, GateError, names
from ansible_collections.orbiter.fleet.plugins.modules.worker_units import Host

NONE = {"stopped": [], "restarted": [], "started": []}
ONE, TWO, THREE = names(3)


def seen(running=(ONE, TWO), *, enabled=None, stale=(), known=(ONE, TARGET), drained="", target="active"):
    """Return what was seen of a host: which instances run, and which are there at all."""
    there = set(running if enabled is None else enabled) | set(running)
    state = dict.fromkeys(there, "inactive") | dict.fromkeys(running, "active") | {TARGET: target}
    complete = set(running) | ({TARGET} if target == "active" else set())
    return {
        "instances": there,
        "running": set(running),
        "stale": set(stale),
        "complete": complete,
        "known": set(known),
        "state": state,
        "drained": drained,
    }


def decided(seen, before="1", **params):
    """Return what is decided of a host with two instances wanted."""
    given = {"instances": 2, "state": "running", "reason": "", "release": "", "restart": False}
    return Host(given | params, seen, before)


def said(host):
    """Return what would be stopped, restarted and started."""
    return {name: host.result()[name] for name in NONE}


@pytest.mark.parametrize(
    ("was", "params", "done"),
    [
        (seen(), {}, {}),
        (seen(), {"instances": 3}, {"started": [THREE]}),
        (seen(), {"instances": 1}, {"stopped": [TWO]}),
        # Enabled, and ended: a crash that systemd has given up.
        (seen((ONE,), enabled=(ONE, TWO)), {}, {"started": [TWO]}),
        (seen((), target="inactive"), {}, {"started": [ONE, TWO, TARGET]}),
        # New settings: what runs with older ones restarts, and nothing else.
        (seen(stale=(TWO,)), {}, {"restarted": [TWO]}),
        (seen(stale=(TWO,)), {"instances": 1}, {"stopped": [TWO]}),
        (seen(), {"restart": True}, {"restarted": [ONE, TWO]}),
        (seen(), {"release": "2"}, {"restarted": [ONE, TWO]}),
        (seen((ONE,)), {"release": "2"}, {"restarted": [ONE], "started": [TWO]}),
        (seen(), {"state": "drained"}, {"stopped": [ONE, TWO, TARGET]}),
        (seen((), drained="since", target="inactive"), {"state": "drained"}, {}),
        # What is drained stays so, whatever is deployed.
        (seen((), drained="since", target="inactive"), {"release": "2"}, {}),
        (seen((), drained="since", target="inactive"), {"state": "undrained"}, {"started": [ONE, TWO, TARGET]}),
        (seen(), {"state": "absent"}, {"stopped": [ONE, TWO, TARGET]}),
    ],
)
def test_what_is_not_as_wanted_changes_and_nothing_else(was, params, done, monkeypatch):
    monkeypatch.setattr(Host, "target_is_up", lambda self, _boot: self.seen["state"][TARGET] != "inactive")
    host = decided(was, **params)
    assert said(host) == NONE | done
    renoted = params.get("state") in ("drained", "undrained") and bool(done)
    assert host.result()["changed"] is (bool(done) or host.switches or renoted)


def test_a_drain_notes_why_and_a_deploy_forgets_nothing_of_it():
    assert decided(seen(), state="drained", reason="more memory").result()["drained"].endswith(" UTC: more memory")
    assert decided(seen((), drained="since then: why")).result()["drained"] == "since then: why"
    assert decided(seen((), drained="since then: why"), state="undrained").result()["drained"] == ""


def test_where_nothing_was_deployed_nothing_can_start():
    with pytest.raises(GateError, match=r"orbiter\.fleet\.site"):
        decided(seen((), known=()), before="").insist()


def test_with_settings_and_no_release_there_is_nothing_to_run():
    assert said(decided(seen((), target="inactive"), before="")) == NONE
    assert said(decided(seen((), target="inactive"), before="", release="1")) == NONE | {"started": [ONE, TWO, TARGET]}


def test_the_difference_names_release_and_units_before_and_after():
    told = decided(seen(stale=(TWO,)), release="2", instances=3).result()["diff"]
    assert told["before"].splitlines() == ["release 1", f"{ONE} active", f"{TWO} active", f"{THREE} absent"]
    assert told["after"].splitlines() == ["release 2", f"{ONE} restarted", f"{TWO} restarted", f"{THREE} started"]


def test_a_check_tells_what_would_change_and_changes_nothing(module, monkeypatch):
    monkeypatch.setattr(_systemd, "look", lambda: seen(stale=(TWO,)))
    monkeypatch.setattr(_systemd, "release", lambda: "1")
    # What would change a host is not there.
    for name in ("point_at", "stop", "start", "restart", "wait", "keep"):
        monkeypatch.delattr(_systemd, name)
    told = module("worker_units", check=True, diff=True, instances=3, release="2", gate_settle=10)
    assert told["changed"]
    assert {name: told[name] for name in NONE} == NONE | {"restarted": [ONE, TWO], "started": [THREE]}
    assert told["diff"]["before"].startswith("release 1\n")
    assert told["diff"]["after"].startswith("release 2\n")
    assert module("worker_units", check=True, instances=2)["restarted"] == [TWO]
