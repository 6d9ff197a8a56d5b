"""Set what a running Redis can change, and say which of it did change.

Usage: apply_settings.py PORT CONFIG DYNAMIC
Reads the password from CONFIG, so that it passes through no command line and no log, and the settings from DYNAMIC.
Redis itself tells whether a setting changed: its own notation ("1gb" is 1073741824) is compared before and after.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


def read_settings(path: str) -> list[tuple[str, str]]:
    """Return the file's settings as (name, value)."""
    lines = (line.strip() for line in Path(path).read_text().splitlines())
    parts = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(name, value.strip()) for name, dummy, value in parts]


def unquote(value: str) -> str:
    """Return what redis.conf means by a value in double quotes."""
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == value[-1:] == '"' and len(value) > 1 else value


def command(port: str, *words: str) -> str:
    """Send one command; end the program with Redis's own words if it refuses."""
    done = subprocess.run(
        ["redis-cli", "-h", "127.0.0.1", "-p", port, "--no-auth-warning", "-e", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"Redis said no to {' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def wait_until_loaded(port: str) -> None:
    """Wait for a Redis that just started to have read its files."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            ["redis-cli", "-h", "127.0.0.1", "-p", port, "--no-auth-warning", "ping"],
            capture_output=True,
            text=True,
            check=False,
        )
        answer = (done.stdout + done.stderr).strip()
        if answer == "PONG":
            return
        if answer.startswith(("NOAUTH", "WRONGPASS")):
            sys.exit(
                "The running Redis does not know the password of its configuration: systemctl restart redis-server"
            )
        if time.monotonic() > deadline:
            sys.exit(f"Redis does not answer on port {port}: {answer}. See journalctl -u redis-server")
        time.sleep(0.2)


def main() -> None:
    """Apply, and print ``{"changed": [names]}``."""
    port, config, dynamic = sys.argv[1:]
    os.environ["REDISCLI_AUTH"] = unquote(dict(read_settings(config))["requirepass"])
    wait_until_loaded(port)
    changed = []
    for name, value in read_settings(dynamic):
        before = command(port, "config", "get", name)
        if not before:
            sys.exit(f"Redis knows no setting {name!r}: correct redis_settings")
        command(port, "config", "set", name, unquote(value))
        if command(port, "config", "get", name) != before:
            changed.append(name)
    print(json.dumps({"changed": changed}))


main()
