"""A group changes to TLS with all its members that run with both ports, and otherwise nothing of it changes."""

from __future__ import annotations

import json
import re
import sys

import pytest

HERE = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
WANTED = {"redis_tls": True, "redis_tls_port": 6380, "redis_sentinel_tls_port": 26380}
ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
PLAIN, BOTH = ("plain", 6379, [6379]), ("plain", 6379, [6379, 6380])
LATE, TLS = ("tls", 6380, [6379, 6380]), ("tls", 6380, [6380])  # one that has not closed the plain port yet
STOPPED, FRESH = ("", 0, []), ("", 0, [6379])
CHECK = """
    - set_fact:
        __redis_seen: {{address: "{{{{ redis_bind }}}}", redis: "{{{{ seen }}}}"}}
    - include_role: {{name: orbiter.fleet.redis, tasks_from: {tasks}, public: true}}
      vars:
        redis_members: {members}
    - debug:
        msg: "{{{{ 'CHANGES' if __redis_changes_over else 'STAYS' }}}}"
      vars:
        redis_members: {members}
"""


@pytest.fixture
def decided(ansible):
    """Return a function that tells what each member does: it is refused, changes over, or stays."""

    def run(*members, tasks="preflight_group", group=None, **values):
        hosts = []
        for address, (within, port, ports) in zip(ADDRESSES, members, strict=False):
            seen = json.dumps({"within": within, "port": port, "ports": ports}).replace(" ", "")
            hosts.append(f"{address} {HERE} redis_bind={address} seen='{seen}'")
        said = json.dumps(WANTED | values)
        done = ansible(
            hosts, CHECK.format(tasks=tasks, members=ADDRESSES if group is None else group), f"--extra-vars={said}"
        )
        assert "undefined" not in done.stdout
        words = {"CHANGES": "changes", "STAYS": "stays", "Nothing was changed": "refused"}
        found = {}
        for part in re.split(r"^(?:ok|fatal): ", done.stdout, flags=re.MULTILINE)[1:]:
            host = part[1:].partition("]")[0]
            told = [told for word, told in words.items() if word in part.partition("\n}")[0]]
            found.update(zip([host], told, strict=False))
        return [found[host] for host in ADDRESSES[: len(members)]]

    return run


@pytest.mark.parametrize(
    "members",
    [(PLAIN, PLAIN, PLAIN), (PLAIN, BOTH, BOTH), (BOTH, BOTH, STOPPED), (BOTH, BOTH, FRESH), (BOTH,), (LATE, LATE)],
    ids=["all-plain", "interrupted-open", "stopped", "fresh", "limit", "limit-interrupted-close"],
)
def test_a_group_does_not_change_over_in_part(decided, members):
    assert decided(*members) == ["refused"] * len(members)


def test_a_group_with_both_ports_changes_over_and_one_that_was_interrupted_goes_on(decided):
    assert decided(BOTH, BOTH, BOTH) == ["changes"] * 3
    assert decided(LATE, BOTH, BOTH) == ["changes"] * 3
    assert decided(TLS, LATE, TLS) == ["stays", "changes", "stays"]
    assert decided(BOTH, BOTH, BOTH, redis_tls_beside=True) == ["stays"] * 3


def test_a_group_that_uses_tls_stays_and_takes_members(decided):
    assert decided(TLS, TLS, TLS) == ["stays"] * 3
    assert decided(TLS, TLS, STOPPED) == ["stays"] * 3
    assert decided(TLS, TLS, FRESH) == ["stays"] * 3
    assert decided(TLS) == ["stays"]  # --limit


@pytest.mark.parametrize(
    ("members", "values"),
    [
        ((TLS, TLS, TLS), {"redis_tls": False}),
        ((LATE, LATE, LATE), {"redis_tls": False}),
        ((LATE, LATE, LATE), {"redis_tls_beside": True}),
        ((TLS, TLS, STOPPED), {"redis_tls_port": 6390}),
        ((PLAIN, PLAIN, PLAIN), {"redis_tls": False, "redis_port": 6390}),
        ((BOTH, BOTH, BOTH), {"redis_tls_port": 6390}),
    ],
    ids=["from-tls", "both-from-tls", "both-beside", "tls-port", "plain-port", "another-tls-port"],
)
def test_a_group_that_runs_otherwise_is_refused(decided, members, values):
    assert decided(*members, **values) == ["refused"] * 3


def test_a_single_server_or_a_stopped_group_has_nothing_to_change_over(decided):
    single = ("", 0, [6379, 6380])
    assert decided(single, FRESH, FRESH) == ["stays"] * 3
    assert decided(STOPPED, STOPPED, STOPPED) == ["stays"] * 3


@pytest.mark.parametrize(
    ("members", "told"),
    [((PLAIN, PLAIN, PLAIN), "refused"), ((BOTH, BOTH, BOTH), "refused"), ((TLS, TLS, STOPPED), "stays")],
    ids=["not-moved", "both-open", "moved"],
)
def test_users_change_in_a_group_that_has_ended_its_move_only(decided, members, told):
    assert decided(*members, tasks="preflight_users") == [told] * 3


def test_users_change_while_both_ports_are_to_stay_open(decided):
    assert decided(BOTH, BOTH, BOTH, tasks="preflight_users", redis_tls_beside=True) == ["stays"] * 3
