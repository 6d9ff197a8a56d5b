"""A collector of the tests' own: takes OTLP over HTTP and keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def attributes(carrier: Any) -> dict[str, Any]:
    """Return the attributes of a resource, span or data point."""
    return {row.key: getattr(row.value, row.value.WhichOneof("value")) for row in carrier.attributes}


class Receiver:
    """What has arrived so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[dict[str, Any]] = []
        self.unknown: list[str] = []

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            for row in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes(row.resource))
                self.spans += [span for scope in row.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            for row in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(attributes(row.resource))
                for scope in row.scope_metrics:
                    # The last one counts: all of them are cumulative.
                    self.metrics |= {metric.name: metric for metric in scope.metrics}
        else:
            self.unknown.append(path)

    def span(self, name: str) -> Any:
        """Return the one span of this name, or ``None``."""
        found = [span for span in self.spans if span.name == name]
        assert len(found) <= 1, found
        return found[0] if found else None

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Return the attributes and the data points of a metric."""
        metric = self.metrics.get(name)
        if metric is None:
            return []
        return [(attributes(point), point) for point in getattr(metric, metric.WhichOneof("data")).data_points]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Listen on a free port of the loopback interface meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
