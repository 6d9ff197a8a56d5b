"""A host that will not do costs a message: the play stops before it changes any host, also the others."""

from __future__ import annotations

import socket
import subprocess

import pytest

from fleet import wait_until

PYTHON = "/usr/local/bin/python-of-another-time"


@pytest.fixture
def refused(play, workers):
    """Return a function that deploys, checks that the play ends before any host changes, and returns the reason."""

    def deploy(*options, **variables):
        change = {"worker_log_level": "debug"} | variables
        done = play("site.yml", *options, **change)
        assert done.returncode != 0
        assert not [line for line in done.stdout.splitlines() if line.startswith("changed:")]
        assert "PLAY [Redis]" not in done.stdout
        for host in workers.values():
            assert not host.file("/etc/orbiter/worker.env").contains("ORBITER_LOG_LEVEL=.debug")
        return " ".join(done.stdout.split())

    return deploy


def test_disk_that_is_full(refused, workers):
    host = workers["worker1"]
    host.check_output("mount --types tmpfs --options size=20m none /opt")
    try:
        shown = refused()
    finally:
        host.check_output("umount /opt")
    assert "worker1 has 20 MB free in /opt/orbiter, and installing a release wants 300 MB. Make room" in shown


@pytest.fixture
def wrong_clock(workers, tmp_path):
    """Return a function that sets the clock of worker1 for what Ansible runs there, and returns the option for it."""
    host = workers["worker1"]
    host.check_output("apt-get update -qq && apt-get install -qq --no-install-recommends faketime >/dev/null")
    more = tmp_path / "more.ini"
    more.write_text(f"[workers]\nworker1 ansible_python_interpreter={PYTHON}\n")

    def shift(seconds):
        start = f'exec faketime -f {seconds:+d}s /usr/bin/python3 "$@"'
        host.check_output("printf '%%s\n' '#!/bin/sh' %s >%s && chmod +x %s", start, PYTHON, PYTHON)
        return f"--inventory={more}"

    yield shift
    host.check_output("rm %s", PYTHON)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (90, "s ahead of this machine's"),
        (-90, "s behind this machine's"),
    ],
)
def test_clock_that_is_wrong(refused, wrong_clock, seconds, words):
    shown = refused(wrong_clock(seconds))
    assert "worker1: its clock is " in shown
    assert words in shown


@pytest.mark.nightly
def test_clock_that_is_a_little_wrong_will_do(play, wrong_clock):
    assert play("playbooks/prepare.yml", "--check", wrong_clock(15)).returncode == 0


@pytest.mark.nightly
def test_settings_alone_need_no_release(play):
    assert play("site.yml", "--check", "--tags=worker_configure").returncode == 0


@pytest.mark.nightly
def test_python_that_is_too_old(refused):
    """Debian 11 with its Python 3.9 is too old; so that the test needs none, the worker asks for a newer one here."""
    shown = refused(__worker_python_minimum="3.99")
    assert "and the worker needs 3.99 or newer. Use Debian 12 or newer, or set ansible_python_interpreter" in shown


def answers(address):
    try:
        socket.create_connection((address, 22), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.nightly
def test_system_without_systemd(refused, runner, tmp_path):
    """A container whose first process is sshd."""
    variables = runner.get_variables("worker1")
    network, address = variables["testhost_network"], variables["ansible_host"].rpartition(".")[0] + ".99"
    name = f"{network}-bare"
    key = f"{variables['testhost_directory']}/id_ed25519.pub"
    start = "ssh-keygen -A >/dev/null; mkdir -p /run/sshd; exec /usr/sbin/sshd -D"
    docker = ["docker", "run", "--detach", "--rm", "--name", name, "--network", network, "--ip", address]
    docker += ["--volume", f"{key}:/root/.ssh/authorized_keys:ro", "orbiter-testhost:bookworm", "sh", "-c", start]
    subprocess.run(docker, check=True, stdout=subprocess.DEVNULL)
    more = tmp_path / "more.ini"
    more.write_text(f"[workers]\nbare ansible_host={address}\n[testhosts]\nbare\n")
    try:
        wait_until(lambda: answers(address), within=30, what=lambda: f"sshd of {name} does not answer")
        shown = refused(f"--inventory={more}")
    finally:
        subprocess.run(["docker", "stop", "--time=1", name], check=True, stdout=subprocess.DEVNULL)
    assert "bare runs Debian 12" in shown
    assert "this role needs Debian or a derivative with systemd" in shown


@pytest.mark.nightly
def test_system_that_is_not_debian(refused, workers):
    host = workers["worker2"]
    fedora = 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=40\nPRETTY_NAME="Fedora Linux 40"\n'
    host.check_output("rm /etc/os-release && printf %s >/etc/os-release", fedora)
    host.check_output("mv /etc/debian_version /etc/debian_version.kept")
    try:
        shown = refused()
    finally:
        host.check_output("mv /etc/debian_version.kept /etc/debian_version")
        host.check_output("ln --symbolic --force ../usr/lib/os-release /etc/os-release")
    assert "worker2 runs Fedora" in shown
    assert "this role needs Debian or a derivative" in shown


@pytest.mark.nightly
def test_release_that_was_built_for_other_hosts(refused):
    """As with archives that were built elsewhere, for other hosts than these."""
    shown = refused(release_version="9.9.9-00000000", release_archives={"3.9-x86_64": "/nowhere.tar"})
    assert "needs release 9.9.9-00000000 for 3.1" in shown
    assert "and there are archives for 3.9-x86_64. Run the release role for this host too." in shown
