"""Passwords change under load without losing a task, and stand nowhere but in the files that are for them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
import redis
from conftest import FLEETS, changed, shown
from password_search import files_with, lines_with, watched_processes, words

from fleet import Fleet, Load, counted

NASTY = '\'s n3w \\ "p@ss"/w:rd #% $HOME ü'
NEW = {
    "orbiter_redis_password": f"operator{NASTY}",
    "orbiter_redis_users": {name: {"password": f"{name}{NASTY}"} for name in ("worker", "client", "monitor")},
}
ONE_FLEET = {"orbiter_redis_hosts": "redis1", "orbiter_worker_hosts": FLEETS["redis1"]}
# Where a password may stand, none of it readable to everyone.
PLACES = {
    "/etc/redis/admin.password",
    "/etc/redis/.admin.password",
    "/etc/orbiter/worker.env",
    "/etc/orbiter/good/worker.env",
}


@pytest.fixture(scope="module")
def rotate(play):
    """Return a function that runs a playbook on the first fleet with the new passwords."""
    return lambda playbook, *options, **variables: play(playbook, "-vvv", *options, **(NEW | ONE_FLEET | variables))


def accepted(server, password, user="worker"):
    """Return whether Redis lets the user in."""
    try:
        return redis.Redis(server.variables["redis_bind"], username=user, password=password).ping()
    except redis.AuthenticationError:
        return False


def processes(host):
    """Return the main process of each of a host's instances."""
    return host.check_output("systemctl show --property=MainPID --value orbiter-worker@1 orbiter-worker@2").split()


@pytest.fixture(scope="module")
def gone_back(servers, rotate, play):
    """Deploy new passwords with a setting that no worker starts with; then what the inventory says, again.

    Redis' user default is on, as earlier releases had it.
    """
    server = servers["redis1"]
    operator = server.variables["orbiter_redis_password"]
    old = server.variables["orbiter_redis_users"]["worker"]["password"]
    new = NEW["orbiter_redis_users"]["worker"]["password"]
    server.fleet.redis.execute_command("ACL", "SETUSER", "default", "on", f">{operator}", "~*", "&*", "+@all")

    def let_in():
        return accepted(server, old), accepted(server, new), accepted(server, operator, "default")

    with Load(server.fleet) as load:
        bad = rotate("site.yml", worker_extra_env={"ORBITER_CONCURRENCY": "none"}, worker_gate_timeout=30)
        after_bad = let_in()
        back = play("site.yml", **ONE_FLEET)
    return {"server": server, "load": load, "bad": bad, "after_bad": after_bad, "back": back, "let_in": let_in()}


@pytest.mark.nightly
def test_a_new_password_with_a_setting_that_no_worker_starts_with_leaves_the_fleet_at_work(gone_back):
    assert gone_back["bad"].returncode == 2
    assert gone_back["after_bad"] == (True, True, True)
    assert "users had before stays valid (" in shown(gone_back["bad"])
    assert min(gone_back["load"].live) >= 1
    gone_back["server"].fleet.assert_nothing_lost(gone_back["load"].ids)


@pytest.mark.nightly
def test_what_is_not_in_the_inventory_ends_when_all_workers_are_well_default_too(gone_back):
    assert gone_back["back"].returncode == 0
    assert gone_back["let_in"] == (True, False, False)


@pytest.fixture(scope="module")
def rotated(servers, on, rotate):
    """Change every password under load: first beside the old ones, while clients move; then for good."""
    server = servers["redis1"]
    worker = on(FLEETS["redis1"])
    old = server.variables["orbiter_redis_users"]["worker"]["password"]
    new = NEW["orbiter_redis_users"]["worker"]["password"]
    before = {"run_id": server.run_id(), "processes": processes(worker)}
    login = f"admin:{quote(NEW['orbiter_redis_password'], safe='')}"
    later = Fleet(f"redis://{login}@{server.variables['redis_bind']}:6379/0")
    with watched_processes(words(NEW)) as seen:
        check = rotate("playbooks/rotate_secrets.yml", "--check")
        after_check = (accepted(server, old), accepted(server, new), processes(worker))
        with Load(server.fleet) as first:
            beside = rotate("playbooks/rotate_secrets.yml", orbiter_rotate_keep_old=True)
        both = (accepted(server, old), accepted(server, new))
        with Load(later) as second:
            for_good = rotate("playbooks/rotate_secrets.yml")
        one = (accepted(server, old), accepted(server, new))
        run_id = later.redis.info("server")["run_id"]
        again = rotate("playbooks/rotate_secrets.yml")
        # A run in which all of it is written: Redis restarts, and the workers.
        threads = {"name": "io-threads", "value": 2, "dynamic": False}
        site = rotate("site.yml", redis_settings=[threads], worker_log_level="debug")
    return {
        "before": before,
        "check": check,
        "after_check": after_check,
        "beside": beside,
        "both": both,
        "for_good": for_good,
        "one": one,
        "run_id": run_id,
        "again": again,
        "site": site,
        "seen": seen,
        "ids": first.ids + second.ids,
        "live": first.live + second.live,
        "fleet": later,
    }


def test_a_check_of_the_rotation_changes_nothing(rotated):
    assert rotated["check"].returncode == 0
    assert rotated["after_check"] == (True, False, rotated["before"]["processes"])


def test_both_passwords_are_valid_while_clients_move_and_then_the_new_one_only(rotated):
    assert rotated["beside"].returncode == 0
    assert rotated["both"] == (True, True)
    assert rotated["for_good"].returncode == 0
    assert rotated["one"] == (False, True)


def test_redis_does_not_restart_for_new_passwords(rotated):
    assert rotated["run_id"] == rotated["before"]["run_id"]


def test_no_task_is_lost_while_passwords_change(rotated):
    fleet, ids = rotated["fleet"], rotated["ids"]
    assert len(ids) > 10
    fleet.wait_until_done(ids, within=90)
    assert counted(fleet.statuses(ids)) == {"completed": len(ids)}
    for task_id, task in zip(ids, fleet.tasks(ids), strict=True):
        assert fleet.final_events(task_id) == ["completed"]
        assert [int(task.get(count) or 0) for count in ("retries", "losses", "crashes")] == [0, 0, 0]
    assert min(rotated["live"]) >= 1


def test_rotating_again_changes_nothing(rotated):
    assert rotated["again"].returncode == 0
    assert changed(rotated["again"]) == []


def test_no_password_is_in_what_ansible_says_nor_on_a_command_line(rotated, servers):
    assert rotated["site"].returncode == 0
    wanted = words(NEW, servers["redis1"].variables)
    for name in ("check", "beside", "for_good", "again", "site"):
        said = rotated[name].stdout + rotated[name].stderr
        assert len(said) > 10_000  # -vvv it was
        assert [word for word in wanted if word in said] == [], name
    assert rotated["seen"] == []


@pytest.mark.parametrize("name", ["redis1", "worker1"])
def test_no_password_is_on_a_host_but_in_the_files_for_it(rotated, servers, on, name):
    host = on(name)
    wanted = words(NEW, servers["redis1"].variables)
    files = files_with(host, wanted)
    assert set(files) <= PLACES
    assert len(files) > 0  # the search finds what there is
    for file in files:
        assert host.file(file).mode & 0o137 == 0, file
    assert lines_with(host, wanted) == ""
