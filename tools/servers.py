"""Runs the worker's integration tests on each server that Debian has, and prints one table.

    servers.py [WORD...]    with WORDs for pytest in place of tests/integration

The servers are Debian's packages, unpacked into .cache/servers with the libraries that they need; a program beside
them starts each with those, so that this machine's own do not matter. A test that fails runs once more, alone. Ends
with status 1 where a test failed, or had another result on one server than on the others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

CHECKOUT = Path(__file__).resolve().parent.parent
PLACE = CHECKOUT / ".cache/servers"
WORKER = CHECKOUT / "worker"
BIN = Path(sys.executable).parent
OUTCOMES = ("passed", "skipped", "failed")


class Server(NamedTuple):
    """A server of a suite of Debian, by the name of its programs."""

    kind: str
    suite: str


SERVERS = (Server("redis", "bookworm"), Server("redis", "trixie"), Server("valkey", "trixie"))


def main() -> int:
    """Run the tests on each server, and return the exit status."""
    words = sys.argv[1:] or ["tests/integration"]
    results: dict[str, dict[str, str]] = {}
    for server in SERVERS:
        programs = unpacked(server)
        title = f"{server.kind.title()} {version(programs)}"
        print(f"--> {title}, of Debian {server.suite}", flush=True)
        results[title] = tested(programs, words)
    print(f"\n{table(results)}")
    wrong = differences(results)
    if wrong:
        print("\n" + "\n".join(wrong))
    return 1 if wrong else 0


def unpacked(server: Server) -> Path:
    """Return the folder with a server's programs by the names of Redis', unpacked if they are not there yet."""
    root = PLACE / "-".join(server)
    programs = root / "programs"
    if programs.is_dir():
        return programs
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    packages = f"{server.kind}-server,{server.kind}-tools"
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", server.suite, str(root)]
    subprocess.run(command, check=True)
    # A link to it may be one that holds below that root only.
    loader = next(path for path in root.rglob("ld-linux*.so.?") if not path.is_symlink())
    libraries = ":".join(sorted({str(path.parent) for path in root.rglob("*.so.*")}))
    made = root / "programs.new"
    made.mkdir()
    for name in ("server", "cli"):
        # By the name that tests look for: the server asks by which name it is called what it is to be.
        program = root / f"redis-{name}"
        shutil.copy(root / f"usr/bin/{server.kind}-{name}", program)
        starter = made / program.name
        starter.write_text(f'#!/bin/sh\nexec {loader} --library-path {libraries} {program} "$@"\n')
        starter.chmod(0o755)
    return made.rename(programs)


def version(programs: Path) -> str:
    """Return the version that a server says it has."""
    printed = subprocess.run(
        [programs / "redis-server", "--version"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"v=(\d+[.\d]*)", printed)
    return found[1] if found else "of an unknown version"


def tested(programs: Path, words: list[str]) -> dict[str, str]:
    """Return the outcome of each test with these programs."""
    found = pytest(programs, [*words, "-m", "not alone and not nightly", "-n", "4", "--dist", "worksteal"])
    found |= pytest(programs, [*words, "-m", "alone and not nightly"])
    if failed := [name for name, outcome in found.items() if outcome == "failed"]:
        print("--> what failed runs once more, alone", flush=True)
        found |= pytest(programs, failed)
    return found


def pytest(programs: Path, words: list[str]) -> dict[str, str]:
    """Run pytest with these programs before all others; return the outcome of each test."""
    report = PLACE / "report.xml"
    report.unlink(missing_ok=True)
    environment = os.environ | {"PATH": f"{programs}:{BIN}:{os.environ['PATH']}"}
    command = [BIN / "pytest", "--quiet", "-p", "no:cacheprovider", f"--junitxml={report}", *words]
    done = subprocess.run(command, cwd=WORKER, env=environment, check=False)
    if done.returncode not in {0, 1, 5}:  # 5: none was chosen
        sys.exit(f"servers: pytest ended with {done.returncode}")
    return outcomes(report.read_text())


def outcomes(report: str) -> dict[str, str]:
    """Return the outcome of each test of a report, by the words that choose it again."""
    found = {}
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - pytest has written it
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        outcome = "passed"
        for child in case:
            if child.tag in {"failure", "error"}:
                outcome = "failed"
            elif child.tag == "skipped":
                outcome = "skipped"
        # A test whose end fails has two entries.
        found[name] = "failed" if found.get(name) == "failed" else outcome
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """Return how many tests ended how on each server."""
    rows = [f"| server | {' | '.join(OUTCOMES)} |", f"| --- |{' --- |' * len(OUTCOMES)}"]
    for title, found in results.items():
        counted = Counter(found.values())
        rows.append(f"| {title} | {' | '.join(str(counted[outcome]) for outcome in OUTCOMES)} |")
    return "\n".join(rows)


def differences(results: dict[str, dict[str, str]]) -> list[str]:
    """Return the tests that failed somewhere, or did not end alike everywhere."""
    wrong = []
    for name in sorted(set().union(*results.values())):
        by_server = {title: found.get(name, "did not run") for title, found in results.items()}
        if "failed" in by_server.values() or len(set(by_server.values())) > 1:
            wrong.append(f"{name}: " + ", ".join(f"{title} {outcome}" for title, outcome in by_server.items()))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
