"""Workers of hosts that are not in the inventory are named at the end of a run, and one playbook ends them."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

CHECKOUT = Path(__file__).parents[3]
COMMAND_FOLDER = Path(sys.executable).parent
WELL = {"status": "running", "state": "running", "concurrency": "1", "queue": "orbiter:tasks", "version": "1"}


@pytest.fixture
def play(
    ansible: Callable[..., subprocess.CompletedProcess[str]], server: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a playbook on two worker hosts, which are this one, with a Redis host."""
    monkeypatch.setenv("PATH", f"{COMMAND_FOLDER}:/usr/bin:/bin:/usr/sbin:/sbin")
    monkeypatch.setenv("ORBITER_REDIS_URL", server.url)
    hosts = ["worker1 ansible_connection=local", "redis1 ansible_connection=local"]
    hosts += ["[workers]", "worker1", "[redis]", "redis1"]
    hosts += ["[all:vars]", f"ansible_python_interpreter={sys.executable}", "ansible_become=false"]

    def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return ansible(hosts, CHECKOUT / f"playbooks/{name}.yml", *options)

    return run


def beat(server: Any, host: str, *, number: int = 1, seconds: int = 300) -> None:
    """Leave the heartbeat of a worker of a host in Redis, for so many seconds."""
    now = str(time.time())
    key = f"orbiter:workers:{host}-{number}-aabbccdd"
    fields = WELL | {"worker_id": f"{host}-{number}-aabbccdd", "hostname": host, "started_at": now}
    server.client.hset(key, mapping=fields | {"last_heartbeat": now, "machine_id": "0" * 32})
    server.client.expire(key, seconds)
    server.client.zadd("orbiter:fleet", {fields["worker_id"]: float(now) * 1000})


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a run has said, on one line."""
    return " ".join(done.stdout.split())


def test_workers_of_a_host_that_was_dropped_are_named_with_the_remedy(play, server):
    beat(server, "old9")
    beat(server, "old9", number=2)
    beat(server, "old8")
    done = play("strangers")
    assert done.returncode == 0, done.stdout
    assert "does not have old8, old9, and 3 workers live there" in said(done) or "old9, old8, and 3" in said(done)
    assert "orbiter_retire=" in said(done)


def test_workers_of_the_inventory_are_no_strangers(play, server, worker):
    worker()
    beat(server, "worker1.example.net")
    done = play("strangers")
    assert done.returncode == 0, done.stdout
    assert "orbiter_retire" not in said(done)


def test_with_a_limit_nobody_is_called_a_stranger(play, server):
    beat(server, "old9")
    assert "orbiter_retire" not in said(play("strangers", "--limit=worker1"))


def test_retire_ends_the_workers_of_a_host_that_is_not_in_the_inventory(play, server, worker):
    ended = worker()  # this host, which the inventory calls otherwise
    beat(server, "other")
    done = play("retire", f"--extra-vars=orbiter_retire={socket.gethostname()}")
    assert done.returncode == 0, done.stdout
    assert ended.has_left()
    assert [key.split(":")[2] for key in server.client.scan_iter("orbiter:workers:*")] == ["other-1-aabbccdd"]


def test_retire_refuses_a_host_that_nobody_knows_and_names_those_that_are(play, server):
    beat(server, "old9")
    done = play("retire", "--extra-vars=orbiter_retire=old7")
    assert done.returncode != 0
    assert "No worker lives on old7" in said(done)
    assert "old9" in said(done)
    assert server.client.exists("orbiter:workers:old9-1-aabbccdd")


def test_retire_leaves_somebody_at_work(play, server):
    beat(server, "old9")
    done = play("retire", "--extra-vars=orbiter_retire=old9")
    assert done.returncode != 0
    assert "orbiter_everywhere" in said(done)
    assert server.client.exists("orbiter:workers:old9-1-aabbccdd")


def test_retire_without_a_name_says_what_to_say(play):
    done = play("retire")
    assert done.returncode != 0
    assert "-e orbiter_retire=" in said(done)
