"""The image's HEALTHCHECK: asks the worker's /livez, and kills one that hangs for ORBITER_WATCHDOG_TIMEOUT seconds.

Docker only marks a container that is not well. A worker that is killed is started anew by its restart policy, and its
tasks run again elsewhere, as with systemd's watchdog. It takes an init, such as init.py: nobody may kill a container's
first process from inside. Where no worker listens nothing is killed: another command may run here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SINCE = Path("/tmp/.orbiter-unwell-since")


def main() -> None:
    """Ask, and act on the answer."""
    url = f"http://127.0.0.1:{os.environ.get('ORBITER_HEALTH_PORT', '8080')}/livez"
    reason = ""
    try:
        with urllib.request.urlopen(url, timeout=4):
            SINCE.unlink(missing_ok=True)
            return
    except urllib.error.HTTPError as error:  # it says itself what is wrong
        reason = error.read().decode()
    except OSError as error:
        reason = str(error)
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            sys.exit(f"No worker listens at {url}")
    now = time.monotonic()
    if not SINCE.exists():
        SINCE.write_text(str(now))
    limit = float(os.environ.get("ORBITER_WATCHDOG_TIMEOUT") or 0)
    if limit and now - float(SINCE.read_text()) >= limit:
        os.kill(-1, signal.SIGKILL)  # all but the first process and this one
    sys.exit(f"The worker hangs: {reason}")


main()
