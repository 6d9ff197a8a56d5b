#!/usr/bin/python
# Copyright: the Orbiter Fleet authors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a running Redis to what is wanted, without a restart."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_settings
short_description: Settings, users and certificate of a running Redis, without a restart
version_added: 0.2.0
description:
  - Sets settings by C(CONFIG SET), users by C(ACL SETUSER) and C(ACL DELUSER), and has a server with TLS read a renewed
    certificate. What is as wanted is no change, and what somebody changed by hand is one.
  - Runs on a Redis host of the role P(orbiter.fleet.redis#role), which writes the same to the files that Redis reads at
    its start. It speaks to the server over its Unix socket, as the operator's user C(admin), with the password that the
    role keeps there.
  - The password that was last in force is kept beside it, so that a new one is made known to the server with the old.
  - A user that is turned off is disconnected. Replicas that have logged in as that user come back as another one first,
    one after another; where one does not, nothing is turned off.
author: Orbiter Fleet authors (@orbiter-fleet)
options:
  settings:
    description: Lines as in redis.conf, of settings that C(CONFIG SET) can change.
    type: str
    default: ''
  users:
    description: Lines as in a file of users, with passwords as SHA-256. Without it users stay as they are.
    type: str
  beside:
    description:
      - Whether what users may log in with stays valid beside what is new, and whoever is to be removed or turned off
        stays. What of this the file of users does not have is saved to it, for the case that Redis restarts.
    type: bool
    default: false
  reload_certificate:
    description: Whether the certificate is read also where the server shows the one of the file already.
    type: bool
    default: false
  if_running:
    description:
      - Whether nothing is to be done, instead of a failure, where no Redis answers that the role has set up. A check
        tells then by the file of users who would be another one.
    type: bool
    default: false
  patience:
    description: Seconds to wait for a server that has just been started.
    type: float
    default: 60
  etc:
    description: The folder with the operator's password. Of Valkey it is C(/etc/valkey) by default.
    type: path
    default: /etc/redis
  socket:
    description: The server's Unix socket. Of Valkey it is C(/run/valkey/valkey-server.sock) by default.
    type: path
    default: /run/redis/redis-server.sock
attributes:
  check_mode:
    description: Tells what would change. Of a user's rights it tells whether they are those that were written last.
    support: full
  diff_mode:
    description: Shows settings and users, and of passwords only whether they are other ones.
    support: full
"""

EXAMPLES = r"""
- name: Apply settings and users to the running server
  orbiter.fleet.redis_settings:
    settings: |
      maxmemory 2gb
      maxmemory-policy noeviction
    users: "{{ lookup('ansible.builtin.template', 'users.acl.j2') }}"

- name: Make new passwords known beside the old
  orbiter.fleet.redis_settings:
    users: "{{ lookup('ansible.builtin.template', 'users.acl.j2') }}"
    beside: true
"""

RETURN = r"""
names:
  description: What was different.
  returned: always
  type: list
  elements: str
  sample: [maxmemory, user worker, certificate]
pending:
  description: Users who have what they are to lose, in the server or in the file of users, because of O(beside).
  returned: always
  type: list
  elements: str
  sample: [default]
ended:
  description: Who was disconnected, because that user was turned off or removed.
  returned: always
  type: list
  elements: str
  sample: [10.0.0.9 as default]
"""

import os
import re
import ssl
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import (
    ETC,
    LOG,
    SOCKET,
    NoAnswerError,
    Redis,
    RedisError,
    callers,
    local,
    unquote,
)

# Seconds until a replica that was disconnected is there again.
PATIENCE = 30.0
UNITS = {"b": 1, "k": 1000, "kb": 2**10, "m": 10**6, "mb": 2**20, "g": 10**9, "gb": 2**30}


class Host:
    """This host's Redis and what is wanted of it; notes what was different."""

    def __init__(self, redis: Redis | None, options: dict, *, check: bool) -> None:
        self._redis = redis
        self._options = options
        self._check = check
        self.names: list[str] = []
        self.pending: list[str] = []
        self.ended: list[str] = []
        self.before: list[str] = []
        self.after: list[str] = []

    def note(self, name: str, before: str, after: str) -> None:
        """Note that something was different."""
        self.names.append(name)
        self.before += [before] if before else []
        self.after += [after] if after else []

    def apply_settings(self) -> None:
        """Set what differs."""
        for line in lines(self._options["settings"]):
            name, _space, value = line.partition(" ")
            wanted = unquote(value.strip())
            before = self._redis.settings(name)
            if name not in before:
                raise WrongError(f"Redis knows no setting {name!r}: correct redis_settings")
            after = before if self._check else self.set_to(name, wanted)
            if after != before or (self._check and not same(before[name], wanted)):
                seen = wanted if self._check else after[name]
                self.note(name, f"{name} {shown(name, before[name])}", f"{name} {shown(name, seen)}")

    def set_to(self, name: str, value: str) -> dict[str, str]:
        """Set one setting; return it as Redis writes it: "1gb" is 1073741824."""
        try:
            self._redis.ask("CONFIG", "SET", name, value)
        except RedisError as error:
            raise WrongError(
                f"Redis refuses the new value of {name}: {error}. Correct it in redis_settings; if only a restart can "
                "change this setting, write dynamic: false beside it"
            ) from None
        return self._redis.settings(name)

    def apply_users(self) -> None:
        """Make the users those that are wanted."""
        wanted = parse_users(self._options["users"])
        before, written = self.users(), read_users(Path(self._options["etc"], "users.acl"))
        if self._check:
            after = {name: line for name, line in before.items() if name in wanted or self._options["beside"]}
            for name, rules in wanted.items():
                if self.differs(name, rules, before.get(name), written.get(name)):
                    after[name] = f"user {name} {' '.join(rules)}"
        else:
            self.set_users(wanted, before)
            after = self.users()
        self.note_users(before, after)
        there = before if self._check else after
        now = {name: line.split()[2:] for name, line in there.items()}
        left = {name: rules for name, rules in now.items() if remains(rules, wanted.get(name))}
        self.pending = sorted(
            left.keys() | {name for name, rules in written.items() if remains(rules, wanted.get(name))}
        )
        if not self._check and not all(same_login(rules, written.get(name)) for name, rules in left.items()):
            self._redis.ask("ACL", "SAVE")

    def foresee_users(self) -> None:
        """Tell by the file of users who would be another one, where no server tells."""
        before, wanted = (
            {name: f"user {name} {' '.join(rules)}" for name, rules in users.items()}
            for users in (read_users(Path(self._options["etc"], "users.acl")), parse_users(self._options["users"]))
        )
        self.note_users(before, (before if self._options["beside"] else {}) | wanted)

    def note_users(self, before: dict[str, str], after: dict[str, str]) -> None:
        """Note the users that are others than before."""
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name, ""), after.get(name, "")
            if rights(was) != rights(now):
                self.note(f"user {name}", masked(was, now, "old"), masked(now, was, "new"))

    def differs(self, name: str, rules: list[str], now: str | None, written: list[str] | None) -> bool:
        """Tell whether a user would become another one, as far as can be known without doing it."""
        if now is None:
            return True
        words = now.split()
        if self._options["beside"] and is_off(rules):
            return False
        new, old = hashes(rules), hashes(words)
        passwords = new <= old if self._options["beside"] else new == old
        return not passwords or is_off(words) != is_off(rules) or without_hashes(written) != without_hashes(rules)

    def set_users(self, wanted: dict[str, list[str]], before: dict[str, str]) -> None:
        """Make the users; whoever is turned off or removed comes last."""
        beside = self._options["beside"]
        start = ["resetkeys", "resetchannels", "clearselectors", "-@all"] if beside else ["reset"]
        for name, rules in sorted(wanted.items(), key=lambda user: is_off(user[1])):
            turned_off = is_off(rules) and not is_off(before.get(name, "user off").split())
            if turned_off and beside:
                continue
            if turned_off:
                self.move_replicas(name)
            # One command a user: it has its old rights or its new ones, and its connections stay.
            self._redis.ask("ACL", "SETUSER", name, *start, *rules)
            if turned_off:
                self.note_ended(name)
                self._redis.ask("CLIENT", "KILL", "USER", name)
        for name in sorted(before.keys() - wanted.keys()) if not beside else ():
            self.note_ended(name)
            self._redis.ask("ACL", "DELUSER", name)

    def note_ended(self, name: str) -> None:
        """Note who is about to be disconnected with a user."""
        self.ended += callers(client for client in self._redis.clients() if client["user"] == name)

    def move_replicas(self, name: str) -> None:
        """Have replicas that have logged in as a user log in anew, one after another, so that the others stay."""
        for client in self.replicas(name):
            online = self.online()
            self._redis.ask("CLIENT", "KILL", "ID", client["id"])
            deadline = time.monotonic() + PATIENCE
            while self.online() < online and time.monotonic() < deadline:
                time.sleep(0.1)
        left = [client["addr"].rpartition(":")[0] for client in self.replicas(name)]
        if left:
            raise WrongError(
                f"Redis' user {name} cannot be turned off: its replicas at {', '.join(left)} log in as that. Run "
                "orbiter.fleet.site for all Redis hosts, without --limit, and they take another one"
            )

    def replicas(self, name: str) -> list[dict[str, str]]:
        """Return the replicas that have logged in as a user."""
        return [client for client in self._redis.clients() if client["user"] == name and "S" in client["flags"]]

    def online(self) -> int:
        """Return how many replicas get what is written."""
        return sum("state=online" in value for value in self._redis.info("replication").values())

    def users(self) -> dict[str, str]:
        """Return the server's users, each as Redis writes it."""
        return {line.split(" ", 2)[1]: line for line in self._redis.ask("ACL", "LIST")}

    def apply_certificate(self) -> None:
        """Let a server with TLS read its certificate anew if it shows another one, or if told to."""
        tls = self._redis.settings("tls-*")
        port = int(tls.get("tls-port", "0"))
        if not port:
            return
        text = Path(tls["tls-cert-file"]).read_text(encoding="utf-8", errors="replace")
        written = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
        seen = ssl.get_server_certificate(("127.0.0.1", port)).strip()
        as_shown = written and ssl.PEM_cert_to_DER_cert(written[0]) == ssl.PEM_cert_to_DER_cert(seen)
        if as_shown and not self._options["reload_certificate"]:
            return
        names = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
        if not self._check:
            try:
                self._redis.ask("CONFIG", "SET", *(word for name in names for word in (name, tls[name])))
            except RedisError as error:
                raise WrongError(f"Redis does not take the new certificate: {error}. See {LOG}") from None
        self.note("certificate", "certificate: the one before", "certificate: the one of the file")


