"""host_info tells what a host is and has, in one answer."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _host


@pytest.fixture
def look(module):
    """Return a function that runs the module."""
    return lambda **options: module("host_info", **options)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def listening(request):
    """Return a socket of this process that listens."""
    with socket.socket(request.param) as listener:
        listener.bind(("::1" if request.param == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()
        yield listener


def test_every_answer_tells_host_python_and_clock(look):
    before = time.time()
    seen = look()
    assert before <= seen["now"] <= time.time()
    assert seen["machine_id"] == Path("/etc/machine-id").read_text().strip()
    assert [int(part) for part in seen["python"].split(".")] >= [3, 8, 0]
    assert seen["changed"] is False


def test_who_has_a_port_is_named(look, listening):
    port = listening.getsockname()[1]
    name = Path("/proc/self/comm").read_text().strip()
    assert look(ports=[{"port": port}])["taken"] == [{"port": port, "name": name, "pid": os.getpid()}]


def test_a_free_port_and_one_that_its_own_unit_has_are_not_taken(look, listening, monkeypatch):
    port = listening.getsockname()[1]
    monkeypatch.setattr(_host, "show", lambda unit, *_: {"MainPID": str(os.getpid()) if unit == "ours" else "0"})
    assert look(ports=[{"port": port, "unit": "ours"}])["taken"] == []
    assert len(look(ports=[{"port": port, "unit": "another"}])["taken"]) == 1
    listening.close()
    assert look(ports=[{"port": port}])["taken"] == []


def test_a_port_of_another_address_is_in_nobodys_way(look, listening):
    where, port = listening.getsockname()[:2]
    assert look(ports=[{"port": port, "address": "192.0.2.1"}])["taken"] == []
    assert len(look(ports=[{"port": port, "address": where}])["taken"]) == 1
    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        port = everywhere.getsockname()[1]
        assert len(look(ports=[{"port": port, "address": "192.0.2.1"}])["taken"]) == 1


def test_a_socket_of_systemd_has_its_port_while_it_is_active(look, listening, monkeypatch):
    port = listening.getsockname()[1]
    for state, where, count in (("active", port, 0), ("failed", port, 1), ("active", 1, 1)):
        shown = {"ActiveState": state, "Listen": f"127.0.0.1:{where} (Stream)"}
        monkeypatch.setattr(_host, "show", lambda *_, shown=shown: shown)
        assert len(look(ports=[{"port": port, "unit": "ours.socket"}])["taken"]) == count


def test_a_connection_that_does_not_listen_takes_no_port(look, listening):
    with socket.create_connection(listening.getsockname()[:2]) as client:
        assert look(ports=[{"port": client.getsockname()[1]}])["taken"] == []


def test_free_space_is_that_of_what_exists_of_a_path(look, tmp_path):
    wanted = tmp_path / "not" / "yet"
    disk = look(paths=[str(wanted)])["disks"][str(wanted)]
    assert disk["path"] == str(tmp_path)
    assert disk["free"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)


def test_users_and_packages_that_are_not_there_are_left_out(look):
    seen = look(users=["root", "nobody-of-this-name"], packages=["dpkg", "no-package-of-this-name"])
    root = pwd.getpwnam("root")
    assert seen["users"] == {"root": {"home": root.pw_dir, "shell": root.pw_shell}}
    assert list(seen["packages"]) == ["dpkg"]
    assert seen["packages"]["dpkg"][0].isdigit()


def test_a_host_without_dpkg_and_systemd_is_told_of_all_the_same(look, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    seen = look(packages=["dpkg"], ports=[{"port": 1, "unit": "a.service"}])
    assert (seen["packages"], seen["taken"]) == ({}, [])


def test_python_that_anybody_can_run_is_no_trouble(look, monkeypatch):
    monkeypatch.setattr(sys, "_base_executable", "/bin/true")  # which takes any words
    assert look(runs_as="nobody")["interpreter"] == {"path": os.path.realpath("/bin/true"), "trouble": ""}
    assert "interpreter" not in look()


@pytest.mark.parametrize("home", ["/root/python", "/home/me/.pyenv/versions/3.11.7/bin/python3.11"])
def test_python_in_a_home_is_hidden_from_services(look, monkeypatch, home):
    monkeypatch.setattr(sys, "_base_executable", home)
    seen = look(runs_as="nobody")["interpreter"]
    assert seen["path"] == home
    assert "home" in seen["trouble"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("user", ["nobody", "not-there-yet"])
def test_python_that_the_user_may_not_run_is_told_with_the_reason(look, monkeypatch, user):
    with tempfile.TemporaryDirectory() as folder:  # root's alone
        path = Path(folder, "python")
        shutil.copy("/bin/true", path)
        monkeypatch.setattr(sys, "_base_executable", str(path))
        assert look(runs_as="root")["interpreter"]["trouble"] == ""
        assert look(runs_as=user)["interpreter"]["trouble"] == "Permission denied"


def test_docker_is_looked_at_where_it_is_wanted(look, monkeypatch, tmp_path):
    assert "docker" not in look()
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = look(docker=True)["docker"]
    assert seen == {"docker": "", "compose": "", "trouble": "the command docker is not installed", "systemd": False}
