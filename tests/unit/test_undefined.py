"""What the inventory says and cannot be resolved, as without its vault, is an error and not "nothing said"."""

from __future__ import annotations

import json
import re
from functools import cache, partial
from pathlib import Path

import jinja2
import pytest
import yaml
from forked import Ansible
from jinja2 import nodes

CHECKOUT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("roles", "playbooks")
    for suffix in ("yml", "j2")
    for path in (CHECKOUT / folder).rglob(f"*.{suffix}")
)
# Ansible's own words, and what is made from answers of modules.
ANSWERS = {
    *(
        "ansible_facts",
        "ansible_failed_result",
        "ansible_failed_task",
        "hostvars",
        "hostvars[lock_host]",
        "inventory_dir",
        "item",
    ),
    *("__image_labels", "__image_seen", "__image_tags", "__worker_compose_by_hand", "__worker_failure", "value"),
}


def texts(value, key=""):
    """Return all strings of a YAML document with the key that they stand under."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from texts(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, key)
    elif isinstance(value, str):
        yield key, value


def templates(path):
    """Return the templates of a file: bare expressions of conditions in braces."""
    if path.suffix == ".j2":
        yield path.read_text()
        return
    for document in yaml.safe_load_all(path.read_text()):
        for key, text in texts(document):
            bare = key in ("when", "that", "changed_when", "failed_when", "until") and "{{" not in text
            yield f"{{{{ {text} }}}}" if bare else text


@cache
def answers():
    """Return the names of what tasks register or set: nobody writes these into an inventory."""
    found = set(ANSWERS)
    for path in FILES:
        if path.suffix != ".yml":
            continue
        stack = [yaml.safe_load(path.read_text())]
        while stack:
            part = stack.pop()
            stack += part if isinstance(part, list) else part.values() if isinstance(part, dict) else []
            if isinstance(part, dict):
                found |= {part["register"]} if isinstance(part.get("register"), str) else set()
                found |= set(part.get("ansible.builtin.set_fact") or {})
    return found


def root(node):
    """Return the name that an expression begins with; of a host's variables that of the host, too."""
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Name) and node.node.name == "hostvars":
            return f"hostvars[{getattr(node.arg, 'name', '')}]"
        node = getattr(node, "node", None)
        if node is None:
            return ""
    return node.name


def swallowed(text):
    """Return what of a template turns something that cannot be resolved into nothing."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    # Ansible's own tests and filters are not known here, and need not be.
    environment.filters, environment.tests = AnyName(environment.filters), AnyName(environment.tests)
    for node in environment.parse(text).find_all((nodes.Filter, nodes.Test)):
        words = {part.value for part in node.args if isinstance(part, nodes.Const)} | {node.name}
        words |= {part.key for part in node.kwargs}
        kinds = {"default", "d"} if isinstance(node, nodes.Filter) and node.name != "selectattr" else set()
        if words & (kinds | {"defined", "undefined"}):
            yield root(node.node)


class AnyName(dict):
    """A table that knows every name."""

    def __contains__(self, name):
        return True


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # Jinja takes them as they are
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_default_stands_in_for_what_cannot_be_resolved(path):
    """Instead: hostvars[host].get('name', …), dictionary.get('name', …), lookup('ansible.builtin.vars', 'name', …)."""
    known = answers()
    found = [name for template in templates(path) for name in swallowed(template) if name not in known]
    assert found == []


UNRESOLVED = "redis://worker:{{ vault_of_nobody }}@elsewhere:6379/0"
CASES = {
    "a Redis elsewhere": ({"orbiter_redis_url": UNRESOLVED}, {}),
    "a Redis elsewhere only": ({"orbiter_redis_url": UNRESOLVED}, {"orbiter_redis_hosts": "nobody"}),
    "a password": ({"orbiter_redis_users": {"worker": {"password": "{{ vault_of_nobody }}"}}}, {}),
    "an address": ({"redis_bind": "{{ vault_of_nobody }}"}, {}),
    "which hosts": ({}, {"orbiter_worker_hosts": "{{ vault_of_nobody }}"}),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return an Ansible with the settings of this checkout."""
    ansible = Ansible(tmp_path_factory.mktemp("ansible"), CHECKOUT)
    yield ansible
    ansible.close()


@pytest.fixture
def deployed(tmp_path, here):
    """Return a function that deploys hosts that nothing answers for."""
    return partial(deploy, here, tmp_path)


