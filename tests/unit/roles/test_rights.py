"""The users that the role orbiter.fleet.redis writes: their rules are those that the worker's tests are run with."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Server
from users import ROLE, refused, written

CHECKOUT = Path(__file__).parents[3]
RIGHTS = yaml.safe_load((ROLE / "files/rights.yml").read_text())["rights"]
SCRIPTS = json.loads((ROLE / "files/client_scripts.json").read_text())
EXTRA = "0123456789abcdef0123456789abcdef01234567"

_spec = importlib.util.spec_from_file_location("redis_rules", CHECKOUT / "plugins/filter/redis_rules.py")
_plugin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_plugin)


def test_users_get_the_rules_of_their_rights_for_each_queue(ansible, tmp_path):
    others = {
        "worker": {},
        "billing": {"rights": "client"},
        "old": {"rights": "legacy_client"},
        "chief": {"rights": "admin"},
    }
    users = {name: {"password": f"password of {name}", **other} for name, other in others.items()}
    queues = ["orbiter:tasks", "mail"]
    texts = [*SCRIPTS["current"].values(), *SCRIPTS["previous"].values()]
    scripts = sorted({EXTRA, *(hashlib.sha1(text.encode()).hexdigest() for text in texts)})
    rules = written(
        ansible, tmp_path / "users.acl", redis_users=users, redis_queues=queues, redis_client_scripts_extra=[EXTRA]
    )
    assert rules == {
        **dict.fromkeys(("admin", "chief"), "~* &* +@all"),
        "client": _plugin.redis_rules(RIGHTS["client"], queues, scripts),
        "monitor": _plugin.redis_rules(RIGHTS["monitor"], queues, scripts),
        "worker": _plugin.redis_rules(RIGHTS["worker"], queues, scripts),
        "billing": _plugin.redis_rules(RIGHTS["client"], queues, scripts),
        "old": _plugin.redis_rules(RIGHTS["legacy_client"], queues, scripts),
    }


def test_an_inventory_with_one_password_has_a_user_for_each_purpose_with_a_password_of_its_own(ansible, tmp_path):
    path = tmp_path / "users.acl"
    rules = written(ansible, path)
    assert rules.keys() == {"admin", "worker", "client", "monitor"}
    passwords = dict(line.split()[1::3][:2] for line in path.read_text().splitlines() if "#" in line)
    assert passwords.keys() == rules.keys()
    assert len(set(passwords.values())) == 4
    assert not any("+@all" in rules[name] for name in ("worker", "client", "monitor"))


def test_what_scripts_have_written_is_there_after_the_next_start(ansible, tmp_path):
    """Redis loads its AOF as the user `default`, and asks for its rights before each transaction."""
    path = tmp_path / "users.acl"
    written(ansible, path, redis_password=Server.password)
    for there in (0, 2):
        with Server(tmp_path, "appendonly yes", f"aclfile {path}", user="admin") as server:
            assert server.client.dbsize() == there
            server.client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)", 0)


def test_a_user_of_another_namespace_has_its_keys_and_queues_only(ansible, tmp_path):
    users = {"acme": {"password": "password of acme", "rights": "client", "namespace": "{acme}", "queues": ["mail"]}}
    rules = written(ansible, tmp_path / "users.acl", redis_users=users)["acme"]
    keys = [word.lstrip("(").partition("~")[2] for word in rules.split() if "~" in word]
    channels = [word[1:] for word in rules.split() if word.startswith("&")]
    assert "{acme}:mail" in keys
    assert "{acme}:{mail}:delayed" in keys
    assert channels
    assert {name.partition(":")[0] for name in (*keys, *channels)} == {"{acme}"}


@pytest.mark.parametrize(
    "border", [{"namespace": "a*"}, {"namespace": "{a"}, {"namespace": ""}, {"queues": "mail"}, {"queues": ["a b"]}]
)
def test_a_namespace_or_queue_that_cannot_be_is_refused_with_its_user(ansible, border):
    users = {"acme": {"password": "password of acme", "rights": "client", **border}}
    assert "has acme with a" in refused(ansible, redis_users=users)


def test_later_releases_of_redis_may_be_told_the_drivers_name(ansible, tmp_path):
    assert "client|setinfo" in written(ansible, tmp_path / "users.acl", __redis_version="8.0.0")["worker"]


@pytest.mark.parametrize("extra", ["abc", "0123456789ABCDEF0123456789ABCDEF01234567", "+@all"])
def test_a_hash_that_is_none_is_refused_by_name(ansible, extra):
    assert "redis_client_scripts_extra is" in refused(ansible, redis_client_scripts_extra=[extra])


def test_tables_and_scripts_are_those_of_now():
    done = subprocess.run(
        [sys.executable, "tools/rights.py", "--check"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
