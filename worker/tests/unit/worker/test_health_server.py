"""The health port, as load balancers and Prometheus use it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from orbiter.distributed.worker.health_server import HealthServer, PortTakenError


class Health:
    """A server, and what its check complains of."""

    def __init__(self) -> None:
        self.reason: str | None = None
        pages = {"/metrics": ("text/plain", lambda: "things 1\n")}
        self.server = HealthServer("127.0.0.1", 0, {"/livez": lambda: self.reason}, pages)

    def get(self, path: str) -> tuple[int, str, str]:
        """Return status, content type and text."""
        url = f"http://127.0.0.1:{self.server.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return reply.status, reply.headers["Content-Type"], reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def health() -> Iterator[Health]:
    health = Health()
    yield health
    health.server.close()


def test_health_port_answers_by_the_check(health: Health) -> None:
    status, kind, text = health.get("/livez?verbose")
    assert (status, kind, json.loads(text)) == (200, "application/json", {"status": "ok"})
    health.reason = "stuck"
    status, _, text = health.get("/livez")
    assert (status, json.loads(text)) == (503, {"reason": "stuck"})


def test_health_port_serves_pages(health: Health) -> None:
    assert health.get("/metrics") == (200, "text/plain", "things 1\n")


def test_health_port_names_the_paths_it_knows(health: Health) -> None:
    status, _, text = health.get("/")
    assert status == 404
    assert "/livez" in text
    assert "/metrics" in text


def test_health_port_that_is_taken_is_refused(health: Health) -> None:
    with pytest.raises(PortTakenError):
        HealthServer("127.0.0.1", health.server.port, {}, {})
