"""Three Redis hosts: the fleet goes on when the master dies, and nobody but Redis decides who is master."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from fleet import Fleet, Load, counted, wait_until

PASSWORD = "export REDISCLI_AUTH=$(python3 -c \"import json; print(json.load(open('/etc/redis/fleet.json'))['{}'])\")"


class StubbornLoad(Load):
    """A load whose client tries again while Redis refuses; only what was accepted counts."""

    refused = 0

    def _run(self):
        while not self._end.wait(self._interval):
            try:
                self.ids += self._fleet.submit([random.uniform(0.5, 1.5)])
            except (RedisError, OSError):
                self.refused += 1


def redis(host, command):
    """Return what a host's Redis answers."""
    return host.check_output(f"{PASSWORD.format('password')}; redis-cli --no-auth-warning {command}")


def role(host):
    """Return what a host's Redis says that it is: master, slave, or nothing."""
    return host.run(f"{PASSWORD.format('password')}; redis-cli --no-auth-warning role | head -1").stdout.strip()


def in_step(host):
    """Return whether a host's Redis is a replica with a living link to its master."""
    said = host.run(f"{PASSWORD.format('password')}; redis-cli --no-auth-warning info replication").stdout
    return "role:slave" in said and "master_link_status:up" in said


def sizes(servers):
    """Return how many keys the servers hold: one number if all hold the same."""
    return {redis(host, "dbsize") for host in servers.values()}


def processes(host):
    """Return the main process of a host's only instance."""
    return host.check_output("systemctl show --property=MainPID --value orbiter-worker@1")


def assert_unchanged(done):
    """Check that a play did well, and nothing at all."""
    assert done.returncode == 0
    recap = [line for line in done.stdout.partition("PLAY RECAP")[2].splitlines() if " ok=" in line]
    assert recap
    assert [line for line in recap if " changed=0 " not in line] == []


@pytest.fixture(scope="module")
def servers(runner):
    """Return the Redis hosts by name."""
    return {name: runner.get_host(name) for name in sorted(runner.get_hosts("redis"))}


@pytest.fixture(scope="module")
def fleet(workers):
    """Return the fleet by the very URL that its workers have."""
    url = workers["worker1"].check_output('. /etc/orbiter/worker.env; printf %s "$ORBITER_REDIS_URL"')
    return Fleet(url)


@pytest.fixture(scope="module")
def master(servers):
    """Return a function that names the only master of now."""

    def only():
        (name,) = [name for name, host in servers.items() if role(host) == "master"]
        return name

    return only


@pytest.fixture(scope="module")
def failover(fleet, servers, workers, master):
    """Kill the master and its sentinel under load, for good; see who comes after it."""
    first = master()
    before = {name: processes(host) for name, host in workers.items()}
    others = {name: host for name, host in servers.items() if name != first}
    with StubbornLoad(fleet) as load:
        wait_until(
            lambda: "running" in fleet.statuses(list(load.ids)), within=30, what=lambda: str(fleet.statuses(load.ids))
        )
        servers[first].check_output(
            "systemctl kill --signal=KILL redis-server redis-sentinel; systemctl stop redis-server redis-sentinel"
        )
        wait_until(
            lambda: "master" in [role(host) for host in others.values()],
            within=60,
            what=lambda: str({name: role(host) for name, host in others.items()}),
        )
        already = len(load.ids)
        wait_until(lambda: len(load.ids) > already + 10, within=60, what=lambda: f"{load.refused} refused")
    return {"load": load, "before": before, "first": first, "master": master()}


def test_two_follow_the_master_and_three_sentinels_agree(servers, master):
    assert all(in_step(host) for name, host in servers.items() if name != master())
    for host in servers.values():
        said = host.check_output(
            f"{PASSWORD.format('sentinel_password')}; redis-cli -p 26379 sentinel ckquorum orbiter"
        )
        assert said.startswith("OK 3 usable Sentinels")


