"""This host's part in a group of Redis servers that replicate, watched by Sentinel. It never decides who the master is.

Usage: replication.py join | restart replica | restart master | settle | watch | agree | who | left
What the group is, stands in /etc/redis/fleet.json. Who is master now, the sentinels and servers are asked each time,
and what they say is left as it is. Prints ``{"changed": bool, ...}``; ends with a message where it can do no good.

  join     let a host that is new in the group begin as a replica of the master, or as the first master
  restart  restart Redis without losing the group: each replica when all others are in step; the master last
  settle   make known what CONFIG SET can change, and wait until this server is in step
  watch    let a sentinel that is new in the group begin with the master of now
  agree    wait until this host's sentinel has found the others and could fail over; forget who has left the group
  who      say who is master, and whether this host is
  left ADDRESS...   say who is master, and which of these addresses still has a Redis or a sentinel that answers
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FLEET = json.loads(Path(os.environ.get("ORBITER_REDIS_FLEET", "/etc/redis/fleet.json")).read_text())
ME: str = FLEET["me"]
MEMBERS: list[str] = FLEET["members"]
OTHERS = [address for address in MEMBERS if address != ME]
SERVICE: str = FLEET["service"]
PATIENCE = float(FLEET["patience"])
# Seconds that an answer takes at most, and those after which it is looked whether there will be one.
SLOW, QUICK = 5.0, 0.5

SETTINGS = Path("/etc/redis/member.conf")
STATE = Path("/etc/redis/replication.conf")  # Redis' own: it writes there whose replica it is
PENDING = Path("/etc/redis/.restart-pending")  # there while a restart is due that could not be done
SENTINEL_STATE = Path("/etc/redis/sentinel.conf")  # Sentinel's own


# -- asking ------------------------------------------------------------------------------------------------------------


def cli(address: str, port: int, password: str, *words: str) -> list[str] | None:
    """Send a command; return the lines of the answer, or None where there is no server that takes it."""
    tls = ["--tls", "--cacert", FLEET["tls_ca"]] if FLEET["tls_ca"] else []
    command = ["redis-cli", "-h", address, "-p", str(port), *tls, "--no-auth-warning", "-e", *words]
    environment = os.environ | {"REDISCLI_AUTH": password}
    asked = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        answer = asked.communicate(timeout=QUICK)[0]
    except subprocess.TimeoutExpired:
        # A server without encryption, as the package starts one, would wait for the rest of the question until the end.
        if tls and in_clear(address, port):
            asked.kill()
        try:
            answer = asked.communicate(timeout=SLOW - QUICK)[0]
        except subprocess.TimeoutExpired:  # a host that is off answers nothing at all
            asked.kill()
            asked.communicate()
    return answer.splitlines() if asked.returncode == 0 else None


def in_clear(address: str, port: int) -> bool:
    """Return whether a server answers there without encryption."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=QUICK) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(1) in (b"+", b"-")  # what all answers to that begin with: PONG, or an error
    return False


def redis(address: str, *words: str) -> list[str] | None:
    """Send a command to a member's Redis."""
    return cli("127.0.0.1" if address == ME else address, FLEET["port"], FLEET["password"], *words)


def sentinel(address: str, *words: str) -> list[str] | None:
    """Send a command to a member's sentinel."""
    here = "127.0.0.1" if address == ME else address
    return cli(here, FLEET["sentinel_port"], FLEET["sentinel_password"], "SENTINEL", *words)


def info(address: str, section: str = "replication") -> dict[str, str]:
    """Return a section of INFO; empty where the server does not answer."""
    lines = redis(address, "INFO", section) or []
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def in_step(address: str) -> bool:
    """Return whether a member is a replica with a living link to its master."""
    seen = info(address)
    return seen.get("role") == "slave" and seen["master_link_status"] == "up" and seen["master_sync_in_progress"] == "0"


def is_master(address: str) -> bool:
    """Return whether a member says that it is a master."""
    return info(address).get("role") == "master"


def settled(addresses: list[str]) -> bool:
    """Return whether each is in step, or is the master."""
    return all(in_step(address) or is_master(address) for address in addresses)


