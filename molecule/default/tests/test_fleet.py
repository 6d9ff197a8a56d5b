"""After converge: Redis is as the guide says, and the workers are at work."""

from __future__ import annotations

import json
import shlex

import pytest

GUIDE = {
    "maxmemory": "1073741824",
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxclients": "10000",
    "timeout": "0",
    "tcp-keepalive": "300",
    "protected-mode": "yes",
    "stream-node-max-bytes": "1024",
}


def main_pid(host):
    """Return the process id of a host's first instance."""
    return host.check_output("systemctl show --property=MainPID --value orbiter-worker@1")


def executor_processes(host):
    """Return the process ids of what runs the tasks of a host's first instance."""
    return host.check_output(f"pgrep --parent {main_pid(host)} --full orbiter.distributed.execution").split()


def process_environment(host, pid):
    """Return a process's environment as root sees it."""
    text = host.file(f"/proc/{pid}/environ").content.decode()
    return dict(line.split("=", 1) for line in text.split("\0") if line)


def main_environment(host):
    """Return the environment that systemd gave a host's first instance."""
    return process_environment(host, main_pid(host))


@pytest.mark.guide(
    "Recommended settings",
    "`maxmemory`, `maxmemory-policy`, `appendonly`, `appendfsync`, `maxclients`, `timeout`, `tcp-keepalive`",
)
@pytest.mark.parametrize("name", GUIDE)
def test_redis_runs_with_the_settings_of_the_guide(fleet, name):
    assert fleet.redis.config_get(name) == {name: GUIDE[name]}


def test_redis_refuses_who_does_not_give_the_password(on):
    redis = on("redis1")
    assert redis.run("redis-cli ping").stdout.startswith("NOAUTH")
    assert redis.run("redis-cli --no-auth-warning -a wrong ping").stderr.startswith("AUTH failed: WRONGPASS")


@pytest.mark.guide("Worker not claiming tasks", "`redis-cli -u $ORBITER_REDIS_URL ping`")
def test_redis_cli_takes_the_url_that_workers_take(on, workers):
    """The guide's troubleshooting: redis-cli -u $ORBITER_REDIS_URL ping."""
    for host in workers.values():
        url = host.check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
        assert on("redis1").check_output("redis-cli --no-auth-warning -u %s ping", url) == "PONG"


def test_redis_listens_inside_the_fleet_only(on, fleet):
    redis = on("redis1")
    address = fleet.redis.connection_pool.connection_kwargs["host"]
    listening = redis.check_output("ss --no-header --listening --tcp --numeric 'sport = :6379'").splitlines()
    assert {line.split()[3] for line in listening} == {"127.0.0.1:6379", f"{address}:6379"}


@pytest.mark.guide("Recommended settings", "`maxclients`: as many files may be open")
def test_redis_may_open_a_file_for_every_client(on):
    pid = on("redis1").check_output("systemctl show --property=MainPID --value redis-server")
    limits = on("redis1").file(f"/proc/{pid}/limits").content_string
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) > 10000


def test_redis_starts_with_its_host(on):
    assert on("redis1").service("redis-server").is_enabled


def test_redis_password_is_readable_to_root_and_redis_only(on):
    password = on("redis1").file("/etc/redis/admin.password")
    assert (password.mode, password.user, password.group) == (0o640, "root", "redis")


@pytest.mark.guide("Process manager (systemd)", "`orbiter-worker@1`, `@2`")
def test_two_instances_a_host_are_at_work(workers, fleet):
    assert fleet.instances() == {(name, number) for name in workers for number in ("1", "2")}


@pytest.mark.guide("Process manager (systemd)", "`enable`: they start with their host")
def test_workers_start_with_their_host(workers):
    for host in workers.values():
        assert host.check_output("systemctl is-enabled orbiter-workers.target") == "enabled"
        assert host.check_output("systemctl is-enabled orbiter-worker@1 orbiter-worker@2") == "enabled\nenabled"
        assert not host.service("orbiter-worker@3").is_enabled


@pytest.mark.guide(
    "Process manager (systemd)", "`Environment=ORBITER_REDIS_URL`: ours stands in a file that others cannot read"
)
def test_settings_are_readable_to_root_only(workers):
    for host in workers.values():
        settings = host.file("/etc/orbiter/worker.env")
        assert (settings.mode, settings.user, settings.group) == (0o600, "root", "root")
        for path in ("/etc/orbiter/worker.env", "/etc/orbiter/good/worker.env"):
            assert host.run(f"runuser --user orbiter -- cat {path}").rc != 0


def test_isolation_of_the_inventory_is_in_the_settings(workers):
    wanted = {
        "ORBITER_ISOLATION": "process",
        "ORBITER_PROCESSES": "2",
        "ORBITER_MAX_RSS_PER_PROCESS": "350M",
        "ORBITER_MAX_TASKS_PER_PROCESS": "1000",
        "ORBITER_STALL_TIMEOUT": "30",
        "ORBITER_TASK_TTL": "80000",
    }
    for host in workers.values():
        given = main_environment(host)
        assert {name: given.get(name) for name in wanted} == wanted


