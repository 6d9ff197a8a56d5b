"""Put an archive of backup.py back in place of what this host's Redis holds. The old files are kept aside.

Usage: restore.py ARCHIVE rdb|aof NAME SETTINGS...
The archive is checked before Redis stops. A Redis of its own, which nobody can reach, then loads it and writes both
files anew, RDB and AOF, so that it does not matter which of them Redis reads at its next start. Only when that
has worked do they take the place of the old ones, which go to the folder NAME beside them. If anything fails, Redis
starts again with what it had.
Prints ``{"keys": n, "aside": path}``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path("/var/lib/redis")
PATIENCE = 3600.0  # for gigabytes on a slow disk


def wait_until(true: Callable[[], bool], message: str) -> None:
    """Wait for a condition; end the program with the message if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"{message} (waited {PATIENCE:.0f} s)")
        time.sleep(0.2)


def checked(*command: str | Path) -> None:
    """Run one of Redis' checkers; end the program with what it found."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        sys.exit(f"Nothing was changed: this archive is not good; {Path(command[0]).name} says: {tail}")


def unpacked(archive: str, source: str, folder: Path) -> None:
    """Unpack what is wanted of an archive into a folder, and check it."""
    try:
        # A whole one has the right checksum at its end; tarfile alone takes damage between two files for the end.
        with gzip.open(archive) as whole:
            while whole.read(2**20):
                pass
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):  # Python 3.12 wants to be told, 3.11 may not know it
                tar.extraction_filter = tarfile.data_filter
            for member in tar.getmembers():
                plain = re.fullmatch(r"dump\.rdb|about\.json|appendonlydir(/[\w.-]+)?", member.name)
                if not plain or not (member.isfile() or member.isdir()):
                    sys.exit(
                        f"Nothing was changed: {member.name} does not belong into a backup of orbiter.fleet.backup"
                    )
            wanted = [one for one in tar.getmembers() if one.name.startswith("dump" if source == "rdb" else "append")]
            tar.extractall(folder, wanted)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        sys.exit(f"Nothing was changed: the archive cannot be read: {error}")
    if source == "rdb" and (folder / "dump.rdb").exists():
        checked("redis-check-rdb", folder / "dump.rdb")
    elif manifests := list(folder.glob("appendonlydir/*.manifest")):
        checked("redis-check-aof", manifests[0])
    else:
        sys.exit(f"Nothing was changed: the archive has no {source}. Choose the other with redis_restore_from")
    subprocess.run(["chown", "-R", "redis:redis", folder], check=True)


def settings(files: list[str]) -> list[str]:
    """Return the settings that decide where and whether a data set can be loaded."""
    text = "\n".join(Path(file).read_text() for file in files if Path(file).exists())
    return re.findall(r"^(?:databases|dbfilename|appendfilename|appenddirname) .+$", text, re.MULTILINE)


def value(lines: list[str], name: str, default: str) -> str:
    """Return the value of a setting."""
    return next((line.split()[1].strip('"') for line in lines if line.startswith(f"{name} ")), default)


def written_anew(folder: Path, source: str, kept: list[str]) -> int:
    """Let a Redis of its own load the folder's files and write both kinds; return the number of keys."""
    dump, append = value(kept, "dbfilename", "dump.rdb"), value(kept, "appenddirname", "appendonlydir")
    if source == "rdb":
        (folder / "dump.rdb").rename(folder / dump)
    else:
        (folder / "appendonlydir").rename(folder / append)
    socket, log = folder / "redis.sock", folder / "redis.log"
    lines = [
        *kept,
        "port 0",
        f"unixsocket {socket}",
        "unixsocketperm 700",
        f"dir {folder}",
        f"logfile {log}",
        'save ""',
    ]
    # With an AOF switched on, Redis would read only that, and find it empty.
    lines.append(f"appendonly {'yes' if source == 'aof' else 'no'}")
    server = subprocess.Popen(
        ["runuser", "-u", "redis", "--", "redis-server", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    server.stdin.write("\n".join(lines) + "\n")  # type: ignore[union-attr]
    server.stdin.close()  # type: ignore[union-attr]

    def ask(*words: str) -> str:
        command = ["redis-cli", "-s", socket, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def persistence() -> dict[str, str]:
        pairs = (line.partition(":") for line in ask("INFO", "persistence").splitlines())
        return {name: said for name, colon, said in pairs if colon}

    def is_well() -> bool:
        if server.poll() is not None:
            said = log.read_text().splitlines()[-5:] if log.exists() else []
            raise RuntimeError("Redis does not load it:\n" + "\n".join(said))
        return persistence().get("loading") == "0"

    try:
        wait_until(is_well, "Redis does not load it")
        ask("CONFIG", "SET", "appendonly", "yes")
        wait_until(
            lambda: (
                {
                    name: said
                    for name, said in persistence().items()
                    if name.startswith(("aof_rewrite_", "aof_last_bgr"))
                }
                == {"aof_rewrite_in_progress": "0", "aof_rewrite_scheduled": "0", "aof_last_bgrewrite_status": "ok"}
            ),
            "The AOF is not written",
        )
        keyspace = re.findall(r"^db\d+:keys=(\d+)", ask("INFO", "keyspace"), re.MULTILINE)
        ask("SHUTDOWN", "SAVE")
        server.wait(PATIENCE)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    for path in (folder / dump, folder / append):
        if not path.exists():
            raise RuntimeError(f"{path.name} was not written")
    return sum(map(int, keyspace))


def swapped(folder: Path, aside: Path, kept: list[str]) -> None:
    """Put the folder's files in the place of the old ones, which go aside."""
    aside.mkdir(mode=0o750)
    for name in (value(kept, "dbfilename", "dump.rdb"), value(kept, "appenddirname", "appendonlydir")):
        if (DATA / name).exists():
            (DATA / name).rename(aside / name)
        (folder / name).rename(DATA / name)
    shutil.chown(aside, "redis", "redis")


def service(verb: str) -> None:
    """Start or stop Redis."""
    subprocess.run(["systemctl", verb, "redis-server"], check=True)


def main() -> None:
    """Restore, or leave everything as it was."""
    archive, source, name, *files = sys.argv[1:]
    os.umask(0o077)
    kept = settings(files)
    # Beside the old files, so that they can be exchanged by renaming.
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=DATA) as temporary:
        folder = Path(temporary)
        unpacked(archive, source, folder)
        service("stop")  # its memory is needed, and what it still accepted would be lost without a word
        try:
            keys = written_anew(folder, source, kept)
            swapped(folder, DATA / name, kept)
        except RuntimeError as error:
            sys.exit(f"Redis has what it had before: {error}")
        finally:
            service("start")
    print(json.dumps({"keys": keys, "aside": str(DATA / name)}))


main()