def test_workers_login_at_the_sentinels_may_ask_for_the_master_and_nothing_else(fleet, servers):
    assert fleet.redis_url.startswith("redis+sentinel://")
    secret = fleet.redis_url.rpartition("sentinel_password=")[2]
    shell = f"export REDISCLI_AUTH={secret}; redis-cli -p 26379 --user reader"
    assert "6379" in servers["redis1"].check_output(f"{shell} sentinel get-master-addr-by-name orbiter")
    for command in ("sentinel failover orbiter", "sentinel set orbiter quorum 1", "sentinel reset '*'", "acl list"):
        assert "NOPERM" in servers["redis1"].check_output(f"{shell} {command}")
    assert "NOAUTH" in servers["redis1"].check_output("redis-cli -p 26379 sentinel masters")


def test_every_accepted_task_completes_when_the_master_dies(failover, fleet):
    load = failover["load"]
    assert len(load.ids) > 10
    fleet.wait_until_done(load.ids, within=120)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}


def test_workers_go_on_by_themselves(failover, workers):
    assert failover["master"] != failover["first"]
    assert {name: processes(host) for name, host in workers.items()} == failover["before"]


def test_who_was_master_comes_back_as_a_replica(failover, servers, master):
    old = servers[failover["first"]]
    old.check_output("systemctl start redis-server redis-sentinel")
    wait_until(lambda: in_step(old), within=90, what=lambda: role(old))
    assert master() == failover["master"]


def test_running_the_site_again_changes_nothing_and_demotes_nobody(failover, play, master):
    assert_unchanged(play("site.yml"))
    assert master() == failover["master"]


def test_a_host_that_lost_everything_gets_it_back(failover, play, servers, master, fleet):
    """The replica that has not been master yet is made anew, as on another machine with its address."""
    (name,) = set(servers) - {failover["first"], failover["master"]}
    servers[name].check_output(
        "systemctl stop redis-server redis-sentinel; "
        "DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet redis-server redis-sentinel redis-tools; "
        "rm -rf /etc/redis /var/lib/redis /var/log/redis /etc/systemd/system/redis-*"
    )
    assert play("site.yml", "--limit", name).returncode == 0
    assert in_step(servers[name])
    wait_until(lambda: len(sizes(servers)) == 1, within=10, what=lambda: str(sizes(servers)))
    assert sizes(servers) != {"0"}
    assert master() == failover["master"]


def test_a_setting_that_needs_a_restart_goes_round_under_load(failover, play, servers, master, fleet):
    before = master()
    variables = {"redis_settings": [{"name": "databases", "value": 17, "dynamic": False}]}
    with StubbornLoad(fleet) as load:
        done = play("site.yml", "--limit", "redis", **variables)
    assert done.returncode == 0
    assert [redis(host, "config get databases").split()[1] for host in servers.values()] == ["17"] * 3
    assert master() != before  # which handed over before it restarted
    fleet.wait_until_done(load.ids, within=120)
    assert counted(fleet.statuses(load.ids)) == {"completed": len(load.ids)}
    assert_unchanged(play("site.yml", "--limit", "redis", **variables))


def test_a_second_host_is_not_taken_down_while_one_is_missing(play, servers, master):
    down = next(name for name in servers if name != master())
    up = next(name for name in servers if name not in (master(), down))
    pid = "systemctl show --property=MainPID --value redis-server"
    before = servers[up].check_output(pid)
    servers[down].check_output("systemctl stop redis-server")
    done = play(
        "site.yml",
        "--limit",
        up,
        redis_settings=[{"name": "databases", "value": 18, "dynamic": False}],
        redis_sync_timeout=3,
    )
    servers[down].check_output("systemctl start redis-server")
    assert done.returncode != 0
    assert "not all are in step, and one more would be missing" in " ".join(done.stdout.split())
    assert servers[up].check_output(pid) == before
    wait_until(lambda: in_step(servers[down]), within=60, what=lambda: role(servers[down]))
    # The restart is still due, and nothing else has changed.
    assert play("site.yml", "--limit", "redis").returncode == 0
    assert [redis(host, "config get databases").split()[1] for host in servers.values()] == ["16"] * 3


