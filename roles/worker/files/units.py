"""Start or stop units, all of them at the same time, now and at boot.

Usage: units.py start|stop [--check] UNIT...
stop returns when all have stopped: the instances have drained. start returns at once: to wait until they are well is
gate.py's, which has a limit and a reason. With --check nothing is done.
"""

from __future__ import annotations

import argparse
import subprocess


def systemctl(*words: str) -> None:
    """Run systemctl."""
    subprocess.run(["systemctl", *words], check=True)


def main() -> None:
    """Start or stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["start", "stop"])
    parser.add_argument("units", nargs="+")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        return
    if args.verb == "stop":
        systemctl("disable", "--now", "--quiet", *args.units)
        return
    systemctl("daemon-reload")
    systemctl("enable", "--quiet", *args.units)
    systemctl("start", "--no-block", *args.units)


main()
