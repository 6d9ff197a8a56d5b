# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One page of what a fleet's hosts say of their workers."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_page
short_description: One page of what a fleet's hosts say of their workers
version_added: 0.2.0
description:
  - Makes a page for people, and the same for programs, of what M(orbiter.fleet.worker_status) said on each host.
options:
  _input:
    description: The module's results, by host. One that failed, or could not be had, says why.
    type: dict
    required: true
  part:
    description: Whether these are not all hosts of the inventory. Nobody is a stranger then.
    type: bool
    default: false
  deploys:
    description: The last deploys, as M(orbiter.fleet.deploy_lock) returns them. The page has the first five.
    type: list
    elements: dict
    default: []
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
seealso:
  - module: orbiter.fleet.worker_status
"""

EXAMPLES = r"""
- name: Look at the hosts
  orbiter.fleet.worker_status:
  register: said
  failed_when: false

- name: Show them
  ansible.builtin.debug:
    msg: "{{ (dict(hosts | zip(hosts | map('extract', hostvars, 'said'))) | orbiter.fleet.fleet_page)['page'] }}"
  vars:
    hosts: "{{ ansible_play_hosts }}"
  run_once: true
"""

RETURN = r"""
_value:
  description:
    - C(page) has the lines for people.
    - C(state) has all of it for programs, C(well), C(queue), C(strangers) (workers of no host here), C(deploys)
      and C(hosts).
  type: dict
"""

import datetime as dt
from collections import Counter

from ansible_collections.orbiter.fleet.plugins.module_utils._command import inert

SILENT = {"release": "", "previous": "", "drained": "", "instances": [], "workers": [], "queue": None}
DEPLOYS = 5
DEPLOY_TITLES = ("DEPLOY", "BEGAN", "RELEASE", "BY", "OUTCOME")
TITLES = ("HOST", "RELEASE", "WELL", "BUSY", "DONE", "FAILED")
# Of a name; a longer one is shortened in the table.
WIDEST = 40


def said(result):
    """Return a host's answer; one that has none says why in `trouble`."""
    if "trouble" in result:
        return {name: result[name] for name in (*SILENT, "trouble")}
    reason = result.get("module_stderr") or result.get("msg") or "no answer"
    return SILENT | {"trouble": "unreachable" if result.get("unreachable") else str(reason).strip().splitlines()[-1]}


def unwell(host):
    """Return what is wrong with a host; a drained one is as it should be."""
    if host["trouble"]:
        return [host["trouble"].splitlines()[-1]]
    if not host["release"]:
        return ["nothing is deployed"]
    wrong = [f"{one['unit'].removesuffix('.service')} {one['wrong']}" for one in host["instances"] if one["wrong"]]
    return wrong if wrong or host["instances"] or host["drained"] else ["no instances"]


def strangers(hosts):
    """Return the workers that live and are of no host here. While one of these is silent, that is not known."""
    if any(host["trouble"] for host in hosts.values()):
        return []
    ours = {one["worker_id"] for host in hosts.values() for one in host["instances"]}
    every = {worker["worker_id"]: worker for host in hosts.values() for worker in host["workers"]}
    return [worker for name, worker in sorted(every.items()) if name not in ours]


def short(name):
    """Return a name that fits its column."""
    half = (WIDEST - 3) // 2
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 3 - half]}...{name[-half:]}"


def row(name, host):
    """Return a host's cells."""
    every = host["instances"]
    well = [one for one in every if not one["wrong"]]
    counts = [sum(int(one[field] or 0) for one in every) for field in ("active", "tasks_processed", "tasks_failed")]
    return [short(inert(name)), short(inert(host["release"] or "-")), f"{len(well)} of {len(every)}", *map(str, counts)]


def deploy_row(deploy):
    """Return a deploy's cells."""
    at = deploy["began"] or deploy["ended"]
    began = dt.datetime.fromtimestamp(at, tz=dt.timezone.utc).strftime("%Y-%m-%d %H:%M") if at else "-"
    who = f"{deploy['user'] or '?'}@{deploy['controller'] or '?'}"
    # Of one that moves workers from one to another, the last.
    release = deploy["release"].rpartition(", ")[2]
    words = (deploy["playbook"].removeprefix("orbiter.fleet."), began, release, who, deploy["outcome"] or "no end yet")
    return [short(inert(word or "-")) for word in words]


def table(rows, left=2):
    """Return rows as lines, with columns as wide as what is in them; those after the first ones keep to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " ".join(cell.ljust(width) if at < left else cell.rjust(width + 1) for at, (cell, width) in enumerate(cells))
        for cells in (list(zip(each, widths, strict=True)) for each in rows)
    ]


def lines(hosts, queue, others, deploys):
    """Return the page."""
    found = ["No host could ask Redis for the queue"]
    if queue:
        oldest = f", the oldest for {queue['oldest_waiting']:.0f} s" if queue["oldest_waiting"] else ""
        found = [
            f"Queue {queue['queue']}, {queue['busy']} of {queue['slots']} slots busy",
            f"{queue['waiting']} waiting{oldest}",
            f"{queue['running']} running, {queue['delayed']} delayed, {queue['dead']} dead letters",
        ]
    found += ["", *table([TITLES, *(row(name, host) for name, host in hosts.items())]), ""]
    if deploys:
        rows = [DEPLOY_TITLES, *map(deploy_row, deploys[:DEPLOYS])]
        found += [*(one.rstrip() for one in table(rows, left=len(DEPLOY_TITLES))), ""]
    found += [f"{name} is drained {host['drained']}" for name, host in hosts.items() if host["drained"]]
    bad = [f"{name} needs attention, {wrong}" for name, host in hosts.items() for wrong in unwell(host)]
    bad += [
        f"{name} is not in the inventory, and works, {count} worker{'s' * (count > 1)}"
        for name, count in Counter(worker["hostname"] for worker in others).items()
    ]
    return [inert(line) for line in (*found, *(bad or ["All is well"]))]


def fleet_page(results, part=False, deploys=()):
    """Return the page and the state."""
    hosts = {name: said(result) for name, result in results.items()}
    queue = next((host["queue"] for host in hosts.values() if host["queue"]), None)
    others = [] if part else strangers(hosts)
    shown = {name: {key: value for key, value in host.items() if key != "workers"} for name, host in hosts.items()}
    well = not others and not any(unwell(host) for host in hosts.values())
    return {
        "page": lines(hosts, queue, others, deploys),
        "state": {"well": well, "queue": queue, "strangers": others, "deploys": list(deploys), "hosts": shown},
    }


class FilterModule:
    """The filter."""

    def filters(self):
        """Return it by its name."""
        return {"fleet_page": fleet_page}
