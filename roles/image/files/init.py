"""A container's first process: starts a command, hands its signals on, and reaps what nobody else does.

Usage: init.py COMMAND [ARGUMENT...]
It ends as the command does, with 128 and the signal's number where a signal ended it. Docker's own init would do all
that, but whoever runs as the same user could read the container's environment from it, with the password of Redis:
tasks do. This one can neither be read (/proc/1/environ, /proc/1/mem) nor traced.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
HANDED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
# Python ignores these, and what it starts would do so too.
IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}
# A terminal sends these to the command too.
FROM_TERMINAL = {signal.SIGINT, signal.SIGQUIT}


def main() -> None:
    """Run the command."""
    prctl = ctypes.CDLL(None).prctl
    if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        sys.exit("init: cannot hide the environment: prctl(PR_SET_DUMPABLE) failed")
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what orphans get; also where this is not the first process
    handed_on = HANDED_ON - (FROM_TERMINAL if os.isatty(0) else set())
    watched = {signal.SIGCHLD, *HANDED_ON}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        command = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, setsigmask=(), setsigdef=HANDED_ON | IGNORED)
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
    while True:
        received = signal.sigwait(watched)
        if received in handed_on:
            os.kill(command, received)
        elif received == signal.SIGCHLD:
            reap(command)


def reap(command: int) -> None:
    """Reap all that have ended; end with the command."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            sys.exit(code if code >= 0 else 128 - code)
        if pid == 0:
            return


main()
