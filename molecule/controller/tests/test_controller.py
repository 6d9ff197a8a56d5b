"""Every playbook, run by an ordinary user of the controller, from the collection's archive, by ports of one address."""

from __future__ import annotations

import json
import pwd
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest

from fleet import wait_until

pytestmark = pytest.mark.nightly
CHECKOUT = Path(__file__).parents[3]
PERSON = "orbiter-test"
SECRET = "the-first-of-a-test-only"
OTHER_SECRET = "another-of-a-test-only"

# Each playbook that a person runs, with what it wants to be told.
PLAYBOOKS = {
    "site": {},
    "status": {},
    "scale": {"instances": 2},
    "autoscale": {"worker_instances_min": 1, "worker_instances_max": 2},
    "image": {"worker_deploy": "compose"},
    "rolling_update": {},
    "rollback": {},
    "rotate_secrets": {"orbiter_redis_password": OTHER_SECRET},
    "redis_tls": {"redis_tls": True, "redis_tls_port": 6380},
    "backup": {},
    "restore": {"orbiter_restore": True},
    "drain": {"orbiter_everywhere": True},
    "undrain": {},
    "exec": {"exec_command": "orbiter --version"},
    "logs": {"logs_lines": 5},
    "retire": {"orbiter_retire": "worker2"},
    "teardown": {"orbiter_teardown": True, "orbiter_teardown_redis": True},
}
# What a check of a fleet shows before there is any: settings, users, units, environment.
NEW = "on sanitize-payload #(new password) "
FRESH = ("+maxmemory 1gb", f"+user client {NEW}", "+LimitNOFILE=", "+ORBITER_CONCURRENCY=")
# What a check shows that some of them would change.
SHOWN = {
    "scale": "+orbiter-worker@2.service started",
    "drain": "+orbiter-worker@1.service stopped",
    "rotate_secrets": f"+user admin {NEW}",
}


class Controller:
    """An ordinary user of this machine, with the collection in a home of its own and an inventory in INI."""

    def __init__(self, home: Path, python: list[str]) -> None:
        self.home = home
        self._python = python
        self.environment = {
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_COLLECTIONS_PATH": str(home / "collections"),
            # The packages of this checkout's environment, by whichever Python this user may run.
            "PYTHONPATH": str(next((CHECKOUT / ".venv/lib").glob("python3*/site-packages"))),
        }

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program of Ansible's as this user."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        command = [
            "runuser",
            "-u",
            PERSON,
            "--",
            "env",
            "-i",
            *variables,
            *self._python,
            str(CHECKOUT / ".venv/bin" / program),
        ]
        done = subprocess.run([*command, *words], cwd=self.home, text=True, capture_output=True, check=False)
        print(program, *words)
        print((done.stdout + done.stderr)[-50_000:])
        return done

    def play(self, name: str, *options: str, **variables: object) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection."""
        file = self.home / "variables.json"
        file.write_text(json.dumps(variables))
        return self.run(
            "ansible-playbook", f"orbiter.fleet.{name}", "-i", "hosts.ini", "--extra-vars", f"@{file}", *options
        )


def free_ports(number: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody has."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def ports(runner):
    """Reach the hosts by ports of 127.0.0.1, as behind a gateway; return them by host."""
    hosts = {name: runner.get_variables(name)["ansible_host"] for name in ("redis1", "worker1", "worker2")}
    ports = dict(zip(hosts, free_ports(len(hosts)), strict=True))
    variables = runner.get_variables("redis1")
    command = ["ssh", "-N", "-i", variables["ansible_ssh_private_key_file"], "-o", "ExitOnForwardFailure=yes"]
    command += variables["ansible_ssh_common_args"].split()
    for name, address in hosts.items():
        command += ["-L", f"127.0.0.1:{ports[name]}:{address}:22"]
    gateway = subprocess.Popen([*command, f"root@{hosts['redis1']}"])

    def reachable() -> bool:
        for port in ports.values():
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)):
                    return False
        return True

    try:
        wait_until(reachable, within=30, what=lambda: f"no answer at {ports}")
        yield ports
    finally:
        gateway.terminate()
        gateway.wait(30)


@pytest.fixture(scope="module")
def controller(ports, runner, on, tmp_path_factory):
    """Make the user here, and one of the hosts, who becomes root by sudo; install the collection from its archive."""
    subprocess.run(["useradd", "--create-home", PERSON], check=True)
    home = Path(pwd.getpwnam(PERSON).pw_dir)
    try:
        own = Path(sys.executable).resolve()
        may_run = subprocess.run(["runuser", "-u", PERSON, "--", "test", "-x", str(own)], check=False).returncode == 0
        controller = Controller(home, [str(own) if may_run else "/usr/bin/python3"])
        (home / ".ssh").mkdir()
        variables = runner.get_variables("redis1")
        shutil.copy(variables["ansible_ssh_private_key_file"], home / ".ssh/id_ed25519")
        lines = [f"{name} ansible_port={ports[name]}" for name in ports]
        address = variables["ansible_host"]
        (home / "hosts.ini").write_text(
            f"[redis]\n{lines[0]} redis_bind={address}\n\n[workers]\n{lines[1]}\n{lines[2]}\n\n[all:vars]\n"
            "ansible_host=127.0.0.1\nansible_user=deploy\nansible_become=true\n"
            "ansible_ssh_common_args=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR\n"
            f"orbiter_redis_password={SECRET}\norbiter_firewall_clients=['{address.rpartition('.')[0]}.1']\n"
            "worker_instances=1\nworker_gate_settle=1\nworker_extras=[]\n"
        )
        public = Path(f"{variables['ansible_ssh_private_key_file']}.pub").read_text().strip()
        for name in ports:
            on(name).check_output(
                "useradd --create-home deploy && install -d -o deploy -m 0700 ~deploy/.ssh"
                f" && echo {quote(public)} > ~deploy/.ssh/authorized_keys && chown -R deploy ~deploy/.ssh"
                " && echo 'deploy ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/deploy"
            )
        dist = tmp_path_factory.mktemp("dist")
        subprocess.run([str(CHECKOUT / "tools/build.sh"), str(dist)], check=True)
        (archive,) = dist.glob("orbiter-fleet-*.tar.gz")
        shutil.copy(archive, home)
        shutil.copytree(CHECKOUT / "examples/demo_agent", home / "demo_agent")
        subprocess.run(["chown", "-R", f"{PERSON}:", str(home)], check=True)
        installed = controller.run(
            "ansible-galaxy", "collection", "install", "--no-deps", "-p", "collections", archive.name
        )
        assert installed.returncode == 0
        yield controller
    finally:
        subprocess.run(["userdel", "--remove", "--force", PERSON], check=False)


def refused_or_done(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a run ended well, or with a reason of ours; never in the middle of something."""
    said = done.stdout + done.stderr
    return done.returncode in {0, 2} and not any(
        word in said for word in ("Traceback", "MODULE FAILURE", "is undefined", "Unexpected failure")
    )


