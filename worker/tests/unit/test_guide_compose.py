"""images/compose/docker-compose.yml says what the guide's file says; molecule's scenario `compose` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[3] / "images" / "compose" / "docker-compose.yml"
REDIS_IS_WELL = {"redis": {"condition": "service_healthy"}}


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@pytest.mark.guide("docker-compose.yml", "`redis`: image, volume, `--appendonly yes`, `healthcheck`")
def test_compose_redis_keeps_what_it_is_told_and_says_whether_it_is_well(stack: dict[str, Any]) -> None:
    redis = stack["services"]["redis"]
    assert "redis:7-alpine" in redis["image"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert redis["command"].startswith("redis-server --appendonly yes")
    assert redis["healthcheck"] == {
        "test": ["CMD", "redis-cli", "ping"],
        "interval": "10s",
        "timeout": "5s",
        "retries": 3,
    }
    assert "redis-data" in stack["volumes"]


@pytest.mark.guide(
    "docker-compose.yml", "`worker`: URL, `depends_on`, two replicas, `restart`, `stop_grace_period`, `stop_signal`"
)
def test_compose_worker_waits_for_redis_and_is_stopped_in_order(stack: dict[str, Any]) -> None:
    worker = stack["services"]["worker"]
    assert "redis://redis:6379" in worker["environment"]["ORBITER_REDIS_URL"]
    assert worker["depends_on"] == REDIS_IS_WELL
    assert worker["deploy"] == {"replicas": 2}
    assert worker["restart"] == "unless-stopped"
    assert (worker["stop_grace_period"], worker["stop_signal"]) == ("30s", "SIGTERM")


@pytest.mark.guide("docker-compose.yml", "profile `temporal`: `temporal`, `temporal-worker`")
def test_compose_profile_temporal_adds_the_server_and_its_worker(stack: dict[str, Any]) -> None:
    services = stack["services"]
    assert [name for name, service in services.items() if service.get("profiles") == ["temporal"]] == [
        "temporal",
        "temporal-worker",
    ]
    assert "temporalio/auto-setup:latest" in services["temporal"]["image"]
    assert services["temporal"]["environment"] == {"DB": "sqlite"}
    worker = services["temporal-worker"]
    wanted = {"TEMPORAL_HOST": "temporal:7233", "TEMPORAL_NAMESPACE": "default", "ORBITER_EXECUTOR": "temporal"}
    assert worker["environment"].items() >= wanted.items()
    assert worker["depends_on"] == REDIS_IS_WELL | {"temporal": {"condition": "service_started"}}
    assert worker["restart"] == "unless-stopped"
