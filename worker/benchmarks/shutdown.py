"""How long an idle worker takes from SIGTERM to its exit."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.machine import BenchmarkError
from benchmarks.report import Measure

if TYPE_CHECKING:
    from benchmarks.machine import Machine

GONE_WITHIN = 15.0


def measure(machine: Machine) -> list[Measure]:
    """Start a worker, wait until it waits, stop it."""
    machine.client.flushall()
    with machine.worker("--concurrency", "16") as process:
        machine.wait_ready(process)
        asked = time.monotonic()
        # A wait with a timeout looks only every 50 ms; one without is told at once, so something else is the limit.
        limit = threading.Timer(GONE_WITHIN, process.kill)
        limit.start()
        process.send_signal(signal.SIGTERM)
        status = process.wait()
        took = time.monotonic() - asked
        limit.cancel()
    if status != 0:
        raise BenchmarkError(f"the worker's exit status was {status}")
    return [Measure("idle SIGTERM to exit", "s", took, wanted="≤ 0.2 s")]
