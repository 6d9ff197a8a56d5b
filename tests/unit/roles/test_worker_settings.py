"""What the inventory says of isolation, limits and the environment of tasks arrives in units and stacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from plays import CHECKOUT, tasks

from orbiter.distributed.settings import WorkerSettings, size_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Each as it becomes on a host, by the role's own expressions.
SHOW = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_values, public: true}
    - keep:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        shown:
          unit: "{{ lookup('template', 'orbiter-worker@.service.j2') }}"
          settings: "{{ lookup('template', 'worker.env.j2') }}"
          stack: "{{ lookup('template', 'compose/docker-compose.yml.j2') }}"
          replicas: "{{ lookup('template', 'compose/worker.env.j2') }}"
          files: "{{ __worker_file_list }}"
          secrets: "{{ __worker_secret_files }}"
"""
PREFLIGHT = "    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_inventory}\n"
URL = "redis://worker:secret@queue:6379/0"
RENDERED: dict[str, str] = {}


def said(**values: Any) -> str:
    """Return what tells Ansible these values."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return "--extra-vars=" + json.dumps({"worker_redis_url": URL} | here | values)


@pytest.fixture
def rendered(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what a host gets of an inventory."""

    def render(**values: Any) -> dict[str, Any]:
        # Several tests look at the same.
        asked = json.dumps(values)
        if asked not in RENDERED:
            RENDERED[asked] = made(values)
        return json.loads(RENDERED[asked])

    def made(values: dict[str, Any]) -> str:
        if not (tmp_path / "templates").exists():
            (tmp_path / "templates").symlink_to(CHECKOUT / "roles/worker/templates")
        known = {"worker_image": "worker:1", "worker_version": "1", "ansible_managed": "managed"}
        done = ansible(["host"], SHOW, said(**known, **values))
        assert done.returncode == 0, done.stdout
        return (tmp_path / "shown.json").read_text()

    return render


def checked(ansible: Callable[..., subprocess.CompletedProcess[str]], **values: Any) -> tuple[int, str]:
    """Check an inventory as playbooks do before they contact a host."""
    done = ansible(["host"], PREFLIGHT, said(**values))
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def environment(settings: str) -> dict[str, str]:
    """Read a file of settings as the operators' command does."""
    script = f"set -a\n{settings}\nexec env -0"
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, check=True)
    return dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)


