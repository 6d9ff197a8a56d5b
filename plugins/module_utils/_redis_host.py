# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Redis a host has: whose it is, what it holds, and what the role `redis` has made there. Changes nothing.

Redis 7 with `appendonly yes` loads the AOF only. Where there is none yet it starts empty, whatever the RDB file holds.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import ssl
from pathlib import Path

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.orbiter.fleet.plugins.module_utils import _host
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    ADMIN,
    DATA,
    ETC,
    FLAVOR,
    SERVER,
    NoAnswerError,
    Redis,
    RedisError,
    admin_passwords,
    in_clear,
    unquote,
)

UNIT = f"{SERVER}.service"
CONFIG = ETC / f"{FLAVOR}.conf"
SERVERS = ("redis-server", "valkey-server", "keydb-server")
# Every release of the role writes this line into redis.conf, and no package does.
MARK = f"include {ETC}/dynamic.conf"
SENTINEL_MARK = f"include {ETC}/sentinel-settings.conf"
SENTINEL_OF_PACKAGE = "sentinel monitor mymaster 127.0.0.1 6379 2"

# What the role's files are going to say; described by the module redis_adopt.
FILES = {
    "appendonly": {"type": "str", "default": "yes"},
    "appendfilename": {"type": "str", "default": "appendonly.aof"},
    "appenddirname": {"type": "str", "default": "appendonlydir"},
    "databases": {"type": "int", "default": 16},
    "maxmemory": {"type": "str", "default": "0"},
    "modules": {"type": "list", "elements": "str", "default": []},
    "namespace": {"type": "str", "default": "orbiter"},
    "queues": {"type": "list", "elements": "str", "default": []},
    "sentinel": {"type": "bool", "default": False},
}


def wanted_of(module, option):
    """Return what an option says of the role's files, with the defaults of what it leaves out."""
    checked = ArgumentSpecValidator(FILES).validate(module.params[option])
    if checked.error_messages:
        module.fail_json(msg=f"{option}: {'; '.join(checked.error_messages)}")
    return checked.validated_parameters


def look(wanted):
    """Return what the role has made: the members of this host's group, the users (None before); and whose Redis it is.

    `within` says what a group that runs here uses among its members: plain or tls, and nothing where there is none.
    `port` is the one by which those know each other, 0 where there is none; `ports` are those that Redis listens at.
    `foreign` is empty for a Redis of the role, and for the package's own one without data and clients. `unsaved` is
    true where a restart with the wanted settings would not load what Redis holds now. `hurdles` say why a foreign one
    cannot be adopted.
    """
    group, users = ETC / "fleet.json", ETC / "users.acl"
    lines = [line.split() for line in users.read_text().splitlines()] if users.exists() else []
    about = json.loads(group.read_text()) if group.exists() else {"members": []}
    process = unit()["MainPID"]
    runs = bool(about["members"]) and process != "0"
    made = {
        "members": about["members"],
        "within": ("tls" if about.get("tls_ca") else "plain") if runs else "",
        "port": about["port"] if runs else 0,
        "ports": places(process)[1] if process != "0" else [],  # its file may say others, until it restarts
        "users": [words[1] for words in lines if len(words) > 1] if users.exists() else None,
    }
    return dict(made, **look_at_redis(wanted))


def look_at_redis(wanted):
    """Return whose Redis it is: `ours`, `foreign`, `hurdles` and `unsaved`."""
    about = unit()
    process = about["MainPID"] if about["MainPID"] != "0" else ""
    text = CONFIG.read_text(errors="replace") if CONFIG.exists() else ""
    ours = MARK in text.splitlines()
    changed = bool(text) and hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != shipped()
    seen = {"ours": ours, "foreign": [], "hurdles": [], "unsaved": False}
    whom = look_at_server(seen, process, about["ExecStart"], wanted) if process else look_at_files(seen, wanted)
    if not ours and (changed or whom):
        whose = "is neither the role's nor the package's" if changed else "is the package's own"
        seen["foreign"] += [*described(process), *whom, f"its {CONFIG} {whose}"]
    for other in sharing(process):
        seen["foreign"].append(f"{other} keeps its data in {DATA}")
        seen["hurdles"].append(f"{other} keeps its data in {DATA}, too: stop it, or move them elsewhere")
    seen["foreign"] += foreign_sentinel() if wanted["sentinel"] else []
    return seen


def described(process):
    """Return where the server of the unit is to be found."""
    ports = ", ".join(map(str, places(process)[1])) if process else ""
    return [f"{_host.process_name(process)} (process {process}) at port {ports or 'none'}"] if process else []


# -- what there is -----------------------------------------------------------------------------------------------------


def unit():
    """Return what systemd knows of the unit: MainPID ("0" if it does not run) and ExecStart."""
    return dict({"MainPID": "0", "ExecStart": ""}, **_host.show(UNIT, "MainPID", "ExecStart"))


