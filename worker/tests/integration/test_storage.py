"""Redis servers that may lose what they are given are warned of: by a worker, ``queue info`` and the alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from orbiter.distributed.alerts import judge, read_queue
from orbiter.distributed.broker.storage import Server as Kept
from orbiter.distributed.broker.storage import Storage, Threat, read_storage
from orbiter.distributed.connection.redis_url import connect
from orbiter.distributed.telemetry import metrics
from orbiter.distributed.worker import redis_watch
from tests.fleet import QUEUE, Fleet, working
from tests.rights import RULES
from tests.servers import Server, eventually, plain_server
from tests.support import orbiter, wait_until, worker_process

SAFE = ("appendonly yes",)
OF_REDIS = ("dist_redis_eviction_critical", "dist_redis_persistence_warning", "dist_redis_replica_warning")
OF_REDIS += ("dist_redis_memory_warning",)


def url_of(server: Server, login: str = "") -> str:
    return f"redis://{login}127.0.0.1:{server.port}/0"


@contextmanager
def replica_of(server: Server, directory: Path, *options: str) -> Iterator[Server]:
    """Run a replica that is in step."""
    with plain_server(directory, f"replicaof 127.0.0.1 {server.port}", *options) as replica:
        eventually(lambda: facts(server, "replication").get("slave0", {}).get("state") == "online")
        yield replica


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[Server]:
    """A server with every fault: it evicts, keeps nothing on disk, is nearly full, and so is its replica's disk."""
    with (
        plain_server(tmp_path / "master", "maxmemory-policy volatile-lru") as server,
        replica_of(server, tmp_path / "replica"),
    ):
        # So much that what a test adds does not count.
        server.ask("SETRANGE", "filler", 60 * 1024 * 1024, "x")
        server.ask("CONFIG", "SET", "maxmemory", int(facts(server, "memory")["used_memory"] / 0.95))
        yield server


def facts(server: Server, section: str) -> dict[str, Any]:
    return server.ask("INFO", section)  # type: ignore[return-value]


async def storage_of(url: str) -> Storage:
    client = connect(url, max_connections=1)
    try:
        return await read_storage(url, client)
    finally:
        await client.aclose()


def kinds(storage: Storage) -> list[Threat]:
    return [warning.kind for warning in storage.warnings]


# -- who is told -----------------------------------------------------------------------------------------------------


