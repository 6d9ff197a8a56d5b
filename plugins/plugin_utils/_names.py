# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of variables and groups: which the collection knows, and which of an inventory are misspelt."""

from __future__ import annotations

from collections import namedtuple
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.plugin_utils._yaml import COLLECTION, read_yaml

# Whoever writes these means us. Other collections have image_, release_ and lock_, too.
PREFIXES = ("orbiter_", "redis_", "temporal_", "worker_")
# What our tasks set themselves, as a play before this one.
MADE = frozenset(
    ("image_reference", "packages_done", "release_archives", "release_built", "release_verified", "release_version")
)
# Where Ansible puts the words after -e that have no name.
LOOSE = "_raw_params"
# A name has to be longer than this to be compared: few letters are soon alike.
SHORT = 7
NEAR = 2
# The groups of hosts, by the kind of what they run, and the variable that names another pattern of hosts.
GROUPS = {
    "redis": ("redis", "orbiter_redis_hosts"),
    "workers": ("workers", "orbiter_worker_hosts"),
    "temporal": ("temporal", "orbiter_temporal_hosts"),
    "monitoring": ("monitoring", "orbiter_monitoring_hosts"),
}
# The folders of variables in an inventory. Of what has one name there, Ansible reads the first of these endings alone.
VARIABLES = ("group_vars", "host_vars")
ENDINGS = ("", ".yml", ".yaml", ".json")
# What is found: names by kind, and what to say of them.
Found = namedtuple("Found", "misspelt unknown error warning")


@lru_cache(maxsize=1)
def known_names():
    """Return the names of all variables that roles and playbooks of this collection document."""
    found = set()
    for path in (*COLLECTION.glob("roles/*/meta/argument_specs.yml"), COLLECTION / "playbooks/meta/argument_specs.yml"):
        for entry in read_yaml(path)["argument_specs"].values():
            found.update(entry.get("options") or ())
    return frozenset(found)


def listed(names):
    """Return the patterns of a list, or of a text with commas, as after -e; nothing where it is neither."""
    if isinstance(names, str):
        names = names.split(",")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    return [name.strip() for name in names]


