"""Deploy and watch a host's compose stack, one replica after another, without losing a task.

look IMAGE               what the host has: versions, the image, replicas, and why it cannot be used, if it cannot
apply SECONDS            bring the stack to what docker-compose.yml says; each replica has to be well before the next
                         (--replicas N: that many, and say so there; --check: only tell whether anything would be
                         done, with --image and --settings as a deploy would write them; --settle SECONDS: of a new
                         image or new settings, the first and the last replica must stay well for so long)
leave                    drain every replica
undo SECONDS             back to what was last well
previous [RELEASE]       the image to go back to
current                  the image that docker-compose.yml names
status                   how the replicas are, as Docker and Redis know it
remove                   drain, and remove what Docker has of the stack

All but `previous` and `current` answer in JSON. A replica counts as well when Redis holds a heartbeat of the very
container, running, with the image's version, and of the time since the container started. Its heartbeat's hostname is
the container's.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

ETC = Path("/etc/orbiter")
STACK = ETC / "docker-compose.yml"
SETTINGS = ETC / "worker.env"
DRAINED = ETC / "drained"
GOOD = ETC / "good"
HISTORY = ETC / "history"
UNITS = Path("/etc/systemd/system/orbiter-workers.target")
PROJECT = "orbiter"
SERVICES = ("worker", "temporal-worker")
SERVICE = "com.docker.compose.service"
LABEL = "orbiter.fleet.settings"
KILLED = 128 + 9


def attempt(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what a command said, its reason if it failed."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else "no answer"


def run(*words: str) -> str:
    """Return a command's output; end the program with what it says if it fails."""
    done = attempt(*words)
    if done.returncode:
        sys.exit(f"{' '.join(words[:2])} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def compose(*words: str) -> str:
    """Run docker compose for the stack."""
    return run("docker", "compose", "--project-name", PROJECT, "--file", str(STACK), *words)


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

    def wrong(self) -> str:
        """Return what is wrong with it, or nothing."""
        if not self.running:
            return f"(docker: {self.status}, exit code {self.exit_code}) does not run"
        # Asked from inside: with the replica's own settings.
        done = attempt("docker", "exec", self.id, "orbiter", "worker", "list", "--json")
        if done.returncode:
            return self.silent(done)
        beat = self.beat(json.loads(done.stdout))
        if not beat:
            return "has no heartbeat in Redis"
        if beat["state"] != "running":
            return f"says it is {beat['state']}"
        if self.version and beat["version"] != self.version:
            return f"runs version {beat['version']}, not {self.version}"
        return ""

    def silent(self, done: subprocess.CompletedProcess[str]) -> str:
        """Return why a question got no answer: a replica that crashes takes the question with it."""
        state = attempt("docker", "inspect", "--format", "{{.State.Status}} {{.RestartCount}}", self.id)
        status, restarts = state.stdout.split() or ("gone", self.restarts)
        killed = done.returncode == KILLED  # with its container, which Docker may still have for running
        if killed or (status, int(restarts)) != ("running", self.restarts):
            return f"(docker: {status} after {restarts} restarts) does not run for long"
        return f"cannot ask Redis: {said(done)}"

    def beat(self, rows: list[dict]) -> dict:
        """Return its heartbeat among those of the fleet, if it is from the process that runs now."""
        for row in rows:
            if row["hostname"] == self.hostname and row["alive"] and float(row["started_at"]) >= self.started_at:
                return row
        return {}


def replicas() -> list[Replica]:
    """Return the stack's worker containers by their numbers, whatever their state."""
    mark = "label=com.docker.compose"
    listed = run(
        *("docker", "ps", "--all", "--quiet", "--no-trunc"),
        *("--filter", f"{mark}.project={PROJECT}", "--filter", f"{mark}.oneoff=False"),
    ).split()
    if not listed:
        return []
    # One that is removed meanwhile makes it fail, and leaves the others.
    found = attempt("docker", "inspect", *listed).stdout
    rows = [Replica(row) for row in json.loads(found or "[]") if row["Config"]["Labels"][SERVICE] in SERVICES]
    return sorted(rows, key=lambda row: row.number)


def release_of(image: str) -> str:
    """Return the name of the release in an image: its tag."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2] or "latest"


def drain(rows: list[Replica], *, together: bool = False, remove: bool = True) -> None:
    """Stop replicas, which finish what they run or hand it back within the stack's stop_grace_period."""
    for group in [rows] if together else [[row] for row in rows]:
        if ids := [row.id for row in group]:
            run("docker", "stop", *ids)
            if remove:
                run("docker", "rm", *ids)


def log(name: str) -> str:
    """Return the end of what a container has said."""
    done = attempt("docker", "logs", "--tail", "30", name)
    return done.stdout + done.stderr


def wait(names: set[str], seconds: float) -> None:
    """Wait until these are well, or end the program with the end of their logs."""
    deadline = time.monotonic() + seconds
    while True:
        rows = [row for row in replicas() if row.id in names]
        wrong = {row.id: f"{row.name} {found}" for row in rows if (found := row.wrong())}
        wrong |= {name: f"{name[:12]} is gone" for name in names - {row.id for row in rows}}
        if not wrong:
            return
        if time.monotonic() > deadline:
            end(wrong, f"is not well after {seconds:.0f} s: {'; '.join(wrong.values())}")
        time.sleep(0.5)


def end(names: Iterable[str], what: str) -> NoReturn:
    """End the program with what is wrong with the release and the end of the log of these containers."""
    sys.exit(f"Release {release_of(wanted()['image'])} {what}\nThe end of the log:\n{''.join(map(log, names))}")


def settle(names: set[str], seconds: float) -> None:
    """Look at replicas that are well for so long after their start, or end the program where one does not stay so."""
    before = {row.id: row for row in replicas() if row.id in names}
    until = max((row.started_at for row in before.values()), default=0) + seconds
    while True:
        now = {row.id: row for row in replicas() if row.id in names}
        for name in names:
            one = now.get(name)
            if one is None or (one.started_at, one.running) != (before[name].started_at, True):
                what = f"{one.name} has been restarted {one.restarts} times" if one else f"{name[:12]} is gone"
                end({name} & set(now), f"does not stay well for {seconds:.0f} s: {what}")
        if time.time() >= until:
            return
        time.sleep(0.5)


def is_new(goal: dict) -> bool:
    """Tell whether the image or the settings are others than those that were last good."""
    try:
        good = json.loads((GOOD / "state.json").read_text())
    except (OSError, ValueError):
        return True
    return any(good.get(name) != goal[name] for name in ("image", "settings"))


def wanted() -> dict:
    """Return what docker-compose.yml says of the workers."""
    worker = json.loads(compose("config", "--format", "json"))["services"]["worker"]
    return {
        "image": worker["image"],
        "settings": worker["labels"][LABEL],
        "replicas": 0 if DRAINED.exists() else int(worker["deploy"]["replicas"]),
    }


def plan(rows: list[Replica], settings: str, count: int) -> tuple[list[Replica], list[Replica], list[Replica]]:
    """Return what has to go, what has to be replaced, and what stays, of one service.

    Those that run, and run what is wanted, stay first.
    """
    ranked = sorted(rows, key=lambda row: (not row.running, row.settings != settings, row.number))
    kept, extra = ranked[:count], ranked[count:]
    stale = [row for row in kept if row.settings != settings]
    return extra, stale, [row for row in kept if row.settings == settings]


def create(service: str, count: int, before: set[str]) -> set[str]:
    """Have so many replicas of a service; return those that are new, or were stopped until now."""
    compose(*("up", "--detach", "--no-recreate", "--no-deps", "--no-build", "--scale", f"{service}={count}", service))
    return {row.id for row in replicas() if row.service == service and row.id not in before}


def apply(seconds: float, goal: dict, *, check: bool = False, settling: float = 0) -> dict:
    """Bring the stack to the goal; return what was done.

    Each new replica must be well within so many seconds, and the first and the last one so for ``settling`` more.
    """
    done: dict = {"removed": [], "replaced": [], "started": 0}
    for service in SERVICES:
        rows = [row for row in replicas() if row.service == service]
        count = goal["replicas"]
        if service != "worker" or DRAINED.exists():  # the others only where somebody has started them, to be up to date
            rows = [row for row in rows if row.running]
            count = 0 if DRAINED.exists() else len(rows)
        extra, stale, kept = plan(rows, goal["settings"], count)
        idle = [row for row in kept if not row.running]
        done["removed"] += [row.name for row in extra]
        done["replaced"] += [row.name for row in stale]
        done["started"] += count - len(kept) + len(idle) - len(stale)
        if check:
            continue
        drain(extra)
        for row in stale:
            drain([row])
            now = {other.id for other in replicas() if other.service == service and other.running}
            total = sum(other.service == service for other in replicas())
            fresh = create(service, total + 1, now)
            wait(fresh, seconds)
            if settling and row is stale[0]:
                settle(fresh, settling)
        if count and service == "worker":
            now = {other.id for other in replicas() if other.service == service and other.running}
            create(service, count, now)
            names = {row.id for row in replicas() if row.service == service}
            wait(names, seconds)
            if settling:
                settle(names, settling)
                wait(names, seconds)
    return done | {"changed": bool(done["removed"] or done["replaced"] or done["started"])}


def keep(goal: dict, releases: int) -> None:
    """Keep the stack as what is good, note its image, and remove images that nobody will go back to."""
    fresh = GOOD.with_name(".good")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for path in (SETTINGS, STACK):
        subprocess.run(["cp", "--archive", str(path), str(fresh)], check=True)
    (fresh / "state.json").write_text(json.dumps(goal))
    shutil.rmtree(GOOD, ignore_errors=True)
    fresh.rename(GOOD)
    past = HISTORY.read_text().splitlines() if HISTORY.exists() else []
    if past and past[-1].split()[-1] == goal["image"]:
        return
    past.append(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {goal['image']}")
    HISTORY.with_name(".history").write_text("\n".join(past[-50:]) + "\n")
    HISTORY.with_name(".history").replace(HISTORY)
    recent = list(dict.fromkeys(line.split()[-1] for line in reversed(past)))
    for old in recent[releases:]:
        if has_image(old):
            attempt("docker", "image", "rm", old)
    for old in pulled(goal["image"]) - {digest_of(image) for image in recent[:releases]}:
        attempt("docker", "image", "rm", old)


def digest_of(image: str) -> str:
    """Return an image's name without its tag, as Docker lists what was pulled by digest."""
    name, mark, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}{mark}{digest}"


def pulled(image: str) -> set[str]:
    """Return what was pulled from an image's repository by digest: also for updates that did not come to this host."""
    repository = digest_of(image).partition("@")[0]
    shown = "{{.Repository}}@{{.Digest}} {{.Tag}}"
    listed = attempt("docker", "image", "ls", "--digests", "--format", shown, repository).stdout
    return {line.split()[0] for line in listed.splitlines() if line.endswith(" <none>") and "@sha256:" in line}


def has_image(image: str) -> bool:
    """Tell whether the host has an image."""
    return attempt("docker", "image", "inspect", image).returncode == 0


def look(image: str) -> dict:
    """Return what the host has."""
    answer: dict = {"docker": "", "compose": "", "image": False, "used": False, "trouble": "", "drained": ""}
    answer["drained"] = DRAINED.read_text().strip() if DRAINED.exists() else ""
    answer["systemd"] = UNITS.exists()
    if not shutil.which("docker"):
        return answer | {"trouble": "the command docker is not installed"}
    engine = attempt("docker", "version", "--format", "{{.Server.Version}}")
    if engine.returncode:
        return answer | {"trouble": said(engine)}
    answer["docker"] = engine.stdout.strip()
    plugin = attempt("docker", "compose", "version", "--short")
    if plugin.returncode:
        return answer | {"trouble": "the command docker has no plugin compose"}
    answer["compose"] = plugin.stdout.strip().lstrip("v")
    answer["image"] = has_image(image)
    answer["used"] = any(row.image == image and row.running for row in replicas())
    return answer


def undo(seconds: float) -> dict:
    """Bring back what was last well. A host where nothing ever was has its replicas stopped, and no release."""
    if not GOOD.exists():
        drain(replicas(), together=True)
        return {"release": None}
    goal = json.loads((GOOD / "state.json").read_text())
    try:
        failed = wanted()["image"]
    except SystemExit:  # not even readable
        failed = goal["image"]
    for path in (SETTINGS, STACK):
        subprocess.run(["cp", "--archive", str(GOOD / path.name), str(path)], check=True)
    apply(seconds, goal)
    if failed not in HISTORY.read_text():
        attempt("docker", "image", "rm", failed)
    return {"release": release_of(goal["image"])}


def previous(release: str) -> str:
    """Return the image of a release, or the last other one that was well here."""
    past = [line.split()[-1] for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    there = [image for image in dict.fromkeys(reversed(past)) if has_image(image)]
    known = ", ".join(sorted(release_of(image) for image in there)) or "none"
    if release:
        found = [image for image in there if release_of(image) == release]
        if not found:
            sys.exit(f"Release {release} is not on this host; these are: {known}.")
        return found[0]
    current = wanted()["image"]
    earlier = [image for image in there if image != current]
    if not earlier:
        sys.exit(
            f"Nothing to go back to: no other release than {release_of(current)} was well here and is still there. "
            f"There are: {known}; name one by worker_version, or an image by worker_image."
        )
    return earlier[0]


def status() -> dict:
    """Return how the replicas are."""
    answer: dict = {"release": "", "previous": "", "drained": "", "instances": [], "workers": [], "queue": None}
    answer["trouble"] = ""
    answer["drained"] = DRAINED.read_text().strip() if DRAINED.exists() else ""
    if not STACK.exists():
        return answer
    image = wanted()["image"]
    past = [line.split()[-1] for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    answer["release"] = release_of(image)
    answer["previous"] = next((release_of(other) for other in reversed(past) if other != image), "")
    rows = [row for row in replicas() if row.running or not answer["drained"]]
    at_work = next((row for row in rows if row.running), None)
    beats: list = []
    if at_work:
        beats, answer["trouble"] = ask(at_work, "worker", "list")
        answer["queue"] = None if answer["trouble"] else ask(at_work, "queue", "info")[0]
    living = [beat for beat in beats or [] if beat["alive"]]
    answer["workers"] = [{name: beat[name] for name in ("worker_id", "hostname")} for beat in living]
    names = ("worker_id", "version", "active", "concurrency", "tasks_processed", "tasks_failed")
    for row in rows:
        beat = row.beat(beats or [])
        wrong = row.wrong() if row.running else f"is {row.status} after {row.restarts} restarts"
        answer["instances"].append({"unit": row.name, "wrong": wrong} | {name: beat.get(name) for name in names})
    return answer


def ask(row: Replica, *words: str) -> tuple:
    """Return what the command says in a replica, and what went wrong, if anything."""
    done = attempt("docker", "exec", row.id, "orbiter", *words, "--json")
    return (None, said(done)) if done.returncode else (json.loads(done.stdout), "")


def remove() -> dict:
    """Take the stack off the host, with its networks; volumes stay."""
    if not shutil.which("docker") or not STACK.exists():
        return {"changed": False}
    drain(replicas(), together=True)
    compose("--profile", "*", "down", "--remove-orphans")
    images = {line.split()[-1] for line in HISTORY.read_text().splitlines()} if HISTORY.exists() else set()
    for image in images | pulled(wanted()["image"]):
        attempt("docker", "image", "rm", image)
    return {"changed": True}


def main() -> None:
    """Do one of these."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--image")
    parser.add_argument("--settings")
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--keep", type=int, default=5)
    parser.add_argument("--settle", type=float, default=0)
    args = parser.parse_args()
    os.umask(0o022)
    word = args.words[0] if args.words else ""
    if args.action == "previous":
        print(previous(word))
        return
    if args.action == "current":
        print(wanted()["image"])
        return
    if args.action == "apply" and not (STACK.exists() or args.image):
        sys.exit(
            "Nothing is deployed here, so nothing can start. Run the playbook orbiter.fleet.site for this host first."
        )
    if args.action == "apply" and args.check:
        given = {"image": args.image, "settings": args.settings, "replicas": args.replicas}
        goal = (wanted() if STACK.exists() else {}) | {
            name: value for name, value in given.items() if value is not None
        }
        answer = apply(0, goal, check=True) if shutil.which("docker") else {"changed": True}
    elif args.action == "apply":
        if args.replicas is not None:
            STACK.write_text(re.sub(r"(?m)^( +replicas: ).*$", rf"\g<1>{args.replicas}", STACK.read_text()))
        goal = wanted()
        answer = apply(float(word), goal, settling=args.settle if is_new(goal) else 0)
        if not DRAINED.exists():
            keep(goal, args.keep)
    elif args.action == "leave":
        running = [row for row in replicas() if row.running]
        drain(running, together=True, remove=False)
        answer = {"changed": bool(running)}
    else:
        actions = {"look": lambda: look(word), "undo": lambda: undo(float(word)), "status": status, "remove": remove}
        answer = actions[args.action]()
    print(json.dumps(answer))


main()
