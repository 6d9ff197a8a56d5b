"""A backup of a group is its master's, and what was waiting, delayed and done comes back from it on all hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import in_step, redis, role, sizes

from fleet import wait_until


@pytest.fixture(scope="module")
def directory(runner):
    """Return where the archives are; empty at first."""
    directory = Path(runner.get_variables("redis1")["redis_backup_directory"])
    for old in directory.glob("*"):
        old.unlink()
    return directory


@pytest.fixture(scope="module")
def saved(play, fleet, workers, servers, directory):
    """Fill the queue with everything there is, back up, and lose it all."""
    done = fleet.submit([0.1, 0.1])
    fleet.wait_until_done(done, within=30)
    delayed = fleet.submit(["not a number"] * 12)  # fails, and is to be tried again
    wait_until(lambda: fleet.redis.zcard("{orbiter:tasks}:delayed") >= 6, within=30, what=lambda: "none delayed")
    for host in workers.values():
        host.check_output("systemctl stop orbiter-workers.target")
    waiting = fleet.submit([0.1] * 20)
    ids = done + delayed + waiting
    state = {"tasks": fleet.tasks(ids), "delayed": fleet.redis.zrange("{orbiter:tasks}:delayed", 0, -1)}
    assert state["delayed"]
    assert play("playbooks/backup.yml").returncode == 0
    leader = next(host for host in servers.values() if role(host) == "master")
    redis(leader, "flushall")
    (archive,) = directory.iterdir()
    return {"ids": ids, "waiting": waiting, "archive": archive, **state}


def test_an_archive_is_of_the_master(saved, master):
    assert saved["archive"].name.startswith(f"{master()}-2")


def test_everything_is_back_on_all_hosts(saved, play, fleet, servers, master):
    before = master()
    variables = {"redis_restore_file": str(saved["archive"]), "orbiter_restore": True}
    assert play("playbooks/restore.yml", **variables).returncode == 0
    assert master() == before
    assert fleet.tasks(saved["ids"]) == saved["tasks"]
    assert fleet.redis.zrange("{orbiter:tasks}:delayed", 0, -1) == saved["delayed"]
    wait_until(lambda: len(sizes(servers)) == 1, within=10, what=lambda: str(sizes(servers)))
    assert all(role(host) == "master" or in_step(host) for host in servers.values())


def test_waiting_tasks_run(saved, fleet, workers):
    for host in workers.values():
        host.check_output("systemctl start orbiter-workers.target")
    fleet.wait_until_done(saved["ids"], within=90)
    assert set(fleet.statuses(saved["waiting"])) == {"completed"}