class WrongError(Exception):
    """Something that is wanted cannot be."""


def lines(text: str) -> list[str]:
    """Return the lines that say something."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def same(one: str, other: str) -> bool:
    """Tell whether two values of a setting are the same: 1gb is 1073741824."""
    ours, theirs = ([in_bytes(word) for word in value.lower().split()] for value in (one, other))
    # Of client-output-buffer-limit Redis tells all classes, and one may be set.
    return ours == theirs or (len(ours) == 12 and any(ours[at : at + 4] == theirs for at in (0, 4, 8)))


def in_bytes(word: str) -> str:
    """Return what redis.conf means by a size such as 1gb."""
    found = re.fullmatch(r"(\d+)([kmg]?b?)", word)
    return str(int(found[1]) * UNITS.get(found[2], 1)) if found else word


def shown(name: str, value: str) -> str:
    """Return what everybody may see of a setting."""
    return "(secret)" if re.search("pass|auth", name) and value else value


def rights(line: str) -> list[list[str]]:
    """Return what a user may, of a line as Redis writes it: subcommands stand in any order there."""
    parts = re.findall(r"\([^)]*\)|[^\s()]+", line)
    return sorted(sorted(part.strip("()").split()) for part in parts)


def is_off(rules: list[str]) -> bool:
    """Tell whether a user is turned off."""
    return "off" in rules


def hashes(rules: list[str]) -> set[str]:
    """Return the passwords among a user's rules."""
    return {rule for rule in rules if rule.startswith("#")}


