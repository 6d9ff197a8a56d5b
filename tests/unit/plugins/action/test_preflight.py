"""One task checks the whole inventory, and says all that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _rules, _values

CHECKOUT = Path(__file__).parents[4]
PREPARE = CHECKOUT / "playbooks/prepare.yml"
PASSWORD = "a-good-passw0rd-of-redis"
FLAVORS = {1: "valkey", 2: "redis", 3: "keydb"}
NEXT = "PLAY [Look at the hosts]"


@pytest.fixture
def prepare(ansible):
    """Return a function that checks an inventory; it gives what is said, as one line, and the play's own lines."""

    def run(*options, redis=("r1 redis_bind=10.0.0.1",), workers=("w1", "w2"), everywhere=()):
        lines = ["[redis]", *redis, "[workers]", *workers, "[all:vars]", "ansible_host=127.0.0.1", "ansible_port=1"]
        done = ansible([*lines, f"orbiter_redis_password={PASSWORD}", *everywhere], PREPARE, *options)
        return " ".join((done.stdout + done.stderr).split()), done.stdout

    return run


def test_all_that_is_wrong_is_said_at_once_by_host_and_variable(prepare):
    said, shown = prepare(
        redis=["r1 redis_bind=10.0.0.1 redis_port=70000"],
        workers=["w1 worker_instances=-1", "w2 worker_instances=-1 worker_queue=/", "w3 worker_log_level=loud"],
    )
    assert NEXT not in shown
    assert "w1, w2: worker_instances is -1; it must be a whole number" in said
    # Before ansible-core 2.19 quotes are shown with a backslash.
    assert 'w2: worker_queue is "/"; it must be' in said.replace('\\"', '"')
    assert "w3: worker_log_level is loud:" in said
    assert "r1: redis_port is 70000" in said
    assert shown.count("TASK [") == 1


def test_instances_are_within_the_limits_of_autoscale(prepare):
    said, _dummy = prepare(
        workers=[
            "w1 worker_instances=2 worker_instances_min=3 worker_instances_max=1",
            "w2 worker_instances=2 worker_instances_min=1 worker_instances_max=few",
            "w3 worker_instances=2 worker_instances_min=1 worker_instances_max=8",
            "w4 worker_instances=-1",
            "w5 worker_autoscale_wait=0 worker_autoscale_patience=long",
        ],
    )
    assert "w1: worker_instances_min is 3 and worker_instances 2; it must not be above it." in said
    assert "w1: worker_instances_max is 1 and worker_instances 2; it must not be below it." in said
    assert "w2: worker_instances_max is few; it must be a whole number" in said
    assert "w3: " not in said
    assert "w4: worker_instances_" not in said
    assert "w5: worker_autoscale_wait is 0;" in said
    assert "w5: worker_autoscale_patience is long;" in said


def test_misspelt_limits_of_autoscale_are_refused(prepare):
    said, _dummy = prepare(workers=["w1 worker_instance_max=8"])
    assert "did you mean worker_instances_max?" in said


@pytest.mark.parametrize("group", ["worker", "wokers", "workres", "monitor", "tempral", "reids", "redis_"])
def test_hosts_in_a_misspelt_group_are_refused(prepare, group):
    said, shown = prepare(workers=["w1", f"[{group}]", "w2 ansible_port=1", "w3"])
    meant = {"m": "monitoring", "t": "temporal", "r": "redis"}.get(group[0], "workers")
    assert f"a group that nothing reads: {group} (with w2, w3): did you mean {meant}?" in said
    assert NEXT not in shown


@pytest.mark.parametrize(
    ("lines", "everywhere"),
    [
        (["w1", "[webservers]", "h1", "[media]", "h2", "[work]", "h3"], []),
        (["w1", "[worker]", "h1"], ["orbiter_ignore_variables=worker"]),
        (["w1", "[worker1]", "w1", "[worker_s:children]", "worker1"], []),
        (["w1", "[worker]", "h1"], ["orbiter_worker_hosts=workers"]),
    ],
)
def test_groups_that_are_somebody_else_s_or_of_workers_are_not(prepare, lines, everywhere):
    said, shown = prepare(workers=lines, everywhere=everywhere)
    assert "nothing reads" not in said
    assert NEXT in shown


