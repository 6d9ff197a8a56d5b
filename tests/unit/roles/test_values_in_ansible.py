"""Ansible reads values as inventories and command lines write them: no is no, and other words are refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[3]
CHECKED = ["dashboard", "monitoring", "redis", "temporal", "worker"]
# As an inventory in INI writes them; quotes are part of how that says text.
FORMS = ["no", "No", "n", "off", "false", "False", '"false"', "'no'", "0", '"0"']


def booleans(role: str) -> list[str]:
    """Return the names of a role's booleans."""
    specs = yaml.safe_load((CHECKOUT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    return [name for name, option in specs["main"]["options"].items() if option["type"] == "bool"]


ALL = [name for role in CHECKED for name in booleans(role)]
CHECK = "".join(
    f"    - include_role: {{name: orbiter.fleet.{role}, tasks_from: preflight_values, public: true}}\n"
    for role in CHECKED
)
ARE_FALSE = f"    - assert:\n        that: not lookup('ansible.builtin.vars', item) | bool\n      loop: {ALL}\n"


def test_every_way_of_an_inventory_to_say_no_is_no(ansible):
    hosts = [f"host{number} " + " ".join(f"{name}={form}" for name in ALL) for number, form in enumerate(FORMS)]
    done = ansible(hosts, CHECK + ARE_FALSE)
    assert done.returncode == 0, done.stdout


def test_no_on_the_command_line_is_no(ansible):
    done = ansible(["host"], CHECK + ARE_FALSE, *(f"--extra-vars={name}=no" for name in ALL))
    assert done.returncode == 0, done.stdout


def test_a_word_that_is_neither_yes_nor_no_is_refused_by_name(ansible):
    done = ansible([f"with-{name} {name}=maybe" for name in ALL], CHECK)
    for name in ALL:
        said = re.search(rf"^fatal: \[with-{name}\].*", done.stdout, re.MULTILINE)
        assert said is not None, done.stdout
        assert name in said[0].partition("]")[2]
        assert "maybe" in said[0]


def test_docker_is_installed_only_where_it_is_asked_for(ansible):
    """A host without an engine is refused otherwise, before anything changes."""
    forms = {"never": "no", "nor": "false", "nothing": "0", "please": "yes"}
    tasks = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_docker}
      vars:
        worker_deploy: compose
        __worker_host: {docker: {trouble: not installed, systemd: false, docker: "", compose: ""}}
        ansible_facts:
          os_family: Debian
          distribution: Debian
          distribution_major_version: "13"
          service_mgr: systemd
          python_version: 3.13.5
"""
    done = ansible([f"{host} worker_install_docker={form}" for host, form in forms.items()], tasks)
    refused = re.findall(r"fatal: \[(\w+)\].*worker_install_docker: true where", done.stdout)
    assert sorted(refused) == ["never", "nor", "nothing"], done.stdout
    assert re.search(r"^please .*failed=0", done.stdout, re.MULTILINE)


def test_a_list_on_the_command_line_has_commas(ansible):
    tasks = """
    - assert:
        that:
          - __redis_queues == ['one', 'two']
          - __worker_env['ORBITER_ALLOW_IMPORT'] == 'alone'
          - __worker_env['ORBITER_ALLOW_MODELS'] == 'default,ollama:*'
"""
    said = ["--extra-vars=redis_queues=one,two", "--extra-vars=worker_allow_imports=alone"]
    said += ['--extra-vars={"worker_allow_models": "default, ollama:*"}']
    done = ansible(["host"], CHECK + tasks, *said)
    assert done.returncode == 0, done.stdout


FLEET = ["[redis]", "queue", "[workers]", "work", "[all:vars]", "ansible_host=192.0.2.1"]


@pytest.mark.parametrize(
    ("playbook", "name"),
    [
        ("teardown", "orbiter_teardown_redis"),
        ("teardown", "orbiter_teardown_temporal"),
        ("teardown", "redis_remove_data"),
        ("rotate_secrets", "orbiter_rotate_keep_old"),
        ("redis_tls", "orbiter_redis_tls_close"),
    ],
)
def test_a_switch_that_is_neither_yes_nor_no_stops_a_playbook_at_once(ansible, playbook, name):
    said = [f"--extra-vars={name}=maybe", "--extra-vars=orbiter_teardown=true"]
    done = ansible(FLEET, CHECKOUT / f"playbooks/{playbook}.yml", *said)
    assert done.returncode == 2, done.stdout
    assert re.findall(r"^PLAY \[(.+)\]", done.stdout, re.MULTILINE) == ["Check what is meant"]
    assert re.search(rf"^fatal: .*{name}.*maybe", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("redis", "redis_users"),
        ("worker", "worker_extra_env"),
        ("worker", "worker_task_env"),
        ("worker", "worker_compose_service"),
    ],
)
def test_a_mapping_that_is_text_is_refused_by_name(ansible, role, name):
    tasks = f"    - include_role: {{name: orbiter.fleet.{role}, tasks_from: preflight_inventory}}\n"
    given = ["--extra-vars=redis_password=a-good-passw0rd-of-redis", "--extra-vars=worker_redis_url=redis://queue"]
    done = ansible(["host"], tasks, *given, f"--extra-vars={name}=text")
    assert done.returncode == 2, done.stdout
    assert re.search(rf"fatal: .*host: {name} .*must be a mapping", done.stdout), done.stdout


@pytest.mark.parametrize(
    "given",
    [
        "orbiter_firewall=maybe",
        "orbiter_firewall_connections=many",
        '{"orbiter_firewall_clients": ["10.0.0.300"]}',
        '{"orbiter_firewall_clients": ["10.0.0.0/33"]}',
        '{"orbiter_firewall_clients": ["web1"]}',
    ],
)
def test_a_firewall_that_cannot_be_made_is_refused_before_a_host_is_asked(ansible, given):
    done = ansible(FLEET, CHECKOUT / "playbooks/prepare.yml", "--extra-vars", given)
    assert done.returncode == 2, done.stdout
    assert re.findall(r"^PLAY \[(.+)\]", done.stdout, re.MULTILINE) == ["Check the inventory"]
    wrong = json.loads(given)["orbiter_firewall_clients"][0] if given.startswith("{") else given.split("=")[1]
    assert re.search(rf"^fatal: .*orbiter_firewall.*{re.escape(wrong)}", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("given", [["worker_queue=mail"], ["worker_queue=orbiter:mail", "redis_queues=orbiter:a,b"]])
def test_a_queue_that_redis_users_may_not_use_is_refused_before_a_host_is_asked(ansible, given):
    said = ["redis_password=a-good-passw0rd-of-redis", *given]
    done = ansible(FLEET, CHECKOUT / "playbooks/prepare.yml", *(f"--extra-vars={one}" for one in said))
    assert done.returncode == 2, done.stdout
    assert re.findall(r"^PLAY \[(.+)\]", done.stdout, re.MULTILINE) == ["Check the inventory"]
    assert re.search(r"^fatal: .*worker_queue is orbiter:mail.*redis_queues", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("given", ["worker_queue=b", "worker_queue=orbiter:b"])
def test_a_queue_is_the_same_with_its_namespace_and_without(ansible, given):
    said = ["redis_password=a-good-passw0rd-of-redis", "redis_queues=orbiter:a,b", given]
    done = ansible(FLEET, CHECKOUT / "playbooks/prepare.yml", *(f"--extra-vars={one}" for one in said))
    assert "PLAY [Look at the hosts]" in done.stdout, done.stdout
    assert "worker_queue is" not in done.stdout


def test_users_of_worker_hosts_have_names_that_redis_takes_and_each_its_own(ansible, tmp_path):
    names = ["plain-1.example.net", "10.0.0.1", "fe80::1", "fe80__1", "me@host", "größe", "a" * 150, "a" * 151]
    groups = {"redis": {"hosts": {"queue": {}}}, "workers": {"hosts": {name: {} for name in names}}}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"children": groups}}))
    show = {"debug": {"msg": "USERS={{ orbiter_redis_worker_hosts.values() | map(attribute='user') | join(',') }}="}}
    fleet = str(CHECKOUT / "playbooks/roles/derived")
    (tmp_path / "show.yml").write_text(
        json.dumps([{"hosts": "queue", "gather_facts": False, "roles": [fleet], "tasks": [show]}])
    )
    done = ansible([], tmp_path / "show.yml", f"--inventory={tmp_path}/hosts.yml")
    users = re.search("USERS=(.*?)=", done.stdout)[1].split(",")
    assert {"worker-plain-1.example.net", "worker-10.0.0.1", "worker-fe80__1"} <= set(users)
    assert len(set(users)) == len(names), users
    assert [user for user in users if not re.fullmatch(r"[A-Za-z0-9_.-]{1,110}", user)] == []


@pytest.mark.parametrize(
    ("redis", "said", "refused"),
    [
        (
            "queue",
            [],
            r"redis_tls is not in the inventory and redis_tls_port 6379, where Redis' port without TLS is 6379",
        ),
        ("queue", ["redis_tls=true"], r"redis_tls is true and redis_tls_port 6379, .*redis_tls_port: 6380"),
        ("queue", ["redis_tls_port=6380"], r"redis_tls is not in the inventory and .* 6380, .*redis_tls: true"),
        ("queue", ["redis_tls=no", "redis_tls_port=6380"], r"redis_tls is false and redis_tls_port 6380"),
        (
            "queue[1:3]",
            ["redis_tls=true", "redis_tls_port=6380"],
            r"redis_sentinel_tls_port is 26379, .*redis_sentinel_tls_port: 26380",
        ),
    ],
)
def test_a_move_to_tls_that_cannot_be_is_refused_before_a_host_is_asked(ansible, redis, said, refused):
    fleet = [redis if line == "queue" else line for line in FLEET]
    done = ansible(fleet, CHECKOUT / "playbooks/redis_tls.yml", *(f"--extra-vars={variable}" for variable in said))
    assert done.returncode == 2, done.stdout
    assert re.findall(r"^PLAY \[(.+)\]", done.stdout, re.MULTILINE) == ["Check what is meant"]
    assert re.search(f"^fatal: .*{refused}", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("workers", "said", "times"),
    [
        ("work[1:2]", "redis_tls=no", 1),
        ("work[1:2]", "redis_tls=true", 0),
        ("work[1:2]", "", 0),
        ("queue", "", 0),
        ("work[1:2] orbiter_redis_url=rediss://elsewhere", "", 0),
    ],
    ids=["no TLS", "TLS", "the default", "one host", "a Redis elsewhere"],
)
def test_what_it_means_that_redis_has_no_tls_is_said_once_where_others_can_read_along(ansible, workers, said, times):
    fleet = [workers if line == "work" else line for line in FLEET]
    # It ends there: the inventory has no password.
    done = ansible(fleet, CHECKOUT / "playbooks/prepare.yml", f"--extra-vars={said}")
    assert done.returncode == 2, done.stdout
    assert "Set it in the inventory, in a vault" in done.stdout
    told = " ".join((done.stdout + done.stderr).split())
    assert told.count("passwords, tasks and results can be read by whoever") == times, done.stdout