def deploy(ansible, folder, inventory, *options, **extra):
    """Deploy hosts that nothing answers for."""
    hosts = {"redis": {"hosts": {"redis1": {}}}, "workers": {"hosts": {"worker1": {}, "worker2": {}}}}
    common = {"orbiter_redis_password": "operator's password", "ansible_host": "127.0.0.1", "ansible_port": 1}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": hosts, "vars": common | inventory}}))
    (folder / "extra.json").write_text(json.dumps(extra))
    return ansible.play(["-i", folder / "hosts.yml", "-e", f"@{folder}/extra.json", *options], CHECKOUT)


@pytest.mark.parametrize("case", CASES)
def test_a_deploy_with_an_undefined_variable_inside_ends_before_a_host_is_contacted(deployed, case):
    inventory, extra = CASES[case]
    done = deployed(inventory, "site.yml", **extra)
    assert done.returncode != 0
    assert "vault_of_nobody" in done.stdout + done.stderr
    assert "Look at the hosts" not in done.stdout


@pytest.fixture
def url(deployed, tmp_path):
    """Return a function that gives the URL that worker1 gets of an inventory."""

    def shown(**inventory):
        inventory = {"redis_tls": False} | inventory
        play = {
            "hosts": "worker1",
            "gather_facts": False,
            "roles": [str(CHECKOUT / "playbooks/roles/derived")],
            "tasks": [{"ansible.builtin.debug": {"msg": "URL {{ orbiter_redis_url }} URL"}}],
        }
        (tmp_path / "show.yml").write_text(yaml.safe_dump([play]))
        return re.search(r"URL\s+(\S+)\s+URL", deployed(inventory, tmp_path / "show.yml").stdout)[1]

    return shown


SHARED = {"redis_bind": "10.0.0.1", "redis_user_per_host": False}


def test_workers_have_a_password_also_without_one_of_the_inventory(url):
    one, other = url(redis_bind="10.0.0.1"), url(redis_bind="10.0.0.1", orbiter_redis_password="another password")
    assert one.startswith("redis://worker-worker1:")
    assert one.endswith("@10.0.0.1:6379/0")
    assert len(one.split(":")[2].split("@")[0]) == 48
    assert one != other


def test_workers_have_the_password_that_the_inventory_gives_them(url):
    users = {"worker": {"password": "w/rker"}}
    assert url(**SHARED, orbiter_redis_users=users) == "redis://worker:w%2Frker@10.0.0.1:6379/0"
    assert url(**SHARED, redis_users=users) == "redis://worker:w%2Frker@10.0.0.1:6379/0"
    own = {"worker-worker1": {"password": "w/rker"}}
    assert url(redis_bind="10.0.0.1", redis_users=own) == "redis://worker-worker1:w%2Frker@10.0.0.1:6379/0"


def test_workers_of_another_namespace_connect_as_its_user(url):
    tenants = SHARED | {"redis_namespaces": [{"name": "{acme}"}], "worker_namespace": "{acme}"}
    own = url(**SHARED, orbiter_namespace="{acme}")
    other, given = url(**tenants), url(**tenants, redis_users={"acme-worker": {"password": "w/rker"}})
    assert own.startswith("redis://worker:")
    assert other.startswith("redis://acme-worker:")
    assert len({one.split(":")[2].split("@")[0] for one in (own, other)}) == 2
    assert given == "redis://acme-worker:w%2Frker@10.0.0.1:6379/0"


def test_each_worker_host_connects_as_a_user_of_its_own(url):
    one = {"redis_bind": "10.0.0.1"}
    assert url(**one).startswith("redis://worker-worker1:")
    tenant = one | {"redis_namespaces": [{"name": "acme"}], "worker_namespace": "acme"}
    assert url(**tenant).startswith("redis://acme-worker-worker1:")
    assert url(**one, redis_user_per_host="no").startswith("redis://worker:")


def test_a_host_shares_a_user_as_long_as_redis_has_no_other_for_it_and_is_left_out(url):
    for users, user in (("user worker", "worker"), ("user worker\nuser worker-worker1", "worker-worker1")):
        seen = {"redis_bind": "10.0.0.1", "__site_redis_looked": {"results": [{"rc": 0, "stdout": users}]}}
        assert url(**seen).startswith(f"redis://{user}:")


def test_a_namespace_that_redis_has_no_users_for_is_refused_before_a_host_is_contacted(deployed):
    inventory = {"redis_bind": "10.0.0.1", "worker_namespace": "acme"}
    done = deployed(inventory, "site.yml")
    assert done.returncode != 0
    assert "its namespace is acme, and Redis has users for orbiter" in " ".join(done.stdout.split())
    assert "Look at the hosts" not in done.stdout
    served = deployed(inventory | {"redis_namespaces": [{"name": "acme"}]}, "site.yml")
    assert "Look at the hosts" in served.stdout, served.stdout


