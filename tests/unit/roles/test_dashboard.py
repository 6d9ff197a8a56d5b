"""What the role `dashboard` makes of an inventory: its service, its user of Redis, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest
import yaml
from ansible_collections.orbiter.fleet.plugins.filter.redis_rules import redis_rules
from ansible_collections.orbiter.fleet.plugins.module_utils import _release
from conftest import COMMAND, free_port, wait_until
from plays import CHECKOUT
from users import ROLE, refused, written

from orbiter.dashboard.passwords import hash_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HASH = "scrypt$" + "a" * 24 + "$" + "b" * 88
SHOW = """
    - include_role: {name: orbiter.fleet.dashboard, tasks_from: preflight_values, public: true}
    - keep:
        dest: "{{ playbook_dir }}/shown.json"
        content: "{{ shown | to_json }}"
      vars:
        __dashboard_deployed: {stat: {exists: true}}
        shown:
          unit: "{{ lookup('template', 'orbiter-dashboard.service.j2') }}"
          env: "{{ lookup('template', 'dashboard.env.j2') }}"
          users: "{{ lookup('template', 'users.j2') }}"
          files: "{{ __dashboard_files }}"
          secrets: "{{ __dashboard_secrets.keys() }}"
"""
FLEET = ["[redis]", "r1 redis_bind=10.0.0.1", "[workers]", "w1"]
COMMON = ["[all:vars]", "ansible_host=127.0.0.1", "ansible_port=1", "orbiter_redis_password=a-good-passw0rd-of-redis"]


@pytest.fixture
def shown(ansible: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives what the role makes of values."""

    def show(**values: Any) -> dict[str, Any]:
        if not (tmp_path / "templates").exists():
            (tmp_path / "templates").symlink_to(CHECKOUT / "roles/dashboard/templates")
        given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_managed": "m"}
        given |= {"dashboard_redis_url": "redis://queue"}
        done = ansible(["host"], SHOW, "--extra-vars=" + json.dumps(given | values))
        assert done.returncode == 0, done.stdout
        found: dict[str, Any] = json.loads((tmp_path / "shown.json").read_text())
        return found

    return show


@pytest.fixture
def prepared(ansible: Callable[..., Any]) -> Callable[..., str]:
    """Return a function that checks an inventory with a monitoring host; it gives what is said."""

    def prepare(*hosts: str, redis: str = "") -> str:
        fleet = [FLEET[0], f"{FLEET[1]} {redis}", *FLEET[2:], "[monitoring]", *hosts, *COMMON]
        done = ansible(fleet, CHECKOUT / "playbooks/prepare.yml")
        return " ".join((done.stdout + done.stderr).split())

    return prepare


