"""Valkey in place of Redis: where it is refused, and that no path, unit or user of Redis is left in its files."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_backup
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import flavor_of

ROLE = Path(__file__).parents[3] / "roles/redis"
LOCAL = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
DISTRIBUTIONS = {
    "bookworm": ("Debian", "12.11"),
    "trixie": ("Debian", "13.1"),
    "noble": ("Ubuntu", "24.04"),
}
PREFLIGHT = """
    - set_fact:
        __redis_seen: {packages: "{{ installed }}"}
    - include_role: {name: orbiter.fleet.redis, tasks_from: preflight_flavor}
      vars:
        ansible_facts:
          distribution: "{{ named }}"
          distribution_version: "{{ version }}"
          distribution_major_version: "{{ version.split('.')[0] }}"
"""
# All that the host gets to read, but for the lists of users.
TEMPLATES = sorted({path.name for path in (ROLE / "templates").iterdir()} - {"users.acl.j2", "users_beside.acl.j2"})
NAMES = """
          - "{{ __redis_packages }}"
          - "{{ __redis_listens | map(attribute='unit') | unique }}"
          - "{{ __redis_files | map(attribute='path') }}"
          - "{{ __redis_secret_files.keys() | list }}"
"""
RENDER = f"""
    - include_role: {{name: orbiter.fleet.redis, tasks_from: preflight_values, public: true}}
    - keep: {{dest: "{{{{ folder }}}}/{{{{ item }}}}", content: "{{{{ lookup('template', source) }}}}"}}
      vars:
        __redis_reader_hashes: []
        __redis_certificate_file: /etc/hostname
        source: "{ROLE}/templates/{{{{ item }}}}"
      loop: {[*TEMPLATES, "users.acl.j2"]}
    - keep: {{content: "{{{{ names | to_json }}}}", dest: "{{{{ folder }}}}/names"}}
      vars:
        names: {NAMES}
"""
GROUP = {
    "redis_bind": "192.0.2.1",
    "redis_members": ["192.0.2.1", "192.0.2.2", "192.0.2.3"],
    "redis_password": "of the operator, 16 at least",
    "redis_tls": True,
    "__redis_seen": {"packages": {}},
    "__redis_version": "8.1.1",
    "role_path": str(ROLE),
}
# What is the role's own, or of both servers.
SHARED = r"orbiter-redis|redis\.(pem|key)|/run/sentinel|Redis('|\b)|redis_members"


@pytest.fixture
def refused(ansible):
    """Return a function that tells which hosts are refused, and in which words; a host is (distribution, values)."""

    def run(hosts, **values):
        lines = []
        for name, (distribution, flavor, installed) in hosts.items():
            named, version = DISTRIBUTIONS[distribution]
            packages = json.dumps(dict.fromkeys(installed, "1")).replace(" ", "")
            lines.append(
                f"{name} {LOCAL} named={named} version='{json.dumps(version)}' redis_flavor={flavor} redis_bind={name} "
                f"installed='{packages}'"
            )
        done = ansible(lines, PREFLIGHT, f"--extra-vars={json.dumps(values)}")
        assert "undefined" not in done.stdout, done.stdout
        parts = re.split(r"^(?:fatal|failed): \[", done.stdout, flags=re.MULTILINE)[1:]
        return {part.partition("]")[0]: " ".join(part.partition("\n}")[0].split()) for part in parts}

    return run


def test_valkey_is_refused_on_a_distribution_that_has_no_such_package(refused):
    hosts = {
        f"192.0.2.{number}{row}": (name, flavor, [])
        for row, flavor in enumerate(["redis", "valkey"])
        for number, name in enumerate(DISTRIBUTIONS, 1)
    }
    found = refused(hosts)
    assert set(found) == {"192.0.2.11", "192.0.2.31"}
    for host, runs in (("192.0.2.11", "Debian 12.11"), ("192.0.2.31", "Ubuntu 24.04")):
        assert f"{host} runs {runs}" in found[host]
        assert "Debian 13" in found[host]


def test_a_host_keeps_the_server_that_it_has(refused):
    found = refused(
        {
            "192.0.2.1": ("trixie", "valkey", ["redis-server"]),
            "192.0.2.2": ("trixie", "redis", ["valkey-server"]),
            "192.0.2.3": ("trixie", "valkey", ["valkey-server"]),
            "192.0.2.4": ("trixie", "redis", ["redis-server"]),
        }
    )
    assert set(found) == {"192.0.2.1", "192.0.2.2"}
    assert "has redis-server, and redis_flavor is valkey" in found["192.0.2.1"]
    assert "has valkey-server, and redis_flavor is redis" in found["192.0.2.2"]
    assert "docs/valkey.md" in found["192.0.2.1"]


@pytest.fixture
def rendered(ansible, tmp_path):
    """Return a function that gives what the role writes on a host of a group, by name, for one of the two servers."""

    def run(flavor):
        folder = tmp_path / flavor
        folder.mkdir()
        said = json.dumps(GROUP | {"redis_flavor": flavor, "folder": str(folder)})
        done = ansible([f"host {LOCAL}"], RENDER, f"--extra-vars={said}")
        assert done.returncode == 0, done.stdout + done.stderr
        return {path.name: path.read_text() for path in folder.iterdir()}

    return run


def test_files_units_and_users_have_the_name_of_the_server_that_was_chosen(rendered):
    found = {flavor: rendered(flavor) for flavor in ("redis", "valkey")}
    of_redis, of_valkey = found["redis"], found["valkey"]
    assert set(of_valkey) == {*TEMPLATES, "users.acl.j2", "names"}
    for name in (*TEMPLATES, "names"):
        lines = [line for line in of_valkey[name].splitlines() if not line.startswith("#")]
        left = [line for line in lines if "redis" in re.sub(SHARED, "", line)]
        assert left == [], name
        # Nothing else differs.
        assert re.sub("valkey", "redis", of_valkey[name]) == of_redis[name], name
    assert "/etc/valkey/valkey.conf" in of_valkey["names"]
    assert "valkey-server.service" in of_valkey["names"]
    assert of_valkey["users.acl.j2"] == of_redis["users.acl.j2"]


@pytest.mark.parametrize(
    ("programs", "flavor"),
    [
        ([], "redis"),
        (["redis-server"], "redis"),
        (["valkey-server"], "valkey"),
        (["redis-server", "valkey-server"], "redis"),
    ],
)
def test_modules_know_the_server_by_its_program(tmp_path, programs, flavor):
    for name in programs:
        (tmp_path / name).touch()
    assert flavor_of(tmp_path) == flavor


@pytest.mark.parametrize(
    ("head", "flavor", "refused"),
    [
        (b"REDIS0010", "valkey", False),
        (b"REDIS0011", "valkey", False),
        (b"REDIS0012", "valkey", True),
        (b"REDIS0012", "redis", False),
        (b"VALKEY080", "valkey", False),
    ],
)
def test_an_archive_that_valkey_cannot_read_is_named_as_such(tmp_path, head, flavor, refused):
    file = tmp_path / "dump.rdb"
    file.write_bytes(head + b"more")
    if not refused:
        _redis_backup.check_version(file, flavor)
        return
    with pytest.raises(_redis_backup.BackupError, match=r"RDB 12.*redis_flavor: redis"):
        _redis_backup.check_version(file, flavor)