def wait_until(true: Callable[[], bool], message: str, *, within: float = PATIENCE) -> None:
    """Wait for a condition; end the program with the message if it does not come."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"{message} (waited {within:.0f} s)")
        time.sleep(0.3)


def named_by_sentinels() -> str | None:
    """Return whom most sentinels call the master; None where none of them knows one of the group."""
    answers = (sentinel(address, "GET-MASTER-ADDR-BY-NAME", SERVICE) for address in MEMBERS)
    votes = Counter(answer[0] for answer in answers if answer and answer[0] in MEMBERS)
    return votes.most_common(1)[0][0] if votes else None


def find_master() -> str:
    """Return the master of now; of a new group, who is to be the first: whoever holds tasks, or the first member."""
    named = named_by_sentinels()
    if named:
        return named
    seen = {address: info(address) for address in MEMBERS}
    followed = Counter(about["master_host"] for about in seen.values() if about.get("role") == "slave")
    leading = [address for address, about in seen.items() if int(about.get("connected_slaves", 0)) > 0]
    known = [address for address, dummy in followed.most_common() if address in MEMBERS] or leading
    if known:
        return known[0]
    holding = [address for address in MEMBERS if int((redis(address, "DBSIZE") or ["0"])[0]) > 0]
    if len(holding) > 1:
        sys.exit(
            f"{' and '.join(holding)} each hold data of their own; all but one would lose it. Back up, and "
            "empty all but the one to keep: redis-cli FLUSHALL"
        )
    return (holding or MEMBERS)[0]


# -- what it is called for ---------------------------------------------------------------------------------------------


def write(path: Path, lines: list[str]) -> None:
    """Write a file that its server owns from now on."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.chmod(0o640)
    new.rename(path)
    subprocess.run(["chown", "redis:redis", path], check=True)


def join() -> dict[str, object]:
    """Begin as a replica of the master, or as the first master."""
    if STATE.exists():
        return {"changed": PENDING.exists()}
    # A host that was the master and has lost its files must not come back as an empty one, which the others would copy.
    wait_until(
        lambda: named_by_sentinels() != ME,
        f"The sentinels still call {ME} the master, which has nothing. They choose another one when most of "
        "them miss it: see that they run and reach each other, then run this again",
    )
    master = find_master()
    if master != ME and int((redis(ME, "DBSIZE") or ["0"])[0]) > 0 and is_master(ME):
        sys.exit(
            f"{ME} holds data of its own and would lose it as a replica of {master}. Back it up, then empty it: "
            "redis-cli FLUSHALL"
        )
    lines = ["# Redis' own: it notes here whose replica it is. What the role writes: redis.conf, member.conf."]
    lines += ["include /etc/redis/redis.conf", "include /etc/redis/member.conf"]
    write(STATE, [*lines, *([] if master == ME else [f"replicaof {master} {FLEET['port']}"])])
    return {"changed": True, "master": master}


def restart(turn: str) -> dict[str, object]:
    """Restart this host's Redis if it is its turn: replicas first, one after another, then whoever was the master."""
    if is_stranger():
        sys.exit(
            f"Redis on {ME} runs, and does not take the password or the encryption of its new settings: nobody could "
            "see whether the group is in step. Change passwords with orbiter.fleet.rotate_secrets; for redis_tls, "
            "stop redis-sentinel and redis-server on all Redis hosts first, then run this again"
        )
    member = info(ME, "server").get("config_file") == str(STATE)
    master = is_master(ME) if member else "\nreplicaof " not in STATE.read_text()
    if (turn == "master") != master:
        return {"changed": False}
    PENDING.touch(mode=0o600)
    if not member:  # nobody counts on it yet; or it is down, and a start is no harm
        systemctl_restart()
        return {"changed": True}
    wait_until(
        lambda: settled(OTHERS),
        f"Not restarting Redis on {ME}: of {', '.join(OTHERS)} not all are in step, and one more would be missing. "
        "Bring them back (journalctl -u redis-server), or take them out of the inventory",
    )
    if master:
        hand_over()
    systemctl_restart()
    wait_until(lambda: in_step(ME), f"Redis on {ME} has restarted and has not caught up with its master")
    return {"changed": True}


