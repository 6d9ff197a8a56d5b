"""The health port: ``/livez`` and ``/readyz`` for load balancers, containers and people; ``/metrics`` for Prometheus.

It answers from a thread of its own, so that it can tell when the event loop is blocked.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from orbiter.distributed.errors import OrbiterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Check: TypeAlias = Callable[[], str | None]
    Page: TypeAlias = tuple[str, Callable[[], str]]


class PortTakenError(OrbiterError):
    """The health port cannot be opened."""


class HealthServer:
    """Serves checks over HTTP: 200 ``ok``, or 503 with the reason; and pages of text.

    Args:
        host: Address to bind to.
        port: Port to bind to.
        checks: For each path, what returns the reason why not, or ``None``.
        pages: For each path, a content type and what returns the text.

    Raises:
        PortTakenError: The port is taken or not allowed.
    """

    def __init__(self, host: str, port: int, checks: Mapping[str, Check], pages: Mapping[str, Page]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path in pages:
                    kind, write = pages[path]
                    self._send(200, kind, write().encode())
                    return
                check = checks.get(path)
                if check is None:
                    self._answer(404, {"error": f"unknown path; known are {', '.join([*checks, *pages])}"})
                    return
                reason = check()
                self._answer(200 if reason is None else 503, {"status": "ok"} if reason is None else {"reason": reason})

            def _answer(self, code: int, body: Mapping[str, str]) -> None:
                self._send(code, "application/json", json.dumps(body).encode() + b"\n")

            def _send(self, code: int, kind: str, text: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Say nothing: probes come every few seconds."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise PortTakenError(f"--health-port {port} on {host}: {error.strerror}; choose another port") from error
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="orbiter-health", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
