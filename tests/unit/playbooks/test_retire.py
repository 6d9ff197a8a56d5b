"""Workers of hosts that are not in the inventory are named at the end of a run, and one playbook ends them."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

CHECKOUT = Path(__file__).parents[3]
COMMAND_FOLDER = Path(sys.executable).parent
WELL = {"status": "running", "state": "running", "concurrency": "1", "queue": "orbiter:tasks", "version": "1"}


@pytest.fixture
def play(
    ansible: Callable[..., subprocess.CompletedProcess[str]], server: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a playbook on worker hosts and a Redis host, all of which are this one."""
    monkeypatch.setenv("PATH", f"{COMMAND_FOLDER}:/usr/bin:/bin:/usr/sbin:/sbin")
    monkeypatch.setenv("ORBITER_REDIS_URL", server.url)
    others = ["[redis]", "redis1", "[all:vars]", "ansible_connection=local", "ansible_become=false"]
    others += [f"ansible_python_interpreter={sys.executable}"]

    def run(name: str, *options: str, workers: Sequence[str] = ("worker1",)) -> subprocess.CompletedProcess[str]:
        hosts = ["[workers]", *workers, *others]
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


@pytest.mark.parametrize(
    ("name", "hosts", "removed"),
    [
        ("worker7", ["worker7.example.net"], ["worker7.example.net"]),
        ("WORKER7", ["worker7.example.net"], ["worker7.example.net"]),
        ("worker7", ["worker7", "worker7.example.net"], ["worker7"]),
        ("worker", ["worker7.example.net"], []),
        ("worker7", ["worker7.example.net", "worker7.example.org"], []),
    ],
)
def test_retire_takes_a_short_name_for_the_one_host_that_begins_so(play, server, name, hosts, removed):
    beat(server, "other")
    beat(server, name.lower())
    done = play("retire", f"--extra-vars=orbiter_retire={name}", "--check", workers=hosts)
    # What comes then needs a systemd, which this machine may not have.
    assert re.findall(r"included: orbiter.fleet.worker for (\S+)", done.stdout) == removed, done.stdout


def test_retire_without_a_name_says_what_to_say(play):
    done = play("retire")
    assert done.returncode != 0
    assert "-e orbiter_retire=" in said(done)
