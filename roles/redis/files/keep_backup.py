"""Take an archive that has arrived whole among the good ones, and let the oldest go. Runs on the controller.

Usage: keep_backup.py ARCHIVE.part KEEP
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# HOST-YYYYMMDDTHHMMSSZ.tar.gz, and nothing else that may lie in the directory.
NAME = re.compile(r".+-(\d{8}T\d{6}Z)\.tar\.gz")


def main() -> None:
    """Rename, and remove what is too old."""
    part, keep = Path(sys.argv[1]), int(sys.argv[2])
    part.chmod(0o600)
    part.rename(part.with_suffix(""))
    archives = [path for path in part.parent.iterdir() if NAME.fullmatch(path.name)]
    archives.sort(key=lambda path: NAME.fullmatch(path.name)[1])  # type: ignore[index]
    old = archives[:-keep]
    for path in old:
        path.unlink()
    print(json.dumps({"removed": [path.name for path in old]}))


main()