def without_hashes(rules: list[str] | None) -> list[str]:
    """Return a user's rules but for the passwords."""
    return [rule for rule in rules or [] if not rule.startswith("#")]


def remains(now: list[str], wanted: list[str] | None) -> bool:
    """Tell whether a user has what it is to lose."""
    return wanted is None or bool(hashes(now) - hashes(wanted)) or (is_off(wanted) and not is_off(now))


def same_login(now: list[str], written: list[str] | None) -> bool:
    """Tell whether the file of users lets a user in by all that the server does."""
    return written is not None and hashes(now) <= hashes(written) and is_off(now) == is_off(written)


def masked(line: str, other: str, age: str) -> str:
    """Return a user's line without its passwords, with what became of them."""
    known = hashes(other.split())
    words = (
        word if not word.startswith("#") else "#(password)" if word in known else f"#({age} password)"
        for word in line.split()
    )
    return " ".join(words)


def read_users(path: Path) -> dict[str, list[str]]:
    """Return the users that were written last, each with its rules."""
    return parse_users(path.read_text(encoding="utf-8") if path.exists() else "")


def parse_users(text: str) -> dict[str, list[str]]:
    """Return the users of such a file's lines, each with its rules."""
    return {line.split()[1]: line.split()[2:] for line in lines(text)}


