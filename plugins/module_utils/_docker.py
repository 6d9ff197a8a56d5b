# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's Docker, by its own command: the engine, images, and the containers of a compose stack."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils._command import Command
from ansible_collections.orbiter.fleet.plugins.module_utils._health import Expected
from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError

SERVICE = "com.docker.compose.service"
LABEL = "orbiter.fleet.settings"
KILLED = 128 + 9
UNITS = Path("/etc/systemd/system/orbiter-workers.target")


class DockerError(GateError):
    """Something could not be done; the message says what, and why."""


def attempt(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise DockerError(f"{words[0]}: {error.strerror}") from None


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what a command said, its reason if it failed."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else "no answer"


def run(*words: str) -> str:
    """Return a command's output.

    Raises:
        DockerError: It failed, with what it says.
    """
    done = attempt(*words)
    if done.returncode:
        raise DockerError(f"{' '.join(words[:2])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def is_installed() -> bool:
    """Tell whether the host has the command."""
    return shutil.which("docker") is not None


def engine() -> dict:
    """Return the versions of the engine and of its plugin compose, and what is in the way of using them."""
    answer = {"docker": "", "compose": "", "trouble": "", "systemd": UNITS.exists()}
    if not is_installed():
        return dict(answer, trouble="the command docker is not installed")
    found = attempt("docker", "version", "--format", "{{.Server.Version}}")
    if found.returncode:
        return dict(answer, trouble=said(found))
    answer["docker"] = found.stdout.strip()
    plugin = attempt("docker", "compose", "version", "--short")
    if plugin.returncode:
        return dict(answer, trouble="the command docker has no plugin compose")
    return dict(answer, compose=plugin.stdout.strip().lstrip("v"))


def release_of(image: str) -> str:
    """Return the name of the release in an image: its tag."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2] or "latest"


def digest_of(image: str) -> str:
    """Return an image's name without its tag, as Docker lists what was pulled by digest."""
    name, mark, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}{mark}{digest}"


def has_image(image: str) -> bool:
    """Tell whether the host has an image."""
    return attempt("docker", "image", "inspect", image).returncode == 0


def pulled(image: str) -> set[str]:
    """Return what was pulled from an image's repository by digest: also for updates that did not come to this host."""
    repository = digest_of(image).partition("@")[0]
    shown = "{{.Repository}}@{{.Digest}} {{.Tag}}"
    listed = attempt("docker", "image", "ls", "--digests", "--format", shown, repository).stdout
    return {line.split()[0] for line in listed.splitlines() if line.endswith(" <none>") and "@sha256:" in line}


def remove_images(images: set[str]) -> None:
    """Remove the images that the host has; what is in use stays."""
    for image in images:
        attempt("docker", "image", "rm", image)


class Replica:
    """A container of the stack."""

    def __init__(self, inspected: dict) -> None:
        labels, state = inspected["Config"]["Labels"], inspected["State"]
        self.id = inspected["Id"]
        self.name = inspected["Name"].lstrip("/")
        self.service = labels[SERVICE]
        self.number = int(labels["com.docker.compose.container-number"])
        self.settings = labels.get(LABEL, "")
        self.hostname = inspected["Config"]["Hostname"]
        self.version = labels.get("org.opencontainers.image.version", "")
        self.image = inspected["Config"]["Image"]
        self.status = state["Status"]
        self.exit_code = state["ExitCode"]
        self.restarts = inspected["RestartCount"]
        # Docker tells nanoseconds, which Python before 3.11 does not read.
        started = dt.datetime.fromisoformat(state["StartedAt"][:19] + "+00:00")
        self.started_at = started.timestamp()

    @property
    def running(self) -> bool:
        """Tell whether it is at work, as far as Docker knows."""
        return self.status == "running"

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask the fleet's command from inside, with the replica's own settings."""
        return attempt("docker", "exec", self.id, "orbiter", *words, "--json")

    @property
    def command(self) -> Command:
        """Return the fleet's command inside, for those who have more to say to it."""
        return Command("orbiter", through=("docker", "exec", "--interactive", self.id))

    def silent(self, done: subprocess.CompletedProcess[str]) -> str:
        """Return why a question got no answer: a replica that crashes takes the question with it."""
        state = attempt("docker", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", self.id)
        status, restarts = state.stdout.split() or ("gone", self.restarts)
        killed = done.returncode == KILLED  # with its container, which Docker may still have for running
        if killed or (status, int(restarts)) != ("running", self.restarts):
            return f"({status} after {restarts} restarts) does not run for long"
        return f"cannot ask Redis: {said(done)}"

    @property
    def expected(self) -> Expected:
        """Describe it as a worker that the host should run."""
        return Expected(
            self.name,
            shown=f"{self.status} after {self.restarts} restarts, exit code {self.exit_code}",
            running=self.running,
            version=self.version,
            since=self.started_at,
            hostname=self.hostname,
        )


def replicas(project: str, services: tuple[str, ...]) -> list[Replica]:
    """Return a stack's containers of these services by their numbers, whatever their state."""
    mark = "label=com.docker.compose"
    listed = run(
        *("docker", "ps", "--all", "--quiet", "--no-trunc"),
        *("--filter", f"{mark}.project={project}", "--filter", f"{mark}.oneoff=False"),
    ).split()
    if not listed:
        return []
    # One that is removed meanwhile makes it fail, and leaves the others.
    found = attempt("docker", "inspect", *listed).stdout
    rows = [Replica(row) for row in json.loads(found or "[]") if row["Config"]["Labels"][SERVICE] in services]
    return sorted(rows, key=lambda row: row.number)


def drain(rows: list[Replica], *, together: bool = False, remove: bool = True) -> None:
    """Stop replicas, which finish what they run or hand it back within the stack's stop_grace_period."""
    for group in [rows] if together else [[row] for row in rows]:
        ids = [row.id for row in group]
        if ids:
            run("docker", "stop", *ids)
            if remove:
                run("docker", "rm", *ids)


def log(name: str) -> str:
    """Return the end of what a container has said."""
    done = attempt("docker", "logs", "--tail", "30", name)
    return done.stdout + done.stderr
