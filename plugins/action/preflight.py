# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks what an inventory says: the action of the module of this name, on the controller."""

from __future__ import annotations

from contextlib import suppress

from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.display import Display
from ansible_collections.orbiter.fleet.plugins.plugin_utils import _names, _rules
from ansible_collections.orbiter.fleet.plugins.plugin_utils._values import (
    UnresolvedError,
    Values,
    defaults_of,
    options_of,
    same,
    type_error,
    type_errors,
)

display = Display()
# What Ansible gives a task beside the variables of its host and its play.
OWN = ("environment", "vars")
ABSENT = object()


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(
        ("elsewhere", "ignore", "monitoring", "only", "redis", "role", "shared", "temporal", "workers")
    )

    def run(self, tmp=None, task_vars=None):
        """Return what the documentation promises."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        report = Report(args.get("only") or ())
        if args.get("role"):
            host = task_vars["inventory_hostname"]
            report.role(args["role"], {host: self.values(task_vars)}, self._loader)
        else:
            self.fleet(task_vars, args, report)
        for warning in report.warnings:
            display.warning(warning)
        result.update(changed=False, **({"failed": True, "msg": report.text()} if report.errors else {}))
        return result

    def values(self, variables):
        """Return the values that variables have."""
        return Values(variables, Templar(loader=self._loader, variables=variables).template)

    def fleet(self, task_vars, args, report):
        """Check all hosts of an inventory."""
        hosts = task_vars["ansible_play_hosts_all"]
        groups = {name: list(args.get(name) or []) for name in (*_names.GROUPS, "elsewhere")}
        # Before any value: what is misspelt is not there, and would be said to be missing.
        names(groups, task_vars, args.get("ignore") or [], report)
        if report.errors:
            return
        here = self.values(task_vars)
        counts(groups, here, report)
        report.rule("", _rules.canary, here)
        inventory = Inventory(self.values, self._loader, task_vars, args.get("shared") or [])
        redis = groups["redis"]
        first = inventory.of("redis", redis[0]) if redis else None
        dashboards = report.enabled(
            "dashboard",
            "dashboard_enabled",
            {host: inventory.of("dashboard", host) for host in groups["monitoring"] if host in hosts},
        )
        raw = task_vars["hostvars"].raw_get
        nodes = report.enabled(
            "monitoring",
            "monitoring_node_exporter",
            {
                host: inventory.of("monitoring", host)
                for host in dict.fromkeys((*redis, *groups["workers"]))
                if host in hosts and host not in groups["monitoring"] and "monitoring_node_exporter" in raw(host)
            },
        )
        # Those that are not told of a Redis that is somebody else's.
        watching = [host for host in dashboards if "dashboard_redis_url" not in raw(host)]
        if first:
            report.warn(*readable(first, groups, watching))
        for role in ("redis", "temporal", "worker", "monitoring"):
            wanted = groups["workers" if role == "worker" else role]
            checked = {host: inventory.of(role, host) for host in wanted if host in hosts}
            report.role(role, checked, self._loader)
            for host, values in checked.items():
                if role == "worker":
                    if first and host not in groups["elsewhere"]:
                        report.rule(host, _rules.served, values, first)
                elif role in ("redis", "temporal"):
                    report.rule(host, _rules.firewall, values)
        for host, values in nodes.items():
            report.rule(host, _rules.node_exporter, values)
        if nodes and not groups["monitoring"]:
            report.warn(
                f"{_names.of_hosts(list(nodes))}: monitoring_node_exporter is on, and no host of the inventory would "
                "read it, so none is installed. Put a host into the group monitoring (docs/monitoring.md), or leave "
                "monitoring_node_exporter out."
            )
        report.role("dashboard", dashboards, self._loader)
        for host in watching if first else ():
            report.rule(host, _rules.watched, dashboards[host], first)
        if len(redis) > 1:
            report.agreement({host: inventory.of("redis", host) for host in redis})


class Inventory:
    """The values of all hosts of an inventory."""

    def __init__(self, values, loader, task_vars, shared):
        self._values, self._loader, self._hostvars = values, loader, task_vars["hostvars"]
        own = self._hostvars.raw_get(task_vars["inventory_hostname"])
        # What the play has beside its hosts: its variables, and those of its files.
        self._play = {
            name: value
            for name, value in task_vars.items()
            if name not in OWN and not same(own.get(name, ABSENT), value)
        }
        here = values(task_vars)
        for name in shared:
            # Some of these look at every host. Where one cannot be resolved, whoever needs it says so.
            with suppress(UnresolvedError):
                self._play[name] = here[name]
        self._known = {}

    def of(self, role, host):
        """Return the values that the variables of a role have for a host."""
        if (role, host) not in self._known:
            defaults = defaults_of(role, self._loader)
            raw = self._hostvars.raw_get(host)
            self._known[role, host] = self._values({**defaults, **raw, **self._play})
        return self._known[role, host]


class Report:
    """What is wrong, and what is to be said besides."""

    def __init__(self, only):
        self.errors, self._only = {}, only
        self.warnings = []

    def add(self, host, name, sentence):
        """Take what is wrong with a variable of a host, or of the whole inventory."""
        if self._only and name not in self._only:
            return
        hosts = self.errors.setdefault((name, sentence), [])
        if host not in hosts:
            hosts.append(host)

    def warn(self, *sentences):
        """Take what is to be said, and is not wrong."""
        self.warnings += [sentence for sentence in sentences if sentence]

    def rule(self, host, rule, *values):
        """Check one rule; return the names of the variables that break it."""
        broken = set()
        try:
            for name, sentence in rule(*values):
                self.add(host, name, sentence)
                broken.add(name)
        except UnresolvedError as error:
            self.add(host, error.name, f"{error}. Set it to what can be resolved.")
            broken.add(error.name)
        return broken

    def enabled(self, role, name, hosts):
        """Return those of the hosts that a boolean of a role is on for; what is neither yes nor no is wrong."""
        option = options_of(f"roles/{role}")[name]
        found = {}
        for host, values in hosts.items():
            try:
                wanted = values[name]
            except UnresolvedError as error:
                self.add(host, error.name, str(error))
                continue
            if wrong := type_error(name, option, wanted):
                self.add(host, name, wrong)
            elif _rules.yes(wanted):
                found[host] = values
        return found

    def role(self, role, hosts, loader):
        """Check the types and the rules of a role's variables, for the hosts that have it."""
        options, defaults = options_of(f"roles/{role}"), defaults_of(role, loader)
        for host, values in hosts.items():
            broken = set()
            for rule in _rules.RULES[role]:
                broken |= self.rule(host, rule, values)
            for name, sentence in type_errors(values, options, defaults, not values.get("ansible_facts")):
                if name not in broken:
                    self.add(host, name, sentence)
        if role == "worker":
            self.own_of_tasks(hosts.values())

    def own_of_tasks(self, all_values):
        """Say which names in the environment of workers are those of tasks: once for all hosts."""
        names = set()
        for values in all_values:
            with suppress(UnresolvedError):  # which was said
                names |= _rules.tasks_own(values)
        if names:
            self.warn(
                f"worker_extra_env has {', '.join(sorted(names))}: it is for settings of the worker (ORBITER_*, "
                "TEMPORAL_*, OTEL_*). Move them into worker_task_env, the environment of tasks. They still work where "
                "they are, but a later release may refuse them."
            )

    def agreement(self, hosts):
        """Check that the members of a group have the same settings."""
        with suppress(UnresolvedError):  # which was said
            for host, name, sentence in _rules.agreed(hosts):
                self.add(host, name, sentence)

    def text(self):
        """Return all that is wrong, a line each."""
        return "\n".join(
            f"{_names.of_hosts(hosts)}: {sentence}" if hosts != [""] else sentence
            for (dummy, sentence), hosts in self.errors.items()
        )