def environment(text: str) -> dict[str, str]:
    """Return what a file of settings says, read as systemd and a shell do."""
    read = subprocess.run(
        ["/bin/sh", "-c", f"set -a\n{text}\nexec env -0"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in read.stdout.decode().split("\0") if line)


@contextmanager
def started(found: dict[str, Any], folder: Path, certificate: Path | None = None) -> Iterator[str]:
    """Start what a unit starts, with its files in a folder; give its address once it answers."""
    (folder / "users").write_text(found["users"])
    (folder / "users").chmod(0o640)
    line = re.search(r"^ExecStart=(.*)$", found["unit"], re.MULTILINE)
    assert line is not None
    words = shlex.split(line[1].replace("/etc/orbiter-dashboard/", f"{folder}/"))
    assert words[0] == "/opt/orbiter-dashboard/current/bin/orbiter"
    given = dict(pairwise(words))
    address = f"{'https' if certificate else 'http'}://{given['--host']}:{given['--port']}"
    with subprocess.Popen(
        [COMMAND, *words[1:]], env=environment(found["env"]) | {"PATH": os.environ["PATH"]}
    ) as process:
        try:
            wait_until(lambda: answer(f"{address}/healthz") is not None or process.poll() is not None, within=60)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def answer(url: str) -> tuple[int, str] | None:
    """Return status and place of an answer, if there is one."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as got:
            return got.status, got.url
    except URLError as error:
        status = getattr(error, "code", None)
        return None if status is None else (status, url)


def test_the_command_takes_what_the_unit_gives_it_and_asks_for_a_password(
    shown: Callable[..., dict[str, Any]], server: Any, tmp_path: Path
) -> None:
    found = shown(
        dashboard_redis_url=server.url,
        dashboard_bind="127.0.0.3",
        dashboard_port=free_port(),
        dashboard_users={"anna": hash_line("anna", "a long password"), "ben": HASH},
        dashboard_allow_actions="yes",
        dashboard_proxy_header="X-Remote-User",
        dashboard_proxy_from="10.0.0.2,10.1.0.0/24",
        dashboard_allow_hosts=["fleet.example.net"],
        dashboard_queue="orbiter:mail",
    )
    assert " --allow-actions " in found["unit"]
    assert [line.split(":")[0] for line in found["users"].splitlines()[1:]] == ["anna", "ben"]
    with started(found, tmp_path) as address:
        assert answer(f"{address}/healthz") == (200, f"{address}/healthz")
        assert answer(f"{address}/fleet") == (200, f"{address}/login")


def test_a_redis_that_does_not_let_it_in_is_no_health(
    shown: Callable[..., dict[str, Any]], server: Any, tmp_path: Path
) -> None:
    wrong = server.url.replace("pass", "pazz")
    with started(shown(dashboard_redis_url=wrong, dashboard_port=free_port()), tmp_path) as address:
        assert answer(f"{address}/healthz") == (503, f"{address}/healthz")


def test_no_secret_is_in_the_unit_and_files_are_for_its_user(shown: Callable[..., dict[str, Any]]) -> None:
    url = 'redis://dashboard:s"e$cret@queue'
    plain = shown(dashboard_redis_url=url)
    found = shown(dashboard_redis_url=url, dashboard_users={"anna": HASH}, dashboard_bind="10.0.0.9")
    assert environment(found["env"])["ORBITER_REDIS_URL"] == url
    assert environment(found["env"])["ORBITER_CONFIG"] == "/dev/null"
    assert "cret" not in found["unit"] + json.dumps(found["files"])
    assert "scrypt" not in found["unit"] + json.dumps(found["files"])
    rights = {one["path"]: (one.get("group", "root"), one["mode"]) for one in found["files"] if "only" not in one}
    assert rights["/etc/orbiter-dashboard/dashboard.env"] == ("root", "0600")
    assert rights["/etc/orbiter-dashboard/users"] == ("orbiter-dashboard", "0640")
    # Who takes users away again leaves no file of them.
    assert [one["only"] for one in plain["files"] if "only" in one] == [["dashboard.env"]]
    assert "--password-file" not in plain["unit"]


@pytest.mark.parametrize("port", [8420, 443])
def test_the_unit_is_hardened(shown: Callable[..., dict[str, Any]], tmp_path: Path, port: int) -> None:
    unit = tmp_path / "orbiter-dashboard.service"
    text = shown(dashboard_port=port)["unit"].replace("/opt/orbiter-dashboard/current/bin/orbiter", "/bin/true")
    unit.write_text(text)
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("AmbientCapabilities=CAP_NET_BIND_SERVICE" in text) is (port == 443)


BAD = [
    ("dashboard_bind", "10.0.0.9"),
    ("dashboard_bind", "0::0"),
    ("dashboard_port", 9090),
    ("dashboard_port", 70000),
    ("dashboard_users", {"anna": "secret-word"}),
    ("dashboard_users", {"an na": HASH}),
    ("dashboard_users", ["anna"]),
    ("dashboard_proxy_header", "X-Remote-User"),
    ("dashboard_proxy_header", "Cookie"),
    ("dashboard_allow_hosts", ["fleet:80"]),
    ("dashboard_tls_key", "/nowhere/web.key"),
    ("dashboard_redis_url", "secret-queue:6379"),
    ("dashboard_namespace", "a b"),
    ("dashboard_queue", "a b"),
    ("dashboard_memory_max", "much"),
    ("dashboard_gate_timeout", 0),
    ("dashboard_allow_actions", "maybe"),
]


def test_bad_input_is_refused_by_name_and_secrets_are_not_shown(refusals: Callable[..., Any]) -> None:
    cases = [
        {name: value} | ({"dashboard_proxy_from": ["10.0.0.2"]} if value == "Cookie" else {}) for name, value in BAD
    ]
    found, shown = refusals("dashboard", *({"dashboard_redis_url": "redis://queue"} | case for case in cases))
    for (name, value), said in zip(BAD, found, strict=True):
        assert said.startswith("dashboard_tls_cert" if "tls" in name else name), (name, value, said)
    assert "secret-" not in shown


def test_good_input_is_taken(refusals: Callable[..., Any], tmp_path: Path) -> None:
    """What the page shows is, too."""
    common = {"dashboard_redis_url": "rediss://queue", "dashboard_bind": "10.0.0.9"}
    users = common | {"dashboard_users": {"a": f"a:{HASH}"}}
    proxy = common | {"dashboard_proxy_header": "X-User", "dashboard_proxy_from": "10.0.0.2"}
    page = (CHECKOUT / "docs/dashboard-deploy.md").read_text()
    shown = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[:2]]
    for given in shown:
        for name in ("dashboard_tls_cert", "dashboard_tls_key"):
            if name in given:
                file = tmp_path / given[name]
                file.parent.mkdir(exist_ok=True)
                file.touch()
        given |= {"dashboard_redis_url": "redis://queue", "vault_dashboard_anna": HASH}
    found, _shown = refusals("dashboard", users, proxy, *shown)
    assert found == [""] * 4


def test_a_host_is_checked_where_it_has_a_dashboard(prepared: Callable[..., str]) -> None:
    said = prepared(
        "m1 dashboard_enabled=yes dashboard_bind=10.0.0.9",
        "m2 dashboard_enabled=no dashboard_bind=10.0.0.9",
        "m3 dashboard_enabled=maybe",
        "m4 dashboard_enabled=yes dashboard_namespace=acme",
        "m5 dashboard_enabled=yes dashboard_queue=mail",
        "m6 dashboard_enabled=yes",
        "m7 dashboard_enabled=yes dashboard_queue=mail dashboard_redis_url=redis://elsewhere",
    )
    assert "m1: dashboard_bind is 10.0.0.9" in said
    assert "m3: dashboard_enabled is maybe" in said
    assert "m4: its namespace is acme" in said
    assert "m5: dashboard_queue is orbiter:mail" in said
    assert re.findall("m[267]: ", said) == []
    assert "Look at the hosts" not in said


def test_a_namespace_and_a_queue_that_redis_knows_are_taken(prepared: Callable[..., str]) -> None:
    said = prepared(
        "m1 dashboard_enabled=yes dashboard_namespace=acme dashboard_queue=tasks",
        "m2 dashboard_enabled=yes",
        redis="redis_queues=mail redis_namespaces=\"[{'name': 'acme'}]\"",
    )
    assert "m1: " not in said
    assert "m2: " not in said


def derived(ansible: Callable[..., Any], folder: Path, *hosts: str, **common: Any) -> dict[str, Any]:
    """Return what the playbooks derive for monitoring hosts, by the host."""
    names = ("orbiter_dashboard_redis_url", "orbiter_dashboard_redis_ca", "orbiter_dashboard_queue")
    value = "{{ {" + ", ".join(f"'{name}': {name}" for name in names) + ", 'all': orbiter_redis_dashboards} }}"
    write = {"keep": {"dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json", "content": value}}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    variables = str(CHECKOUT / "playbooks/roles/derived")
    play = {"hosts": "monitoring", "gather_facts": False, "roles": [variables], "tasks": [write]}
    (folder / "derived.yml").write_text(json.dumps([play]))
    members = ["r1 redis_bind=10.0.0.1"]
    if common.pop("group", False):
        members += ["r2 redis_bind=10.0.0.2", "r3 redis_bind=10.0.0.3"]
    fleet = ["[redis]", *members, "[workers]", "w1", "[monitoring]", *hosts, "[all:vars]", "orbiter_redis_password=x"]
    done = ansible(fleet, folder / "derived.yml", "--extra-vars=" + json.dumps(local | common))
    assert done.returncode == 0, done.stdout
    return {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.json")}


def test_a_dashboard_connects_as_a_user_that_looks_or_one_that_acts(
    ansible: Callable[..., Any], tmp_path: Path
) -> None:
    found = derived(
        ansible,
        tmp_path,
        "m1 dashboard_enabled=yes",
        "m2 dashboard_enabled=yes dashboard_allow_actions=yes",
        "m3 dashboard_enabled=yes dashboard_namespace={acme}",
        "m4",
        "m5 dashboard_enabled=yes dashboard_redis_url=redis://elsewhere",
    )
    users = {host: one["user"] for host, one in found["m1"]["all"].items()}
    assert users == {"m1": "dashboard", "m2": "operator", "m3": "acme-dashboard"}
    tail = re.escape("@10.0.0.1:6379/0?ssl_ca_certs=/etc/orbiter-dashboard/redis-ca.pem")
    for host, user in users.items():
        assert re.fullmatch(rf"rediss://{user}:\w{{48}}{tail}", found[host]["orbiter_dashboard_redis_url"])
        assert found[host]["orbiter_dashboard_redis_ca"].endswith("/.redis-tls/ca.pem")
    assert len({found[host]["orbiter_dashboard_redis_url"].split(":")[2] for host in users}) == 3
    assert {host: found[host]["orbiter_dashboard_redis_url"] for host in ("m4", "m5")} == {"m4": "", "m5": ""}


def test_a_dashboard_of_a_group_asks_the_sentinels_and_has_the_password_of_the_inventory(
    ansible: Callable[..., Any], tmp_path: Path
) -> None:
    users = {"dashboard": {"password": "d@sh/board"}}
    said = {"group": True, "redis_tls": False, "orbiter_redis_users": users, "redis_queues": ["mail"]}
    found = derived(ansible, tmp_path, "m1 dashboard_enabled=yes", **said)["m1"]
    assert found["orbiter_dashboard_redis_url"].startswith(
        "redis+sentinel://dashboard:d%40sh%2Fboard@10.0.0.1:26379,10.0.0.2:26379,10.0.0.3:26379/orbiter/0?"
    )
    assert (found["orbiter_dashboard_redis_ca"], found["orbiter_dashboard_queue"]) == ("", "mail")


DASHBOARDS = {
    "m1": {"user": "dashboard", "rights": "dashboard", "like": "monitor"},
    "m2": {"user": "acme-operator", "rights": "operator", "like": "acme-monitor"},
}


def test_redis_has_its_users_where_there_is_one(ansible: Callable[..., Any], tmp_path: Path) -> None:
    rights = yaml.safe_load((ROLE / "files/rights.yml").read_text())["rights"]
    tenant = {"redis_namespaces": [{"name": "acme", "queues": ["mail"]}]}
    before = written(ansible, tmp_path / "before.acl", **tenant)
    rules = written(ansible, tmp_path / "users.acl", redis_dashboards=DASHBOARDS, **tenant)
    assert rules.keys() - before.keys() == {"dashboard", "acme-operator"}
    assert rules["dashboard"] == redis_rules(rights["dashboard"], ["orbiter:tasks"], [])
    assert rules["acme-operator"] == redis_rules(rights["operator"], ["mail"], [], namespace="acme")


def test_a_client_that_has_its_name_is_refused(ansible: Callable[..., Any]) -> None:
    clients = {"redis_namespaces": [{"name": "acme", "clients": ["operator"]}]}
    assert "two users of one name, acme-operator:" in refused(ansible, redis_dashboards=DASHBOARDS, **clients)
    assert refused(ansible, redis_dashboards=DASHBOARDS, redis_namespaces=[{"name": "acme"}]) == ""


def test_the_release_in_use_stays_in_any_folder_of_releases(tmp_path: Path) -> None:
    place = tmp_path / "releases"
    for age, name in enumerate(("oldest", "older", "newest")):
        (place / name).mkdir(parents=True)
        os.utime(place / name, (age, age))
    (tmp_path / "current").symlink_to(place / "oldest")
    assert _release.prune(place, 1, "newest") == ["older"]
    assert sorted(path.name for path in place.iterdir()) == ["newest", "oldest"]
