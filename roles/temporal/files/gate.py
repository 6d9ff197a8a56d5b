"""Wait until Temporal answers, knows its namespace and can hand out work.

Otherwise fail with what it says and the end of the journal.
Usage: gate.py ADDRESS NAMESPACE SECONDS
"""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = "/opt/orbiter-temporal/current/temporal"
SETTINGS = "/etc/orbiter-temporal"
LOGIN = (
    *("--tls-ca-path", f"{SETTINGS}/ca.pem"),
    *("--tls-cert-path", f"{SETTINGS}/server.pem"),
    *("--tls-key-path", f"{SETTINGS}/server.pem.key"),
)


def output(*words: str) -> tuple[int, str]:
    """Run a command; return its exit status, and its output with its errors."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout.strip()


def main() -> None:
    """Ask until it is well."""
    address, namespace, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    deadline = time.monotonic() + seconds
    for question in (
        ("operator", "cluster", "health"),
        ("operator", "namespace", "describe"),
        # The first two are answered even where the server's parts do not find each other.
        ("task-queue", "describe", "--task-queue", "orbiter-tasks"),
    ):
        ask = (PROGRAM, *question, "--address", address, "--namespace", namespace, "--command-timeout", "5s", *LOGIN)
        while (answer := output(*ask))[0]:
            if time.monotonic() > deadline:
                journal = output("journalctl", "--no-pager", "--lines=15", "--output=cat", "--unit=orbiter-temporal")
                sys.exit(
                    f"Temporal at {address} is not well after {seconds:.0f} s: {answer[1]}\n"
                    f"The end of the journal:\n{journal[1]}"
                )
            time.sleep(0.5)


main()
