"""An executor process that breaks the rules, as ``python -m …`` in place of the real one: it imports nothing of ours.

It is told what to do in the configuration: frames to send, on which channel, and whether it lives on then.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time

HEADER = struct.Struct("!IBI")


def read_frame(end: socket.socket) -> tuple[int, int, bytes]:
    """Return the next frame."""

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = end.recv(size - len(data))
            if not more:
                os._exit(0)
            data += more
        return data

    length, kind, run = HEADER.unpack(exactly(HEADER.size))
    return kind, run, exactly(length)


def main() -> None:
    """Do what the configuration says."""
    work, guard = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    config = json.loads(read_frame(guard)[2])["hostile"]
    work.sendall(HEADER.pack(0, 16, 0))
    # So that what it does is seen while it holds a run.
    while read_frame(work)[0] != 2:
        pass
    threading.Thread(target=lambda: [read_frame(work) for _ in iter(int, 1)], daemon=True).start()
    for part, data, *times in config["sends"]:
        try:
            for _ in range(*times or [1]):
                (guard if part == "guard" else work).sendall(bytes.fromhex(data))
        except OSError:
            break
    if config["lives"]:
        time.sleep(1000)
    os._exit(0)


if __name__ == "__main__":
    main()