def is_stranger() -> bool:
    """Return whether a server runs here that is neither as the settings say nor the package's own, without password."""
    if info(ME, "server"):
        return False
    running = subprocess.run(["systemctl", "is-active", "--quiet", "redis-server"], check=False).returncode == 0
    plain = ["redis-cli", "-h", "127.0.0.1", "-p", str(FLEET["port"]), "ping"]
    said = subprocess.run(plain, capture_output=True, text=True, timeout=5, check=False).stdout
    return running and said.startswith("NOAUTH")


def systemctl_restart() -> None:
    """Restart Redis, and wait until it has read its files."""
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    done = subprocess.run(["systemctl", "restart", "redis-server"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"Redis on {ME} does not start: {done.stderr.strip()}. See journalctl -u redis-server")
    wait_until(
        lambda: info(ME, "persistence").get("loading") == "0",
        f"Redis on {ME} does not answer. See journalctl -u redis-server, /var/log/redis/redis-server.log",
    )
    PENDING.unlink(missing_ok=True)


def hand_over() -> None:
    """Make a replica the master without losing a write: writers wait until replicas have everything, then go there."""
    # Longer than anything below: a write that waits must not be done here once there is another master.
    redis(ME, "CLIENT", "PAUSE", "120000", "WRITE")
    try:
        wait_until(replicas_have_everything, f"No replica of {ME} has caught up with it", within=10)
        answers = (sentinel(address, "FAILOVER", SERVICE) for address in [ME, *OTHERS])
        if not any(answers):
            sys.exit(f"No sentinel would make another server master in place of {ME}: see journalctl -u redis-sentinel")
        wait_until(
            lambda: named_by_sentinels() not in (ME, None),
            f"The sentinels did not make another server the master in place of {ME}",
            within=60,
        )
        # The sentinels would see to this, too, but only when the pause has ended: it holds up their own connections.
        redis(ME, "REPLICAOF", str(named_by_sentinels()), str(FLEET["port"]))
        redis(ME, "CONFIG", "REWRITE")
        # Whoever waits with a write is disconnected, and sends it to the new master.
        redis(ME, "CLIENT", "KILL", "TYPE", "normal")
    finally:
        redis(ME, "CLIENT", "UNPAUSE")
    wait_until(lambda: in_step(ME), f"{ME} is a replica now, and has not caught up with its master")


def replicas_have_everything() -> bool:
    """Return whether every replica has what this master has."""
    seen = info(ME)
    replicas = [value for name, value in seen.items() if re.fullmatch(r"slave\d+", name)]
    return bool(replicas) and all(f"offset={seen['master_repl_offset']}," in replica for replica in replicas)


def settle() -> dict[str, object]:
    """Make known what CONFIG SET can change, and wait until this server is in step."""
    changed = []
    if info(ME, "server").get("config_file", str(STATE)) != str(STATE):
        # A play was interrupted between the new unit and its restart.
        systemctl_restart()
        changed.append("restarted")
    wait_until(lambda: info(ME, "persistence").get("loading") == "0", f"Redis on {ME} does not answer")
    changed += [name for name, value in settings() if set_to(name, value)]
    # Who was master before it was away does not know of its successor until a sentinel tells it.
    wait_until(
        lambda: in_step(ME) or (is_master(ME) and named_by_sentinels() in (ME, None)),
        f"Redis on {ME} is not in step with its master: see /var/log/redis/redis-server.log",
    )
    if is_master(ME):
        wanted = int(FLEET["min_replicas"])
        wait_until(
            lambda: not is_master(ME) or int(info(ME).get("min_slaves_good_slaves", wanted)) >= wanted,
            f"The master {ME} has fewer than {wanted} replicas in step, so it refuses to write (min-replicas-to-write)",
        )
    return {"changed": bool(changed), "settings": changed}


def settings() -> list[tuple[str, str]]:
    """Return what member.conf says."""
    lines = [line for line in SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, value) for name, dummy, value in (line.partition(" ") for line in lines)]


