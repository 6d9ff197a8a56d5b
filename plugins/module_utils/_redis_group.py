# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host's part in a group of Redis servers that replicate, watched by Sentinel. It never decides who the master is.

What the group is, stands in fleet.json, beside the server's settings. Who is master now, the sentinels and servers are
asked each time, and what they say is left as it is.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    ADMIN,
    ETC,
    FLAVOR,
    LOG,
    QUICK,
    SERVER,
    SOCKET,
    NoAnswerError,
    Redis,
    RedisError,
    in_clear,
    local,
    tls_context,
    written_settings,
)
from ansible_collections.orbiter.fleet.plugins.module_utils._wait import NotInTimeError, wait_until

SLOW = 5.0  # seconds that an answer takes at most

OWNER = FLAVOR
SENTINEL_UNIT = f"{FLAVOR}-sentinel"
HEAD = f"# Redis' own: it notes here whose replica it is. What the role writes: {FLAVOR}.conf, member.conf."
SENTINEL_HEAD = "# Sentinel's own. What the role writes: sentinel-settings.conf."
# How an operator empties a Redis of the role.
EMPTY = f"REDISCLI_AUTH=$(cat {ETC}/admin.password) {FLAVOR}-cli --user admin -s {SOCKET} FLUSHALL"
# Settings that nobody is shown.
SECRET = ("masterauth",)
# Milliseconds that sentinels are kept from putting replicas back that follow the master by its other port.
LEFT_ALONE = 120_000
# What a sentinel keeps of its file as it begins to watch another port.
KEPT = re.compile(r"include |sentinel (myid|current-epoch|config-epoch|leader-epoch) ")


class GroupError(Exception):
    """What can do no good is not done; the message says why, and what to do."""


# What any of it may raise, each with a message for people.
FAILURES = (GroupError, NotInTimeError, RedisError, NoAnswerError, OSError)

# What every module of a group takes; described in doc_fragments/redis_group.py.
OPTIONS = {"group": {"type": "path", "default": str(ETC / "fleet.json")}}


def group_of(module, required=False):
    """Return the group of a module's host; None in check mode where a first run would describe it."""
    file = Path(module.params["group"])
    if not file.exists():
        if module.check_mode and not required:
            return None
        module.fail_json(msg=f"This host is in no group of Redis servers: there is no {file}. See the role redis")
    try:
        return Group(file)
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{file} does not describe the group of Redis: {error!r}. Run orbiter.fleet.site anew")