def test_limits_of_the_inventory_are_in_force(workers):
    names = "MemoryMax,TasksMax,CPUQuotaPerSecUSec,Delegate,OOMPolicy,KillMode"
    for host in workers.values():
        shown = host.check_output(f"systemctl show --property={names} orbiter-worker@1").splitlines()
        assert dict(line.split("=", 1) for line in shown) == {
            "MemoryMax": str(1500 << 20),
            "TasksMax": "1000",
            "CPUQuotaPerSecUSec": "4s",
            "Delegate": "yes",
            "OOMPolicy": "continue",
            "KillMode": "mixed",
        }


def test_executor_processes_have_the_environment_of_tasks_and_none_of_the_worker(workers, runner):
    wanted = runner.get_variables("worker1")["worker_task_env"] | {"TEST_OLD_KEY": "0ld k3y"}
    for host in workers.values():
        pids = executor_processes(host)
        assert len(pids) == 2
        for pid in pids:
            given = process_environment(host, pid)
            assert {name: given.get(name) for name in wanted} == wanted
            hidden = ("ORBITER_", "TEMPORAL_", "WATCHDOG_", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
            assert [name for name in given if name.startswith(hidden)] == []


def test_executor_processes_read_the_files_of_tasks_and_others_do_not(workers, runner):
    (name, text), *_ = runner.get_variables("worker1")["worker_credentials"].items()
    for host in workers.values():
        for pid in executor_processes(host):
            folder = process_environment(host, pid)["TASK_CREDENTIALS_DIRECTORY"]
            inside = f"nsenter --target {pid} --mount --setuid $(id -u orbiter) --setgid $(id -g orbiter)"
            assert host.check_output(f"{inside} cat {folder}/{name}") == text.rstrip()
        assert host.run(f"runuser --user nobody -- cat {folder}/{name}").rc != 0
        (kept,) = host.check_output(f"ls /etc/orbiter/credentials/*/{name}").split()
        assert host.run(f"runuser --user orbiter -- cat {kept}").rc != 0


def test_workers_cannot_be_looked_into_by_their_user(workers):
    """What a task could do that got out of its unit, even."""
    for host in workers.values():
        pid = main_pid(host)
        for file in ("environ", "mem", "maps"):
            assert host.run(f"runuser --user orbiter -- head -c 1 /proc/{pid}/{file}").rc != 0


@pytest.mark.guide(
    "Process manager (systemd)", "`Environment=ORBITER_REDIS_URL`: ours stands in a file that others cannot read"
)
def test_no_secret_is_in_a_unit_a_process_list_or_a_log(workers, runner):
    password = shlex.quote(runner.get_variables("redis1")["orbiter_redis_password"])
    for host in workers.values():
        shown = "systemctl show orbiter-worker@1; systemctl cat orbiter-worker@1; ps -eo args; journalctl --no-pager"
        assert host.run(f"({shown}) | grep --fixed-strings -e {password} | grep -v grep").stdout == ""


@pytest.mark.guide("Process manager (systemd)", "`User=`")
def test_workers_run_as_their_own_user_and_may_not_write_to_the_system(workers):
    for host in workers.values():
        pid = host.check_output("systemctl show --property=MainPID --value orbiter-worker@1")
        assert host.check_output(f"ps -o user= -p {pid}") == "orbiter"
        inside = f"nsenter --target {pid} --mount"
        assert host.run(f"{inside} touch /opt/orbiter/x").rc != 0
        assert host.run(f"{inside} touch /etc/x").rc != 0
        assert "NoNewPrivs:\t1" in host.file(f"/proc/{pid}/status").content_string


def test_unit_is_hardened(workers):
    for host in workers.values():
        unit = "/etc/systemd/system/orbiter-worker@.service"
        assert host.run(f"systemd-analyze security --no-pager --offline=true --threshold=20 {unit}").rc == 0


def test_unit_of_redis_is_hardened(on):
    assert on("redis1").run("systemd-analyze security --no-pager --threshold=20 redis-server.service").rc == 0


def test_operator_lists_the_fleet_on_any_worker_host(workers):
    for host in workers.values():
        listed = json.loads(host.check_output("orbiter worker list --json"))
        assert {row["hostname"] for row in listed} == set(workers)
        assert all(row["alive"] and row["state"] == "running" for row in listed)


def test_release_is_installed_whole_and_needs_nothing_from_a_registry(workers):
    for host in workers.values():
        link = host.file("/opt/orbiter/current")
        assert link.linked_to.startswith("/opt/orbiter/releases/0.")
        assert host.file(f"{link.linked_to}/.complete").exists
        assert host.run("/opt/orbiter/current/bin/python -m pip --version").rc != 0


def test_a_task_runs(fleet):
    ids = fleet.submit([0.1] * 20)
    fleet.wait_until_done(ids, within=30)
    assert set(fleet.statuses(ids)) == {"completed"}
    assert {json.loads(task["result"])["output"] for task in fleet.tasks(ids)} != {""}
    assert fleet.left_over() == {"waiting": 0, "pending": 0}
