"""Runs a command that ends when the process which started it is gone, even by SIGKILL.

That is Linux's; elsewhere the command just runs. A script which becomes the command, as code between fork and exec may
deadlock in a program with threads. It runs without site packages: import the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def tied(command: list[str], number: int) -> list[str]:
    """Return the command line that runs ``command`` and has it get the signal once this very process has ended."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(number)), *command]


def main(parent: str, number: str, *command: str) -> None:
    """Tie this process to its parent, then become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        # The parent may have ended before it was asked to be watched.
        if os.getppid() != int(parent):
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is this program's own


if __name__ == "__main__":
    main(*sys.argv[1:])
