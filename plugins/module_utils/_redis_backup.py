# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive of what a Redis holds, and back.

Redis writes an RDB file, and its AOF is copied as it is; both are checked by Redis' own tools before they count. Back
in its place goes what a Redis of its own, which nobody can reach, has loaded and written anew, RDB and AOF, so that it
does not matter which of them Redis reads at its next start.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils import _redis_host
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    DATA,
    ETC,
    FLAVOR,
    SERVER,
    NoAnswerError,
    Redis,
    RedisError,
    written_settings,
)
from ansible_collections.orbiter.fleet.plugins.module_utils._redis_keep import FAILURES as KEEP_FAILURES
from ansible_collections.orbiter.fleet.plugins.module_utils._redis_keep import save
from ansible_collections.orbiter.fleet.plugins.module_utils._wait import PATIENCE, wait_until

OWNER = FLAVOR
AS_REDIS = ["runuser", "-u", OWNER, "--"]
PARTED = range(12, 80)  # versions of RDB files that Redis alone writes: Valkey's go on with 80
OPEN_END = 10.0  # seconds for one command


class BackupError(Exception):
    """There is no good backup, or it cannot be put back; the message says why."""


# What any of it may raise, each with a message for people.
FAILURES = (BackupError, *KEEP_FAILURES)