def set_to(name: str, value: str) -> bool:
    """Set one setting; return whether it was different. The value goes by standard input: it may be a password."""
    before = redis(ME, "CONFIG", "GET", name)
    environment = os.environ | {"REDISCLI_AUTH": FLEET["password"]}
    tls = ["--tls", "--cacert", FLEET["tls_ca"]] if FLEET["tls_ca"] else []
    command = ["redis-cli", "-h", "127.0.0.1", "-p", str(FLEET["port"]), *tls, "--no-auth-warning", "-e"]
    line = f"CONFIG SET {name} {value}\n"
    done = subprocess.run(command, env=environment, input=line, capture_output=True, text=True, timeout=10, check=False)
    if done.stdout.strip() != "OK":
        sys.exit(f"Redis on {ME} refuses a new value of {name}: {(done.stdout + done.stderr).strip()}")
    return redis(ME, "CONFIG", "GET", name) != before


def watch() -> dict[str, object]:
    """Let a new sentinel begin with the master of now."""
    include = "include /etc/redis/sentinel-settings.conf"
    if SENTINEL_STATE.exists() and include in SENTINEL_STATE.read_text().splitlines():
        return {"changed": False}
    monitor = f"sentinel monitor {SERVICE} {find_master()} {FLEET['port']} {FLEET['quorum']}"
    write(SENTINEL_STATE, ["# Sentinel's own. What the role writes: sentinel-settings.conf.", include, monitor])
    return {"changed": True}


def agree() -> dict[str, object]:
    """Wait until this host's sentinel has found the others; forget who has left the group."""
    changed = []
    wait_until(
        lambda: bool(sentinel(ME, "MASTER", SERVICE)),
        f"The sentinel on {ME} does not answer: journalctl -u redis-sentinel",
    )
    if table(sentinel(ME, "MASTER", SERVICE))["quorum"] != str(FLEET["quorum"]):
        sentinel(ME, "SET", SERVICE, "quorum", str(FLEET["quorum"]))
        changed.append("quorum")
    strangers = [address for address in known_addresses() if address not in MEMBERS]
    if strangers:
        # They would count for the majority that a failover needs. A reset forgets them, and finds the others anew.
        sentinel(ME, "RESET", SERVICE)
        changed.append(f"forgot {', '.join(strangers)}")
    wait_until(
        lambda: bool(sentinel(ME, "CKQUORUM", SERVICE)) and len(table(sentinel(ME, "MASTER", SERVICE))) > 0,
        f"The sentinel on {ME} does not reach enough others to fail over: journalctl -u redis-sentinel, there and here",
    )
    return {"changed": bool(changed), "did": changed}


def who() -> dict[str, object]:
    """Say who is master."""
    master = find_master()
    return {"changed": False, "master": master, "me": master == ME}


def left(*addresses: str) -> dict[str, object]:
    """Say who is master, and whether those who are to leave have: a sentinel that stays behind would count, and act."""
    there = [address for address in addresses if redis(address, "PING") or sentinel(address, "MYID")]
    return {"changed": False, "master": find_master(), "there": there}


def known_addresses() -> list[str]:
    """Return the addresses of the other sentinels and of the replicas that this host's sentinel knows."""
    lines = (sentinel(ME, "SENTINELS", SERVICE) or []) + (sentinel(ME, "REPLICAS", SERVICE) or [])
    return sorted({value for name, value in pairwise(lines) if name == "ip"})


def table(lines: list[str] | None) -> dict[str, str]:
    """Return names and values that Redis sends one after another."""
    return dict(zip((lines or [])[::2], (lines or [])[1::2], strict=True))


ACTIONS: dict[str, Callable[..., dict[str, object]]] = {
    "join": join,
    "restart": restart,
    "settle": settle,
    "watch": watch,
    "agree": agree,
    "who": who,
    "left": left,
}
print(json.dumps(ACTIONS[sys.argv[1]](*sys.argv[2:])))