def test_hosts_that_reach_redis_through_a_network_use_tls(ansible, tmp_path):
    """Unless the inventory says otherwise, or no other host uses it."""
    variables = str(CHECKOUT / "playbooks/roles/derived")
    show = {"debug": {"msg": "URL={{ orbiter_redis_url }}= CA={{ orbiter_redis_ca }}="}}
    play = {"hosts": "workers", "gather_facts": False, "roles": [variables], "tasks": [show]}
    (tmp_path / "show.yml").write_text(json.dumps([play]))
    for workers, said, tls in (
        ("worker", "", True),
        ("worker", "redis_tls=no", False),
        ("queue", "", False),
        ("queue", "redis_tls=yes", True),
    ):
        fleet = ["[redis]", f"queue redis_bind=10.0.0.1 {said}", "[workers]", workers]
        done = ansible([*fleet, "[all:vars]", "orbiter_redis_password=x"], tmp_path / "show.yml")
        scheme, tail = ("rediss", "?ssl_ca_certs=/etc/orbiter/redis-ca.pem") if tls else ("redis", "")
        assert re.search(rf"URL={scheme}://worker-{workers}:\w+@10.0.0.1:6379/0{re.escape(tail)}=", done.stdout), (
            workers
        )
        assert bool(re.search(r"CA=\S*/.redis-tls/ca.pem=", done.stdout)) is tls


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("worker", {"user": "worker", "shared": "worker"}),
        ("worker-w9", {"user": "worker-w9", "shared": "worker"}),
        ("worker-w1", None),
        ("client", None),
    ],
)
def test_a_user_that_a_url_of_the_inventory_names_stays_if_it_is_a_worker_host_s(ansible, tmp_path, named, kept):
    variables = str(CHECKOUT / "playbooks/roles/derived")
    show = {"debug": {"msg": "HOSTS={{ orbiter_redis_worker_hosts | to_json }}="}}
    play = {"hosts": "redis", "gather_facts": False, "roles": [variables], "tasks": [show]}
    (tmp_path / "show.yml").write_text(json.dumps([play]))
    fleet = ["[redis]", "r1", "[workers]", "w1", f"w9 orbiter_redis_url=redis://{named}:x@192.0.2.9:6379/0"]
    done = ansible(fleet, tmp_path / "show.yml")
    found = json.loads(re.search("HOSTS=(.*)=", done.stdout)[1].replace('\\"', '"'))
    assert found == {"w1": {"user": "worker-w1", "shared": "worker"}, **({"w9": kept} if kept else {})}


@pytest.mark.parametrize(
    ("said", "sentinels", "tail"),
    [
        ("redis_tls=true", 26379, ""),
        ("redis_tls=true redis_tls_port=6380 redis_sentinel_tls_port=26380", 26380, "&server_port=6380"),
        ("redis_tls=false redis_tls_port=6380 redis_sentinel_tls_port=26380", 26379, None),
    ],
)
def test_a_group_with_two_ports_is_reached_by_those_with_tls(ansible, tmp_path, said, sentinels, tail):
    variables = str(CHECKOUT / "playbooks/roles/derived")
    show = {"debug": {"msg": "URL={{ orbiter_redis_url }}="}}
    play = {"hosts": "workers", "gather_facts": False, "roles": [variables], "tasks": [show]}
    (tmp_path / "show.yml").write_text(json.dumps([play]))
    members = [f"queue{number} redis_bind=10.0.0.{number} {said}" for number in (1, 2, 3)]
    done = ansible(
        ["[redis]", *members, "[workers]", "work", "[all:vars]", "orbiter_redis_password=x"], tmp_path / "show.yml"
    )
    hosts = ",".join(f"10.0.0.{number}:{sentinels}" for number in (1, 2, 3))
    scheme, tls = ("redis", "") if tail is None else ("rediss", f"&ssl_ca_certs=/etc/orbiter/redis-ca.pem{tail}")
    found = (
        rf"URL={scheme}\+sentinel://worker-work:\w+@{hosts}/orbiter/0\?sentinel_username=reader&sentinel_password=\w+"
    )
    assert re.search(f"{found}{re.escape(tls)}=", done.stdout), done.stdout


def test_a_url_of_the_inventory_is_taken_as_it_is(url):
    assert url(orbiter_redis_url="redis://elsewhere:1/2") == "redis://elsewhere:1/2"