def keep_password(etc: Path) -> None:
    """Note the operator's password as one that the server knows."""
    fresh = etc / ".admin.new"
    fresh.write_text((etc / "admin.password").read_text(encoding="utf-8"), encoding="utf-8")
    fresh.replace(etc / ".admin.password")


def connect(options: dict) -> Redis | None:
    """Return the server, or None where none is to be there."""
    if options["if_running"] and not Path(options["etc"], ".admin.password").exists():
        return None
    try:
        return local(0 if options["if_running"] else options["patience"], options["etc"], options["socket"])
    except NoAnswerError:
        if options["if_running"]:
            return None
        raise


def main() -> None:
    """Apply, and tell what was different."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"default": ""},
            "users": {"no_log": True},
            "beside": {"type": "bool", "default": False},
            "reload_certificate": {"type": "bool", "default": False},
            "if_running": {"type": "bool", "default": False},
            "patience": {"type": "float", "default": 60},
            "etc": {"type": "path", "default": str(ETC)},
            "socket": {"type": "path", "default": SOCKET},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    options = module.params
    try:
        redis = connect(options)
    except (NoAnswerError, RedisError) as error:
        module.fail_json(msg=str(error))
    host = Host(redis, options, check=module.check_mode)
    try:
        if redis:
            host.apply_settings()
            if options["users"] is not None:
                host.apply_users()
            host.apply_certificate()
        elif module.check_mode and options["users"] is not None:
            host.foresee_users()
    except (WrongError, NoAnswerError, RedisError) as error:
        module.fail_json(msg=str(error), names=host.names)
    if redis and options["users"] is not None and not module.check_mode:
        keep_password(Path(options["etc"]))
    before, after = ("".join(f"{line}\n" for line in part) for part in (host.before, host.after))
    module.exit_json(
        changed=bool(host.names),
        names=host.names,
        pending=host.pending,
        ended=host.ended,
        diff={"before": before, "after": after, "before_header": "Redis", "after_header": "Redis"},
    )


if __name__ == "__main__":
    main()
