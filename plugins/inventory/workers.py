# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts on which workers live, from their heartbeats in Redis."""

from __future__ import annotations

DOCUMENTATION = r"""
name: workers
short_description: Hosts on which workers live
version_added: 0.2.0
description:
  - Asks Redis for the workers that live, and makes a host of each machine that they live on, with groups of queues and
    namespaces. Beside an inventory that says what there should be, this one says what there is.
  - A host has the name that it gives itself. Of a worker in a container, whose host name means nothing, that is its
    instance, where the role P(orbiter.fleet.worker#role) and C(ORBITER_INSTANCE) put the host's name.
  - The name of its file ends in C(orbiter_workers.yml) or C(orbiter_workers.yaml).
  - Needs a user of Redis who may read heartbeats, as C(monitor) may, and no Redis library.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Says that the file is this plugin's.
    type: str
    required: true
    choices: [orbiter.fleet.workers]
  redis_url:
    description:
      - Where Redis is, such as C(redis://monitor@redis1:6379/0), or C(rediss://...) with TLS. Of a group, any member
        will do.
      - The password may be in it, and is better given by O(password_file) or O(password). TLS options may be in it as
        in the URL of workers, C(ssl_ca_certs), C(ssl_certfile), C(ssl_keyfile) and C(ssl_check_hostname).
    type: str
    required: true
    env:
      - name: ORBITER_REDIS_URL
  password:
    description: The password of the URL's user. Instead of the one in the URL.
    type: str
    env:
      - name: ORBITER_REDIS_PASSWORD
  password_file:
    description: File with the password, in its first line. Instead of O(password).
    type: path
    env:
      - name: ORBITER_REDIS_PASSWORD_FILE
  ca:
    description: File with the authority that Redis' certificate is checked by. Without one, those of the system.
    type: path
    env:
      - name: ORBITER_REDIS_CA
  namespaces:
    description: The namespaces to ask for, the first words of keys.
    type: list
    elements: str
    default: [orbiter]
    env:
      - name: ORBITER_NAMESPACE
  group:
    description: Name of the group that all hosts are in.
    type: str
    default: orbiter_workers
  timeout:
    description: Seconds that an answer of Redis takes at most.
    type: float
    default: 10
notes:
  - Every host has the variables C(fleet_workers), a list with C(worker_id), C(instance), C(unit), C(namespace),
    C(queue), C(state), C(version), C(concurrency), C(active) and C(pid) of each of its workers, C(fleet_hostname),
    C(fleet_machine_id), C(fleet_instances), C(fleet_slots), C(fleet_busy), C(fleet_queues), C(fleet_namespaces),
    C(fleet_states) and C(fleet_versions). What workers say is never taken for a template.
  - A worker that has given no sign of life for a minute is not there, nor is one whose host name is none.
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
# inventories/live/orbiter_workers.yml
plugin: orbiter.fleet.workers
redis_url: rediss://monitor@redis1.example.net:6379/0
ca: /etc/orbiter/redis-ca.pem
password_file: ~/.orbiter-monitor-password
namespaces: [orbiter, acme]
# Where Ansible finds a host, and groups of releases, and of hosts that drain.
compose:
  ansible_host: fleet_hostname ~ '.example.net'
keyed_groups:
  - {key: fleet_versions, prefix: version}
groups:
  draining: "'draining' in fleet_states"
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/orbiter-workers
cache_timeout: 60
"""

import re
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from ansible.errors import AnsibleParserError
from ansible.inventory.group import to_safe_group_name
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.orbiter.fleet.plugins.module_utils._command import inert
from ansible_collections.orbiter.fleet.plugins.module_utils._redis import NoAnswerError, Redis, RedisError

