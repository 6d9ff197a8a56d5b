"""A host that cannot be reached stops a run before anything changes, and the run says how to go on without it."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
REACH = CHECKOUT / "playbooks/reach.yml"


@pytest.fixture
def hosts():
    """Return a function that makes an inventory of three hosts, of which those named here are away."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def make(*away, skip=None):
        lines = []
        for name in ("redis1", "worker1", "worker2"):
            where = f"ansible_host=127.0.0.1 ansible_port={port}" if name in away else "ansible_connection=local"
            lines.append(f"{name} {where}")
        lines += ["[redis]", "redis1", "[workers]", "worker1", "worker2"]
        lines += ["[all:vars]", f"ansible_python_interpreter={sys.executable}"]
        return lines + ([f"orbiter_skip_unreachable={skip}"] if skip is not None else [])

    return make


def test_a_worker_host_that_is_away_stops_the_run_which_says_the_limit_to_type(ansible, hosts):
    done = ansible(hosts("worker2"), REACH)
    assert done.returncode != 0
    assert "--limit 'all:!worker2'" in " ".join(done.stdout.split())


def test_a_limit_that_was_given_is_kept(ansible, hosts):
    done = ansible(hosts("worker2"), REACH, "--limit=workers")
    assert "--limit 'workers:!worker2'" in " ".join(done.stdout.split())


def test_a_worker_host_that_is_away_is_left_out_where_the_inventory_says_so(ansible, hosts):
    done = ansible(hosts("worker2", skip="yes"), REACH)
    assert done.returncode == 4, done.stdout
    assert "failed=0" in done.stdout
    assert "failed=1" not in done.stdout


def test_the_redis_host_is_never_left_out(ansible, hosts):
    done = ansible(hosts("redis1", skip="yes"), REACH)
    assert done.returncode != 0
    assert "needs redis1" in " ".join(done.stdout.split())


def test_a_word_that_is_neither_yes_nor_no_is_refused_by_name(ansible, hosts):
    done = ansible(hosts("worker2", skip="maybe"), REACH)
    assert done.returncode != 0
    assert "orbiter_skip_unreachable" in done.stdout
    assert "maybe" in done.stdout


@pytest.fixture
def twins(hosts):
    """Return a function that makes an inventory of three names that reach this one machine, and not by `local`."""
    return lambda *more: [line.replace("=local", "=ansible.builtin.local") for line in hosts()] + list(more)


def test_two_names_that_reach_one_machine_are_refused_by_both(ansible, twins):
    done = ansible(twins(), REACH)
    assert done.returncode != 0
    shown = " ".join(done.stdout.split())
    assert "redis1 and worker1 and worker2 are one machine" in shown
    assert "orbiter_same_machine" in shown


def test_one_machine_by_two_names_is_allowed_where_the_inventory_says_so(ansible, twins):
    assert ansible(twins("orbiter_same_machine=yes"), REACH).returncode == 0


@pytest.fixture
def old(hosts, tmp_path):
    """Return a function that makes an inventory of which redis1 has an old Python, and a os-release of these lines."""

    def make(*release):
        (tmp_path / "old").mkdir()
        says = ["import io, platform", "platform.python_version = lambda: '3.10.12'"]
        if release:
            (tmp_path / "os-release").write_text("\n".join([*release, ""]))
            place = f"{str(tmp_path / 'os-release')!r} if str(name).endswith('/os-release') else name"
            says += [
                "import builtins",
                "real = io.open",
                f"fake = lambda name, *more, **named: real({place}, *more, **named)",
            ]
            says += ["builtins.open = io.open = fake"]
        (tmp_path / "old/sitecustomize.py").write_text("\n".join([*says, ""]))
        python = tmp_path / "old/python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/old exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        lines = hosts()
        lines[0] += f" ansible_python_interpreter={python}"
        return lines

    return make


def test_ubuntu_that_is_too_old_is_told_with_the_one_to_use(ansible, old):
    done = ansible(old("NAME=Ubuntu", "ID=ubuntu", 'VERSION_ID="22.04"', "VERSION_CODENAME=jammy"), REACH)
    assert done.returncode != 0
    shown = " ".join(done.stdout.split())
    assert "redis1 runs Ubuntu 22.04" in shown
    assert "Ubuntu 24.04 or newer" in shown
    assert "ansible_python_interpreter" not in shown


def test_redis_host_with_a_python_that_is_too_old_is_told_before_anything_changes(ansible, old):
    done = ansible(old("NAME=Debian", "ID=debian", 'VERSION_ID="11"'), REACH)
    assert done.returncode != 0
    shown = " ".join(done.stdout.split())
    assert "redis1 has Python 3.10.12" in shown
    assert "ansible_python_interpreter" in shown


def test_all_that_are_there_are_no_trouble(ansible, hosts):
    done = ansible(hosts(), REACH)
    assert done.returncode == 0, done.stdout
