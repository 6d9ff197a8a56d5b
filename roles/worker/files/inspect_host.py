"""Tell as JSON what a deploy wants to know of a host before it changes anything.

Usage: inspect_host.py NAME[,NAME...] ASKED
now: the host's clock · asked: the moment ASKED, by the clock of who asks
free: MB that are free where releases are installed · releases: those installed whole
users: home and shell of each user NAME that there is, as HOME:SHELL
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
    names = sys.argv[1].split(",")
    answer = {
        "now": time.time(),
        "asked": float(sys.argv[2]),
        "free": shutil.disk_usage(place).free // 1_000_000,
        "releases": sorted(path.parent.name for path in RELEASES.glob("[!.]*/.complete")),
        "users": {one.pw_name: f"{one.pw_dir}:{one.pw_shell}" for one in pwd.getpwall() if one.pw_name in names},
    }
    print(json.dumps(answer))


main()
