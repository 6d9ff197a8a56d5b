"""A misspelt variable is refused before any host is contacted; a name that is somebody else's is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.release import __version__
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _names

CHECKOUT = Path(__file__).parents[4]
LOOK = """\
    - orbiter.fleet.inventory_names:
        ignore: "{{ lookup('ansible.builtin.vars', 'orbiter_ignore_variables', default=[]) }}"
      register: found
      run_once: true
"""
# What plays hand to each other.
INTERNAL = {"orbiter_image_where_needed"}


def test_a_misspelt_variable_is_refused_with_its_hosts_and_the_name_that_was_meant(ansible):
    done = ansible(["a worker_instance=3", "b worker_instance=4", "c"], LOOK)
    assert done.returncode == 2
    assert "worker_instance (of a, b): did you mean worker_instances?" in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", ["wroker_instances", "workerinstances", "orbiter_redis_pasword", "redis_tlss"])
def test_one_or_two_letters_make_it_misspelt(ansible, name):
    done = ansible([f"a {name}=1"], LOOK)
    assert done.returncode == 2
    assert name in done.stdout


def test_a_misspelt_variable_after_e_is_refused(ansible):
    done = ansible(["a"], LOOK, "--extra-vars=instance=3")
    assert done.returncode == 2
    assert "did you mean instances?" in " ".join(done.stdout.split())


def test_a_name_like_ours_is_warned_of_and_no_more(ansible):
    done = ansible(["a redis_exporter_port=9121 other_number=1"], LOOK)
    assert done.returncode == 0, done.stdout
    said = " ".join((done.stdout + done.stderr).split())
    assert re.search(r"WARNING\]: .*redis_exporter_port", said)
    assert "other_number" not in said


@pytest.mark.parametrize(
    "ignored", ["orbiter_ignore_variables=redis_exporter_*,redis_host", """'orbiter_ignore_variables=["redis_*"]'"""]
)
def test_names_that_are_ignored_are_neither_refused_nor_warned_of(ansible, ignored):
    done = ansible([f"a redis_exporter_port=9121 redis_host=x {ignored}"], LOOK)
    assert done.returncode == 0, done.stdout
    assert "redis_exporter_port" not in done.stdout + done.stderr


# Before ansible-core 2.19 a template makes a text of a number.
NUMBER = pytest.param("5", marks=pytest.mark.skipif(__version__ < "2.19", reason="it is a text there"))


@pytest.mark.parametrize("ignored", [NUMBER, '{"redis_host": 1}', "[1, 2]"])
def test_names_to_ignore_that_are_none_are_refused_with_the_rule(ansible, ignored):
    done = ansible(["a"], LOOK, f'--extra-vars={{"orbiter_ignore_variables": {ignored}}}')
    assert done.returncode == 2
    assert "must be a list of names" in " ".join(done.stdout.split())
    assert "orbiter_ignore_variables is" in done.stdout


def test_a_value_that_cannot_be_had_hides_no_name(ansible):
    done = ansible(['a worker_instance="{{ vault_of_nobody }}"'], LOOK)
    assert done.returncode == 2
    assert "worker_instances" in done.stdout


@pytest.mark.parametrize("read", ["all/main.yml", "all"])
def test_a_file_that_ansible_passes_over_is_refused_with_what_it_reads(ansible, tmp_path, read):
    there = tmp_path / "group_vars" / read
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text("worker_instances: 3\n")
    (tmp_path / "group_vars/all.yml").write_text("worker_concurrency: 8\n")
    show = """    - debug: {msg: "<{{ worker_concurrency | default('none') }}>"}\n"""
    assert "<none>" in ansible(["a"], show).stdout  # else Ansible reads it nowadays, and nothing is to be refused
    done = ansible(["a"], LOOK)
    assert done.returncode == 2
    folder = "group_vars/all/" if "/" in read else "group_vars/all"
    assert f"does not read group_vars/all.yml, as there is {folder}" in " ".join(done.stdout.split())


def test_files_that_ansible_reads_are_not_refused(ansible, tmp_path):
    for name in ("group_vars/all/main.yml", "group_vars/all/more.yml", "group_vars/workers.yml", "host_vars/a.b.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("worker_instances: 3\n")
    for name in ("host_vars/a.b.yml.bak", "group_vars/notes.txt"):
        (tmp_path / name).write_text("")
    done = ansible(["a.b"], LOOK)
    assert done.returncode == 0, done.stdout


def test_distance_counts_letters():
    pairs = {("redis_tls", "redis_tls"): 0, ("redis_tsl", "redis_tls"): 2, ("redis_tl", "redis_tls"): 1}
    assert {pair: _names.distance(*pair, 2) for pair in pairs} == pairs
    assert _names.distance("redis_port", "redis_queues", 2) > 2


def inventories():
    """Yield the names that the repository's own inventories have, by file."""
    files = [
        *(CHECKOUT / "inventories").rglob("*.yml"),
        *(CHECKOUT / "molecule").glob("*/molecule.yml"),
        *(CHECKOUT / "tests/vm").glob("inventory.yml"),
    ]
    for path in files:
        names, parts = set(), [yaml.safe_load(path.read_text())]
        while parts:
            part = parts.pop()
            if isinstance(part, dict):
                names |= {name for name in part if isinstance(name, str)}
                parts += part.values()
            elif isinstance(part, list):
                parts += part
        yield path, names


def test_no_inventory_of_ours_is_refused():
    for path, names in inventories():
        assert _names.compare({path.name: names}, _names.known_names(), []) == ({}, []), path


def test_every_variable_that_plays_and_roles_ask_for_by_name_is_documented():
    asked = set()
    for folder in ("playbooks", "roles"):
        for path in (CHECKOUT / folder).rglob("*.yml"):
            asked |= set(re.findall(r"lookup\('ansible\.builtin\.vars', '([a-z]\w+)'", path.read_text()))
    assert asked
    assert {name for name in asked if name.startswith(_names.PREFIXES)} <= _names.known_names() | INTERNAL | _names.MADE


def test_what_roles_set_is_known():
    made = set()
    for path in (CHECKOUT / "roles").rglob("tasks/**/*.yml"):
        for task in yaml.safe_load(path.read_text()):
            made |= set(task.get("ansible.builtin.set_fact", {})) | {task.get("register", "__")}
    assert {name for name in made if not name.startswith("__")} <= _names.MADE | _names.known_names()