class TestBackup:
    """What was waiting, delayed and done comes back from an archive, on all hosts."""

    @pytest.fixture(scope="class")
    def directory(self, runner):
        """Return where the archives are; empty at first."""
        directory = Path(runner.get_variables("redis1")["redis_backup_directory"])
        for old in directory.glob("*"):
            old.unlink()
        return directory

    @pytest.fixture(scope="class")
    def saved(self, play, fleet, workers, servers, directory):
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
        checked = play("playbooks/backup.yml", "--check")
        assert list(directory.glob("*")) == []
        for _ in range(3):
            made = play("playbooks/backup.yml")
            assert made.returncode == 0
        leader = next(host for host in servers.values() if role(host) == "master")
        redis(leader, "flushall")
        archive = str(max(directory.iterdir()))
        return {"ids": ids, "waiting": waiting, "checked": checked, "archive": archive, "workers": workers, **state}

    def test_an_archive_is_0600_named_by_host_and_time_and_the_oldest_has_gone(self, saved, directory, master):
        assert saved["checked"].returncode == 0
        archives = sorted(directory.iterdir())
        assert len(archives) == 2  # redis_backup_keep of this scenario
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in archives)
        assert all(path.name.startswith(f"{master()}-2") for path in archives)

    def test_nobody_restores_by_a_slip(self, saved, play, servers):
        done = play("playbooks/restore.yml", redis_restore_file=saved["archive"])
        assert done.returncode != 0
        assert "-e orbiter_restore=true" in done.stdout
        variables = {"redis_restore_file": saved["archive"], "orbiter_restore": True}
        assert play("playbooks/restore.yml", "--check", **variables).returncode == 0
        assert sizes(servers) == {"0"}

    def test_a_damaged_archive_is_refused_before_redis_stops(self, saved, play, servers, master, tmp_path):
        damaged = tmp_path / "damaged.tar.gz"
        damaged.write_bytes(Path(saved["archive"]).read_bytes()[:-200])
        before = servers[master()].check_output("systemctl show --property=MainPID redis-server")
        done = play("playbooks/restore.yml", redis_restore_file=str(damaged), orbiter_restore=True)
        assert done.returncode != 0
        assert "Nothing was changed: the archive cannot be read" in " ".join(done.stdout.split())
        assert servers[master()].check_output("systemctl show --property=MainPID redis-server") == before

    def test_everything_is_back_on_all_hosts_and_waiting_tasks_run(self, saved, play, fleet, servers, master):
        before = master()
        variables = {"redis_restore_file": saved["archive"], "orbiter_restore": True}
        assert play("playbooks/restore.yml", **variables).returncode == 0
        assert master() == before
        assert fleet.tasks(saved["ids"]) == saved["tasks"]
        assert fleet.redis.zrange("{orbiter:tasks}:delayed", 0, -1) == saved["delayed"]
        wait_until(lambda: len(sizes(servers)) == 1, within=10, what=lambda: str(sizes(servers)))
        assert all(role(host) == "master" or in_step(host) for host in servers.values())
        for host in saved["workers"].values():
            host.check_output("systemctl start orbiter-workers.target")
        fleet.wait_until_done(saved["ids"], within=90)
        assert set(fleet.statuses(saved["waiting"])) == {"completed"}

    def test_the_aof_of_an_archive_does_as_well(self, saved, play, fleet):
        variables = {"redis_restore_file": saved["archive"], "redis_restore_from": "aof"}
        assert play("playbooks/restore.yml", orbiter_restore=True, **variables).returncode == 0
        fleet.wait_until_done(saved["ids"], within=90)


def test_workers_are_deployed_against_a_redis_that_is_not_ours(play, fleet, workers, tmp_path):
    """The inventory names a URL and no Redis hosts: here the same group, by its sentinels in another order."""
    scheme, _, rest = fleet.redis_url.partition("@")
    hosts, _, service = rest.partition("/")
    url = f"{scheme}@{','.join(reversed(hosts.split(',')))}/{service}"
    (tmp_path / "elsewhere.json").write_text(json.dumps({"all": {"vars": {"orbiter_redis_url": url}}}))
    done = play("site.yml", "--inventory", str(tmp_path), orbiter_redis_hosts="nobody")
    assert done.returncode == 0
    assert url in workers["worker2"].check_output('. /etc/orbiter/worker.env; echo "$ORBITER_REDIS_URL"')
    ids = fleet.submit([0.1])
    fleet.wait_until_done(ids, within=30)
    assert fleet.statuses(ids) == ["completed"]
