"""A fleet of an earlier time becomes what the inventory says now, in one deployment, under load, and goes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest

from fleet import VERSION, Load, releases, wait_until

CHECKOUT = Path(__file__).parents[3]
UNIT = "/etc/systemd/system/orbiter-worker@.service"
# What the unit did not have in earlier times: it is taken out of what is deployed.
NEWER = "WatchdogSec|LimitCORE|Protect|Restrict|Lock|SystemCall|RemoveIPC|PartOf|UMask"
# Before systemd's own on the PATH of a host: who wants it to read its units waits here, as before the first restart.
SYSTEMCTL = "/usr/local/bin/systemctl"
WAITS = """#!/bin/sh
if [ "$1" = daemon-reload ]; then
  echo $$ >/run/waits
  exec sleep 600
fi
exec /usr/bin/systemctl "$@"
"""


def versions(fleet):
    """Return (version, concurrency) of every instance that is at work."""
    return {(beat["version"], beat["concurrency"]) for beat in fleet.workers() if beat and beat["state"] == "running"}


def installed(host):
    """Return the versions that are installed, without their digests."""
    listed = host.check_output("ls /opt/orbiter/releases").split()
    return {release.partition("-")[0] for release in listed}


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """Return an application whose wheel has every Python that starts beside it tell as which user."""
    wheel = tmp_path_factory.mktemp("trap") / "trap-1.0-py3-none-any.whl"
    files = {
        "trap.pth": "import os; open(f'/tmp/ran-as-{os.getuid()}', 'a').close()\n",
        "trap-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: trap\nVersion: 1.0\n",
        "trap-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "trap-1.0.dist-info/RECORD"
        archive.writestr(record, "".join(f"{name},,\n" for name in (*files, record)))
    return str(wheel)


@pytest.fixture(scope="module")
def earlier(play, source, fleet, workers, trap):
    """Deploy release 0.0.9 with other settings, and make the unit what it was in earlier times."""
    apps = [trap, str(CHECKOUT / "examples/demo_agent")]
    done = play("site.yml", release_source=source("0.0.9"), release_app=apps, worker_concurrency=2)
    assert done.returncode == 0
    for host in workers.values():
        host.check_output(f"sed --in-place --regexp-extended '/^({NEWER})/d' {UNIT}")
        host.check_output(f"cp --archive {UNIT} /etc/orbiter/good/")
        host.check_output("systemctl daemon-reload && systemctl restart orbiter-worker@1 orbiter-worker@2")
    assert versions(fleet) == {("0.0.9", "2")}
    return releases(workers)


@pytest.fixture(scope="module")
def under_load(play, fleet, workers):
    """Return a function that runs a playbook under load, and returns what came of it when the load is done."""

    def run(playbook, **variables):
        with Load(fleet) as load:
            done = play(playbook, **variables)
        fleet.wait_until_done(load.ids, within=60)
        return {"done": done, "load": load, "releases": releases(workers)}

    return run


@pytest.fixture(scope="module")
def upgraded(earlier, under_load):
    """Deploy what this checkout and the inventory say."""
    return under_load("site.yml")


@pytest.fixture(scope="module")
def back(upgraded, under_load):
    """Roll back."""
    return under_load("playbooks/rollback.yml")


@pytest.fixture(scope="module")
def next_release(source):
    """Return the variables of a deployment of one more release, which keeps one other at most."""
    return {"release_source": source("99.0.1"), "worker_keep_releases": 1}


@pytest.fixture(scope="module")
def crashed(back, inventory, fleet, workers, next_release, *, tmp_path_factory):
    """Kill the deployment of one more release when the hosts point at it and no instance has restarted."""
    command = ["ansible-playbook", "--inventory", inventory, "--extra-vars", json.dumps(next_release), "site.yml"]
    environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    shown = tmp_path_factory.mktemp("crashed") / "shown"
    for host in workers.values():
        host.check_output("printf %%s %s >%s && chmod +x %s", WAITS, SYSTEMCTL, SYSTEMCTL)
    try:
        with shown.open("w") as file:
            play = subprocess.Popen(
                command, cwd=CHECKOUT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_until(
            lambda: play.poll() is not None or all(host.file("/run/waits").exists for host in workers.values()),
            within=600,
            what=shown.read_text,
        )
        assert play.poll() is None, shown.read_text()
        os.killpg(play.pid, signal.SIGKILL)
        play.wait(60)
    finally:
        # What has gone on there gets no answer, and ends.
        for host in workers.values():
            host.run("kill $(cat /run/waits); rm --force /run/waits %s", SYSTEMCTL)
    return {"releases": releases(workers), "versions": versions(fleet)}


@pytest.fixture(scope="module")
def repeated(crashed, under_load, next_release):
    """Deploy again."""
    return under_load("site.yml", **next_release) | {"variables": next_release}


def test_nothing_of_an_application_runs_as_root(earlier, workers):
    # It has been installed, started, and waited for with the operators' command, which reads Redis' password as root.
    for host in workers.values():
        assert json.loads(host.check_output("cd /root && orbiter worker list --json"))
        assert host.check_output("ls /tmp | grep ran-as") == f"ran-as-{host.user('orbiter-command').uid}"


def test_upgrade_brings_release_and_settings_at_once(upgraded, earlier, fleet, workers):
    assert upgraded["done"].returncode == 0
    assert all(release.startswith("0.0.9-") for release in earlier.values())
    assert all(release.startswith(f"{VERSION}-") for release in upgraded["releases"].values())


def test_upgrade_brings_the_unit_of_today(upgraded, workers):
    for host in workers.values():
        assert host.file(UNIT).contains("^WatchdogSec=")
        assert host.check_output("systemctl show --property=NeedDaemonReload --value orbiter-worker@1") == "no"


def test_half_of_the_instances_at_least_are_at_work_at_any_time(upgraded, back, repeated):
    for step in (upgraded, back, repeated):
        assert len(step["load"].live) > 20
        assert min(step["load"].live) >= 2


def test_upgrade_loses_nothing(upgraded, fleet):
    fleet.assert_nothing_lost(upgraded["load"].ids)


def test_rollback_brings_the_release_back_and_keeps_the_settings(back, earlier):
    assert back["done"].returncode == 0
    assert back["releases"] == earlier


def test_rollback_loses_nothing(back, fleet):
    fleet.assert_nothing_lost(back["load"].ids)


def test_deployment_that_is_killed_in_the_middle_leaves_the_workers_at_work(crashed):
    assert all(release.startswith("99.0.1-") for release in crashed["releases"].values())
    assert crashed["versions"] == {("0.0.9", "4")}


def test_next_deployment_completes_it(repeated, fleet, workers):
    assert repeated["done"].returncode == 0
    assert versions(fleet) == {("99.0.1", "4")}
    assert len(fleet.instances()) == 4


def test_that_loses_nothing_either(repeated, fleet):
    fleet.assert_nothing_lost(repeated["load"].ids)


def test_releases_above_the_number_are_removed_and_the_one_that_was_in_use_is_not(repeated, workers):
    for host in workers.values():
        assert installed(host) == {"0.0.9", "99.0.1"}


def test_host_that_does_not_come_back_well_goes_back_and_the_others_go_on(repeated, play, fleet, workers, tmp_path):
    """worker1 gets a setting that no worker can start with, and a log level that works, like worker2."""
    before = releases(workers)
    more = tmp_path / "more.yml"
    more.write_text("workers: {hosts: {worker1: {worker_extra_env: {ORBITER_CONCURRENCY: none}}}}\n")
    with Load(fleet) as load:
        options = {"worker_gate_timeout": 30, "worker_log_level": "warning"} | repeated["variables"]
        done = play("site.yml", f"--inventory={more}", "--skip-tags=redis", **options)
    assert done.returncode == 2
    assert "worker1 is back on release 99.0.1-" in " ".join(done.stdout.split())
    assert releases(workers) == before
    quiet = {name: host.file("/etc/orbiter/worker.env").contains("=.warning") for name, host in workers.items()}
    assert quiet == {"worker1": False, "worker2": True}
    assert len(fleet.instances()) == 4
    assert min(load.live) >= 2
    fleet.assert_nothing_lost(load.ids)


def flip(archives):
    """Change one bit of each archive, or change it back."""
    for archive in archives:
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 1
        archive.write_bytes(content)


def test_release_that_is_not_signed_by_who_may_or_was_changed_since_is_refused_before_a_host_is_touched(
    repeated, play, source, workers, tmp_path
):
    public = {}
    for name in ("ours", "theirs"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
        public[name] = (tmp_path / f"{name}.pub").read_text().strip()
    folder = source("99.0.4")

    def seen():
        return {name: host.check_output("ls -lA --full-time /opt/orbiter/releases") for name, host in workers.items()}

    def deploy(signer, key=None):
        signed = {"release_signing_key": str(tmp_path / key)} if key else {}
        options = {"release_source": folder, "worker_release_signers": [public[signer]]} | signed
        return play("site.yml", "--skip-tags=redis", **options)

    def refused(*words):
        done = deploy(*words)
        return done.returncode == 2 and "worker_release_signers" in done.stdout and seen() == before

    before = seen()
    assert refused("ours")
    assert refused("ours", "theirs")
    assert refused("theirs", "ours")
    archives = list((CHECKOUT / ".cache/release").glob("99.0.4-*/*.tar"))
    assert archives
    flip(archives)
    assert refused("ours", "ours")
    flip(archives)
    assert deploy("ours", "ours").returncode == 0
    assert all(release.startswith("99.0.4-") for release in releases(workers).values())
    assert all(host.file("/opt/orbiter/current/sbom.cdx.json").exists for host in workers.values())
