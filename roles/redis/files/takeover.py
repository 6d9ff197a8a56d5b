"""Tell whether this host's Redis is somebody else's, and keep what it holds when the role's settings replace its own.

Usage: takeover.py look WANTED
       takeover.py keep WANTED
       takeover.py adopt WANTED NAME
WANTED is JSON, what the role's files are going to say: {"appendonly": "yes", "appendfilename": …, "appenddirname": …,
"databases": "16", "maxmemory": "1gb", "modules": [PATH], "namespace": NAME, "queues": [NAME], "sentinel": false}.

  look   changes nothing. Prints {"ours": bool, "foreign": [what was found], "hurdles": [why it cannot be adopted],
         "unsaved": bool}. `foreign` is empty for a Redis of the role, and for the package's own one without data and
         clients. `unsaved` is true where a restart with WANTED would not load what Redis holds now.
  keep   has Redis write what it holds to the AOF, and waits for the end of that: a restart then loads it.
  adopt  keeps the files of a foreign Redis in the folder NAME beside its data, and then does what `keep` does.
         Prints {"keys": n, "aside": path}.

Redis 7 with `appendonly yes` loads the AOF only. Where there is none yet it starts empty, whatever the RDB file holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ETC = Path("/etc/redis")
CONFIG = ETC / "redis.conf"
DATA = Path("/var/lib/redis")
DROP_INS = Path("/etc/systemd/system/redis-server.service.d")
UNIT = "redis-server.service"
LISTENING = "0A"
SERVERS = ("redis-server", "valkey-server", "keydb-server")
# Every release of the role writes this line into redis.conf, and no package does.
MARK = "include /etc/redis/dynamic.conf"
SENTINEL_MARK = "include /etc/redis/sentinel-settings.conf"
SENTINEL_OF_PACKAGE = "sentinel monitor mymaster 127.0.0.1 6379 2"
PATIENCE = 3600.0  # for gigabytes on a slow disk


class RefusedError(Exception):
    """What Redis, or redis-cli, said instead of doing it."""


class Redis:
    """The server of the unit, by redis-cli."""

    def __init__(self, place: list[str], password: str | None) -> None:
        self._command = ["redis-cli", *place, "--no-auth-warning", "-e"]
        self._environment = os.environ | ({"REDISCLI_AUTH": password} if password else {})

    def ask(self, *words: str) -> str:
        """Send a command; return the answer's lines."""
        command = [*self._command, *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise RefusedError((done.stderr or done.stdout).strip())
        return done.stdout.strip()

    def setting(self, name: str) -> str:
        """Return a setting's value; empty where this Redis has none of that name."""
        return "\n".join(self.ask("CONFIG", "GET", name).splitlines()[1:])

    def info(self) -> dict[str, str]:
        """Return INFO's names and values."""
        lines = (line.partition(":") for line in self.ask("INFO").splitlines())
        return {name: value.strip() for name, colon, value in lines if colon}


# -- what there is -----------------------------------------------------------------------------------------------------


def unit() -> dict[str, str]:
    """Return what systemd knows of the unit: MainPID ("0" if it does not run) and ExecStart."""
    show = ["systemctl", "show", "--property=MainPID,ExecStart", UNIT]
    lines = subprocess.run(show, capture_output=True, text=True, check=False).stdout.splitlines()
    return {"MainPID": "0", "ExecStart": ""} | dict(line.split("=", 1) for line in lines if "=" in line)


def shipped() -> str:
    """Return the MD5 of redis.conf as the package has brought it, or nothing."""
    query = ["dpkg-query", "--show", "--showformat=${Conffiles}", "redis-server"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^ {re.escape(str(CONFIG))} ([0-9a-f]+)", listed, re.MULTILINE)
    return found[1] if found else ""


def settings(path: Path | None = None) -> Iterator[tuple[str, str]]:
    """Return names and values of a configuration, with those of what it includes."""
    path = path or CONFIG
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        name, _space, value = line.strip().partition(" ")
        value = value.strip()
        if name.lower() == "include":
            included = Path(unquote(value))
            for file in sorted(included.parent.glob(included.name)):
                yield from settings(file)
        elif name and not name.startswith("#"):
            yield name.lower(), unquote(value)


def unquote(value: str) -> str:
    """Return what redis.conf means by a value in quotes."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value


def process_name(process: str) -> str:
    """Return a process's name."""
    return (Path("/proc") / process / "comm").read_text().strip()


def open_files(process: str) -> set[str]:
    """Return what a process has open, as /proc writes it."""
    found = set()
    for link in (Path("/proc") / process / "fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    return found


def places(process: str) -> tuple[list[list[str]], list[int]]:
    """Return by which options redis-cli reaches a process, sockets of this host first, and its TCP ports."""
    own = open_files(process)
    with_tls = {value for name, value in settings() if name == "tls-port"}
    found: list[list[str]] = []
    ports = set()
    for row in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = row.split()
        if len(words) > 7 and f"socket:[{words[6]}]" in own and not words[7].startswith("@"):
            found.append(["-s", words[7]])
    for table, any_address, loopback in (("tcp", "0.0.0.0", "127.0.0.1"), ("tcp6", "::", "::1")):
        rows = Path("/proc/net", table).read_text().splitlines()[1:] if Path("/proc/net", table).exists() else []
        for words in map(str.split, rows):
            if words[3] == LISTENING and f"socket:[{words[9]}]" in own:
                address, _colon, port = words[1].partition(":")
                host, port = readable(address), str(int(port, 16))
                tls = ["--tls", "--insecure"] if port in with_tls else []
                found.append(["-h", loopback if host == any_address else host, "-p", port, *tls])
                ports.add(int(port))
    return found, sorted(ports)


def readable(address: str) -> str:
    """Return an address of /proc/net, which has each four bytes in this machine's order, as people write it."""
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def connect(process: str) -> Redis:
    """Return a connection that may do everything; raises RefusedError with what the server said last."""
    files = (path for path in (ETC / "admin.password", ETC / ".admin.password") if path.exists())
    configured = [value for name, value in settings() if name == "requirepass"][-1:]
    passwords = [*(path.read_text().rstrip("\n") for path in files), *configured, None]
    said = "it listens nowhere"
    for place in places(process)[0]:
        for password in passwords:
            redis = Redis(place, password)
            try:
                redis.ask("PING")
            except (RefusedError, subprocess.TimeoutExpired) as error:
                said = str(error)
            else:
                return redis
    raise RefusedError(said)


def sharing(process: str) -> list[str]:
    """Return the other servers, of whatever unit, that keep their data where the role's will."""
    found = []
    for other in Path("/proc").glob("[0-9]*"):
        try:
            status = (other / "status").read_text()
            same = (other / "cwd").samefile(DATA) and process_name(other.name) in SERVERS
        except OSError:
            continue  # it has ended, or there is no such folder
        if same and other.name != process and f"\nPPid:\t{process}\n" not in status:
            found.append(f"{process_name(other.name)} (process {other.name})")
    return found


def at_rest() -> list[Path]:
    """Return the files with data of a server that does not run."""
    files = (path for pattern in ("*", "*/*") for path in sorted(DATA.glob(pattern)) if path.is_file())
    return [path for path in files if holds_data(path)]


def holds_data(path: Path) -> bool:
    """Return whether a file is an RDB file with a key in it, or a part of an AOF with a command."""
    with path.open("rb") as file:
        content = file.read(65536)
    if content[:5] != b"REDIS":
        return path.suffix == ".aof" and len(content) > 0
    at = 9
    while content[at : at + 1] == b"\xfa":  # a note of the server's own: name and value
        at = after_string(content, after_string(content, at + 1))
    return content[at : at + 1] not in (b"\xff", b"")


def after_string(content: bytes, at: int) -> int:
    """Return where a string of an RDB file ends."""
    first = content[at]
    if first >> 6 == 0:
        return at + 1 + first
    if first >> 6 == 1:
        return at + 2 + ((first & 0x3F) << 8 | content[at + 1])
    if first >> 6 == 2:
        return at + 5 + int.from_bytes(content[at + 1 : at + 5], "big")
    return at + 1 + (1, 2, 4)[first & 0x3F]  # a number


# -- looking -----------------------------------------------------------------------------------------------------------


def databases(redis: Redis, wanted: dict[str, Any]) -> dict[int, int]:
    """Return the number of keys of each database that has some; the deploy lock, if it is there already, is none."""
    lines = re.findall(r"^db(\d+):keys=(\d+)", redis.ask("INFO", "keyspace"), re.MULTILINE)
    found = {int(number): int(keys) for number, keys in lines}
    if 0 in found and redis.ask("EXISTS", f"{wanted['namespace']}:deploy") == "1":
        found[0] -= 1
    return {number: keys for number, keys in found.items() if keys}


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Tell whose Redis it is."""
    about = unit()
    process = about["MainPID"] if about["MainPID"] != "0" else ""
    text = CONFIG.read_text(errors="replace") if CONFIG.exists() else ""
    ours = MARK in text.splitlines()
    changed = bool(text) and hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != shipped()
    seen: dict[str, Any] = {"ours": ours, "foreign": [], "hurdles": [], "unsaved": False}
    whom = look_at_server(seen, process, about["ExecStart"], wanted) if process else look_at_files(seen, wanted)
    if not ours and (changed or whom):
        whose = "is neither the role's nor the package's" if changed else "is the package's own"
        seen["foreign"] += [*described(process), *whom, f"its {CONFIG} {whose}"]
    for other in sharing(process):
        seen["foreign"].append(f"{other} keeps its data in {DATA}")
        seen["hurdles"].append(f"{other} keeps its data in {DATA}, too: stop it, or move them elsewhere")
    seen["foreign"] += foreign_sentinel() if wanted["sentinel"] else []
    return seen


def described(process: str) -> list[str]:
    """Return where the server of the unit is to be found."""
    ports = ", ".join(map(str, places(process)[1])) if process else ""
    return [f"{process_name(process)} (process {process}) at port {ports or 'none'}"] if process else []


def look_at_files(seen: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Note what is to be known of a Redis that does not run; return what it holds."""
    files = at_rest()
    if not files:
        return []
    persistent = [value for name, value in settings() if name == "appendonly"][-1:] == ["yes"]
    seen["unsaved"] = wanted["appendonly"] == "yes" and not persistent
    return [f"it does not run, and holds data: {', '.join(map(str, files))}"]


def look_at_server(seen: dict[str, Any], process: str, start: str, wanted: dict[str, Any]) -> list[str]:
    """Note what is to be known of a Redis that runs; return whom it serves and what it holds."""
    name = process_name(process)
    if name != "redis-server":
        seen["hurdles"].append(f"{UNIT} runs {name}, and the role would install another server in its place")
        return [f"{UNIT} runs {name}"]
    started_with = next((word for word in start.split() if word.endswith(".conf")), "no file")
    if not seen["ours"] and start and started_with != str(CONFIG):
        seen["hurdles"].append(f"{UNIT} starts it with {started_with}: have it start with {CONFIG} again")
        return [f"{UNIT} starts it with {started_with}"]
    try:
        redis = connect(process)
    except RefusedError as error:
        seen["hurdles"].append(
            f"it lets nobody in without a password ({error}): write the one of its user default into "
            f"{ETC}/admin.password on the host, mode 0600"
        )
        return [f"what it holds is not known, as it wants a password ({error})"]
    try:
        return ask_server(seen, redis, wanted)
    except RefusedError as error:
        seen["hurdles"].append(f"it refuses what adopting needs ({error})")
        return [f"what it holds is not known ({error})"]


def ask_server(seen: dict[str, Any], redis: Redis, wanted: dict[str, Any]) -> list[str]:
    """Note what a server says of itself; return whom it serves and what it holds."""
    info = redis.info()
    if not seen["ours"] and info["loading"] == "1":
        seen["hurdles"].append("it loads its data just now: wait for the end of that")
        return ["it loads its data just now"]
    holds = seen["ours"] or bool(databases(redis, wanted))
    seen["unsaved"] = wanted["appendonly"] == "yes" and info["aof_enabled"] == "0" and holds
    if seen["ours"]:
        return []
    seen["hurdles"] += what_is_in_the_way(redis, info, wanted)
    return whom_it_serves(redis, info, wanted)


def whom_it_serves(redis: Redis, info: dict[str, str], wanted: dict[str, Any]) -> list[str]:
    """Return what is in a server, and who is connected."""
    found = [f"{keys} keys in database {number}" for number, keys in sorted(databases(redis, wanted).items())]
    namespace = wanted["namespace"]
    own = [f"{namespace}:task:index", f"{namespace}:fleet", f"{namespace}:tasks", *wanted["queues"]]
    if any(redis.ask("-n", str(number), "EXISTS", *own) != "0" for number in databases(redis, wanted)):
        found.append("among them a queue of Orbiter that was set up by hand")
    found += [f"{clients} clients"] if (clients := other_clients(redis)) else []
    found += [f"{info['connected_slaves']} replicas"] if info["connected_slaves"] != "0" else []
    found += [f"a replica of {info['master_host']}"] if info["role"] == "slave" else []
    return found


def other_clients(redis: Redis) -> int:
    """Return how many clients there are besides this one and the sentinel of the package, which watches this host."""
    rows = [dict(word.partition("=")[::2] for word in row.split()) for row in redis.ask("CLIENT", "LIST").splitlines()]
    here = re.compile(r"127\.|\[::1\]")
    watching = [row for row in rows if row["name"].startswith("sentinel-") and here.match(row["addr"])]
    return len(rows) - len(watching) - 1


def what_is_in_the_way(redis: Redis, info: dict[str, str], wanted: dict[str, Any]) -> list[str]:
    """Return why the role's settings would not load, or not keep, what a server holds."""
    hurdles = []
    if info["role"] == "slave":
        hurdles.append(f"it is a replica of {info['master_host']}: make it a master, or adopt that one")
    if info.get("cluster_enabled") == "1":
        hurdles.append("it is a node of a cluster")
    if Path(redis.setting("dir")).resolve() != DATA.resolve():
        hurdles.append(f"its data are in {redis.setting('dir')}: stop it, move them to {DATA}, set dir, start it")
    hurdles += [
        f"its {name} is {redis.setting(name)}, and the role's is {wanted[name]}: name it in redis_settings (dynamic: "
        "false)"
        for name in ("appendfilename", "appenddirname")
        if redis.setting(name) not in ("", wanted[name])
    ]
    last = max(databases(redis, wanted), default=0)
    if last >= int(wanted["databases"]):
        hurdles.append(
            f"it has keys in database {last}, and the role's has {wanted['databases']} databases: "
            "name databases in redis_settings (dynamic: false)"
        )
    hurdles += [
        f"it loads the module {value}: name loadmodule in redis_settings (dynamic: false)"
        for name, value in settings()
        if name == "loadmodule" and value not in wanted["modules"]
    ]
    used = int(info["used_memory"])
    if 0 < in_bytes(wanted["maxmemory"]) < used:
        hurdles.append(
            f"it holds {used // 2**20} MB, and maxmemory is {wanted['maxmemory']}: raise it in redis_settings"
        )
    state = os.statvfs(DATA)
    if state.f_bavail * state.f_frsize < 2 * used:
        hurdles.append(f"its RDB file and its AOF may take {2 * used // 2**20} MB, and fewer are free in {DATA}")
    return hurdles


def in_bytes(size: str) -> int:
    """Return what redis.conf means by a size such as 1gb."""
    units = {"": 1, "b": 1, "k": 1000, "kb": 2**10, "m": 10**6, "mb": 2**20, "g": 10**9, "gb": 2**30}
    found = re.fullmatch(r"(\d+)([a-z]*)", size.strip().strip('"').lower())
    return int(found[1]) * units.get(found[2], 1) if found else 0


def foreign_sentinel() -> list[str]:
    """Return what a sentinel watches that is neither the role's nor as the package brought it."""
    file = ETC / "sentinel.conf"
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines()] if file.exists() else []
    watched = [line for line in lines if line.startswith("sentinel monitor ") and line != SENTINEL_OF_PACKAGE]
    return [f"a sentinel of somebody else's ({line}) in {file}" for line in watched if SENTINEL_MARK not in lines]


# -- keeping -----------------------------------------------------------------------------------------------------------


def wait_until(true: Callable[[], bool], message: str) -> None:
    """Wait for a condition; end the program with the message if it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"{message} (waited {PATIENCE:.0f} s)")
        time.sleep(0.1)


def running() -> Redis:
    """Return the server, started with its own settings if it does not run."""
    if unit()["MainPID"] == "0":
        done = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(
                f"Nothing was changed: Redis does not start as it is: {done.stderr.strip()}. See journalctl -u {UNIT}"
            )
    redis = connect(unit()["MainPID"])
    wait_until(lambda: redis.info()["loading"] == "0", "Redis does not come to an end of loading its data")
    return redis


def keep(redis: Redis) -> None:
    """Have Redis write what it holds to the AOF, and wait until it is there; if it fails, the AOF is off again."""
    was = redis.setting("appendonly")
    try:
        redis.ask("CONFIG", "SET", "appendonly", "yes")
        wait_until(
            lambda: (redis.info()["aof_rewrite_in_progress"], redis.info()["aof_rewrite_scheduled"]) == ("0", "0"),
            "The AOF is not written",
        )
        written = redis.info()["aof_last_bgrewrite_status"] == "ok"
    except BaseException:
        redis.ask("CONFIG", "SET", "appendonly", was)
        raise
    if not written:
        redis.ask("CONFIG", "SET", "appendonly", was)
        raise RefusedError("it cannot write its AOF: see its log. Often the disk is full, or memory short for a fork")


def save(redis: Redis) -> None:
    """Have Redis write its RDB file, and wait until it has."""
    saving = "rdb_bgsave_in_progress"
    wait_until(lambda: redis.info()[saving] == "0", "Another BGSAVE does not end")
    saves = int(redis.info().get("rdb_saves", "-1"))
    redis.ask("BGSAVE", "SCHEDULE")  # after a rewrite of the AOF, if there is one

    def ended() -> bool:
        info = redis.info()
        failed = info["rdb_last_bgsave_status"] != "ok"
        return info[saving] == "0" and (failed or int(info.get("rdb_saves", "0")) > saves)

    wait_until(ended, "BGSAVE does not end")
    if redis.info()["rdb_last_bgsave_status"] != "ok":
        raise RefusedError("BGSAVE failed: see its log. Often the disk is full, or memory short for a fork")


def adopt(wanted: dict[str, Any], name: str) -> dict[str, object]:
    """Keep the files of a foreign Redis, and have it write its AOF."""
    redis = running()
    seen = look(wanted)
    if seen["hurdles"]:
        sys.exit(f"Nothing was changed: {'; '.join(seen['hurdles'])}")
    aside = DATA / name
    aside.mkdir(mode=0o700)
    try:
        shutil.copytree(ETC, aside / "etc")
        if DROP_INS.exists():
            shutil.copytree(DROP_INS, aside / DROP_INS.name)
        save(redis)
        # Redis writes the next one as another file and renames it: this one stays as it is.
        os.link(DATA / redis.setting("dbfilename"), aside / "dump.rdb")
        keep(redis)
    except BaseException:
        shutil.rmtree(aside)
        raise
    return {"keys": sum(databases(redis, wanted).values()), "aside": str(aside)}


def main() -> None:
    """Do what the first word says."""
    action, wanted, *name = sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:]
    os.umask(0o077)
    try:
        if action == "look":
            print(json.dumps(look(wanted)))
        elif action == "adopt":
            print(json.dumps(adopt(wanted, *name)))
        else:
            keep(running())
    except (RefusedError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"Nothing was changed: {error}")


if __name__ == "__main__":
    main()
