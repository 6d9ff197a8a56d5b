"""Load the scripts that clients run into this host's Redis, which forgets them when it ends.

Usage: load_scripts.py FILE [FLAVOR]
FILE is client_scripts.json; FLAVOR is redis, or valkey. The server's unit calls this at each start: clients may load no
scripts themselves, and go on at once where no worker is there to do so. It speaks to the server over its Unix socket,
and reads the password from admin.password in /etc/FLAVOR.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = "{0}-cli -e -s /run/{0}/{0}-server.sock --user admin -x SCRIPT LOAD"


def main() -> None:
    """Load all scripts of the file; fail with the words of Redis where it refuses one."""
    file, flavor = [*sys.argv[1:], "redis"][:2]  # an older release's unit names none
    known = json.loads(Path(file).read_text())
    environment = os.environ | {"REDISCLI_AUTH": Path("/etc", flavor, "admin.password").read_text().rstrip("\n")}
    command = COMMAND.format(flavor).split()
    for name, text in (*known["previous"].items(), *known["current"].items()):
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{name}: {(done.stdout + done.stderr).strip()}")


main()