@pytest.mark.parametrize("name", ["orbiter_worker_hosts", "orbiter_temporal_hosts", "orbiter_monitoring_hosts"])
def test_a_pattern_of_no_host_is_refused(prepare, name):
    said, shown = prepare(f"--extra-vars={name}=wrokers")
    assert f"{name} is 'wrokers', and no host of the inventory is of that name or group" in said
    assert NEXT not in shown


def test_what_is_right_is_one_result_and_goes_on(prepare):
    _dummy, shown = prepare()
    assert NEXT in shown
    assert shown.partition(NEXT)[0].count("ok: [") == 1


def test_check_mode_says_the_same(prepare):
    said, shown = prepare("--check", workers=["w1 worker_instances=-1"])
    assert "w1: worker_instances is -1" in said
    assert NEXT not in shown


def test_hosts_outside_of_the_limit_are_not_checked(prepare):
    hosts = ["w1 worker_instances=-1", "w2"]
    assert NEXT in prepare("--limit=w2", workers=hosts)[1]
    assert "w1: worker_instances is -1" in prepare("--limit=w1", workers=hosts)[0]


def test_secrets_are_not_shown(prepare):
    extra = {
        "orbiter_redis_users": {"worker": {"password": "s3cret"}, "nobody": {"password": "s3cret"}},
        "worker_redis_url": "http://s3cret",
        "worker_task_env": ["s3cret"],
    }
    said, _dummy = prepare(f"--extra-vars={json.dumps(extra)}")
    for name in ("redis_users", "worker_redis_url", "worker_task_env"):
        assert name in said
    assert "s3cret" not in said


def test_each_variable_that_cannot_be_resolved_is_named_with_the_others(prepare):
    said, _dummy = prepare(workers=["""w1 worker_queue="{{ nowhere }}" worker_instances=-1""", "w2"])
    assert "w1: worker_queue cannot be resolved: 'nowhere' is undefined" in said
    assert "w1: worker_instances is -1" in said
    assert "w2: " not in said


def test_what_is_made_of_facts_is_left_until_there_are_facts(prepare):
    assert NEXT in prepare(workers=["""w1 worker_status_file="{{ ansible_facts['hostname'] }}" """])[1]


@pytest.mark.parametrize("right", [True, False])
def test_values_in_a_vault_are_checked_as_what_they_hold(ansible, tmp_path, right):
    (tmp_path / "word").write_text("sesame")
    command = [Path(sys.executable).parent / "ansible-vault", "encrypt_string", "--vault-password-file=word"]
    value = PASSWORD if right else "short"
    made = subprocess.run([*command, value], cwd=tmp_path, text=True, capture_output=True, check=True).stdout
    group = tmp_path / "group_vars/all.yml"
    group.parent.mkdir()
    group.write_text(f"orbiter_redis_password: {made}")
    fleet = [
        "[redis]",
        "r1 redis_bind=10.0.0.1",
        "[workers]",
        "w1",
        "[all:vars]",
        "ansible_host=127.0.0.1",
        "ansible_port=1",
    ]
    done = ansible(fleet, PREPARE, "--vault-password-file=word")
    assert (NEXT in done.stdout) == right, done.stdout
    assert ("the Redis password of admin is missing or weak" in done.stdout) != right
    closed = ansible(fleet, PREPARE)
    assert NEXT not in closed.stdout
    assert "redis_password cannot be resolved" in closed.stdout


def test_members_of_a_group_of_redis_hosts_have_the_same_settings(prepare):
    group = [f"r{number} redis_bind=10.0.0.{number}" for number in (1, 2, 3)]
    assert NEXT in prepare(redis=group)[1]
    said, _dummy = prepare(redis=[*group[:2], f"{group[2]} redis_port=6380"])
    assert "r3: redis_port is not the same as that of r1" in said


def test_variables_of_the_play_are_those_of_all_hosts_and_those_of_a_host_are_its_own(prepare):
    """The task runs for one host, whose variables are no other's."""
    extra = "--extra-vars=orbiter_worker_hosts=w*"
    assert NEXT in prepare(extra, workers=["w1 worker_concurrency=8", "w2 worker_processes=1"])[1]
    said, _dummy = prepare("--limit=w2,w1", workers=["w1 worker_concurrency=8 worker_processes=6", "w2"])
    assert "worker_processes" not in said


def test_a_role_alone_checks_its_own_variables(ansible):
    play = "    - include_role: {name: orbiter.fleet.temporal, tasks_from: preflight_inventory}\n"
    done = ansible(["t1 temporal_port=0 temporal_namespace=/", "t2"], play)
    assert done.stdout.count("fatal: [") == 1
    assert "t1: temporal_port is 0" in done.stdout
    assert "t1: temporal_namespace is '/'" in done.stdout