def names(groups, task_vars, ignore, report):
    """Check the names of variables and groups."""
    found = _names.look(task_vars["hostvars"], task_vars["ansible_play_hosts_all"], ignore)
    report.warn(found.warning)
    for sentence in (*_names.wrong_groups(task_vars["groups"], groups, task_vars, ignore), found.error):
        if sentence:
            report.add("", "", sentence)


def counts(groups, values, report):
    """Check how many hosts there are of a kind."""
    redis, workers, temporal, elsewhere = (groups[name] for name in ("redis", "workers", "temporal", "elsewhere"))
    # With none, every worker host must be told of a Redis that is somebody else's.
    if len(redis) % 2 == 0 and not (not redis and workers and len(elsewhere) == len(workers)):
        report.add(
            "",
            "orbiter_redis_hosts",
            f"The inventory has {len(redis)} hosts in '{values.get('orbiter_redis_hosts', 'redis')}' and needs one, "
            "which holds the queue, or three, five or seven, which replicate it. Put them into that group, or name "
            "another group by orbiter_redis_hosts, or, for a Redis that is not Ansible's, set orbiter_redis_url. See "
            "inventories/example/hosts.yml.",
        )
    if len(temporal) > 1:
        report.add(
            "",
            "orbiter_temporal_hosts",
            f"The inventory has {len(temporal)} hosts in the group of Temporal, and its server runs on one. Leave one "
            "there, or none, and name a Temporal cluster of your own by temporal_host.",
        )


def readable(redis, groups, watching):
    """Yield what it means that Redis has no TLS, where others can read along."""
    first = groups["redis"][0]
    served = [host for host in groups["workers"] if host not in groups["elsewhere"]]
    callers = [host for host in dict.fromkeys((*groups["redis"][1:], *served, *watching)) if host != first]
    try:
        tls = _rules.yes(redis["redis_tls"])
    except UnresolvedError:
        return  # which is said as an error
    if callers and not tls:
        others = "the other hosts" if len(callers) > 1 else callers[0]
        yield (
            f"{', '.join(groups['redis'])}: Redis speaks no TLS (redis_tls is false), so passwords, tasks and results "
            f"can be read by whoever reads along in the network between it and {others}; a new fleet gets TLS "
            "without redis_tls: false, one that runs by orbiter.fleet.redis_tls (docs/secure-tls.md)."
        )