def fingerprint(on, names):
    """Return what of a host a check may not change."""
    look = (
        "find /etc /opt /usr/local -xdev -type f -printf '%p %s %T@\\n' 2>/dev/null | sort | sha256sum;"
        " systemctl show --property=MainPID --value 'orbiter-worker@*' redis-server"
    )
    return {name: on(name).check_output(look) for name in names}


def test_every_playbook_of_the_collection_is_tried_here():
    known = {path.stem: path.read_text() for path in (CHECKOUT / "playbooks").glob("*.yml")}
    parts = {name for text in known.values() for name in re.findall(r"import_playbook: (\w+)\.yml", text)} - {"image"}
    demo = {name for name in known if name.startswith("demo_")}
    assert set(PLAYBOOKS) == set(known) - parts - demo


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_check_on_fresh_hosts_ends_well_and_changes_nothing(controller, on, ports, name):
    before = fingerprint(on, ports)
    done = controller.play(name, "--check", "--diff", **PLAYBOOKS[name])
    assert refused_or_done(done)
    assert fingerprint(on, ports) == before
    if name == "site":
        assert done.returncode == 0
        for line in FRESH:
            assert line in done.stdout
        assert SECRET not in done.stdout


def test_the_fleet_comes_up_and_a_second_run_changes_nothing(controller):
    assert controller.play("site").returncode == 0
    again = controller.play("site")
    assert again.returncode == 0
    assert "changed:" not in again.stdout


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_check_on_deployed_hosts_ends_well_and_changes_nothing(controller, on, ports, name):
    before = fingerprint(on, ports)
    done = controller.play(name, "--check", "--diff", **PLAYBOOKS[name])
    assert refused_or_done(done)
    assert fingerprint(on, ports) == before
    assert SHOWN.get(name, "") in done.stdout
    assert SECRET not in done.stdout
    assert OTHER_SECRET not in done.stdout


def test_a_check_shows_what_settings_would_change_and_no_secret(controller):
    done = controller.play(
        "site",
        "--check",
        "--diff",
        worker_concurrency=3,
        worker_memory_max="500M",
        redis_settings=[{"name": "maxmemory", "value": "200mb"}],
        worker_task_env={"SOME_TOKEN": "hush-hush"},
        orbiter_redis_users={"reporter": {"password": "hush-hush, nobody hears it", "rights": "monitor"}},
    )
    assert done.returncode == 0
    for line in ("+ORBITER_CONCURRENCY=", "+MemoryMax=500000000", "+maxmemory 200mb", f"+user reporter {NEW}"):
        assert line in done.stdout
    assert "hush-hush" not in done.stdout


def at_work(on) -> set[str]:
    """Return the hosts whose workers say that they live, with what Redis holds now."""
    workers = json.loads(on("worker1").check_output("orbiter worker list --json"))
    return {worker["hostname"] for worker in workers if worker["alive"]}


def test_every_playbook_does_its_work(controller, on):
    """In an order in which each one finds what it needs."""

    def well(name: str, *options: str, **variables: object) -> None:
        assert controller.play(name, *options, **variables).returncode == 0, name

    well("status")
    well("scale", instances=2)
    well("autoscale", worker_instances_min=1, worker_instances_max=2)
    well("backup", redis_backup_directory=str(controller.home / "backups"))
    (archive,) = (controller.home / "backups").iterdir()
    well("rolling_update", worker_concurrency=2)
    well("rolling_update", release_app=[str(controller.home / "demo_agent")], worker_concurrency=2)
    well("rollback", worker_concurrency=2)
    well("exec", exec_command="orbiter --version")
    well("logs", logs_lines=5)
    well("drain", "--limit", "worker1")
    well("undrain", "--limit", "worker1")
    well("rotate_secrets", orbiter_redis_password=OTHER_SECRET)
    well("restore", orbiter_redis_password=OTHER_SECRET, orbiter_restore=True, redis_restore_file=str(archive))
    wait_until(lambda: at_work(on) == {"worker1", "worker2"}, within=60, what=lambda: f"at work: {at_work(on)}")
    well("retire", orbiter_redis_password=OTHER_SECRET, orbiter_retire="worker2")
    well("teardown", orbiter_redis_password=OTHER_SECRET, orbiter_teardown=True, orbiter_teardown_redis=True)
    for name in ("redis1", "worker1", "worker2"):
        assert on(name).run("ls /etc/orbiter /opt/orbiter").rc == 2