def shipped():
    """Return the MD5 of redis.conf as the package has brought it, or nothing."""
    listed = _host.ask("dpkg-query", "--show", "--showformat=${Conffiles}", SERVER)
    found = re.search(rf"^ {re.escape(str(CONFIG))} ([0-9a-f]+)", listed, re.MULTILINE)
    return found[1] if found else ""


def settings(path=None):
    """Return names and values of a configuration, with those of what it includes."""
    path = path or CONFIG
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        name, _space, value = line.strip().partition(" ")
        value = value.strip()
        if name.lower() == "include":
            included = Path(plain(value))
            for file in sorted(included.parent.glob(included.name)):
                yield from settings(file)
        elif name and not name.startswith("#"):
            yield name.lower(), plain(value)


def plain(value):
    """Return what redis.conf means by a value in quotes of either kind."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else unquote(value)


def places(process):
    """Return where a process is reached, each with whether it wants TLS, sockets of this host first; and its ports."""
    own = _host.open_files(process)
    with_tls = {value for name, value in settings() if name == "tls-port"}
    found = []
    for row in (_host.PROC / "net/unix").read_text().splitlines()[1:]:
        words = row.split()
        if len(words) > 7 and f"socket:[{words[6]}]" in own and not words[7].startswith("@"):
            found.append((words[7], False))
    ports = set()
    for address, port, inode in _host.listeners():
        if f"socket:[{inode}]" in own:
            here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
            found.append(((here, port), str(port) in with_tls))
            ports.add(port)
    return found, sorted(ports)


def connect(process):
    """Return a connection that may do everything.

    Raises:
        RedisError: It lets nobody in, with what it said last.
    """
    configured = [value for name, value in settings() if name == "requirepass"][-1:]
    logins = [(user, password) for password in admin_passwords(str(ETC)) for user in (ADMIN, None)]
    logins += [(None, password) for password in (*configured, None)]
    said = "it listens nowhere"
    for place, named in places(process)[0]:
        encrypted = named and not in_clear(place)  # it may not have restarted with its new settings
        for user, password in logins:
            try:
                redis = Redis(place, password, user=user, tls=_any_server() if encrypted else None, timeout=60)
            except (RedisError, NoAnswerError) as error:
                said = str(error)
                continue
            try:
                redis.ask("INFO", "persistence")  # which a server answers while it loads its data, too
            except (RedisError, NoAnswerError) as error:
                redis.close()
                said = str(error)
            else:
                return redis
    raise RedisError(said)


def _any_server():
    """Return how to encrypt on the way to a process of this host, which is known by its process id."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def setting(redis, name):
    """Return a setting's value; empty where this Redis has none of that name."""
    return redis.settings(name).get(name, "")


def sharing(process):
    """Return the other servers, of whatever unit, that keep their data where the role's will."""
    found = []
    for other in _host.PROC.glob("[0-9]*"):
        try:
            status = (other / "status").read_text()
            same = (other / "cwd").samefile(DATA) and _host.process_name(other.name) in SERVERS
        except OSError:
            continue  # it has ended, or there is no such folder
        if same and other.name != process and f"\nPPid:\t{process}\n" not in status:
            found.append(f"{_host.process_name(other.name)} (process {other.name})")
    return found


def at_rest():
    """Return the files with data of a server that does not run."""
    files = (path for pattern in ("*", "*/*") for path in sorted(DATA.glob(pattern)) if path.is_file())
    return [path for path in files if holds_data(path)]


def holds_data(path):
    """Return whether a file is an RDB file with a key in it, or a part of an AOF with a command."""
    with path.open("rb") as file:
        content = file.read(65536)
    if content[:5] != b"REDIS":
        return path.suffix == ".aof" and len(content) > 0
    at = 9
    while content[at : at + 1] == b"\xfa":  # a note of the server's own: name and value
        at = after_string(content, after_string(content, at + 1))
    return content[at : at + 1] not in (b"\xff", b"")


def after_string(content, at):
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


def databases(redis, wanted):
    """Return the number of keys of each database that has some; what the deploy lock has written there is none."""
    found = {int(name[2:]): int(about.split("=")[1].split(",")[0]) for name, about in redis.info("keyspace").items()}
    if 0 in found:
        found[0] -= redis.ask("EXISTS", *(f"{wanted['namespace']}:{name}" for name in ("deploy", "deploys")))
    return {number: keys for number, keys in found.items() if keys}


def look_at_files(seen, wanted):
    """Note what is to be known of a Redis that does not run; return what it holds."""
    files = at_rest()
    if not files:
        return []
    persistent = [value for name, value in settings() if name == "appendonly"][-1:] == ["yes"]
    seen["unsaved"] = wanted["appendonly"] == "yes" and not persistent
    return [f"it does not run, and holds data: {', '.join(map(str, files))}"]