def keys(unit: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_defaults_isolate_tasks_and_limit_what_a_unit_starts(rendered):
    shown = rendered()
    unit = keys(shown["unit"])
    assert (unit["TasksMax"], unit["Delegate"], unit["OOMPolicy"]) == (["4096"], ["yes"], ["continue"])
    assert "MemoryMax" not in unit
    assert "CPUQuota" not in unit
    for settings in (shown["settings"], shown["replicas"]):
        given = environment(settings)
        assert given["ORBITER_ISOLATION"] == "process"
        assert given["ORBITER_PROCESSES"] == "1"
        assert given["ORBITER_MAX_RSS_PER_PROCESS"] == "350M"
        assert given["ORBITER_MAX_TASKS_PER_PROCESS"] == "0"
        assert given["ORBITER_STALL_TIMEOUT"] == "30"
    worker = yaml.safe_load(shown["stack"])["services"]["worker"]
    assert worker["pids_limit"] == 4096
    assert {"mem_limit", "cpus", "init"} & set(worker) == set()


def test_defaults_are_those_of_the_command(rendered):
    given = environment(rendered()["settings"])
    for name in ("max_task_timeout", "max_agents", "max_steps", "max_task_retries", "max_events"):
        assert float(given[f"ORBITER_{name.upper()}"]) == getattr(WorkerSettings(), name)
    assert WorkerSettings(allow_models=given["ORBITER_ALLOW_MODELS"]).allow_models == WorkerSettings().allow_models
    command = WorkerSettings(max_rss_per_process=given["ORBITER_MAX_RSS_PER_PROCESS"])
    default = WorkerSettings()
    assert command.max_rss_per_process == default.max_rss_per_process
    assert given["ORBITER_PROCESSES"] == str(default.processes)
    assert given["ORBITER_MAX_TASKS_PER_PROCESS"] == str(default.max_tasks_per_process)
    assert float(given["ORBITER_STALL_TIMEOUT"]) == default.stall_timeout


def test_isolation_of_the_inventory_arrives_in_units_and_stacks(rendered):
    shown = rendered(
        worker_isolation="task",
        worker_processes=3,
        worker_max_rss_per_process="1G",
        worker_max_tasks_per_process=500,
        worker_stall_timeout=7,
    )
    for settings in (shown["settings"], shown["replicas"]):
        given = environment(settings)
        names = ("ISOLATION", "PROCESSES", "MAX_RSS_PER_PROCESS", "MAX_TASKS_PER_PROCESS", "STALL_TIMEOUT")
        assert [given[f"ORBITER_{name}"] for name in names] == ["task", "3", "1G", "500", "7"]


def test_what_tasks_may_ask_for_arrives_in_units_and_stacks(rendered):
    shown = rendered(
        worker_allow_models=["openai:gpt-5*", "test"],
        worker_max_task_timeout=7200,
        worker_max_agents=5,
        worker_max_steps=30,
        worker_max_task_retries=0,
        worker_max_events=1000,
    )
    for settings in (shown["settings"], shown["replicas"]):
        given = environment(settings)
        names = ("ALLOW_MODELS", "MAX_TASK_TIMEOUT", "MAX_AGENTS", "MAX_STEPS", "MAX_TASK_RETRIES", "MAX_EVENTS")
        assert [given[f"ORBITER_{name}"] for name in names] == ["openai:gpt-5*,test", "7200", "5", "30", "0", "1000"]


@pytest.mark.parametrize("namespace", ["orbiter", "acme", "{acme}"])
def test_namespace_of_the_inventory_arrives_in_units_and_stacks(rendered, ansible, namespace):
    values = {} if namespace == "orbiter" else {"orbiter_namespace": namespace, "worker_queue": f"{namespace}:mail"}
    shown = rendered(**values)
    for settings in (shown["settings"], shown["replicas"]):
        assert environment(settings)["ORBITER_NAMESPACE"] == namespace
    code, told = checked(ansible, **values)
    assert code == 0, told


def test_what_is_empty_in_the_inventory_is_written(rendered):
    """Left out, it would be whatever else is found."""
    shown = rendered(worker_allow_imports=[], worker_allow_models=[], worker_task_env={"NOTHING": ""})
    for settings in (shown["settings"], shown["replicas"]):
        given = environment(settings)
        assert (given["ORBITER_ALLOW_IMPORT"], given["ORBITER_ALLOW_MODELS"], given["NOTHING"]) == ("", "", "")
        assert "TEMPORAL_HOST" not in given


def test_settings_of_services_come_from_no_file_that_tasks_may_write(rendered):
    shown = rendered()
    for settings in (shown["settings"], shown["replicas"]):
        given = environment(settings)
        assert (given["ORBITER_CONFIG"], given["TEMPORAL_CONFIG_FILE"]) == ("/dev/null", "/dev/null")
    image = (CHECKOUT / "roles/image/files/Dockerfile").read_text()
    for name in ("ORBITER_CONFIG", "TEMPORAL_CONFIG_FILE"):
        assert re.search(rf"^ENV (.*\\\n)* *{name}=/dev/null", image, re.MULTILINE)


def test_limits_of_the_inventory_arrive_in_units_and_stacks(rendered):
    shown = rendered(worker_memory_max="2G", worker_tasks_max=100, worker_cpu_quota="150%")
    unit = keys(shown["unit"])
    assert (unit["MemoryMax"], unit["TasksMax"], unit["CPUQuota"]) == (["2000000000"], ["100"], ["150%"])
    for service in ("worker", "temporal-worker"):
        worker = yaml.safe_load(shown["stack"])["services"][service]
        assert (worker["mem_limit"], worker["pids_limit"], worker["cpus"]) == (2_000_000_000, 100, 1.5)


def test_sizes_mean_what_they_mean_to_the_worker(rendered):
    for size in ("7", "7M", "7GB", "7KiB"):
        assert keys(rendered(worker_memory_max=size)["unit"])["MemoryMax"] == [str(size_of(size))]


def test_limits_of_zero_are_none(rendered):
    shown = rendered(worker_memory_max=0, worker_tasks_max="0")
    unit = keys(shown["unit"])
    assert unit["TasksMax"] == ["infinity"]
    assert "MemoryMax" not in unit
    assert {"mem_limit", "pids_limit"} & set(yaml.safe_load(shown["stack"])["services"]["worker"]) == set()


def test_limits_of_compose_service_stand_and_are_not_given_twice(rendered):
    own = {"mem_limit": "3g", "deploy": {"resources": {"limits": {"pids": 50}}}}
    worker = yaml.safe_load(rendered(worker_memory_max="2G", worker_compose_service=own)["stack"])["services"]["worker"]
    assert worker["mem_limit"] == "3g"
    assert worker["deploy"] == {"replicas": 2, "resources": {"limits": {"pids": 50}}}
    assert "pids_limit" not in worker


def test_limit_that_changes_replaces_the_replicas(rendered):
    label = "orbiter.fleet.settings"
    one, other = (
        yaml.safe_load(rendered(worker_tasks_max=count)["stack"])["services"]["worker"]["labels"][label]
        for count in (100, 200)
    )
    assert one != other


def test_environment_of_tasks_arrives_and_wins_over_what_stood_elsewhere(rendered):
    nasty = 'it\'s \\ "$HOME ${HOME}" `id` #x'
    shown = rendered(worker_task_env={"API_KEY": nasty, "BOTH": "task"}, worker_extra_env={"BOTH": "extra", "OLD": "1"})
    given = environment(shown["settings"])
    assert (given["API_KEY"], given["BOTH"], given["OLD"]) == (nasty, "task", "1")
    for name in ("API_KEY", "BOTH", "OLD"):
        assert f"\n{name}=" in shown["replicas"]


def test_settings_are_readable_to_root_alone(rendered):
    entries = [task.own.get("orbiter.fleet.host_files", {}).get("files") for task in tasks()]
    stack = [entry for files in entries if isinstance(files, list) for entry in files]
    for files in (rendered()["files"], stack):
        (settings,) = [file for file in files if file["path"] == "/etc/orbiter/worker.env"]
        assert (settings["mode"], settings.get("group", "root"), settings.get("owner", "root")) == (
            "0600",
            "root",
            "root",
        )


PEM = "-----BEGIN KEY-----\ns3cret line\n-----END KEY-----\n"


def test_files_of_tasks_are_roots_alone_and_their_folder_is_told(rendered):
    shown = rendered(worker_credentials={"client.pem": PEM, "token": "t0ken"})
    unit = keys(shown["unit"])
    given = dict(line.split(":", 1) for line in unit["LoadCredential"])
    assert {name: shown["secrets"][path] for name, path in given.items()} == {"client.pem": PEM, "token": "t0ken"}
    assert "TASK_CREDENTIALS_DIRECTORY=%d" in unit["Environment"]
    modes = {file["path"]: (file["mode"], file.get("owner", "root")) for file in shown["files"]}
    assert modes["/etc/orbiter/credentials"] == ("0700", "root")
    assert set(given.values()) < set(modes)
    for shape in ("unit", "settings", "stack", "replicas", "files"):
        assert "s3cret" not in json.dumps(shown[shape])


def test_files_of_tasks_are_mounted_into_a_stack(rendered):
    shown = rendered(worker_credentials={"client.pem": PEM})
    (mount,) = yaml.safe_load(shown["stack"])["services"]["worker"]["volumes"]
    source, target, access = mount.split(":")
    assert f"{source}/client.pem" in shown["secrets"]
    assert (environment(shown["replicas"])["TASK_CREDENTIALS_DIRECTORY"], access) == (target, "ro")


def test_other_files_of_tasks_have_another_folder_so_that_what_comes_back_finds_its_own(rendered):
    one, other, again = (
        keys(rendered(worker_credentials={"client.pem": text})["unit"])["LoadCredential"] for text in (PEM, "x", PEM)
    )
    assert one == again != other


def test_no_files_of_tasks_change_nothing(rendered):
    shown = rendered()
    assert "LoadCredential" not in keys(shown["unit"])
    assert "credentials" not in json.dumps(shown["files"])
    assert "TASK_CREDENTIALS_DIRECTORY" not in shown["unit"] + shown["replicas"]


FILES_THAT_CANNOT_BE = [
    ({"../x": PEM}, '["../x"]'),
    ({".hidden": PEM}, '[".hidden"]'),
    ({"a": 1, "b": None, "c": "", "d": ["x"]}, '["a", "b", "c", "d"]'),
    ("s3cret", "worker_credentials must be"),
    ({"a": "{{ 'x' * 250001 }}"}, "worker_credentials holds more than 250 000 characters"),
]


def test_files_of_tasks_that_cannot_be_are_refused_by_name(refusals):
    cases = [{"worker_credentials": given} for given, _named in FILES_THAT_CANNOT_BE]
    found, shown = refusals("worker", *cases, worker_redis_url=URL)
    for (_given, named), told in zip(FILES_THAT_CANNOT_BE, found, strict=True):
        assert "worker_credentials" in told
        assert named in told
    assert "s3cret" not in shown


def test_variable_of_many_lines_is_refused_and_the_way_for_it_is_told(refusals):
    [told], shown = refusals("worker", {"worker_task_env": {"CLIENT_KEY": PEM}}, worker_redis_url=URL)
    assert "CLIENT_KEY" in told
    assert "worker_credentials" in told
    assert "s3cret" not in shown


def test_unit_lets_the_worker_write_to_its_cgroup_and_nobody_trace(rendered):
    unit = keys(rendered()["unit"])
    assert unit["ProtectControlGroups"] == ["no"]
    assert unit["KillMode"] == ["mixed"]
    denied = {name for line in unit["SystemCallFilter"] if line.startswith("~") for name in line[1:].split()}
    assert {"@debug", "process_vm_readv", "process_vm_writev"} <= denied


def test_names_of_the_worker_are_refused_in_the_environment_of_tasks(ansible):
    names = [
        "CREDENTIALS_DIRECTORY",
        "LISTEN_FDS",
        "NOTIFY_SOCKET",
        "ORBITER_REDIS_URL",
        "TEMPORAL_API_KEY",
        "WATCHDOG_USEC",
    ]
    code, shown = checked(ansible, worker_task_env={"API_KEY": "s3cret"} | dict.fromkeys(names, "s3cret"))
    assert code == 2
    assert f"worker_task_env has {', '.join(names)}; tasks do not get names that are the worker's alone:" in shown
    assert "Put settings of the worker into worker_extra_env" in shown
    assert "s3cret" not in shown


def test_environment_of_tasks_among_settings_of_the_worker_is_told_once(ansible):
    extra = {"API_KEY": "s3cret", "ORBITER_TASK_TTL": "1", "TEMPORAL_API_KEY": "x", "OTEL_SERVICE_NAME": "x"}
    hosts = ["one", "two two_keys=1", "localhost"]
    play = """
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_inventory}
      when: inventory_hostname != 'localhost'
- hosts: all
  serial: 1
  gather_facts: false
  tasks:
    - include_role: {name: orbiter.fleet.worker, tasks_from: preflight_inventory}
      when: inventory_hostname != 'localhost'
"""
    done = ansible(sorted(hosts), play, said(worker_extra_env=extra, ansible_become=False))
    assert done.returncode == 0, done.stdout
    shown = " ".join((done.stdout + done.stderr).split())
    told = "worker_extra_env has API_KEY: it is for settings of the worker (ORBITER_*, TEMPORAL_*, OTEL_*). Move"
    assert shown.count(told) == 1, done.stdout
    assert "s3cret" not in shown


def test_settings_of_the_worker_in_their_place_need_no_word(ansible):
    code, shown = checked(ansible, worker_extra_env={"ORBITER_TASK_TTL": "1"}, worker_task_env={"API_KEY": "x"})
    assert code == 0, shown
    assert "worker_extra_env has" not in shown


VALUES_THAT_ARE_NONE = [
    ({"worker_isolation": "thread"}, "worker_isolation is 'thread'; it must be process, task or none."),
    ({"worker_processes": 0}, "worker_processes is 0; it must be a whole number, 1 or more"),
    ({"worker_processes": 5}, "worker_processes is 5 and worker_concurrency 4; executor processes share"),
    ({"worker_stall_timeout": "soon"}, "worker_stall_timeout is soon; it must be a whole number, 1 or more"),
    ({"worker_tasks_max": -1}, "worker_tasks_max is -1; it must be a whole number, 0 or more. 0 means no limit."),
    ({"worker_max_tasks_per_process": "few"}, "worker_max_tasks_per_process is few; it must be a whole number, 0"),
    ({"worker_max_rss_per_process": "400 M"}, "worker_max_rss_per_process is 400 M; it must be bytes, or"),
    ({"worker_memory_max": "50%"}, "worker_memory_max is 50%; it must be bytes, or a whole number with a unit"),
    (
        {"worker_allow_models": ["http://x?y"]},
        "worker_allow_models is ['http://x?y']; it must be a list of patterns",
    ),
    ({"worker_max_task_timeout": "1h"}, "worker_max_task_timeout is 1h; it must be a whole number, 1 or more"),
    ({"worker_max_task_timeout": 10**9}, "worker_max_task_timeout is 1000000000; it must be 31536000 seconds"),
    ({"worker_max_agents": 0}, "worker_max_agents is 0; it must be a whole number, 1 or more"),
    ({"worker_max_steps": -1}, "worker_max_steps is -1; it must be a whole number, 1 or more"),
    ({"worker_max_task_retries": "no"}, "worker_max_task_retries is no; it must be a whole number, 0 or more"),
    ({"worker_max_events": 99}, "worker_max_events is 99; it must be a whole number, 100 or more"),
    (
        {"orbiter_namespace": "a:b"},
        'worker_namespace (orbiter_namespace in the inventory) is "a:b"; it must be',
    ),
    (
        {"worker_namespace": "{acme"},
        'is "{acme"; it must be 1 to 64 letters (a to z, A to Z), digits',
    ),
    ({"worker_namespace": "acme", "worker_queue": "{b}:mail"}, 'worker_queue is "{b}:mail"; it must be 1 to 128'),
    ({"worker_namespace": "acme", "worker_queue": "deploy"}, 'is "deploy", and acme:deploy is a key of the fleet.'),
    ({"worker_queue": "orbiter:task:x"}, 'is "orbiter:task:x", and orbiter:task:x is a key of the fleet.'),
    ({"worker_cpu_quota": 150}, "worker_cpu_quota is 150; it must be a whole number of percent, such as 150%"),
]


def test_value_that_is_none_is_refused_by_name(refusals):
    found, _shown = refusals("worker", *(values for values, _message in VALUES_THAT_ARE_NONE), worker_redis_url=URL)
    for (values, message), told in zip(VALUES_THAT_ARE_NONE, found, strict=True):
        assert message in told, (values, told)


def test_values_that_would_be_written_otherwise_are_refused_by_name(refusals):
    names = {"worker_task_env": "VERSION", "worker_extra_env": "ORBITER_X"}
    cases = [(name, value) for name in names for value in (None, True, 1.1, ["a"], {"a": "b"})]
    found, _shown = refusals("worker", *({name: {names[name]: value}} for name, value in cases), worker_redis_url=URL)
    for (name, value), told in zip(cases, found, strict=True):
        assert f"{names[name]} in worker_task_env" in told, value
        assert "put it in quotes" in told, value


def test_text_whole_numbers_and_nothing_in_quotes_are_values(ansible):
    code, shown = checked(ansible, worker_task_env={"A": "1.10", "B": 8, "C": "", "D": "yes", "E": "{{ 3 }}"})
    assert code == 0, shown


def test_an_environment_that_is_too_large_is_refused(ansible):
    code, shown = checked(ansible, worker_task_env={"SMALL": "x", "DOCUMENT": "s3cret" * 20_000})
    assert code == 2
    assert "DOCUMENT has most of them" in shown
    assert "s3cret" not in shown
