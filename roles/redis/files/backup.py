"""Make an archive of what this host's Redis holds, and vouch for it. Changes nothing in Redis.

Usage: backup.py DIRECTORY SETTINGS...
Redis writes an RDB file, and its AOF is copied as it is; both are checked by Redis' own tools before they count. The
archive is put into DIRECTORY and belongs to the directory's owner: whoever fetches it needs no other rights. SETTINGS
are the files that the password stands in. Prints ``{"archive": path, "time": UTC, "keys": n, "bytes": n}``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 3600.0  # for gigabytes on a slow disk
OPEN_END = 10.0  # for one command


class Redis:
    """This host's Redis, by redis-cli."""

    def __init__(self, connection: dict[str, str]) -> None:
        tls = ["--tls", "--cacert", connection["tls_ca"]] if connection["tls_ca"] else []
        self._command = ["redis-cli", "-h", "127.0.0.1", "-p", connection["port"], *tls, "--no-auth-warning", "-e"]
        self._environment = os.environ | {"REDISCLI_AUTH": connection["password"]}

    def ask(self, *words: str) -> str:
        """Send a command; end the program with Redis' own words if it refuses."""
        command = [*self._command, *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"Redis said no to {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    def setting(self, name: str) -> str:
        """Return a setting's value."""
        return "\n".join(self.ask("CONFIG", "GET", name).splitlines()[1:])

    def persistence(self) -> dict[str, str]:
        """Return what INFO says of RDB and AOF."""
        lines = self.ask("INFO", "persistence").splitlines()
        return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def wait_until(true: Callable[[], bool], message: str) -> None:
    """Wait for a condition; end the program with the message if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"{message} (waited {PATIENCE:.0f} s)")
        time.sleep(0.2)


def save(redis: Redis) -> None:
    """Let Redis write its RDB file, and wait until it has."""
    wait_until(lambda: redis.persistence()["rdb_bgsave_in_progress"] == "0", "Another BGSAVE does not end")
    saves = int(redis.persistence().get("rdb_saves", "-1"))
    redis.ask("BGSAVE", "SCHEDULE")  # after a rewrite of the AOF, if there is one
    wait_until(
        lambda: (
            redis.persistence()["rdb_bgsave_in_progress"] == "0"
            and (redis.persistence()["rdb_last_bgsave_status"] != "ok" or int(redis.persistence()["rdb_saves"]) > saves)
        ),
        "BGSAVE does not end",
    )
    if redis.persistence()["rdb_last_bgsave_status"] != "ok":
        sys.exit(
            "BGSAVE failed: see /var/log/redis/redis-server.log. Often the disk is full, or memory short for a fork"
        )


@contextmanager
def no_rewrite(redis: Redis) -> Iterator[None]:
    """Keep Redis from replacing the AOF's files while they are copied."""
    percentage = redis.setting("auto-aof-rewrite-percentage")
    redis.ask("CONFIG", "SET", "auto-aof-rewrite-percentage", "0")
    try:
        wait_until(lambda: redis.persistence()["aof_rewrite_in_progress"] == "0", "A rewrite of the AOF does not end")
        yield
    finally:
        redis.ask("CONFIG", "SET", "auto-aof-rewrite-percentage", percentage)


def checked(*command: str | Path) -> str:
    """Run one of Redis' checkers; end the program with what it found."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        sys.exit(f"This is no good backup; {Path(command[0]).name} says: {tail}")
    return done.stdout


def copy_of(redis: Redis, folder: Path) -> int:
    """Copy RDB and AOF into a folder, checked; return the number of keys in the RDB file."""
    data = Path(redis.setting("dir"))
    save(redis)
    shutil.copy(data / redis.setting("dbfilename"), folder / "dump.rdb")
    found = re.search(r"(\d+) keys read", checked("redis-check-rdb", folder / "dump.rdb"))
    if redis.setting("appendonly") == "yes":
        name = redis.setting("appendfilename")
        with no_rewrite(redis):
            own = data / redis.setting("appenddirname")
            shutil.copytree(own, folder / "appendonlydir")
            parts = re.findall(
                r"^file (\S+) ", (folder / "appendonlydir" / f"{name}.manifest").read_text(), re.MULTILINE
            )
            cut_open_end(own / parts[-1], folder / "appendonlydir" / parts[-1])
        checked("redis-check-aof", folder / "appendonlydir" / f"{name}.manifest")
    return int(found[1]) if found else 0


def cut_open_end(own: Path, copy: Path) -> None:
    """Cut off the copy's last command if it is not whole, as Redis was just writing it.

    Damage looks the same, but does not go by itself: what Redis was writing is whole in its own file soon. So no
    checker is told to mend the copy, which would drop all that is behind any damage.
    """
    size, good = sound(copy)
    if good == size:
        return
    deadline = time.monotonic() + OPEN_END
    further = good
    while further == good and time.monotonic() < deadline:
        shutil.copy(own, copy)
        size, further = sound(copy)
        time.sleep(0.1)
    if further > good:
        os.truncate(copy, further)


def sound(part: Path) -> tuple[int, int]:
    """Return the size of a part of an AOF, and up to where it is good."""
    done = subprocess.run(["redis-check-aof", part], capture_output=True, text=True, check=False)
    found = re.search(r"size=(\d+), ok_up_to=(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (part.stat().st_size,) * 2


def connection(files: list[str]) -> dict[str, str]:
    """Return port, password and authority, from the files that the role writes."""
    text = "\n".join(Path(file).read_text() for file in files if Path(file).exists())
    said = dict(re.findall(r"^(requirepass|port|tls-port|tls-ca-cert-file) (.+)$", text, re.MULTILINE))
    password = re.sub(r"\\(.)", r"\1", said["requirepass"].strip('"')) if "requirepass" in said else ""
    own = Path("/etc/redis/admin.password")
    if own.exists():
        password = own.read_text().rstrip("\n")
    secure = "tls-port" in said
    return {
        "port": said["tls-port" if secure else "port"],
        "password": password,
        "tls_ca": said["tls-ca-cert-file"] if secure else "",
    }


def main() -> None:
    """Make the archive, and say what it is."""
    directory, *files = sys.argv[1:]
    os.umask(0o077)
    redis = Redis(connection(files))
    archive = Path(directory) / "backup.tar.gz"
    # Beside Redis' own files: there is room for them, or there would soon be none for Redis either.
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=redis.setting("dir")) as name:
        folder = Path(name)
        keys = copy_of(redis, folder)
        about = {"keys": keys, "redis_version": re.search(r"redis_version:(\S+)", redis.ask("INFO", "server"))[1]}  # type: ignore[index]
        (folder / "about.json").write_text(json.dumps(about))
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
    owner = Path(directory).stat()
    os.chown(archive, owner.st_uid, owner.st_gid)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    print(json.dumps({"archive": str(archive), "time": moment, "keys": keys, "bytes": archive.stat().st_size}))


if __name__ == "__main__":
    main()