def look_at_server(seen, process, start, wanted):
    """Note what is to be known of a Redis that runs; return whom it serves and what it holds."""
    name = _host.process_name(process)
    if name != SERVER:
        seen["hurdles"].append(f"{UNIT} runs {name}, and the role would install another server in its place")
        return [f"{UNIT} runs {name}"]
    started_with = next((word for word in start.split() if word.endswith(".conf")), "no file")
    if not seen["ours"] and start and started_with != str(CONFIG):
        seen["hurdles"].append(f"{UNIT} starts it with {started_with}: have it start with {CONFIG} again")
        return [f"{UNIT} starts it with {started_with}"]
    try:
        redis = connect(process)
    except RedisError as error:
        seen["hurdles"].append(
            f"it lets nobody in without a password ({error}): write the one of its user default into "
            f"{ETC}/admin.password on the host, mode 0600"
        )
        return [f"what it holds is not known, as it wants a password ({error})"]
    with redis:
        try:
            return ask_server(seen, redis, wanted)
        except (RedisError, NoAnswerError) as error:
            seen["hurdles"].append(f"it refuses what adopting needs ({error})")
            return [f"what it holds is not known ({error})"]


def ask_server(seen, redis, wanted):
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


def whom_it_serves(redis, info, wanted):
    """Return what is in a server, and who is connected."""
    found = [f"{keys} keys in database {number}" for number, keys in sorted(databases(redis, wanted).items())]
    if any(holds_queue(redis, number, wanted) for number in databases(redis, wanted)):
        found.append("among them a queue of Orbiter that was set up by hand")
    found += [f"{clients} clients"] if (clients := other_clients(redis)) else []
    found += [f"{info['connected_slaves']} replicas"] if info["connected_slaves"] != "0" else []
    found += [f"a replica of {info['master_host']}"] if info["role"] == "slave" else []
    return found


def holds_queue(redis, number, wanted):
    """Return whether a database has keys as Orbiter makes them."""
    namespace = wanted["namespace"]
    redis.ask("SELECT", number)
    try:
        return redis.ask(
            "EXISTS", f"{namespace}:task:index", f"{namespace}:fleet", f"{namespace}:tasks", *wanted["queues"]
        )
    finally:
        redis.ask("SELECT", 0)


def other_clients(redis):
    """Return how many clients there are besides this one and the sentinel of the package, which watches this host."""
    rows = redis.clients()
    here = re.compile(r"127\.|\[::1\]")
    watching = [row for row in rows if row["name"].startswith("sentinel-") and here.match(row["addr"])]
    return len(rows) - len(watching) - 1


def what_is_in_the_way(redis, info, wanted):
    """Return why the role's settings would not load, or not keep, what a server holds."""
    hurdles = []
    if info["role"] == "slave":
        hurdles.append(f"it is a replica of {info['master_host']}: make it a master, or adopt that one")
    if info.get("cluster_enabled") == "1":
        hurdles.append("it is a node of a cluster")
    if Path(setting(redis, "dir")).resolve() != DATA.resolve():
        hurdles.append(f"its data are in {setting(redis, 'dir')}: stop it, move them to {DATA}, set dir, start it")
    hurdles += [
        f"its {name} is {setting(redis, name)}, and the role's is {wanted[name]}: name it in redis_settings (dynamic: "
        "false)"
        for name in ("appendfilename", "appenddirname")
        if setting(redis, name) not in ("", wanted[name])
    ]
    last = max(databases(redis, wanted), default=0)
    if last >= wanted["databases"]:
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
    if shutil.disk_usage(str(DATA)).free < 2 * used:
        hurdles.append(f"its RDB file and its AOF may take {2 * used // 2**20} MB, and fewer are free in {DATA}")
    return hurdles


def in_bytes(size):
    """Return what redis.conf means by a size such as 1gb."""
    units = {"": 1, "b": 1, "k": 1000, "kb": 2**10, "m": 10**6, "mb": 2**20, "g": 10**9, "gb": 2**30}
    found = re.fullmatch(r"(\d+)([a-z]*)", size.strip().strip('"').lower())
    return int(found[1]) * units.get(found[2], 1) if found else 0


def foreign_sentinel():
    """Return what a sentinel watches that is neither the role's nor as the package brought it."""
    file = ETC / "sentinel.conf"
    lines = [line.strip() for line in file.read_text(errors="replace").splitlines()] if file.exists() else []
    watched = [line for line in lines if line.startswith("sentinel monitor ") and line != SENTINEL_OF_PACKAGE]
    return [f"a sentinel of somebody else's ({line}) in {file}" for line in watched if SENTINEL_MARK not in lines]
