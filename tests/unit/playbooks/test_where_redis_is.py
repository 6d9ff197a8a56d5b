"""The Redis that workers are told of is one that they can reach, and no queue is left behind unseen."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from conftest import free_port

CHECKOUT = Path(__file__).parents[3]
HERE = f"ansible_connection=local ansible_python_interpreter={sys.executable} ansible_become=false"


def hosts(*variables, redis=""):
    """Return the lines of an inventory with a Redis host and a worker host, both this one."""
    lines = [f"redis1 {HERE} {redis}", f"worker1 {HERE}", "[redis]", "redis1", "[workers]", "worker1", "[all:vars]"]
    return [*lines, "orbiter_redis_password=operat0rs-password-of-this-test", *variables]


def said(done):
    """Return what a run has said, on one line."""
    return " ".join(done.stdout.split())


def test_workers_connect_where_they_are_told(ansible):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = f"ansible_host=192.0.2.1 redis_address=127.0.0.1 redis_port={port}"
        done = ansible(hosts(redis=told), CHECKOUT / "playbooks/connect.yml")
    assert done.returncode == 0, done.stdout


def test_a_redis_that_a_worker_host_cannot_connect_to_is_told_in_seconds(ansible):
    port = free_port()
    done = ansible(hosts(redis=f"redis_bind=127.0.0.1 redis_port={port}"), CHECKOUT / "playbooks/connect.yml")
    assert done.returncode != 0
    assert f"worker1 cannot connect to Redis at 127.0.0.1, port {port}" in said(done)
    assert "redis_address" in said(done)


@pytest.fixture
def left(ansible):
    """Return a function that checks for a queue that is left behind."""

    def run(*options):
        return ansible(hosts(redis="ansible_host=192.0.2.1"), CHECKOUT / "playbooks/left_queue.yml", *options)

    return run


@pytest.mark.skipif(Path("/etc/orbiter").exists(), reason="is a worker host")
def test_hosts_without_workers_leave_no_queue(left):
    done = left()
    assert done.returncode == 0, done.stdout