class Group:
    """What a host's file says of its group, and what its servers say.

    Args:
        file: The file that describes the group, as the role writes it beside Redis' own.
    """

    def __init__(self, file):
        self.socket = SOCKET
        about, etc = json.loads(file.read_text()), file.parent
        self.me, self.members = about["me"], about["members"]
        self.others = [address for address in self.members if address != self.me]
        self.port, self.sentinel_port = about["port"], about["sentinel_port"]
        self.service, self.quorum = about["service"], str(about["quorum"])
        self.min_replicas, self.patience = int(about["min_replicas"]), float(about["patience"])
        self._passwords = {self.port: about["password"], self.sentinel_port: about["sentinel_password"]}
        self._tls = tls_context(about["tls_ca"]) if about["tls_ca"] else None
        self.etc = etc
        self.settings = etc / "member.conf"
        self.state = etc / "replication.conf"  # Redis' own: it writes there whose replica it is
        self.pending = etc / ".restart-pending"  # there while a restart is due that could not be done
        self.sentinel_state = etc / "sentinel.conf"  # Sentinel's own
        self._monitor = re.compile(rf"^(sentinel monitor {re.escape(self.service)} \S+ )(\d+)( \d+)$", re.MULTILINE)
        self._included = [f"include {etc}/{FLAVOR}.conf", f"include {etc}/member.conf"]
        self._sentinel_included = f"include {etc}/sentinel-settings.conf"

    # -- asking --------------------------------------------------------------------------------------------------------

    def redis(self, address, *words):
        """Return what a member's Redis answers, or None where there is none that takes the command."""
        return self._answer(address, self.port, *words)

    def sentinel(self, address, *words):
        """Return what a member's sentinel answers, or None where there is none that takes the command."""
        return self._answer(address, self.sentinel_port, "SENTINEL", *words)

    def info(self, address, section="replication"):
        """Return a section of INFO; empty where the server does not answer."""
        try:
            with self._connect(address, self.port) as redis:
                return redis.info(section)
        except (RedisError, NoAnswerError):
            return {}

    def _answer(self, address, port, *words):
        try:
            with self._connect(address, port) as redis:
                return redis.ask(*words)
        except (RedisError, NoAnswerError):
            return None

    def _connect(self, address, port):
        """Return a connection for one command: members restart, and hand over."""
        place = ("127.0.0.1" if address == self.me else address, port)
        if self._tls is None:
            return self._log_in(place, SLOW)
        try:
            redis = self._log_in(place, QUICK)
        except NoAnswerError:
            # A server without encryption, as the package starts one, would wait for the rest of the question until the
            # end.
            if in_clear(place):
                raise
            return self._log_in(place, SLOW)
        redis.wait_at_most(SLOW)
        return redis

    def _log_in(self, place, timeout):
        """Log in as the operator; as `default`, where there are no users yet; without a password, as the package's."""
        password, refused = self._passwords[place[1]], None
        for user in [ADMIN, None] if place[1] == self.port else [None]:
            try:
                return Redis(place, password, user=user, tls=self._tls, timeout=timeout)
            except RedisError as error:
                refused = error
        if "without any password configured" not in str(refused):
            raise refused
        return Redis(place, tls=self._tls, timeout=timeout)

    def in_step(self, address):
        """Return whether a member is a replica with a living link to its master."""
        seen = self.info(address)
        return (
            seen.get("role") == "slave"
            and seen["master_link_status"] == "up"
            and seen["master_sync_in_progress"] == "0"
        )

    def followed_elsewhere(self):
        """Return the master that this member follows by another port than the group's; None if it does not."""
        seen = self.info(self.me)
        return seen["master_host"] if seen.get("role") == "slave" and seen["master_port"] != str(self.port) else None

    def is_master(self, address):
        """Return whether a member says that it is a master."""
        return self.info(address).get("role") == "master"

    def keys(self, address):
        """Return how many keys a member says that it has."""
        return self.redis(address, "DBSIZE") or 0

    def named_by_sentinels(self):
        """Return whom most sentinels call the master; None where none of them knows one of the group."""
        answers = (self.sentinel(address, "GET-MASTER-ADDR-BY-NAME", self.service) for address in self.members)
        votes = Counter(answer[0] for answer in answers if answer and answer[0] in self.members)
        return votes.most_common(1)[0][0] if votes else None

    def find_master(self):
        """Return the master of now; of a new group, who is to be first: whoever holds tasks, or the first member."""
        named = self.named_by_sentinels()
        if named:
            return named
        seen = {address: self.info(address) for address in self.members}
        followed = Counter(about["master_host"] for about in seen.values() if about.get("role") == "slave")
        leading = [address for address, about in seen.items() if int(about.get("connected_slaves", 0)) > 0]
        known = [address for address, _votes in followed.most_common() if address in self.members] or leading
        if known:
            return known[0]
        holding = [address for address in self.members if self.keys(address) > 0]
        if len(holding) > 1:
            raise GroupError(
                f"{' and '.join(holding)} each hold data of their own; all but one would lose it. Back up, and "
                f"empty all but the one to keep: {EMPTY}"
            )
        return (holding or self.members)[0]

    def answering(self, addresses):
        """Return which of these addresses have a Redis or a sentinel that answers."""
        return [one for one in addresses if self.redis(one, "PING") or self.sentinel(one, "MYID")]

    def known_addresses(self):
        """Return the addresses of the other sentinels and of the replicas that this host's sentinel knows."""
        rows = (self.sentinel(self.me, "SENTINELS", self.service) or []) + (
            self.sentinel(self.me, "REPLICAS", self.service) or []
        )
        return sorted({table(row)["ip"] for row in rows})

    def _wait(self, true, message, within=None):
        wait_until(true, message, within=self.patience if within is None else within, pause=0.3)

    # -- what it is brought to -----------------------------------------------------------------------------------------

    def join(self, *, check):
        """Begin as a replica of the master, or as the first master."""
        if self.state.exists():
            return {"changed": self.pending.exists() or self._listens_elsewhere()}
        if not check:
            # A host that was the master and has lost its files must not come back as an empty one, which the others
            # would copy.
            self._wait(
                lambda: self.named_by_sentinels() != self.me,
                f"The sentinels still call {self.me} the master, which has nothing. They choose another one when most "
                "of them miss it: see that they run and reach each other, then run this again",
            )
        master = self.find_master()
        if master != self.me and self.keys(self.me) > 0 and self.is_master(self.me):
            raise GroupError(
                f"{self.me} holds data of its own and would lose it as a replica of {master}. Back it up, then empty "
                f"it: {EMPTY}"
            )
        lines = [HEAD, *self._included, *([] if master == self.me else [f"replicaof {master} {self.port}"])]
        return {"changed": True, "master": master, "diff": [_begin(self.state, lines, check=check)]}

    def restart(self, turn, *, check):
        """Restart this host's Redis if it is its turn: the replicas one after another, then whoever was the master."""
        if self._is_stranger():
            raise GroupError(
                f"Redis on {self.me} runs, and does not take the password or the encryption of its new settings: "
                "nobody could see whether the group is in step. Change passwords with orbiter.fleet.rotate_secrets, "
                "and redis_tls with orbiter.fleet.redis_tls"
            )
        member = self.info(self.me, "server").get("config_file") == str(self.state)
        first = not self.state.exists() or "\nreplicaof " not in self.state.read_text()
        master = self.is_master(self.me) if member else first
        if (turn == "master") != master:
            return {"changed": False}
        if check:
            return {"changed": True}
        self.pending.touch(mode=0o600)
        if not member:  # nobody counts on it yet; or it is down, and a start is no harm
            self._restart_unit()
            return {"changed": True}
        self._wait(
            lambda: all(self.in_step(address) or self.is_master(address) for address in self.others),
            f"Not restarting Redis on {self.me}: of {', '.join(self.others)} not all are in step, and one more would "
            f"be missing. Bring them back (journalctl -u {SERVER}), or take them out of the inventory",
        )
        if master:
            self._hand_over()
        self._restart_unit()
        self._wait(
            lambda: self.in_step(self.me), f"Redis on {self.me} has restarted and has not caught up with its master"
        )
        return {"changed": True}

    def settle(self, *, check):
        """Make known what CONFIG SET can change, and wait until this server is in step."""
        restart = self.info(self.me, "server").get("config_file", str(self.state)) != str(self.state)
        if check:
            return {"changed": restart, "settings": []}
        elsewhere = self.followed_elsewhere() is not None
        if restart:  # a play was interrupted between the new unit and its restart
            self._restart_unit()
        self._wait(
            lambda: self.info(self.me, "persistence").get("loading") == "0", f"Redis on {self.me} does not answer"
        )
        diffs = [diff for diff in (self._set(*pair) for pair in written_settings(self.settings).items()) if diff]
        # Who was master before it was away does not know of its successor until a sentinel tells it.
        self._wait(
            lambda: (
                self._follows_by_the_groups_port()
                and (
                    self.in_step(self.me) or (self.is_master(self.me) and self.named_by_sentinels() in (self.me, None))
                )
            ),
            f"Redis on {self.me} is not in step with its master: see {LOG}",
        )
        if self.is_master(self.me):
            wanted = self.min_replicas
            self._wait(
                lambda: (
                    not self.is_master(self.me)
                    or int(self.info(self.me).get("min_slaves_good_slaves", wanted)) >= wanted
                ),
                f"The master {self.me} has fewer than {wanted} replicas in step, so it refuses to write "
                "(min-replicas-to-write)",
            )
        names = [diff["after_header"] for diff in diffs]
        return {"changed": restart or elsewhere or bool(diffs), "settings": names, "diff": diffs}

    def leave_alone(self, *, check):
        """Keep this host's sentinel, where it watches another port, from putting replicas back for some time."""
        changed = self._watches_elsewhere()
        if changed and not check:
            self.sentinel(self.me, "SET", self.service, "failover-timeout", LEFT_ALONE)
        return {"changed": changed}

    def watch(self, *, check):
        """Let a sentinel that is new in the group begin with the master of now; tell of one that knows another port."""
        if self.sentinel_state.exists() and self._sentinel_included in self.sentinel_state.read_text().splitlines():
            return {"changed": self._watched_port() not in (None, str(self.port))}
        master = self.find_master()
        lines = [SENTINEL_HEAD, self._sentinel_included]
        lines.append(f"sentinel monitor {self.service} {master} {self.port} {self.quorum}")
        return {"changed": True, "master": master, "diff": [_begin(self.sentinel_state, lines, check=check)]}

    def watch_anew(self, *, check):
        """Restart this host's sentinel, which watches the group's port from then on."""
        if not check:
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            _systemctl("stop", unit=SENTINEL_UNIT)  # while it runs it writes its file
            self._change_watched_port()
            done = _systemctl("start", unit=SENTINEL_UNIT)
            if done.returncode:
                raise GroupError(f"The sentinel on {self.me} does not start: {done.stderr.strip()}")
        return {"changed": True}

    def agree(self, *, check):
        """Wait until this host's sentinel has found the others and could fail over; forget who has left the group."""
        if not check:
            self._wait_for_sentinel()
            # From one that has not changed over yet it may have heard of a failover, and of that one's port.
            if self._watches_elsewhere():
                self.watch_anew(check=False)
                self._wait_for_sentinel()
        quorum = table(self.sentinel(self.me, "MASTER", self.service)).get("quorum", self.quorum)
        # They would count for the majority that a failover needs. A reset forgets them, and finds the others anew.
        forgotten = [address for address in self.known_addresses() if address not in self.members]
        answer = {"changed": quorum != self.quorum or bool(forgotten), "forgotten": forgotten}
        if answer["changed"]:
            answer["diff"] = [
                {
                    "before": f"quorum {quorum}\n" + "".join(f"knows {address}\n" for address in forgotten),
                    "after": f"quorum {self.quorum}\n",
                }
            ]
        if check:
            return answer
        if quorum != self.quorum:
            self.sentinel(self.me, "SET", self.service, "quorum", self.quorum)
        if forgotten:
            self.sentinel(self.me, "RESET", self.service)
        self._wait(
            lambda: (
                bool(self.sentinel(self.me, "CKQUORUM", self.service))
                and bool(self.sentinel(self.me, "MASTER", self.service))
            ),
            f"The sentinel on {self.me} does not reach enough others to fail over: journalctl -u {SENTINEL_UNIT}, "
            "there and here",
        )
        return answer

    # -- how -----------------------------------------------------------------------------------------------------------

    def _is_stranger(self):
        """Return whether a server of the role, which has a socket, runs here otherwise than the settings say."""
        if self.info(self.me, "server"):
            return False
        try:
            local(etc=self.etc, place=self.socket).close()
        except NoAnswerError:
            return False
        except RedisError:
            pass  # another password
        return True

    def _listens_elsewhere(self):
        """Return whether the server runs with other ports than its file says, as after a play that was interrupted."""
        wanted = written_settings(self.etc / f"{FLAVOR}.conf") if (self.etc / f"{FLAVOR}.conf").exists() else {}
        try:
            with local(etc=self.etc, place=self.socket) as redis:
                now = redis.settings("port", "tls-port")
        except (NoAnswerError, RedisError):
            return False
        return any(wanted.get(name, port) != port for name, port in now.items())

    def _follows_by_the_groups_port(self):
        """Return whether this member does not follow by another port; if it does, have it follow by this one.

        A sentinel that knows the other port may send it there again, as in a failover.
        """
        master = self.followed_elsewhere()
        if master is not None:
            self._follow(master)
        return master is None

    def _follow(self, master):
        """Follow a master by the group's port, from where this member has got to; after a restart as well."""
        self.redis(self.me, "REPLICAOF", master, self.port)
        self.redis(self.me, "CONFIG", "REWRITE")

    def _watches_elsewhere(self):
        """Return whether this host's sentinel watches another port than the group's."""
        port = table(self.sentinel(self.me, "MASTER", self.service)).get("port", str(self.port))
        return port != str(self.port)

    def _watched_port(self):
        """Return the port that this host's sentinel watches, as its file says; None where it says nothing."""
        found = self._monitor.search(self.sentinel_state.read_text()) if self.sentinel_state.exists() else None
        return found[2] if found else None

    def _change_watched_port(self):
        """Let the sentinel's file name the group's port. Of the others, and of their ports, the master tells it."""
        if self._watched_port() in (None, str(self.port)):
            return
        text = self.sentinel_state.read_text()
        kept = [line for line in text.splitlines() if KEPT.match(line)]
        watched = self._monitor.search(text).expand(rf"\g<1>{self.port}\g<3>")
        _begin(self.sentinel_state, [SENTINEL_HEAD, *kept, watched], check=False)

    def _wait_for_sentinel(self):
        self._wait(
            lambda: bool(self.sentinel(self.me, "MASTER", self.service)),
            f"The sentinel on {self.me} does not answer: journalctl -u {SENTINEL_UNIT}",
        )

    def _restart_unit(self):
        """Restart Redis, and wait until it has read its files."""
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        done = _systemctl("restart")
        if done.returncode:
            raise GroupError(f"Redis on {self.me} does not start: {done.stderr.strip()}. See journalctl -u {SERVER}")
        self._wait(
            lambda: self.info(self.me, "persistence").get("loading") == "0",
            f"Redis on {self.me} does not answer. See journalctl -u {SERVER}, {LOG}",
        )
        with contextlib.suppress(FileNotFoundError):
            self.pending.unlink()

    def _hand_over(self):
        """Make a replica the master without losing a write: writers wait until replicas have all, then go there."""
        # Longer than anything below: a write that waits must not be done here once there is another master.
        self.redis(self.me, "CLIENT", "PAUSE", "120000", "WRITE")
        try:
            self._wait(self._replicas_have_everything, f"No replica of {self.me} has caught up with it", within=10)
            # One that has just begun hears of the replicas first.
            self._wait(
                lambda: any(self.sentinel(address, "FAILOVER", self.service) for address in [self.me, *self.others]),
                f"No sentinel would make another server master in place of {self.me}: journalctl -u {SENTINEL_UNIT}",
                within=15,
            )
            self._wait(
                lambda: self.named_by_sentinels() not in (self.me, None),
                f"The sentinels did not make another server the master in place of {self.me}",
                within=60,
            )
            # The sentinels would see to this, too, but only when the pause has ended: it holds up their own
            # connections.
            self._follow(self.named_by_sentinels())
            # Whoever waits with a write is disconnected, and sends it to the new master.
            self.redis(self.me, "CLIENT", "KILL", "TYPE", "normal")
        finally:
            self.redis(self.me, "CLIENT", "UNPAUSE")
        self._wait(lambda: self.in_step(self.me), f"{self.me} is a replica now, and has not caught up with its master")

    def _replicas_have_everything(self):
        """Return whether every replica has what this master has."""
        seen = self.info(self.me)
        replicas = [value for name, value in seen.items() if re.fullmatch(r"slave\d+", name)]
        return bool(replicas) and all(f"offset={seen['master_repl_offset']}," in replica for replica in replicas)

    def _set(self, name, value):
        """Set one setting; return how it was and is, or None if it was the same."""
        with self._connect(self.me, self.port) as redis:
            before = redis.settings(name)
            try:
                redis.ask("CONFIG", "SET", name, value)
            except RedisError as error:
                raise GroupError(f"Redis on {self.me} refuses a new value of {name}: {error}") from None
            after = redis.settings(name)
        if after == before:
            return None
        shown = [{"": "(hidden)"} if name in SECRET else one for one in (before, after)]
        return {
            "before_header": name,
            "after_header": name,
            "before": "".join(f"{one}\n" for one in shown[0].values()),
            "after": "".join(f"{one}\n" for one in shown[1].values()),
        }


def table(pairs):
    """Return names and values that Redis sends one after another."""
    return dict(zip((pairs or [])[::2], (pairs or [])[1::2], strict=True))


def _begin(path, lines, *, check):
    """Write a file that its server owns from now on; return what changes."""
    after = "\n".join([*lines, ""])
    if not check:
        new = path.with_suffix(".new")
        new.write_text(after)
        new.chmod(0o640)
        new.rename(path)
        shutil.chown(str(path), OWNER, OWNER)
    # What was there before may hold somebody's passwords.
    return {"before_header": str(path), "after_header": str(path), "before": "", "after": after}


def _systemctl(*words, unit=SERVER):
    return subprocess.run(
        ["systemctl", *words, unit],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
