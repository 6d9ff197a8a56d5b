"""Tell as JSON what a deploy wants to know of a host before it changes anything.

Usage: inspect_host.py NAME ASKED
now: the host's clock · asked: the moment ASKED, by the clock of who asks
free: MB that are free where releases are installed · releases: those installed whole
user: home and shell of the user NAME, as HOME:SHELL, or empty
"""

from __future__ import annotations

import json
import pwd
import shutil
import sys
import time
from pathlib import Path

RELEASES = Path("/opt/orbiter/releases")


def main() -> None:
    """Look and tell."""
    place = next(path for path in (RELEASES, *RELEASES.parents) if path.exists())
    user = next((entry for entry in pwd.getpwall() if entry.pw_name == sys.argv[1]), None)
    answer = {
        "now": time.time(),
        "asked": float(sys.argv[2]),
        "free": shutil.disk_usage(place).free // 1_000_000,
        "releases": sorted(path.parent.name for path in RELEASES.glob("[!.]*/.complete")),
        "user": f"{user.pw_dir}:{user.pw_shell}" if user else "",
    }
    print(json.dumps(answer))


main()
