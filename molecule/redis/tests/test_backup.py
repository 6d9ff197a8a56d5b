"""Everything comes back from a good archive, and neither a backup nor a restore takes damage for one."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from conftest import FLEETS, changed, shown

from fleet import nightly_but, wait_until

NAME = "redis2"
# Somewhere in the middle of the last of the files that the AOF consists of.
DAMAGE = (
    "f=$(ls -t /var/lib/redis/appendonlydir/*.incr.aof | head -1); "
    f"printf {'X' * 150} "  # more than a value is long: within one it would be no damage
    "| dd of=$f bs=1 seek=$(($(stat --format=%s $f) / 2)) conv=notrunc status=none"
)


@pytest.fixture(scope="module")
def server(servers):
    """Return the server that is backed up: the one with TLS."""
    return servers[NAME]


@pytest.fixture(scope="module")
def on_one(play):
    """Return a function that runs a playbook on that server's fleet."""
    hosts = {"orbiter_redis_hosts": NAME, "orbiter_worker_hosts": FLEETS[NAME]}
    return lambda playbook, *options, **variables: play(f"playbooks/{playbook}.yml", *options, **hosts, **variables)


@pytest.fixture(scope="module")
def directory(server):
    """Return where the archives are; empty at first."""
    directory = Path(server.variables["redis_backup_directory"])
    for old in directory.glob("*"):
        old.unlink()
    return directory


@pytest.fixture(scope="module")
def saved(server, on, on_one, directory):
    """Fill the queue, back up three times, and lose it all."""
    worker = on(FLEETS[NAME])
    done = server.fleet.submit([0.1, 0.1])
    server.fleet.wait_until_done(done, within=60)
    worker.check_output("systemctl stop orbiter-workers.target")
    waiting = server.fleet.submit([0.1] * 20)
    ids = done + waiting
    checked = on_one("backup", "--check")
    nothing = list(directory.glob("*"))
    made = [on_one("backup").returncode for _ in range(3)]
    tasks = server.fleet.tasks(ids)
    archives = sorted(directory.glob("*"))
    server.fleet.redis.flushall()
    yield {"checked": checked, "nothing": nothing, "made": made, "archives": archives, "ids": ids, "tasks": tasks}
    worker.check_output("systemctl start orbiter-workers.target")


def with_a_bit_turned(archive, folder):
    """Return a copy of the archive in which one bit of the RDB file is another: only Redis' checker can tell."""
    damaged = folder / archive.name
    with tarfile.open(archive) as old, tarfile.open(damaged, "w:gz") as new:
        for member in old.getmembers():
            data = bytearray(old.extractfile(member).read()) if member.isfile() else None
            if member.name == "dump.rdb":
                data[len(data) // 2] ^= 1
            new.addfile(member, io.BytesIO(data) if data is not None else None)
    return damaged


def cut_short(archive, folder):
    """Return a copy of the archive without its end."""
    damaged = folder / archive.name
    damaged.write_bytes(archive.read_bytes()[:-200])
    return damaged


def with_a_stranger(archive, folder):
    """Return a copy of the archive with a file in it that would be written elsewhere."""
    damaged = folder / archive.name
    with tarfile.open(archive) as old, tarfile.open(damaged, "w:gz") as new:
        for member in old.getmembers():
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
        new.addfile(tarfile.TarInfo("../../../etc/cron.d/evil"))
    return damaged


def garbled(archive, folder):
    """Return a copy of the archive whose compressed bytes are others in the middle."""
    data = bytearray(archive.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    damaged = folder / archive.name
    damaged.write_bytes(data)
    with pytest.raises(Exception, match=r"."):
        gzip.decompress(damaged.read_bytes())
    return damaged


DAMAGES = {
    "a bit turned": (with_a_bit_turned, "this archive is not good; redis-check-rdb says"),
    "cut short": (cut_short, "the archive cannot be read"),
    "garbled": (garbled, "the archive cannot be read"),
    "a stranger in it": (with_a_stranger, "does not belong into a backup of orbiter.fleet.backup"),
}


def test_a_check_of_a_backup_makes_none(saved):
    assert saved["checked"].returncode == 0
    assert saved["nothing"] == []


def test_archives_are_0600_named_by_host_and_time_and_the_oldest_has_gone(saved):
    assert saved["made"] == [0, 0, 0]
    assert len(saved["archives"]) == 2  # redis_backup_keep of this scenario
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in saved["archives"])
    assert all(path.name.startswith(f"{NAME}-2") for path in saved["archives"])


def test_nobody_restores_by_a_slip(saved, server, on_one):
    archive = str(saved["archives"][-1])
    done = on_one("restore", redis_restore_file=archive)
    assert done.returncode != 0
    assert "-e orbiter_restore=true" in done.stdout
    done = on_one("restore", orbiter_restore=True)
    assert done.returncode != 0
    assert Path(archive).name in shown(done)
    assert on_one("restore", "--check", redis_restore_file=archive, orbiter_restore=True).returncode == 0
    assert not any(server.fleet.tasks(saved["ids"]))


@pytest.mark.parametrize("damage", nightly_but(DAMAGES, "a bit turned"))
def test_a_damaged_archive_is_refused_before_redis_stops(saved, server, on_one, tmp_path, damage):
    damaged, message = DAMAGES[damage]
    run_id = server.run_id()
    done = on_one("restore", redis_restore_file=str(damaged(saved["archives"][-1], tmp_path)), orbiter_restore=True)
    assert done.returncode != 0
    assert "Nothing was changed: " in shown(done)
    assert message in shown(done)
    assert server.run_id() == run_id
    assert server.host.run("ls -d /var/lib/redis/.restore-* /var/tmp/orbiter-restore-*").stdout == ""


@pytest.mark.parametrize("source", [pytest.param("rdb", marks=pytest.mark.nightly), "aof"])
def test_everything_is_back_after_a_restore(saved, server, on_one, source):
    server.fleet.redis.flushall()
    archive = str(saved["archives"][-1])
    done = on_one("restore", redis_restore_file=archive, redis_restore_from=source, orbiter_restore=True)
    assert done.returncode == 0
    assert server.fleet.tasks(saved["ids"]) == saved["tasks"]


def test_what_waited_runs_after_a_restore(saved, server, on):
    on(FLEETS[NAME]).check_output("systemctl start orbiter-workers.target")
    server.fleet.wait_until_done(saved["ids"], within=90)
    assert set(server.fleet.statuses(saved["ids"])) == {"completed"}


@pytest.mark.nightly
def test_a_damaged_aof_is_no_backup_and_the_older_ones_stay(saved, server, on_one, directory):
    redis = server.fleet.redis
    for number in range(200):
        redis.set(f"filling:{number}", "x" * 100)
    # Redis has it in its file, and does not look there again.
    wait_until(lambda: redis.info("persistence")["aof_buffer_length"] == 0, within=30, what=lambda: "not written")
    server.host.check_output(DAMAGE)
    done = on_one("backup")
    redis.bgrewriteaof()
    wait_until(
        lambda: (
            redis.info("persistence")["aof_rewrite_in_progress"] == 0
            and redis.info("persistence")["aof_rewrite_scheduled"] == 0
        ),
        within=60,
        what=lambda: str(redis.info("persistence")),
    )
    assert done.returncode != 0
    assert "This is no good backup; redis-check-aof says" in shown(done)
    assert changed(done) == []
    assert sorted(directory.glob("*")) == saved["archives"]
    assert on_one("backup").returncode == 0
