#!/usr/bin/python
# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a host's workers to what is wanted, one after another."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: worker_units
short_description: Bring a host's workers to what is wanted, one after another
version_added: 0.2.0
description:
  - Drains the instances above the wanted number, restarts those that started before their release, unit or settings
    last changed, starts what is missing, and waits until all are well. They are units of systemd.
  - That systemd says active is not enough. An instance is well when Redis holds a fresh heartbeat of its very
    process, which says that it is running, with the version of the release in use. It is known by its machine and
    unit, whatever the host is called.
  - Instances restart one after another, each when the one before it is well. A release that does not run costs one
    instance, and the others go on.
  - A new release, or new settings, are looked at twice (O(gate_settle)), and may be tried by a task (O(gate_task)).
  - When all is well, the release, the settings and the instances are kept as what is good, for
    M(orbiter.fleet.fleet_state).
options:
  instances:
    description: How many instances the host should run. A host that is drained runs none.
    type: int
    default: 0
  state:
    description:
      - With V(running), the instances run, unless the host is drained.
      - With V(drained), none does, and the host stays so, whatever is deployed and however often it boots, until
        V(undrained), which forgets that and is as V(running) then.
      - With V(absent), none does, and nothing starts at boot.
    type: str
    choices: [running, drained, undrained, absent]
    default: running
  reason:
    description: Why the host is drained, for those who wonder.
    type: str
    default: ""
  release:
    description: The release to use from now on, one of those installed. Without it, the one that is in use stays.
    type: str
    default: ""
  restart:
    description: Whether to restart all instances, whatever they started on.
    type: bool
    default: false
  name:
    description: How the host is called in messages.
    type: str
    default: ""
  gate_timeout:
    description: Seconds that instances get to be well.
    type: int
    default: 60
  gate_settle:
    description:
      - Seconds that instances with a new release, or new settings, must stay well after their start, in the same
        process.
      - Of instances that restart, first the first one alone, then all.
    type: int
    default: 0
  gate_task:
    description:
      - A task that must complete within O(gate_timeout) where a release or settings are new, after the second look.
      - It has an C(agent), and may have an C(input) and C(metadata), as M(orbiter.fleet.task) takes them.
      - It is in the host's queue, so that any worker of that queue may run it.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Tells what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the units and the release before and after.
    support: full
seealso:
  - module: orbiter.fleet.fleet_state
author:
  - The Orbiter Fleet authors (@orbiter-fleet)
"""

EXAMPLES = r"""
- name: Run four instances
  orbiter.fleet.worker_units:
    instances: 4

- name: Use a release, and have a task run before the next host is touched
  orbiter.fleet.worker_units:
    instances: 4
    release: 0.2.0-1f2e3d4c
    gate_settle: 10
    gate_task:
      agent: {runtime: callable, target: "demo_agent.steps:sleepy"}
      metadata: {seconds: 0.1}

- name: Take the host out of the fleet
  orbiter.fleet.worker_units:
    state: drained
    reason: more memory
"""

RETURN = r"""
stopped:
  description: Units that were drained and disabled, or would be.
  returned: always
  type: list
  elements: str
  sample: [orbiter-worker@3.service]
restarted:
  description: Units that were restarted, or would be.
  returned: always
  type: list
  elements: str
  sample: [orbiter-worker@1.service]
started:
  description: Units that were enabled and started, or would be.
  returned: always
  type: list
  elements: str
  sample: [orbiter-worker@2.service]
release:
  description: The release in use.
  returned: always
  type: str
  sample: 0.2.0-1f2e3d4c
drained:
  description: Since when and why the host is out of the fleet, or nothing.
  returned: always
  type: str
  sample: "since 2026-02-17 10:30 UTC: more memory"
task:
  description: The task that was tried.
  returned: when one was
  type: dict
  sample: {task_id: gate-3f2a90c1b7d4, status: completed}
tail:
  description: The end of the journal of what is not well, in lines.
  returned: when an instance is not well
  type: str
  sample: |-
    The end of the journal:
    2026-02-17T10:30:00+00:00 worker1 orbiter[812]: cannot reach Redis
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.orbiter.fleet.plugins.module_utils import _history, _systemd


