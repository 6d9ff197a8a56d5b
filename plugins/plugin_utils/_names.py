# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of variables: which the collection knows, and which of an inventory are misspelt."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import yaml

COLLECTION = Path(__file__).parents[2]
# Whoever writes these means us. Other collections have image_, release_ and lock_, too.
PREFIXES = ("orbiter_", "redis_", "temporal_", "worker_")
# What our tasks set themselves, as a play before this one.
MADE = frozenset(("image_reference", "packages_done", "release_archives", "release_version"))
# A name has to be longer than this to be compared: few letters are soon alike.
SHORT = 7
NEAR = 2


@lru_cache(maxsize=1)
def known_names():
    """Return the names of all variables that roles and playbooks of this collection document."""
    found = set()
    for path in (*COLLECTION.glob("roles/*/meta/argument_specs.yml"), COLLECTION / "playbooks/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
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
