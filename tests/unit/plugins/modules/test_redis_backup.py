"""What a Redis holds goes into an archive, and comes back; what is not good counts for nothing and replaces nothing."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
import redis
from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_backup, _redis_host
from conftest import free_port, wait_until

COMMAND = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"


# -- an AOF that is copied while Redis writes it -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Return where Redis' own file is, and its copy."""
    return tmp_path / "own.aof", tmp_path / "copy.aof"


@pytest.mark.parametrize("torn", [1, 10, len(COMMAND) - 1])
def test_a_command_that_was_just_being_written_is_taken_whole_or_not_at_all(files, torn):
    own, copy = files
    copy.write_bytes(COMMAND * 3 + COMMAND[:torn])
    own.write_bytes(COMMAND * 5 + COMMAND[:torn])  # by now
    _redis_backup.cut_open_end(own, copy)
    assert copy.read_bytes() == COMMAND * 5


def test_a_whole_one_stays_as_it_is(files):
    own, copy = files
    copy.write_bytes(COMMAND * 3)
    own.write_bytes(COMMAND * 4)
    _redis_backup.cut_open_end(own, copy)
    assert copy.read_bytes() == COMMAND * 3


@pytest.mark.parametrize("damaged", [COMMAND * 2 + b"XX" + COMMAND * 2, COMMAND * 2 + COMMAND[:-2]])
def test_what_does_not_become_whole_stays_for_the_checker_to_refuse(files, damaged, monkeypatch):
    own, copy = files
    copy.write_bytes(damaged)
    own.write_bytes(damaged)
    monkeypatch.setattr(_redis_backup, "OPEN_END", 0.5)
    _redis_backup.cut_open_end(own, copy)
    assert copy.read_bytes() == damaged
    with pytest.raises(_redis_backup.BackupError, match="redis-check-aof"):
        _redis_backup.checked("redis-check-aof", copy)


# -- there and back ----------------------------------------------------------------------------------------------------


