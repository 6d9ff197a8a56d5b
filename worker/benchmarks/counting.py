"""What metrics cost: draining while they are sent by OTLP and scraped, and while nobody reads them; and counting."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from benchmarks import drain
from benchmarks.report import Measure
from orbiter.distributed import TaskPayload
from orbiter.distributed.broker.records import Claim, Recorded
from orbiter.distributed.execution.metering import TaskMeter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.machine import Machine

EVERY = 1.0
CALLS = 500


class _Run:
    """What a meter looks at of a slot."""

    def __init__(self) -> None:
        task = TaskPayload(agent_config={"target": "benchmarks.targets:nothing"})
        self.claim = Claim(f"{time.time_ns() // 1_000_000}-0", task, 1, 1, 0)
        self.agent_name = task.agent_name
        self.started = time.monotonic()


def measure(machine: Machine, tasks: int) -> list[Measure]:
    """Drain twice by a worker, without and with readers of its metrics; count as for one task, again and again."""
    warm = tasks // 10
    off = drain.drained(machine, tasks, warm, "--isolation", "none")
    with _collector() as url, _scraper() as port:
        # Both far more often than anybody wants it: once a second.
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRIC_EXPORT_INTERVAL": f"{EVERY * 1000:.0f}",
        }
        on = drain.drained(
            machine, tasks, warm, "--isolation", "none", "--health-port", str(port), environment=environment
        )
    return [
        Measure("metrics: rate, read / not read", "tasks/s", 1 / on["seconds"], 1 / off["seconds"], "≥ 0.95"),
        Measure("metrics: CPU, read / not read", "µs/task", on["cpu"] * 1e6, off["cpu"] * 1e6, "≤ 1.05"),
        Measure("metrics: counting / all CPU", "µs/task", _counting() * 1e6, off["cpu"] * 1e6, "≤ 0.05"),
    ]


def _counting() -> float:
    """Return the seconds that counting takes for one task: its start, with those that came with it, and its end."""
    meter, runs = TaskMeter("orbiter:tasks", "measured"), [_Run() for _ in range(drain.SLOTS // 2)]
    took = []
    for _ in range(20):
        began = time.process_time()
        for _ in range(CALLS):
            meter.started(runs)  # type: ignore[arg-type] # all that it looks at
            for run in runs:
                meter.ended(run, Recorded.COMPLETED)  # type: ignore[arg-type]
        took.append((time.process_time() - began) / CALLS / len(runs))
    return min(took)


@contextmanager
def _collector() -> Iterator[str]:
    """Take OTLP over HTTP and throw it away meanwhile; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _scraper() -> Iterator[int]:
    """Read a worker's page of metrics again and again meanwhile, where it has one; give the port for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(EVERY):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=EVERY).read()
            except OSError:
                continue  # the worker is not there yet, or has gone

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield port
    finally:
        done.set()
        thread.join()