def distance(one, other, most):
    """Return how many letters must be added, dropped or replaced to make one of the other, or more than ``most``."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        above, row = row, [number]
        for column, against in enumerate(other, 1):
            row.append(min(above[column] + 1, row[-1] + 1, above[column - 1] + (letter != against)))
        if min(row) > most:
            return most + 1
    return row[-1]


def compare(given, known, ignore):
    """Compare the names of an inventory with those that are known.

    Args:
        given: The names of variables, by host.
        known: The names that are known.
        ignore: Patterns of names that are somebody else's.

    Returns:
        Two values: the misspelt names, each with the known ones that may be `meant` and the `hosts` that have it; and,
        sorted, the names that begin as ours do and are near none.
    """
    hosts_of = {}
    for host in sorted(given):
        for name in given[host]:
            hosts_of.setdefault(name, []).append(host)
    misspelt, unknown = {}, []
    for name, hosts in sorted(hosts_of.items()):
        if name in known or name in MADE or any(fnmatchcase(name, pattern) for pattern in ignore):
            continue
        near = {one: distance(name, one, NEAR) for one in known if len(name) > SHORT}
        best = min(near.values(), default=NEAR + 1)
        if best <= NEAR:
            meant = sorted(one for one, far in near.items() if far == best)
            misspelt[name] = {"meant": meant, "hosts": hosts}
        elif name.startswith(PREFIXES):
            unknown.append(name)
    return misspelt, unknown


def look(hostvars, hosts, ignored):
    """Look for misspelt names in what hosts of an inventory have.

    Args:
        hostvars: The variables of all hosts, as Ansible has them.
        hosts: The names of the hosts.
        ignored: Patterns of names that are somebody else's, as a list or a text with commas.
    """
    ignore = listed(ignored)
    if ignore is None:
        error = (
            f"orbiter_ignore_variables is {ignored} and must be a list of names, such as [redis_exporter_*], or a text "
            "with commas."
        )
        return Found({}, [], error, "")
    # As they stand: nothing is templated, so that a name is found also where its value cannot be had.
    misspelt, unknown = compare({host: list(hostvars.raw_get(host)) for host in hosts}, known_names(), ignore)
    error = warning = ""
    if loose := next((raw[LOOSE] for raw in map(hostvars.raw_get, hosts) if LOOSE in raw), ""):
        # Ansible takes what it is given after -e apart at spaces, and the shell has taken the quotes away.
        error = (
            f"After -e stands '{loose}', which is of no variable. A value with spaces needs quotes within quotes, such "
            "as -e \"exec_command='orbiter queue info'\"."
        )
        return Found({}, [], error, "")
    folders = {str(hostvars.raw_get(host).get("inventory_dir") or "") for host in hosts} - {""}
    if files := [pair for folder in sorted(folders) for pair in unread(folder)]:
        said = "; ".join(f"{file}, as there is {read}" for file, read in files)
        error = f"Ansible does not read {said}. Move what stands in the first into the second, and remove the first."
        return Found({}, [], error, "")
    if unknown:
        warning = (
            f"The inventory has variables that orbiter.fleet does not know: {', '.join(unknown)}. Where they are "
            "your own, name them in orbiter_ignore_variables (with * for any letters)."
        )
    if misspelt:
        said = "; ".join(
            f"{name} (of {of_hosts(one['hosts'])}): did you mean {' or '.join(one['meant'])}?"
            for name, one in misspelt.items()
        )
        error = (
            f"The inventory has variables that nothing reads: {said} Correct them, or, where they are your own, name "
            f"them in orbiter_ignore_variables: {sorted(misspelt)}."
        )
    return Found(misspelt, unknown, error, warning)


def unread(folder):
    """Yield the files of variables in an inventory's folder that Ansible passes over, each with what it reads instead.

    Where there is a folder group_vars/all, it reads no group_vars/all.yml, and says nothing.
    """
    for kind in VARIABLES:
        for first in sorted(Path(folder, kind).glob("*")):
            name = first.name if first.is_dir() else first.stem
            there = [path for path in (first.with_name(name + ending) for ending in ENDINGS) if path.exists()]
            if first in there[:1]:
                for path in there[1:]:
                    if path.is_file():
                        yield f"{kind}/{path.name}", f"{kind}/{first.name}{'/' * first.is_dir()}"


def wrong_groups(groups, kinds, patterns, ignored):
    """Yield what is wrong with the groups of an inventory: hosts in one that is misspelt, a pattern of no host.

    Args:
        groups: The hosts of each group.
        kinds: The hosts that run redis, workers, temporal and monitoring, by that word.
        patterns: The variables of an inventory.
        ignored: Patterns of names that are somebody else's, as a list or a text with commas.
    """
    served = {host for hosts in kinds.values() for host in hosts}
    meant = {}
    for kind, (group, variable) in GROUPS.items():
        if variable not in patterns:
            meant[group] = variable
        elif not kinds[kind] and kind != "redis":  # of which another rule counts the hosts
            yield (
                f"{variable} is '{patterns[variable]}', and no host of the inventory is of that name or group. Correct "
                "it, or leave it out."
            )
    for name, hosts in sorted(groups.items()):
        left = [host for host in hosts if host not in served]
        if not left or name in GROUPS or any(fnmatchcase(name, pattern) for pattern in listed(ignored) or ()):
            continue
        near = [group for group in meant if _alike(name, group)]
        if near:
            yield (
                f"The inventory has a group that nothing reads: {name} (with {of_hosts(left)}): did you mean "
                f"{near[0]}? Rename it, or, where it is your own, name it in orbiter_ignore_variables: ['{name}']."
            )


def _alike(name, group):
    """Tell whether a group was probably meant: letters too few, too many, wrong or swapped, or its end left out."""
    return (
        distance(name, group, NEAR) <= (NEAR if len(group) >= SHORT else 1)
        or sorted(name) == sorted(group)
        or (len(name) >= SHORT and group.startswith(name))
    )


def of_hosts(hosts):
    """Return the names of up to three hosts as text, and how many more there are."""
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
