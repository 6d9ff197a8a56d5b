"""The inventory of live workers, from a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
from conftest import Server, free_port

BEAT = {
    "hostname": "w1",
    "machine_id": "m1",
    "unit": "orbiter-worker@1.service",
    "instance": "1",
    "state": "running",
    "status": "running",
    "queue": "orbiter:tasks",
    "version": "0.2.0",
    "concurrency": "4",
    "active": "1",
    "pid": "7",
}


def beat(server, worker_id, *, namespace="orbiter", age=1, **fields):
    """Write a heartbeat as workers do."""
    server.client.hset(
        f"{namespace}:workers:{worker_id}", mapping=BEAT | {"last_heartbeat": time.time() - age} | fields
    )


@pytest.fixture
def read(server, tmp_path):
    """Return a function that reads an inventory of this plugin; it gives what Ansible finds, and what it says."""

    def run(environment=None, **options):
        source = tmp_path / "orbiter_workers.yml"
        given = {"plugin": "orbiter.fleet.workers", "redis_url": server.url} | options
        source.write_text(json.dumps({name: value for name, value in given.items() if value is not None}))
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-inventory", "--list", f"--inventory={source}"],
            cwd=tmp_path,
            env=os.environ
            | {
                "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
                "ANSIBLE_NOCOLOR": "1",
            }
            | (environment or {}),
            text=True,
            capture_output=True,
            check=False,
        )
        said = " ".join(done.stderr.split())
        for text in (server.password, json.dumps(server.password)[1:-1], "pass%22word"):
            assert text not in said
        return json.loads(done.stdout, object_hook=plain) if done.returncode == 0 else None, said

    return run


def plain(found):
    """Return a text that Ansible takes for no template as it is."""
    return found.get("__ansible_unsafe", found)


def variables(answer):
    return answer["_meta"]["hostvars"]


def test_real_worker_is_a_host_with_its_groups(read, worker):
    one = worker()
    answer, _said = read()
    ((host, found),) = variables(answer).items()
    assert answer["orbiter_workers"]["hosts"] == answer["queue_orbiter_tasks"]["hosts"] == [host]
    assert answer["namespace_orbiter"]["hosts"] == [host]
    assert [row["worker_id"] for row in found["fleet_workers"]] == [one.worker_id]
    assert found["fleet_instances"] == 1
    assert found["fleet_slots"] > 0
    assert found["fleet_states"] == ["running"]


def test_workers_of_a_host_are_added_up(read, server):
    beat(server, "a")
    beat(server, "b", instance="2", unit="orbiter-worker@2.service", queue="orbiter:mail", state="draining", active=3)
    beat(server, "c", hostname="w2")
    answer, _said = read()
    assert sorted(answer["orbiter_workers"]["hosts"]) == ["w1", "w2"]
    assert answer["queue_orbiter_mail"]["hosts"] == ["w1"]
    found = variables(answer)["w1"]
    assert (found["fleet_instances"], found["fleet_slots"], found["fleet_busy"]) == (2, 4, 4)
    assert found["fleet_queues"] == ["orbiter:mail", "orbiter:tasks"]
    assert found["fleet_states"] == ["draining", "running"]


def test_worker_in_a_container_is_of_the_host_that_it_names(read, server):
    beat(server, "a", hostname="0a1b2c3d4e5f", machine_id="", unit="", instance="w7")
    beat(server, "b", hostname="laptop", machine_id="", unit="", instance="")
    assert sorted(variables(read()[0])) == ["laptop", "w7"]


def test_what_is_dead_or_foreign_or_no_host_is_left_out(read, server):
    beat(server, "dead", hostname="gone", age=61)
    beat(server, "slow", hostname="slow", age=61, heartbeat_ttl=120)
    beat(server, "odd", hostname="{{ lookup('pipe', 'id') }}")
    beat(server, "bell", hostname="w\x1b[2J")
    server.client.set("orbiter:workers:foreign", "x")
    answer, said = read()
    assert list(variables(answer)) == ["slow"]
    assert "is no host name" in said
    assert "\x1b" not in said


def test_what_a_worker_says_is_no_template(read, server):
    beat(server, "a", version="{{ 6 * 7 }}")
    answer, _said = read(compose={"seen": "fleet_versions[0]"}, keyed_groups=[{"key": "fleet_versions", "prefix": "v"}])
    found = variables(answer)["w1"]
    assert "42" not in json.dumps([found["fleet_versions"], found["seen"]])


def test_namespaces_are_asked_one_by_one(read, server):
    beat(server, "a")
    beat(server, "b", namespace="acme", hostname="w2", queue="acme:tasks")
    beat(server, "c", namespace="{blue}", hostname="w3", queue="{blue}:tasks")
    assert list(variables(read()[0])) == ["w1"]
    answer, _said = read(namespaces=["acme", "{blue}"])
    assert sorted(variables(answer)) == ["w2", "w3"]
    assert answer["namespace_acme"]["hosts"] == ["w2"]
    answer, said = read(namespaces=["a*"])
    assert answer is None
    assert "namespaces has 'a*'" in said


def test_variables_and_groups_are_composed(read, server):
    beat(server, "a")
    answer, _said = read(
        compose={"ansible_host": "fleet_hostname ~ '.example.net'"},
        groups={"busy": "fleet_busy > 0"},
        keyed_groups=[{"key": "fleet_versions", "prefix": "release"}],
    )
    assert variables(answer)["w1"]["ansible_host"] == "w1.example.net"
    assert answer["busy"]["hosts"] == answer["release_0_2_0"]["hosts"] == ["w1"]
    wrong = {"x": "nowhere.y"}
    assert "x" not in variables(read(compose=wrong)[0])["w1"]
    answer, said = read(compose=wrong, strict=True)
    assert answer is None
    assert "Could not set x" in said


def test_password_comes_by_environment_or_file_and_is_in_no_error(read, server, tmp_path):
    beat(server, "a")
    bare = f"redis://default@127.0.0.1:{server.port}/0"
    file = tmp_path / "password"
    file.write_text(server.password + "\n")
    assert list(variables(read(redis_url=bare, password_file=str(file))[0])) == ["w1"]
    assert list(variables(read({"ORBITER_REDIS_PASSWORD": server.password}, redis_url=bare)[0])) == ["w1"]
    assert list(variables(read({"ORBITER_REDIS_URL": server.url}, redis_url=None)[0])) == ["w1"]
    # One that is wrong, beside a URL with the right one.
    answer, said = read(password="s3cret-guess")
    assert answer is None
    assert "WRONGPASS" in said
    assert "s3cret-guess" not in said
    answer, said = read(password_file=str(tmp_path / "nowhere"))
    assert answer is None
    assert f"cannot read {tmp_path}/nowhere: No such file" in said
    file.write_text("\nlate\n")
    assert "must be the password" in read(password_file=str(file))[1]


@pytest.mark.parametrize(
    "url", ["http://:s3cret@redis1", "redis+sentinel://:s3cret@a:1,b:2/m", "redis://:s3cret@h:port"]
)
def test_url_of_another_kind_is_refused_and_not_shown(read, url):
    answer, said = read(redis_url=url)
    assert answer is None
    assert "redis_url is none of redis://" in said
    assert "s3cret" not in said


def test_nobody_answers(read):
    answer, said = read(redis_url=f"redis://127.0.0.1:{free_port()}")
    assert answer is None
    assert "nothing answers at 127.0.0.1 port" in said


def test_cache_answers_until_it_is_flushed_and_holds_no_password(read, server, tmp_path):
    beat(server, "a")
    cached = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    assert list(variables(read(**cached)[0])) == ["w1"]
    beat(server, "b", hostname="w2")
    assert list(variables(read(**cached)[0])) == ["w1"]
    assert sorted(variables(read(**cached | {"cache": False})[0])) == ["w1", "w2"]
    kept = "".join(path.read_text() for path in (tmp_path / "cache").iterdir())
    assert "w1" in kept
    assert server.password not in json.loads(json.dumps(kept))
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert sorted(variables(read(**cached)[0])) == ["w1", "w2"]


def test_user_who_may_only_look_is_enough(read, server):
    beat(server, "a")
    server.client.execute_command(
        "ACL", "SETUSER", "looker", "on", ">look", "%R~orbiter:*", "-@all", "+time", "+scan", "+hgetall"
    )
    assert list(variables(read(redis_url=f"redis://looker:look@127.0.0.1:{server.port}")[0])) == ["w1"]


def test_tls_is_checked_by_the_authority_and_the_name(read, server, tmp_path):
    authority, other = trustme.CA(), trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    port = free_port()
    folder = tmp_path / "redis"
    folder.mkdir()
    files = [f"tls-cert-file {tmp_path}/cert.pem", f"tls-key-file {tmp_path}/cert.pem", "tls-auth-clients no"]
    with Server(folder, f"tls-port {port}", *files, f"tls-ca-cert-file {tmp_path}/ca.pem") as secure:
        beat(secure, "a")

        def ask(host, query="", **options):
            return read(redis_url=f"rediss://{host}:{port}/0{query}", password=secure.password, **options)

        assert list(variables(ask("127.0.0.1", ca=str(tmp_path / "ca.pem"))[0])) == ["w1"]
        assert list(variables(ask("127.0.0.1", f"?ssl_ca_certs={tmp_path}/ca.pem")[0])) == ["w1"]
        for host, options in (("127.0.0.1", {}), ("127.0.0.1", {"ca": "other.pem"}), ("localhost", {"ca": "ca.pem"})):
            given = {name: str(tmp_path / file) for name, file in options.items()}
            answer, said = ask(host, **given)
            assert answer is None
            assert "certificate verify failed" in said
        assert list(variables(ask("localhost", "?ssl_check_hostname=false", ca=str(tmp_path / "ca.pem"))[0])) == ["w1"]
        answer, said = ask("127.0.0.1", ca=str(tmp_path / "nowhere.pem"))
        assert answer is None
        assert "nowhere.pem" in said