class Host:
    """What is to become of a host.

    Args:
        params: The module's.
        seen: What ``_systemd.look`` has seen.
        before: The release in use, or nothing.
    """

    def __init__(self, params, seen, before):
        self.params, self.seen, self.before = params, seen, before
        self.drained = {"drained": self.seen["drained"] or note(params["reason"]), "undrained": ""}.get(
            params["state"], self.seen["drained"]
        )
        self.release = params["release"] or self.before
        # With the settings alone there is nothing to run yet.
        bare = self.seen["known"] and not self.release
        none = bool(self.drained or params["state"] == "absent" or bare)
        self.instances = [] if none else _systemd.names(params["instances"])
        wanted = set(self.instances) | (set() if none else {_systemd.TARGET})
        again = self.seen["running"] if params["restart"] or self.switches else self.seen["stale"]
        self.stop = sorted(self.seen["instances"] - wanted)
        self.restart = sorted(again & wanted)
        self.start = sorted(wanted - self.seen["complete"])
        self.stop_target = none and params["state"] != "running" and self.target_is_up(params["state"] == "absent")
        self.wanted = wanted
        self.task = None

    def target_is_up(self, at_boot):
        """Tell whether the target, which stops all instances together, is active, or starts at boot."""
        up = self.seen["state"][_systemd.TARGET] != "inactive" or (at_boot and _systemd.starts_at_boot())
        return up and _systemd.TARGET in self.seen["known"]

    @property
    def switches(self):
        """Tell whether another release comes into use."""
        return self.release != self.before

    @property
    def renotes(self):
        """Tell whether the host enters or leaves the fleet."""
        return bool(self.drained) != bool(self.seen["drained"])

    def result(self):
        """Return what is told of all this."""
        stop = self.stop + [_systemd.TARGET] * self.stop_target
        told = {"stopped": stop, "restarted": self.restart, "started": self.start}
        return {
            **told,
            "changed": any(told.values()) or self.switches or self.renotes,
            "release": self.release,
            "drained": self.drained,
            "diff": self.difference(stop),
            **({"task": self.task} if self.task else {}),
        }

    def difference(self, stop):
        """Return the units and the release before and after."""
        units = sorted(self.seen["instances"] | set(self.start) | set(stop))
        before = {unit: self.seen["state"].get(unit, "absent") for unit in units}
        changes = [(stop, "stopped"), (self.start, "started"), (self.restart, "restarted")]
        after = before | {unit: word for listed, word in changes for unit in listed}
        return {
            "before": lines(self.before, self.seen["drained"], before),
            "after": lines(self.release, self.drained, after),
            "before_header": "workers",
            "after_header": "workers",
        }

    def insist(self):
        """Refuse what cannot be done, before anything changes."""
        if self.wanted and not self.seen["known"]:
            raise _systemd.GateError(
                "nothing is deployed here, so nothing can start. Run the playbook orbiter.fleet.site for it first."
            )
        if self.switches:
            _systemd.previous(self.release)

    def bring(self):
        """Change what has to change, and wait until all are well."""
        timeout, settle = self.params["gate_timeout"], self.params["gate_settle"]
        if self.renotes:
            write_note(self.drained)
        if self.switches:
            _systemd.point_at(self.release)
        _systemd.stop(self.stop)
        if self.params["state"] == "absent":
            _systemd.stop([_systemd.TARGET] * self.stop_target)
        elif self.stop_target:
            _systemd.output("systemctl", "stop", _systemd.TARGET)
        if self.params["state"] in ("drained", "absent"):
            return
        _systemd.restart(self.restart, timeout, settle)
        _systemd.start(self.start)
        _systemd.wait(self.instances, timeout)
        if self.instances and _systemd.is_new():
            if settle:
                _systemd.stay(self.instances, settle)
                _systemd.wait(self.instances, timeout)
            if self.params["gate_task"]:
                self.task = _systemd.try_task(self.params["gate_task"], self.instances, timeout)
        if self.release and not self.drained:
            _systemd.keep(self.instances)


def lines(release, drained, units):
    """Return a host's workers as lines."""
    head = [f"release {release or '-'}"] + ([f"drained {drained}"] if drained else [])
    return "".join(f"{line}\n" for line in [*head, *(f"{unit} {state}" for unit, state in sorted(units.items()))])


def note(reason):
    """Return what is noted of a host that is drained now."""
    return time.strftime("since %Y-%m-%d %H:%M UTC", time.gmtime()) + (f": {reason}" if reason else "")


def write_note(text):
    """Note that the host is drained, or forget it."""
    if text:
        _history.DRAINED.parent.mkdir(mode=0o750, exist_ok=True)
        _history.DRAINED.write_text(f"{text}\n", encoding="utf-8")
    else:
        _history.DRAINED.unlink(missing_ok=True)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "int", "default": 0},
            "state": {"choices": ["running", "drained", "undrained", "absent"], "default": "running"},
            "reason": {"type": "str", "default": ""},
            "release": {"type": "str", "default": ""},
            "restart": {"type": "bool", "default": False},
            "name": {"type": "str", "default": ""},
            "gate_timeout": {"type": "int", "default": 60},
            "gate_settle": {"type": "int", "default": 0},
            "gate_task": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    changed = False
    try:
        host = Host(module.params, _systemd.look(), _systemd.release())
        if not module.check_mode:
            host.insist()
            changed = host.result()["changed"]
            host.bring()
    except _systemd.GateError as error:
        _systemd.fail(module, error, changed)
    if host.drained and module.params["state"] == "running":
        module.warn(
            f"{module.params['name'] or 'The host'} is drained {host.drained}. The playbook undrain brings it back."
        )
    module.exit_json(**host.result())


if __name__ == "__main__":
    main()