class Host:
    """A host's Redis in folders of the test's own; `service` is what systemd would do."""

    def __init__(self, folder, monkeypatch):
        self.etc, self.data, self.room = (folder / name for name in ("etc", "data", "room"))
        for path in (self.etc, self.data, self.room):
            path.mkdir()
        self.port, self.process, self.verbs = free_port(), None, []
        lines = [f"port {self.port}", f"dir {self.data}", 'save ""', "appendonly yes", 'dbfilename "own.rdb"']
        (self.etc / "redis.conf").write_text("\n".join([*lines, "databases 4", ""]))
        for module in (_redis_backup, _redis_host):
            monkeypatch.setattr(module, "ETC", self.etc)
            monkeypatch.setattr(module, "DATA", self.data)
        monkeypatch.setattr(_redis_host, "CONFIG", self.etc / "redis.conf")
        monkeypatch.setattr(_redis_host, "unit", self.unit)
        monkeypatch.setattr(_redis_backup, "service", self.service)
        monkeypatch.setattr(_redis_backup, "AS_REDIS", [])
        monkeypatch.setattr(_redis_backup.shutil, "chown", lambda *_: None)
        self.client = redis.Redis(port=self.port, decode_responses=True, protocol=2)
        self.service("start")

    def unit(self):
        alive = self.process is not None and self.process.poll() is None
        return {"MainPID": str(self.process.pid) if alive else "0", "ExecStart": ""}

    def service(self, verb):
        self.verbs.append(verb)
        if verb == "stop":
            self.process.terminate()
            self.process.wait(20)
        else:
            self.process = subprocess.Popen(["redis-server", self.etc / "redis.conf"], stdout=subprocess.DEVNULL)
            wait_until(self.answers, within=30)

    def answers(self):
        try:
            return self.client.ping()
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Return a host; its server ends with the test."""
    one = Host(tmp_path, monkeypatch)
    yield one
    one.process.kill()
    one.process.wait(20)


@pytest.fixture
def archive(host, module):
    """Return an archive of three keys, which are lost then."""
    host.client.mset({"a": "1", "b": "2"})
    host.client.execute_command("SELECT", 3)
    host.client.xadd("stream", {"task": "x"})
    host.client.execute_command("SELECT", 0)
    answer = module("redis_backup", directory=str(host.room))
    assert (answer["changed"], answer["keys"], answer["archive"]) == (True, 3, f"{host.room}/backup.tar.gz")
    assert answer["bytes"] == Path(answer["archive"]).stat().st_size
    assert Path(answer["archive"]).stat().st_mode & 0o077 == 0
    host.client.flushall()
    host.client.set("later", "x")
    return answer["archive"]


def restore(module, archive, **options):
    return module("redis_restore", archive=str(archive), **({"aside": "before"} | options))


@pytest.mark.parametrize("source", ["rdb", "aof"])
def test_everything_is_back_in_both_files_and_the_old_ones_are_kept(host, module, archive, source):
    answer = restore(module, archive, source=source, diff=True)
    assert (answer["keys"], answer["aside"]) == (3, str(host.data / "before"))
    assert answer["diff"] == {"before": "1 keys\n", "after": "3 keys\n"}
    assert host.client.execute_command("EXISTS", "later") == 0
    assert {path.name for path in (host.data / "before").iterdir()} >= {"appendonlydir"}
    assert "3 keys read" in subprocess.check_output(["redis-check-rdb", host.data / "own.rdb"], text=True)
    host.service("stop")
    host.service("start")
    info = host.client.info("keyspace")
    assert {name: about["keys"] for name, about in info.items()} == {"db0": 2, "db3": 1}
    assert list(host.data.glob(".*")) == []


def test_check_mode_makes_no_archive(host, module):
    assert module("redis_backup", directory=str(host.room), check=True)["changed"] is True
    assert list(host.room.iterdir()) == []


def test_check_mode_tells_how_many_keys_there_would_be_and_stops_nothing(host, module, archive):
    host.verbs.clear()
    answer = restore(module, archive, check=True, diff=True)
    assert (answer["changed"], answer["keys"]) == (True, 3)
    assert host.verbs == []
    assert host.client.get("later") == "x"
    assert not (host.data / "before").exists()


def turned(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


def damaged(archive, folder, kind):
    """Return a copy of an archive with something wrong in it."""
    copy = folder / "damaged.tar.gz"
    with tarfile.open(archive) as old, tarfile.open(copy, "w:gz") as new:
        for member in old.getmembers():
            data = old.extractfile(member).read() if member.isfile() else b""
            data = turned(data) if kind == "a bit turned" and member.name == "dump.rdb" else data
            member.size = len(data)
            if kind != "no rdb" or member.name != "dump.rdb":
                new.addfile(member, io.BytesIO(data))
        if kind == "a stranger in it":
            new.addfile(tarfile.TarInfo("../../../etc/cron.d/evil"))
    if kind == "cut short":
        copy.write_bytes(copy.read_bytes()[:-200])
    return copy


DAMAGES = {
    "a bit turned": "redis-check-rdb",
    "cut short": "cannot be read",
    "a stranger in it": "evil does not belong",
    "no rdb": "redis_restore_from",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_archive_is_refused_before_redis_stops(host, module, archive, tmp_path, kind):
    host.verbs.clear()
    refused = restore(module, damaged(archive, tmp_path, kind))
    assert refused["failed"]
    assert refused["msg"].startswith("Nothing was changed")
    assert DAMAGES[kind] in refused["msg"]
    assert host.verbs == []
    assert list(host.data.glob(".*")) == []


def test_what_cannot_be_loaded_leaves_redis_with_what_it_had(host, module, archive):
    config = host.etc / "redis.conf"
    config.write_text(config.read_text().replace("databases 4", "databases 1"))
    refused = restore(module, archive)
    assert refused["msg"].startswith("Redis has what it had before")
    assert host.client.get("later") == "x"
    assert not (host.data / "before").exists()


def test_files_that_cannot_change_places_leave_redis_with_what_it_had(host, module, archive, monkeypatch):
    real = _redis_backup.Path.rename

    def rename(path, target):
        if target == host.data / "appendonlydir" and ".restore-" in str(path):
            raise OSError("no more room")
        return real(path, target)

    monkeypatch.setattr(_redis_backup.Path, "rename", rename)
    refused = restore(module, archive)
    assert refused["msg"].startswith("Redis has what it had before")
    assert host.client.get("later") == "x"
    assert not (host.data / "before").exists()


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "appendonlydir"])
def test_the_old_files_go_to_a_new_folder_beside_the_data(host, module, archive, name):
    refused = restore(module, archive, aside=name)
    assert refused["failed"]
    assert f"aside is {name}" in refused["msg"]


def test_a_redis_that_does_not_run_or_has_no_room_is_told(host, module):
    assert "no folder" in module("redis_backup", directory=str(host.room / "not"))["msg"]
    host.service("stop")
    assert "does not run" in module("redis_backup", directory=str(host.room))["msg"]
    host.service("start")


# -- among the good ones -----------------------------------------------------------------------------------------------


@pytest.fixture
def rotate(module, tmp_path):
    """Return a function that takes an archive of a moment among those that there are."""
    for name in ("redis1-20260101T000000Z", "redis2-20260103T000000Z", "redis1-20260102T000000Z"):
        (tmp_path / f"{name}.tar.gz").write_text("old")
    (tmp_path / "notes.txt").write_text("not ours")

    def run(name="redis1-20260104T000000Z.tar.gz", **options):
        (tmp_path / "redis1-20260104T000000Z.tar.gz.part").write_text("new")
        return module("redis_backup_rotate", archive=str(tmp_path / name), **({"keep": 2} | options))

    return run


def test_the_oldest_go_when_a_new_one_has_arrived(rotate, tmp_path):
    gone = ["redis1-20260101T000000Z.tar.gz", "redis1-20260102T000000Z.tar.gz"]
    assert rotate(check=True)["removed"] == gone
    assert len(list(tmp_path.glob("*.gz"))) == 3
    answer = rotate(diff=True)
    assert (answer["changed"], answer["removed"]) == (True, gone)
    assert answer["diff"]["before"].splitlines() == gone
    there = sorted(path.name for path in tmp_path.glob("*.*"))
    assert there == ["notes.txt", "redis1-20260104T000000Z.tar.gz", "redis2-20260103T000000Z.tar.gz"]
    assert (tmp_path / "redis1-20260104T000000Z.tar.gz").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"name": "backup.tar.gz"}, "HOST-"),
        ({"name": "a-20260104T000001Z.tar.gz"}, ".part"),
    ],
    ids=str,
)
def test_what_would_lose_archives_is_refused(rotate, tmp_path, options, word):
    refused = rotate(**options)
    assert refused["failed"]
    assert word in refused["msg"]
    assert len(list(tmp_path.glob("*.gz"))) == 3
