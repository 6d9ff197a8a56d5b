"""Name the release to go back to.

Usage: previous.py [RELEASE]
Prints RELEASE if it is installed; without it, the last other release that was well on this host and is still installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

RELEASES = Path("/opt/orbiter/releases")
CURRENT = Path("/opt/orbiter/current")
HISTORY = Path("/opt/orbiter/history")


def main() -> None:
    """Choose, or say why there is no choice."""
    installed = sorted(path.parent.name for path in RELEASES.glob("[!.]*/.complete"))
    current = CURRENT.resolve().name
    if wanted := "".join(sys.argv[1:]):
        if wanted not in installed:
            sys.exit(f"Release {wanted} is not installed here; these are: {', '.join(installed) or 'none'}.")
        print(wanted)
        return
    past = [line.split()[-1] for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    earlier = [release for release in past if release != current and release in installed]
    if not earlier:
        sys.exit(
            f"Nothing to go back to: no other release than {current} was well here and is still installed. "
            f"Installed: {', '.join(installed) or 'none'}; name one by worker_version."
        )
    print(earlier[-1])


main()