def test_defaults_follow_the_rules(ansible):
    """Of every role; and every variable that a rule reads is documented."""
    asked = []

    class Recorded(_values.Values):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    for role, rules in _rules.RULES.items():
        defaults = yaml.safe_load((CHECKOUT / f"roles/{role}/defaults/main.yml").read_text())
        values = Recorded(defaults, lambda value: value)
        for rule in rules:
            list(rule(values))
        assert set(asked) <= _values.options_of(f"roles/{role}").keys()
        asked.clear()


@pytest.mark.parametrize(
    ("task", "right"),
    [
        ({}, True),
        ({"agent": {"name": "a", "model": "test"}, "input": "x", "metadata": {}}, True),
        ({"input": "x"}, False),
        ({"agent": "a.json"}, False),
        ({"agent": {}, "seconds": 1}, False),
        ({"agent": {}, "input": 5}, False),
        ({"agent": {}, "metadata": ["seconds"]}, False),
        ("smoke", False),
    ],
)
def test_task_of_the_gate_is_whole(task, right):
    found = list(_rules.gate_task({"worker_gate_task": task}))
    assert [name for name, _said in found] == ([] if right else ["worker_gate_task"])


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ({"type": "list", "elements": "dict"}, {"maxmemory": "200mb"}, "must be of type list, of dict"),
        ({"type": "int"}, "many", "must be of type int"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_rule_alone(option, value, rule):
    found = _values.type_error("redis_settings", option, value)
    assert "redis_settings" in found
    assert rule in found
    assert "class" not in found


@pytest.mark.parametrize("value", [None, 5, True])
@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (_rules.allow_imports, "worker_allow_imports"),
        (_rules.allow_models, "worker_allow_models"),
        (_rules.redis_queues, "redis_queues"),
        (_rules.scripts, "redis_client_scripts_extra"),
        (_rules.temporal_operators, "temporal_operators"),
    ],
)
def test_what_is_no_list_breaks_the_rule_and_not_the_check(rule, name, value):
    assert [broken for broken, _said in rule({name: value})] == [name]


@pytest.mark.parametrize(
    ("modules", "refused"),
    [
        ("my_agents,shared.tools", False),
        (["*"], False),
        (["my-agents"], True),
        (["hello:AGENT"], True),
        (["2fast"], True),
    ],
)
def test_modules_that_tasks_may_import_are_named_as_python_imports_them(modules, refused):
    broken = [name for name, _said in _rules.allow_imports({"worker_allow_imports": modules})]
    assert broken == (["worker_allow_imports"] if refused else [])


@pytest.mark.parametrize(
    ("tls_port", "beside", "refused"),
    [
        (26379, False, False),
        (26380, True, False),
        (26379, True, True),
        (6380, False, True),
        (6379, False, True),
        (0, False, True),
    ],
)
def test_sentinels_have_a_port_for_tls_and_another_one_while_both_are_open(tls_port, beside, refused):
    values = {"redis_members": ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "redis_tls": True, "redis_tls_beside": beside}
    values |= {"redis_port": 6379, "redis_tls_port": 6380, "redis_sentinel_port": 26379}
    found = [name for name, _said in _rules.sentinel_tls(values | {"redis_sentinel_tls_port": tls_port})]
    assert found == (["redis_sentinel_tls_port"] if refused else [])
    assert list(_rules.sentinel_tls(values | {"redis_members": [], "redis_sentinel_tls_port": 0})) == []


def test_names_of_settings_may_be_numbers_and_are_refused():
    values = {"worker_extra_env": {1: "x"}, "worker_task_env": {8080: None}} | dict.fromkeys(_rules.LINES, "x")
    assert [name for name, _said in _rules.settings_lines(values)] == ["worker_extra_env"]
    assert [name for name, _said in _rules.environment_kinds(values)] == ["worker_task_env"]
    assert _rules.tasks_own(values) == {"1"}


def test_a_group_has_one_kind_of_server_and_it_is_one_of_the_two(prepare):
    said, _dummy = prepare(redis=[f"r{n} redis_bind=10.0.0.{n} redis_flavor={flavor}" for n, flavor in FLAVORS.items()])
    assert "r2: redis_flavor is not the same as that of r1" in said
    assert "r3: redis_flavor is keydb" in said
