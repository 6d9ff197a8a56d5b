"""Tell as JSON whether another program than Temporal's unit listens at the address. Usage: look.py PORT ADDRESS."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys


def taken(address: str, port: int) -> bool:
    """Try to listen there."""
    with socket.socket() as listener:
        # As servers do: connections that have ended but are remembered are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listens(unit: str, where: str) -> bool:
    """Tell whether a unit runs and is described with these words."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=ActiveState,ExecStart,Listen", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return "ActiveState=inactive" not in shown and "ActiveState=failed" not in shown and where in shown


def main() -> None:
    """Look and tell."""
    port, address = int(sys.argv[1]), sys.argv[2]
    others = []
    if taken(address, port) and not listens("orbiter-temporal-proxy.socket", f"{address}:{port} "):
        others.append(f"{address}:{port}")
    print(json.dumps({"others": others}))


main()
