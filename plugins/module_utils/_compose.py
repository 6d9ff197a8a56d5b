# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's compose stack: deployed and watched, one replica after another, without losing a task.

Its heartbeat tells whether a replica is well. Its host's name is the container's.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ansible_collections.orbiter.fleet.plugins.module_utils import _docker as docker
from ansible_collections.orbiter.fleet.plugins.module_utils import _history as history
from ansible_collections.orbiter.fleet.plugins.module_utils._command import inert
from ansible_collections.orbiter.fleet.plugins.module_utils._docker import DockerError, Replica, release_of
from ansible_collections.orbiter.fleet.plugins.module_utils._health import complaint
from ansible_collections.orbiter.fleet.plugins.module_utils._health import described as described_health
from ansible_collections.orbiter.fleet.plugins.module_utils._task import try_out

if TYPE_CHECKING:
    from collections.abc import Iterable

PROJECT = "orbiter"
SERVICES = ("worker", "temporal-worker")


@dataclass(frozen=True)
class Goal:
    """What replicas are to be, and how many there are to be."""

    image: str
    settings: str
    replicas: int

    def lines(self, service: str, count: int) -> list[str]:
        """Describe so many replicas of a service, as `described` does those that there are."""
        return [f"{service} {release_of(self.image)}, settings {self.settings}: running\n"] * count


@dataclass(frozen=True)
class Plan:
    """What is done to one service.

    Attributes:
        service: Its name.
        count: How many replicas it is to have.
        extra: Replicas that have to go.
        stale: Replicas that have to be replaced.
        kept: Replicas that stay.
    """

    service: str
    count: int
    extra: list[Replica]
    stale: list[Replica]
    kept: list[Replica]

    @property
    def started(self) -> int:
        """How many are new, or were stopped."""
        idle = sum(not row.running for row in self.kept)
        return self.count - len(self.kept) + idle - len(self.stale)


def split(service: str, rows: list[Replica], settings: str, count: int) -> Plan:
    """Plan one service. Those that run, and run what is wanted, stay first."""
    ranked = sorted(rows, key=lambda row: (not row.running, row.settings != settings, row.number))
    kept, extra = ranked[:count], ranked[count:]
    stale = [row for row in kept if row.settings != settings]
    return Plan(service, count, extra, stale, [row for row in kept if row.settings == settings])


def described(rows: list[Replica]) -> str:
    """Describe replicas, a line each."""
    return "".join(
        sorted(f"{row.service} {release_of(row.image)}, settings {row.settings}: {row.status}\n" for row in rows)
    )