def test_a_worker_warns_at_its_start_once_of_each_threat(careless: Server, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker_process(url_of(careless), "w1", log, "--log-format", "json"):
        eventually(lambda: log.read_text().count('"threat"') >= 4, what=f"all four are in {log.read_text()}")
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    told = {row["threat"]: row for row in rows if "threat" in row}
    assert sorted(row["threat"] for row in rows if "threat" in row) == sorted(Threat)
    assert {row["level"] for row in told.values()} == {"warning"}
    # The setting that was found, and the remedy.
    assert "maxmemory-policy is volatile-lru" in told["eviction"]["message"]
    assert "CONFIG SET maxmemory-policy noeviction" in told["eviction"]["message"]
    assert "appendonly" in told["not_persistent"]["message"]


def test_queue_info_shows_how_redis_keeps_the_queue_and_what_threatens_it(careless: Server) -> None:
    found = orbiter("queue", "info", "--json", "--redis-url", url_of(careless))
    assert (found.returncode, found.stderr) == (0, "")
    info = json.loads(found.stdout)
    assert sorted(warning["kind"] for warning in info["warnings"]) == sorted(Threat)
    master, replica = info["storage"]
    assert (master["eviction_policy"], master["append_only"], master["persistent"]) == ("volatile-lru", False, False)
    assert (replica["replica"], replica["persistent"]) == (True, False)
    assert 0.9 < info["memory_used"] / info["memory_max"] < 1
    page = orbiter("queue", "info", "--redis-url", url_of(careless)).stdout
    assert "  Eviction:  volatile-lru\n" in page
    assert "  On disk:   nothing\n" in page
    assert page.count("  Warning:   ") == 4


async def test_alerts_fire_for_each_threat(careless: Server) -> None:
    reading = await read_queue(url_of(careless))
    assert (reading.redis_evicting, reading.redis_unsaved, reading.redis_unsaved_replicas) == (1, 1, 1)
    assert 0.9 < reading.redis_memory_share < 1
    firing = {alert.rule.name for alert in judge(reading) if alert.firing}
    assert firing >= set(OF_REDIS)


async def test_a_worker_tells_prometheus_of_threats(fleet: Fleet, redis_client: Redis) -> None:
    await redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with working(fleet):
            await wait_until(lambda: metrics.REDIS_EVICTING.values().get((QUEUE,)) == 1)
            gauges = (metrics.REDIS_UNSAVED, metrics.REDIS_UNSAVED_REPLICAS, metrics.REDIS_MEMORY_SHARE)
            assert [gauge.values()[QUEUE,] for gauge in gauges] == [1, 0, 0]
    finally:
        await redis_client.config_set("maxmemory-policy", "noeviction")


async def test_a_setting_changed_while_a_worker_works_is_warned_of(
    fleet: Fleet, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_watch, "LOOK_EVERY", 0.1)

    def told() -> list[str]:
        return [record.threat for record in caplog.records if hasattr(record, "threat")]

    try:
        async with working(fleet):
            await wait_until(lambda: told() == ["not_persistent"])
            await redis_client.config_set("maxmemory-policy", "allkeys-lru")
            await wait_until(lambda: "eviction" in told())
    finally:
        await redis_client.config_set("maxmemory-policy", "noeviction")
    assert told() == ["not_persistent", "eviction"]


# -- what is safe, and what is not known -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SAFE, ("save 3600 1",)], ids=["append-only file", "snapshots"])
async def test_a_redis_that_keeps_what_it_is_given_is_not_warned_of(tmp_path: Path, options: tuple[str, ...]) -> None:
    with plain_server(tmp_path / "master", *options) as server, replica_of(server, tmp_path / "replica", *options):
        storage = await storage_of(url_of(server))
        assert [server.persistent for server in storage.servers] == [True, True]
        assert kinds(storage) == []
        firing = {alert.rule.name for alert in judge(await read_queue(url_of(server))) if alert.firing}
        assert not firing & set(OF_REDIS)
        page = orbiter("queue", "info", "--redis-url", url_of(server)).stdout
        assert "Warning" not in page


async def test_only_the_replica_of_a_safe_master_is_warned_of(tmp_path: Path) -> None:
    with plain_server(tmp_path / "master", *SAFE) as server, replica_of(server, tmp_path / "replica") as replica:
        [warning] = (await storage_of(url_of(server))).warnings
        assert (warning.kind, warning.server) == (Threat.REPLICA_NOT_PERSISTENT, f"127.0.0.1:{replica.port}")


async def test_a_replica_that_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    with (
        plain_server(tmp_path / "master", *SAFE) as server,
        # Another password than the fleet's.
        replica_of(server, tmp_path / "replica", "requirepass other"),
    ):
        storage = await storage_of(url_of(server))
        assert [server.persistent for server in storage.servers] == [True, None]
        assert kinds(storage) == []


@pytest.mark.parametrize("user", ["worker", "monitor"])
async def test_a_user_with_the_role_s_rights_is_refused_nothing(tmp_path: Path, user: str) -> None:
    """CONFIG is not among them: whether there are snapshots is unknown to it, all else is told."""
    with plain_server(tmp_path, "maxmemory-policy volatile-lru", *RULES) as server:
        storage = await storage_of(url_of(server, f"{user}:{user.upper()}-PASSWORD@"))
        # The driver tells servers of today its name; the role allows that where they know the command.
        assert [row for row in server.ask("ACL", "LOG") if "client|setinfo" not in row] == []
    [kept] = storage.servers
    assert (kept.eviction_policy, kept.append_only, kept.snapshots, kept.persistent) == (
        *("volatile-lru", False, None, None),
    )
    assert kinds(storage) == [Threat.EVICTION]


async def test_the_role_s_operator_is_told_whether_there_are_snapshots(tmp_path: Path) -> None:
    with plain_server(tmp_path, "user admin on >ADMIN-PASSWORD ~* &* +@all") as server:
        [kept] = (await storage_of(url_of(server, "admin:ADMIN-PASSWORD@"))).servers
    assert kept.snapshots is not None
    assert kept.persistent is not None


async def test_a_snapshot_that_was_taken_tells_a_user_without_config_of_persistence(tmp_path: Path) -> None:
    with plain_server(tmp_path, *RULES) as server:
        server.ask("SAVE")
        storage = await storage_of(url_of(server, "worker:WORKER-PASSWORD@"))
    assert storage.servers[0].persistent is True


@pytest.mark.parametrize(
    "options",
    [('rename-command CONFIG ""',), ("user default on nopass ~* &* +@all -info -config",)],
    ids=["no CONFIG", "neither INFO nor CONFIG"],
)
async def test_what_redis_does_not_tell_is_unknown_and_no_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    with plain_server(tmp_path, *options) as server:
        [kept] = (await storage_of(url_of(server))).servers
        assert (kept.snapshots, kept.persistent) == (None, None)
        found = orbiter("queue", "info", "--redis-url", url_of(server))
        assert (found.returncode, found.stderr) == (0, "")
        assert "  On disk:   unknown\n" in found.stdout
        with worker_process(url_of(server), "w1", tmp_path / "log"):
            assert json.loads(orbiter("alerts", "check", "--json", "--redis-url", url_of(server)).stdout)["firing"] == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("used", "near"), [(899, False), (900, True)])
def test_memory_is_near_its_limit_from_nine_tenths_on(used: int, near: bool) -> None:
    storage = Storage((Kept(memory_used=used, memory_max=1000),))
    assert (kinds(storage) == [Threat.MEMORY_NEAR_LIMIT]) is near


def test_memory_without_a_limit_is_near_none() -> None:
    assert kinds(Storage((Kept(memory_used=10**12, memory_max=0),))) == []
