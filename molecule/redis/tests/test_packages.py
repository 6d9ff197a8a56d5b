"""Packages while another program installs: the role waits, and names what it has waited for in vain."""

from __future__ import annotations

import pytest
from conftest import shown

pytestmark = pytest.mark.nightly

PACKAGE = "tree"
# Has a lock, and leaves when an attempt to install has come and gone.
HOLDER = """
import fcntl, pathlib, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
pathlib.Path("/run/lock-is-held").touch()
def tried():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(bytes(1))
        except OSError:
            continue
        if words[0].endswith(b"apt-get") and any(b"tree" in word for word in words):
            return True
    return False
while not tried():
    time.sleep(0.01)
while tried():
    time.sleep(0.01)
"""


@pytest.fixture
def host(servers):
    """Return the host that lacks the package."""
    return servers["redis1"].host


@pytest.fixture
def hold(host):
    """Return a function that lets another program have a lock; with `forever` it keeps that."""

    def start(lock, *, forever):
        program = HOLDER.replace("tree", "nothing at all") if forever else HOLDER
        host.check_output("systemd-run --unit=upgrades --collect python3 -c %s %s", program, lock)
        host.check_output("timeout 20 sh -c 'until [ -e /run/lock-is-held ]; do sleep 0.05; done'")

    yield start
    host.check_output("systemctl stop upgrades; rm --force /run/lock-is-held")


def install(play, **variables):
    """Play the role for a package that the host lacks."""
    names = {"packages_names": PACKAGE, "packages_lists_age": 10**6}
    return play("molecule/redis/packages.yml", **(names | variables))


@pytest.mark.parametrize(
    ("lock", "age"),
    [
        pytest.param("/var/lib/dpkg/lock-frontend", 10**6, id="dpkg"),
        pytest.param("/var/lib/apt/lists/lock", 0, id="lists"),
    ],
)
def test_a_lock_that_stays_is_named_with_who_has_it(play, host, hold, lock, age):
    hold(lock, forever=True)
    process = host.check_output("systemctl show --property=MainPID --value upgrades")
    done = install(play, packages_lists_age=age, packages_lock_timeout="0")
    assert done.returncode == 2
    assert f"process {process} (" in shown(done)
    assert f") has {lock}" in shown(done)
    assert "packages_lock_timeout" in shown(done)


def test_a_package_is_installed_as_soon_as_the_lock_is_free(play, host, hold):
    hold("/var/lib/dpkg/lock-frontend", forever=False)
    done = install(play)
    assert done.returncode == 0
    assert "RETRYING" in done.stdout + done.stderr
    assert host.package(PACKAGE).is_installed


def test_a_dpkg_that_was_interrupted_is_said_with_the_remedy(play, host):
    host.check_output("touch /var/lib/dpkg/updates/0001")
    try:
        done = install(play, packages_names="bc")
    finally:
        host.check_output("rm /var/lib/dpkg/updates/0001")
    assert done.returncode == 2
    assert "dpkg --configure -a" in shown(done)