class Stack:
    """The stack of this host.

    Args:
        directory: Where its files are.
        check: Whether everything is only planned.
        drained: Whether the host is out of the fleet; None to see whether it is noted there.
    """

    def __init__(self, directory: str, *, check: bool = False, drained: bool | None = None) -> None:
        self.folder = Path(directory)
        self.file = self.folder / "docker-compose.yml"
        self.good = self.folder / "good"
        self.history = self.folder / "history"
        self.check = check
        self.drained = history.drained(self.folder / "drained")
        self.is_drained = (self.folder / "drained").exists() if drained is None else drained
        # What replicas are made from, and kept with what is good.
        self.files = (self.folder / "worker.env", self.file)

    def compose(self, *words: str) -> str:
        """Run docker compose for the stack."""
        return docker.run("docker", "compose", "--project-name", PROJECT, "--file", str(self.file), *words)

    def replicas(self) -> list[Replica]:
        """Return the stack's worker containers by their numbers, whatever their state."""
        return docker.replicas(PROJECT, SERVICES)

    def wanted(self) -> Goal:
        """Return what docker-compose.yml says of the workers."""
        if not self.file.exists():
            raise DockerError(
                "Nothing is deployed here, so nothing can start. Run the playbook orbiter.fleet.site for this host "
                "first."
            )
        worker = json.loads(self.compose("config", "--format", "json"))["services"]["worker"]
        return Goal(worker["image"], worker["labels"][docker.LABEL], int(worker["deploy"]["replicas"]))

    def foreseen(self, told: dict) -> Goal:
        """Return what docker-compose.yml would say if what is told had been written, which a check has not."""
        return Goal(**((vars(self.wanted()) if {"image", "settings", "replicas"} - set(told) else {}) | told))

    def scale(self, replicas: int) -> None:
        """Say in docker-compose.yml how many replicas there are to be."""
        if self.file.exists():
            text = self.file.read_text()
            scaled = re.sub(r"(?m)^( +replicas: ).*$", rf"\g<1>{replicas}", text)
            if scaled != text:
                self.file.write_text(scaled)

    def apply(self, goal: Goal, seconds: float, settling: float = 0, task: dict | None = None) -> dict:
        """Bring the stack to the goal; return what was done.

        Each new replica must be well within so many seconds; and of an image or settings that were not good before, the
        first and the last one must stay so for ``settling`` more, and then the task must complete within ``seconds``.
        """
        rows = self.replicas()
        plans = [self._plan(service, rows, goal) for service in SERVICES]
        done = {
            "removed": [row.name for plan in plans for row in plan.extra],
            "replaced": [row.name for plan in plans for row in plan.stale],
            "started": sum(plan.started for plan in plans),
            "diff": {
                "before": described(rows),
                "after": "".join(sorted(line for plan in plans for line in goal.lines(plan.service, plan.count))),
            },
        }
        if not self.check:
            last = self.last_good()
            if last and (last.image, last.settings) == (goal.image, goal.settings):
                settling, task = 0, None
            for plan in plans:
                self._carry_out(plan, seconds, settling)
            if task:
                done |= self._try(task, seconds)
        return done | {"changed": bool(done["removed"] or done["replaced"] or done["started"])}

    def _plan(self, service: str, rows: list[Replica], goal: Goal) -> Plan:
        """Return what is to be done to one service."""
        rows = [row for row in rows if row.service == service]
        count = 0 if self.is_drained else goal.replicas
        if service != "worker" or self.is_drained:  # what somebody else has started is brought up to date
            rows = [row for row in rows if row.running]
            count = 0 if self.is_drained else len(rows)
        return split(service, rows, goal.settings, count)

    def _carry_out(self, plan: Plan, seconds: float, settling: float) -> None:
        """Do what is planned for one service."""
        docker.drain(plan.extra)
        for row in plan.stale:
            docker.drain([row])
            rows = [other for other in self.replicas() if other.service == plan.service]
            fresh = self._create(plan.service, len(rows) + 1, rows)
            self._wait(fresh, seconds)
            if settling and row is plan.stale[0]:
                self._settle(fresh, settling)
        if plan.count and plan.service == "worker":
            self._create("worker", plan.count, [])
            names = {row.id for row in self.replicas() if row.service == "worker"}
            self._wait(names, seconds)
            if settling:
                self._settle(names, settling)
                self._wait(names, seconds)

    def _create(self, service: str, count: int, before: list[Replica]) -> set[str]:
        """Have so many replicas of a service; return those that are new, or were stopped until now."""
        self.compose(
            *("up", "--detach", "--no-recreate", "--no-deps", "--no-build", "--scale", f"{service}={count}", service)
        )
        at_work = {row.id for row in before if row.running}
        return {row.id for row in self.replicas() if row.service == service and row.id not in at_work}

    def _wait(self, names: set[str], seconds: float) -> None:
        """Wait until these are well."""
        deadline = time.monotonic() + seconds
        while True:
            rows = [row for row in self.replicas() if row.id in names]
            beats, silent = heard(rows)
            found = {row.id: silent.get(row.id) or complaint(row.expected, beats) for row in rows}
            wrong = {row.id: f"{row.name} {found[row.id]}" for row in rows if found[row.id]}
            wrong |= {name: f"{name[:12]} is gone" for name in names - set(found)}
            if not wrong:
                return
            if time.monotonic() > deadline:
                self._end(wrong, f"is not well after {seconds:.0f} s: {'; '.join(wrong.values())}")
            time.sleep(0.5)

    def _settle(self, names: set[str], seconds: float) -> None:
        """Look at replicas that are well until so long after their start."""
        before = {row.id: row for row in self.replicas() if row.id in names}
        until = max((row.started_at for row in before.values()), default=0) + seconds
        while True:
            now = {row.id: row for row in self.replicas() if row.id in names}
            for name in names:
                one = now.get(name)
                if one is None or (one.started_at, one.running) != (before[name].started_at, True):
                    what = f"{one.name} has been restarted {one.restarts} times" if one else f"{name[:12]} is gone"
                    self._end({name} & set(now), f"does not stay well for {seconds:.0f} s: {what}")
            if time.time() >= until:
                return
            time.sleep(0.5)

    def _try(self, task: dict, seconds: float) -> dict:
        """Have a task run, unless there is nobody to run it; return its record."""
        rows = [row for row in self.replicas() if row.running and row.service == "worker"]
        if not rows:
            return {}
        record, wrong = try_out(rows[0].command, task, seconds)
        if wrong:
            self._end([row.id for row in rows], f"does not do its work: {wrong}")
        return {"task": record}

    def _end(self, names: Iterable[str], what: str) -> NoReturn:
        """Give up, with what is wrong with the release and the end of the log of these containers."""
        lines = [inert(line) for name in names for line in docker.log(name).splitlines()]
        release = release_of(self.wanted().image)
        raise DockerError(inert(f"Release {release} {what}"), "\n".join(["The end of the log:", *lines]))

    def last_good(self) -> Goal | None:
        """Return what was last well."""
        state = history.good(self.good)
        return Goal(**state) if state else None

    def keep(self, goal: Goal, releases: int) -> None:
        """Keep the stack as what is good, note its image, and remove images that nobody will go back to."""
        known = history.past(self.history)
        history.keep(vars(goal), self.files, self.good)
        history.note(goal.image, self.history)
        if known[-1:] == [goal.image]:
            return
        recent = list(dict.fromkeys([goal.image, *reversed(known)]))
        docker.remove_images(set(recent[releases:]))
        docker.remove_images(docker.pulled(goal.image) - {docker.digest_of(image) for image in recent[:releases]})

    def leave(self) -> dict:
        """Drain every replica, and keep them."""
        rows = self.replicas()
        running = [row for row in rows if row.running]
        if not self.check:
            docker.drain(running, together=True, remove=False)
        before = described(rows)
        after = before.replace(": running\n", ": exited\n")
        return {"changed": bool(running), "diff": {"before": before, "after": after}}

    def undo(self, seconds: float) -> dict:
        """Bring back what was last well. A host where nothing ever was has its replicas stopped, and no release."""
        goal = self.last_good()
        if goal is None:
            rows = self.replicas()
            if not self.check:
                docker.drain(rows, together=True)
            return {"changed": bool(rows), "release": "", "diff": {"before": described(rows), "after": ""}}
        try:
            failed = self.wanted().image
        except (DockerError, LookupError, ValueError):  # not even readable
            failed = goal.image
        if not self.check:
            history.bring_back(self.files, self.good)
        done = self.apply(goal, seconds)
        if not self.check and failed not in history.past(self.history):
            docker.remove_images({failed})
        return done | {"release": release_of(goal.image)}

    def remove(self) -> dict:
        """Take the stack off the host, with its networks; volumes stay."""
        if not docker.is_installed() or not self.file.exists():
            return {"changed": False}
        rows = self.replicas()
        if not self.check:
            docker.drain(rows, together=True)
            self.compose("--profile", "*", "down", "--remove-orphans")
            docker.remove_images({*history.past(self.history), *docker.pulled(self.wanted().image)})
        return {"changed": True, "diff": {"before": described(rows), "after": ""}}

    def previous(self, release: str = "") -> str:
        """Return the image of a release, or the last other one that was well here."""
        there = [image for image in dict.fromkeys(reversed(history.past(self.history))) if docker.has_image(image)]
        known = ", ".join(sorted(release_of(image) for image in there)) or "none"
        if release:
            found = [image for image in there if release_of(image) == release]
            if not found:
                raise DockerError(f"Release {release} is not on this host; these are: {known}.")
            return found[0]
        current = self.wanted().image
        earlier = [image for image in there if image != current]
        if not earlier:
            raise DockerError(
                f"Nothing to go back to: no other release than {release_of(current)} was well here and is still "
                f"there. There are: {known}; name one by worker_version, or an image by worker_image."
            )
        return earlier[0]

    def look(self, image: str) -> dict:
        """Return whether Docker can be used, and what there is of an image."""
        answer = docker.engine() | {"image": False, "used": False, "drained": self.drained}
        if answer["compose"] and image:
            answer["image"] = docker.has_image(image)
            answer["used"] = any(row.image == image and row.running for row in self.replicas())
        return answer

    def status(self, trouble: str = "") -> dict:
        """Return how the replicas are, as Docker and Redis know it, or what is the trouble with Docker."""
        answer: dict = {"release": "", "previous": "", "instances": [], "workers": [], "queue": None}
        answer |= {"drained": self.drained, "trouble": trouble if self.file.exists() else ""}
        if trouble or not self.file.exists():
            return answer
        image = self.wanted().image
        answer["release"] = release_of(image)
        past = reversed(history.past(self.history))
        answer["previous"] = next((release_of(other) for other in past if other != image), "")
        rows = [row for row in self.replicas() if row.running or not self.drained]
        beats, silent = heard(rows)
        at_work = [row for row in rows if row.running and row.id not in silent]
        if at_work:
            info = at_work[0].ask("queue", "info")
            answer["queue"] = json.loads(info.stdout) if info.returncode == 0 else None
        elif silent:
            answer["trouble"] = next(iter(silent.values()))
        living = [beat for beat in beats if beat["alive"]]
        answer["workers"] = [{name: beat[name] for name in ("worker_id", "hostname", "state")} for beat in living]
        for row in rows:
            instance = described_health(row.expected, beats)
            answer["instances"].append(instance | ({"wrong": silent[row.id]} if row.id in silent else {}))
        return answer


def heard(rows: list[Replica]) -> tuple[list[dict], dict[str, str]]:
    """Return what the first replica that answers says of the fleet's workers, and why those before it do not."""
    silent = {}
    for row in rows:
        if row.running:
            done = row.ask("worker", "list")
            if done.returncode == 0:
                return json.loads(done.stdout), silent
            silent[row.id] = row.silent(done)
    return [], silent