def checked(program, path):
    """Run one of Redis' checkers; return what it says.

    Raises:
        BackupError: It found something.
    """
    done = subprocess.run([program, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise BackupError(f"{program} says: {tail}")
    return done.stdout


# -- there -------------------------------------------------------------------------------------------------------------


def archive(redis, directory):
    """Make an archive in a directory, whose owner it belongs to: who fetches it needs no other rights.

    Returns:
        (its path, the number of keys).
    """
    path = Path(directory) / "backup.tar.gz"
    # Beside Redis' own files: there is room for them, or there would soon be none for Redis either.
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=redis.settings("dir")["dir"]) as name:
        folder = Path(name)
        keys = _copy(redis, folder)
        about = {"keys": keys, "redis_version": redis.info("server")["redis_version"]}
        (folder / "about.json").write_text(json.dumps(about))
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for one in sorted(folder.iterdir()):
                tar.add(one, one.name)
    owner = Path(directory).stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    return path, keys


def _copy(redis, folder):
    """Copy RDB and AOF into a folder, checked; return the number of keys in the RDB file."""
    wanted = ("dir", "dbfilename", "appendonly", "appendfilename", "appenddirname")
    settings = redis.settings(*wanted)
    data = Path(settings["dir"])
    save(redis)
    shutil.copy(data / settings["dbfilename"], folder / "dump.rdb")
    found = re.search(r"(\d+) keys read", checked(f"{FLAVOR}-check-rdb", folder / "dump.rdb"))
    if settings["appendonly"] == "yes":
        own, copy = data / settings["appenddirname"], folder / "appendonlydir"
        manifest = copy / f"{settings['appendfilename']}.manifest"
        with _no_rewrite(redis):
            shutil.copytree(own, copy)
            parts = re.findall(r"^file (\S+) ", manifest.read_text(), re.MULTILINE)
            cut_open_end(own / parts[-1], copy / parts[-1])
        checked(f"{FLAVOR}-check-aof", manifest)
    return int(found[1]) if found else 0


@contextmanager
def _no_rewrite(redis):
    """Keep Redis from replacing the AOF's files while they are copied."""
    name = "auto-aof-rewrite-percentage"
    percentage = redis.settings(name)[name]
    redis.ask("CONFIG", "SET", name, "0")
    try:
        wait_until(
            lambda: redis.info("persistence")["aof_rewrite_in_progress"] == "0", "A rewrite of the AOF does not end"
        )
        yield
    finally:
        redis.ask("CONFIG", "SET", name, percentage)


def cut_open_end(own, copy):
    """Cut off the copy's last command if it is not whole, as Redis was just writing it.

    Damage looks the same, but does not go by itself: what Redis was writing is whole in its own file soon. So no
    checker is told to mend the copy, which would drop all that is behind any damage.
    """
    size, good = _sound(copy)
    if good == size:
        return
    deadline = time.monotonic() + OPEN_END
    further = good
    while further == good and time.monotonic() < deadline:
        shutil.copy(own, copy)
        size, further = _sound(copy)
        time.sleep(0.1)
    if further > good:
        os.truncate(copy, further)


def _sound(part):
    """Return the size of a part of an AOF, and up to where it is good."""
    done = subprocess.run(
        [f"{FLAVOR}-check-aof", str(part)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False
    )
    found = re.search(r"size=(\d+), ok_up_to=(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (part.stat().st_size,) * 2


# HOST-YYYYMMDDTHHMMSSZ.tar.gz, and nothing else that may lie in the directory.
NAME = re.compile(r".+-(\d{8}T\d{6}Z)\.tar\.gz")


def too_many(directory, keep, new):
    """Return the archives of a directory that are older than the newest ones that are kept, a new one among them."""
    archives = {path for path in directory.iterdir() if NAME.fullmatch(path.name)} | {new}
    return sorted(archives, key=lambda path: NAME.fullmatch(path.name)[1])[:-keep]


# -- and back ----------------------------------------------------------------------------------------------------------


def count():
    """Return how many keys this host's Redis has; None of one that does not run or does not say."""
    process = _redis_host.unit()["MainPID"]
    try:
        with _redis_host.connect(process) as redis:
            return _keys(redis)
    except (NoAnswerError, RedisError, OSError):
        return None


def _keys(redis):
    counts = (about.split("=")[1].split(",")[0] for about in redis.info("keyspace").values())
    return sum(map(int, counts))


@contextmanager
def unpacked(archive_path, source):
    """Return a folder with what is wanted of an archive, and what the archive says of itself.

    It is beside the old files, so that they can be exchanged by renaming.

    Raises:
        BackupError: The archive is not good.
    """
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=DATA) as name:
        folder = Path(name)
        _unpack(archive_path, source, folder)
        about = json.loads((folder / "about.json").read_text()) if (folder / "about.json").exists() else {"keys": None}
        yield folder, about


def _unpack(archive_path, source, folder):
    try:
        # A whole one has the right checksum at its end; tarfile alone takes damage between two files for the end.
        with gzip.open(archive_path) as whole:
            while whole.read(2**20):
                pass
        with tarfile.open(archive_path) as tar:
            if hasattr(tarfile, "data_filter"):  # Python 3.12 wants to be told, 3.11 may not know it
                tar.extraction_filter = tarfile.data_filter
            for member in tar.getmembers():
                plain = re.fullmatch(r"dump\.rdb|about\.json|appendonlydir(/[\w.-]+)?", member.name)
                if not plain or not (member.isfile() or member.isdir()):
                    raise BackupError(f"{member.name} does not belong into a backup of orbiter.fleet.backup")
            wanted = [
                one
                for one in tar.getmembers()
                if one.name.startswith(("about", "dump" if source == "rdb" else "append"))
            ]
            tar.extractall(folder, wanted)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise BackupError(f"the archive cannot be read: {error}") from None
    found = list(folder.glob("dump.rdb" if source == "rdb" else "appendonlydir/*.manifest"))
    if not found:
        raise BackupError(f"the archive has no {source}. Choose the other with redis_restore_from")
    for path in (*folder.glob("dump.rdb"), *folder.glob("appendonlydir/*.base.rdb")):
        check_version(path, FLAVOR)
    try:
        checked(f"{FLAVOR}-check-{source}", found[0])
    except BackupError as error:
        raise BackupError(f"this archive is not good; {error}") from None
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, OWNER, OWNER)


def check_version(path, flavor):
    """Refuse what Redis has written since it and Valkey have parted, whose checker would call it damaged."""
    with path.open("rb") as file:
        version = re.fullmatch(rb"REDIS(\d{4})", file.read(9))
    if flavor == "valkey" and version and int(version[1]) in PARTED:
        raise BackupError(
            f"this archive is of Redis 7.4 or newer (RDB {int(version[1])}), which Valkey does not read. Restore it "
            "on a host with redis_flavor: redis"
        )


def settings():
    """Return the settings that decide where and whether a data set can be loaded."""
    kept = {"dbfilename": "dump.rdb", "appenddirname": "appendonlydir"}
    for file in (ETC / f"{FLAVOR}.conf", ETC / "dynamic.conf"):
        said = written_settings(file) if file.exists() else {}
        kept.update({name: said[name] for name in ("databases", "appendfilename", *kept) if name in said})
    return kept


def written_anew(folder, source, kept):
    """Let a Redis of its own load the folder's files and write both kinds; return the number of keys."""
    dump, append = folder / kept["dbfilename"], folder / kept["appenddirname"]
    if source == "rdb":
        (folder / "dump.rdb").rename(dump)
    else:
        (folder / "appendonlydir").rename(append)
    place, log = folder / "redis.sock", folder / "redis.log"
    lines = [f'{name} "{value}"' for name, value in kept.items()]
    lines += ["port 0", f"unixsocket {place}", "unixsocketperm 700", f"dir {folder}", f"logfile {log}", 'save ""']
    # With an AOF switched on, Redis would read only that, and find it empty.
    lines.append(f"appendonly {'yes' if source == 'aof' else 'no'}")
    server = subprocess.Popen([*AS_REDIS, SERVER, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    server.stdin.write("\n".join([*lines, ""]))
    server.stdin.close()
    try:
        keys = _load_and_write(server, str(place), log)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    for path in (dump, append):
        if not path.exists():
            raise BackupError(f"{path.name} was not written")
    return keys


def _load_and_write(server, place, log):
    def answers():
        if server.poll() is not None:
            said = log.read_text().splitlines()[-5:] if log.exists() else []
            raise BackupError("Redis does not load it:\n" + "\n".join(said))
        try:
            with Redis(place) as redis:
                return redis.info("persistence")["loading"] == "0"
        except (NoAnswerError, RedisError):
            return False

    wait_until(answers, "Redis does not load it")
    with Redis(place, timeout=PATIENCE) as redis:
        redis.ask("CONFIG", "SET", "appendonly", "yes")
        done = {"aof_rewrite_in_progress": "0", "aof_rewrite_scheduled": "0", "aof_last_bgrewrite_status": "ok"}
        wait_until(
            lambda: {name: redis.info("persistence").get(name) for name in done} == done, "The AOF is not written"
        )
        keys = _keys(redis)
        try:
            redis.ask("SHUTDOWN", "SAVE")
        except NoAnswerError:
            server.wait(PATIENCE)  # it has gone, which is its answer
    return keys


def exchange(folder, aside, kept):
    """Put the folder's files in the place of the old ones, which go aside; or leave all as it is."""
    aside.mkdir(mode=0o750)
    undo = []
    try:
        for name in (kept["dbfilename"], kept["appenddirname"]):
            for source, target in ((DATA / name, aside / name), (folder / name, DATA / name)):
                if source.exists():
                    source.rename(target)
                    undo.insert(0, (target, source))
        shutil.chown(aside, OWNER, OWNER)
    except OSError:
        for source, target in undo:
            source.rename(target)
        aside.rmdir()
        raise


def service(verb):
    """Start or stop Redis."""
    subprocess.run(["systemctl", verb, SERVER], check=True)


def replace(folder, source, aside):
    """Put what was unpacked in the place of what Redis holds, which goes aside; return the number of keys.

    If it fails, Redis has what it had.
    """
    kept = settings()
    service("stop")  # its memory is needed, and what it still accepted would be lost without a word
    try:
        keys = written_anew(folder, source, kept)
        exchange(folder, aside, kept)
    finally:
        service("start")
    return keys
