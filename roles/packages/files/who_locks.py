"""Print which processes have the locks of apt and dpkg, a sentence in all."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
# struct flock of a 64-bit Linux: type, whence, start, length, process.
FLOCK = "hhqqi"


def holder(path: str) -> int | None:
    """Return the process that has a lock, or None; 0 where it is outside of this container."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if answer[0] == fcntl.F_UNLCK else max(answer[-1], 0)


def command(process: int) -> str:
    """Return the command line of a process, as far as it fits on a line."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "outside of this container"
    return " ".join(b" ".join(words).decode(errors="replace").split())[:100]


def main() -> None:
    """Ask for each lock."""
    held: dict[int, list[str]] = {}
    for path in LOCKS:
        process = holder(path)
        if process is not None:
            held.setdefault(process, []).append(path)
    said = [f"process {one} ({command(one)}) has {' and '.join(paths)}" for one, paths in held.items()]
    print("; ".join(said) or "nobody, a moment after the last attempt")


main()