ENDINGS = ("orbiter_workers.yml", "orbiter_workers.yaml")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}|\{[A-Za-z0-9_.-]{1,64}\}")
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TEXTS = ("worker_id", "instance", "unit", "hostname", "machine_id", "queue", "state", "version")
NUMBERS = ("concurrency", "active", "pid")
# Seconds after which a worker that has said nothing is not there; one that beats more rarely is given its own time.
SILENT = 60.0


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The plugin."""

    NAME = "orbiter.fleet.workers"

    def verify_file(self, path):
        """Tell whether a file is this plugin's."""
        return super().verify_file(path) and path.endswith(ENDINGS)

    def parse(self, inventory, loader, path, cache=True):
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        self.load_cache_plugin()
        key, wanted = self.get_cache_key(path), self.get_option("cache")
        rows = self._cache.get(key) if wanted and cache else None
        if rows is None:
            rows = self._ask()
            if wanted:
                self._cache[key] = rows
        for name, workers in sorted(self._hosts(rows).items()):
            self._add(name, workers)

    def _ask(self):
        """Return the heartbeats of all workers that live."""
        place, login, context = self._where()
        namespaces = self.get_option("namespaces")
        if wrong := [one for one in namespaces if not NAMESPACE.fullmatch(one)]:
            raise AnsibleParserError(
                f"namespaces has {wrong[0]!r}; a namespace is 1 to 64 letters, digits, or any of _ . -, all of it in "
                "braces or not."
            )
        try:
            with Redis(place, tls=context, timeout=self.get_option("timeout"), **login) as redis:
                return [row for namespace in namespaces for row in heartbeats(redis, namespace)]
        except (NoAnswerError, RedisError) as error:
            said = f"Redis at {place[0]} port {place[1]} says: {error}" if isinstance(error, RedisError) else str(error)
            raise AnsibleParserError(
                f"{inert(said)}. Check redis_url, the password, and that its user may read heartbeats, as monitor may."
            ) from None

    def _where(self):
        """Return where Redis is, how to log in, and how to encrypt. No error tells the URL."""
        url = self.get_option("redis_url")
        try:
            parts = urlsplit(url)
            place = parts.hostname, parts.port or 6379
        except ValueError:
            parts = place = None
        if place is None or parts.scheme not in ("redis", "rediss") or not place[0]:
            raise AnsibleParserError(
                "redis_url is none of redis://USER@HOST:PORT/0 and rediss://USER@HOST:PORT/0 (it is not shown, as it "
                "may hold a password). Of a group that Sentinel watches, name one of the members."
            )
        password = self._password() or (unquote(parts.password) if parts.password else None)
        login = {"password": password, "user": unquote(parts.username) if parts.username else None}
        return place, login, self._encryption(parts) if parts.scheme == "rediss" else None

    def _password(self):
        """Return the password that is given beside the URL, or None."""
        file = self.get_option("password_file")
        if not file:
            return self.get_option("password")
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise AnsibleParserError(f"password_file: cannot read {file}: {reason}") from None
        if not lines or not lines[0]:
            raise AnsibleParserError(f"password_file: the first line of {file} is empty; it must be the password.")
        return lines[0]

    def _encryption(self, parts):
        """Return how to encrypt: by the options of the URL, as workers have them, and the authority."""
        given = dict(parse_qsl(parts.query))
        files = {name: given[name] for name in TLS_FILES if name in given}
        if self.get_option("ca"):
            files["ssl_ca_certs"] = self.get_option("ca")
        files = {name: str(Path(path).expanduser()) for name, path in files.items()}
        try:
            context = ssl.create_default_context(cafile=files.get("ssl_ca_certs"))
            if "ssl_certfile" in files:
                context.load_cert_chain(files["ssl_certfile"], files.get("ssl_keyfile"), password="")
        except OSError as error:  # as ssl's own are
            raise AnsibleParserError(
                f"Cannot use the files of TLS ({', '.join(files.values()) or 'the authorities of the system'}): {error}"
            ) from None
        context.check_hostname = given.get("ssl_check_hostname", "true").lower() not in ("false", "no", "0")
        return context

    def _hosts(self, rows):
        """Return the workers of each host by its name."""
        hosts = {}
        for row in rows:
            name = host_of(row)
            if NAME.fullmatch(name):
                hosts.setdefault(name, []).append(row)
            else:
                self.display.warning(f"orbiter.fleet.workers: {inert(name)!r} of a heartbeat is no host name; left out")
        return hosts

    def _add(self, name, workers):
        """Make a host of its workers, unless Ansible has a group of that name."""
        if name in self.inventory.groups:
            self.display.warning(f"orbiter.fleet.workers: {name} of a heartbeat is the name of a group; left out")
            return
        every = self.inventory.add_group(to_safe_group_name(self.get_option("group"), force=True, silent=True))
        self.inventory.add_host(name, group=every)
        variables = wrap_var(variables_of(workers))
        for variable, value in variables.items():
            self.inventory.set_variable(name, variable, value)
        for kind in ("queue", "namespace"):
            for one in variables[f"fleet_{kind}s"]:
                group = self.inventory.add_group(to_safe_group_name(f"{kind}_{one}", force=True, silent=True))
                self.inventory.add_host(name, group=group)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def heartbeats(redis, namespace):
    """Return what the workers of a namespace that live say of themselves."""
    seconds, micros = redis.ask("TIME")
    now, rows = int(seconds) + int(micros) / 1e6, []
    for key in sorted(keys_of(redis, f"{namespace}:workers:")):
        try:
            answer = redis.ask("HGETALL", key)
        except RedisError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            continue  # somebody else's
        fields = dict(zip(answer[::2], answer[1::2]))  # noqa: B905 - as the answer has it
        if fields and now - number(fields.get("last_heartbeat"), now) < max(
            SILENT, number(fields.get("heartbeat_ttl"))
        ):
            row = {name: fields.get(name) or "" for name in TEXTS} | {
                name: int(number(fields.get(name))) for name in NUMBERS
            }
            rows.append({**row, "worker_id": key.partition(":workers:")[2], "namespace": namespace})
    return rows


def keys_of(redis, prefix):
    """Return the names of all keys that begin so."""
    found, cursor = set(), "0"
    while True:
        cursor, keys = redis.ask("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
        found.update(keys)
        if cursor == "0":
            return found


def number(text, otherwise=0.0):
    """Return a number of a heartbeat; what is none, or has no end, is the other value."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return otherwise
    return value if 0 <= value < 1e15 else otherwise


def host_of(row):
    """Return the name of a worker's host; in a container that is the label that it was given."""
    contained = not row["unit"] and not row["machine_id"] and row["instance"] and not row["instance"].isdigit()
    return row["instance"] if contained else row["hostname"]


def variables_of(workers):
    """Return the variables of a host."""

    def each(name):
        return sorted({row[name] for row in workers} - {""})

    return {
        "fleet_workers": [
            {name: value for name, value in row.items() if name not in ("hostname", "machine_id")} for row in workers
        ],
        "fleet_hostname": workers[0]["hostname"],
        "fleet_machine_id": workers[0]["machine_id"],
        "fleet_instances": len(workers),
        "fleet_slots": sum(row["concurrency"] for row in workers if row["state"] in ("running", "")),
        "fleet_busy": sum(row["active"] for row in workers),
        **{f"fleet_{name}s": each(name) for name in ("queue", "namespace", "state", "version")},
    }
