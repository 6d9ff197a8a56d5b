"""Load the scripts that clients run into this host's Redis, which forgets them when it ends.

Usage: load_scripts.py FILE
FILE is client_scripts.json. redis-server's unit calls this at each start: clients may load no scripts themselves, and
go on at once where no worker is there to do so. It speaks to the server over its Unix socket, and reads the password
from /etc/redis/admin.password.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = ("redis-cli", "-e", "-s", "/run/redis/redis-server.sock", "--user", "admin", "-x", "SCRIPT", "LOAD")
PASSWORD = Path("/etc/redis/admin.password")


def main() -> None:
    """Load all scripts of the file; fail with the words of Redis where it refuses one."""
    known = json.loads(Path(sys.argv[1]).read_text())
    environment = os.environ | {"REDISCLI_AUTH": PASSWORD.read_text().rstrip("\n")}
    for name, text in (*known["previous"].items(), *known["current"].items()):
        done = subprocess.run(COMMAND, input=text, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{name}: {(done.stdout + done.stderr).strip()}")


main()
