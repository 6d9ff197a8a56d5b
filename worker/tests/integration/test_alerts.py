"""The rules fire at their threshold and not below it: in process, by the command, and in Prometheus."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from orbiter.distributed.alerts import (
    RULES,
    Alert,
    AlertManager,
    Reading,
    alert_manager,
    read_queue,
    register_distributed_alerts,
)
from tests.fleet import QUEUE, Fleet, job_payload, working
from tests.support import free_port, orbiter, slowness, wait_until

DEPTH, CRITICAL, FAILURES, NOBODY, WAIT, EVICTION, UNSAVED, UNSAVED_REPLICA, MEMORY, DEGRADED = (
    rule.name for rule in RULES
)
QUIET = {"queue_depth": 0, "failure_rate": 0.0, "worker_count": 1, "wait_time": 0.0, "degraded": 0}
SAFE = {"redis_evicting": 0, "redis_unsaved": 0, "redis_unsaved_replicas": 0, "redis_memory_share": 0.0}

# What is read, and what fires; each threshold from both sides.
CASES = [
    ({"queue_depth": 100}, set()),
    ({"queue_depth": 101}, {DEPTH}),
    ({"queue_depth": 500}, {DEPTH}),
    ({"queue_depth": 501}, {DEPTH, CRITICAL}),
    ({"failure_rate": 0.1}, set()),
    ({"failure_rate": 0.101}, {FAILURES}),
    ({"degraded": 0}, set()),
    ({"degraded": 1}, {DEGRADED}),
    ({"worker_count": 1}, set()),
    ({"worker_count": 0}, {NOBODY}),
    ({"wait_time": 60}, set()),
    ({"wait_time": 60.5}, {WAIT}),
    ({"redis_evicting": 1}, {EVICTION}),
    ({"redis_unsaved": 1}, {UNSAVED}),
    ({"redis_unsaved_replicas": 2}, {UNSAVED_REPLICA}),
    ({"redis_memory_share": 0.899}, set()),
    ({"redis_memory_share": 0.9}, {MEMORY}),
]


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    yield
    alert_manager.clear()


@pytest.fixture
def redis_url(redis_url: str) -> Iterator[str]:
    """A Redis that the rules have nothing to say of: it takes snapshots, though not while a test runs."""
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("save", "86400 1")
        yield redis_url
        client.config_set("save", "")


@pytest.mark.guide("Built-in alert rules", "the table: its five rules, thresholds, severities")
def test_the_rules_are_those_of_the_guide() -> None:
    rules = [(rule.title, rule.comparison, rule.threshold, rule.severity.upper()) for rule in RULES]
    assert register_distributed_alerts() == list(RULES) == alert_manager.rules
    assert register_distributed_alerts() == alert_manager.rules
    assert rules[:5] == [
        ("Queue depth high", ">", 100, "WARNING"),
        ("Queue depth critical", ">", 500, "CRITICAL"),
        ("Task failure rate", ">", 0.1, "WARNING"),
        ("Worker count zero", "==", 0, "CRITICAL"),
        ("Task wait time high", ">", 60, "WARNING"),
    ]


@pytest.mark.guide("Built-in alert rules", "each fires beyond its threshold, and not at it: in process")
@pytest.mark.parametrize(("values", "fires"), CASES)
async def test_a_rule_fires_beyond_its_threshold_and_not_at_it(values: dict[str, float], fires: set[str]) -> None:
    heard: list[Alert] = []
    register_distributed_alerts(heard.append)
    firing = await alert_manager.evaluate(Reading(queue="q", **QUIET | values))
    assert {alert.rule.name for alert in firing} == {alert.rule.name for alert in heard} == fires


async def test_callbacks_are_told_again_after_the_cooldown_or_a_recovery() -> None:
    manager, heard = AlertManager(), []
    manager.register(RULES[0])

    async def callback(alert: Alert) -> None:
        heard.append(alert.value)

    manager.on_alert(callback)
    for depth in (200, 300, 5, 400):
        await manager.evaluate(Reading(queue="q", **QUIET | {"queue_depth": depth}))
    assert heard == [200, 400]
    manager._notified = dict.fromkeys(manager._notified, time.monotonic() - RULES[0].cooldown)
    await manager.evaluate(Reading(queue="q", **QUIET | {"queue_depth": 500}))
    await manager.evaluate(Reading(queue="other", **QUIET | {"queue_depth": 600}))
    assert heard == [200, 400, 500, 600]


async def test_a_callback_that_fails_does_not_silence_the_others() -> None:
    heard: list[Alert] = []

    def broken(_: Alert) -> None:
        raise RuntimeError("no mail today")

    register_distributed_alerts(broken)
    register_distributed_alerts(heard.append)
    await alert_manager.evaluate(Reading(queue="q", **QUIET | {"worker_count": 0}))
    assert [alert.rule.name for alert in heard] == [NOBODY]


@pytest.mark.guide("Built-in alert rules", "`register_distributed_alerts()`")
async def test_a_worker_evaluates_what_its_process_has_registered(fleet: Fleet) -> None:
    heard: list[Alert] = []
    register_distributed_alerts(heard.append)
    await fleet.submit("sleep", metadata={"seconds": 600})
    await fleet.submit_many("echo", 101)
    async with working(fleet, drain_timeout=0.2):
        await wait_until(lambda: heard)
    assert {(alert.rule.name, alert.queue) for alert in heard} == {(DEPTH, QUEUE)}


async def test_a_process_without_worker_watches(fleet: Fleet) -> None:
    heard: list[Alert] = []
    register_distributed_alerts(heard.append)
    watching = asyncio.create_task(alert_manager.watch(fleet.url, every=0.1))
    try:
        await wait_until(lambda: heard)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    assert [alert.rule.name for alert in heard] == [NOBODY]


# -- readings, from a real Redis ---------------------------------------------------------------------------------------


async def test_failures_and_waits_are_what_the_workers_counted_lately(fleet: Fleet) -> None:
    async with working(fleet, max_retries=0, concurrency=4):
        tasks = await fleet.submit_many("echo", 9)
        tasks += await fleet.submit_many("fail", 1)
        await fleet.all_end(tasks)

        async def counted() -> Reading | None:
            reading = await read_queue(fleet.url)
            # All of them: heartbeats may have told of some.
            return reading if reading.failure_rate == 0.1 else None

        reading = await wait_until(counted)
        assert (reading.queue_depth, reading.worker_count) == (0, 1)
        assert 0 < reading.wait_time < 10 * slowness()
        await fleet.all_end(await fleet.submit_many("fail", 1))

        async def worse() -> bool:
            return (await read_queue(fleet.url)).failure_rate > 0.1

        await wait_until(worse)


async def _arrange(client: Redis, values: dict[str, float]) -> None:
    """Make a queue and a worker that read like this."""
    await client.flushall()
    await client.xgroup_create(QUEUE, f"{QUEUE}:group", id="0", mkstream=True)
    now = time.time()
    failed = round(values["failure_rate"] * 1000)
    fields = {"version": "1", "queue": QUEUE, "last_heartbeat": str(now), "recent_failed": str(failed)}
    fields |= {"recent_completed": str(1000 - failed), "recent_starts": "10"}
    fields["recent_waited"] = str(values["wait_time"] * 10)
    if values["worker_count"]:
        await client.hset("orbiter:workers:w1", mapping=fields)
    if values["queue_depth"]:
        rows = [{"payload": job_payload("echo").to_json()}] * int(values["queue_depth"])
        async with client.pipeline() as pipeline:
            for row in rows:
                pipeline.xadd(QUEUE, row)
            await pipeline.execute()


@pytest.mark.guide("Built-in alert rules", "…by `orbiter alerts check` (ours)")
async def test_the_command_exits_with_1_where_a_rule_fires(redis_url: str, redis_client: Redis) -> None:
    # Two rules from both sides at once: starting the command takes longer than evaluating.
    at = QUIET | {"queue_depth": 500, "failure_rate": 0.1, "wait_time": 60}
    beyond = {"queue_depth": 501, "failure_rate": 0.101, "wait_time": 60.5, "worker_count": 1}
    everything = [
        (QUIET | {"queue_depth": 100, "failure_rate": 0.1, "wait_time": 60}, set()),
        (at, {DEPTH}),
        (beyond, {DEPTH, CRITICAL, FAILURES, WAIT}),
        (QUIET | {"queue_depth": 101, "worker_count": 0}, {DEPTH, NOBODY}),
    ]
    for values, fires in everything:
        await _arrange(redis_client, values)
        found = orbiter("alerts", "check", "--redis-url", redis_url, "--json")
        said = json.loads(found.stdout)
        assert {row["name"] for row in said["alerts"] if row["firing"]} == fires, (values, said)
        assert (found.returncode, said["firing"], found.stderr) == (int(bool(fires)), len(fires), "")
        assert {row["name"] for row in said["alerts"]} == {rule.name for rule in RULES}


async def test_the_command_tells_people_in_a_line_a_rule(redis_url: str, redis_client: Redis) -> None:
    await _arrange(redis_client, QUIET | {"queue_depth": 101})
    found = orbiter("alerts", "check", "--redis-url", redis_url)
    assert found.returncode == 1
    assert found.stdout.splitlines()[:2] == [
        "warning   Queue depth high: 101 tasks on orbiter:tasks (fires at > 100)",
        "ok        Queue depth critical: 101 tasks on orbiter:tasks (fires at > 500)",
    ]


def test_a_redis_that_is_away_is_no_alert_but_an_error() -> None:
    found = orbiter("alerts", "check", "--redis-url", f"redis://127.0.0.1:{free_port()}")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("Error: Cannot reach Redis")


async def test_the_task_that_waits_longest_counts_while_none_starts(redis_url: str, redis_client: Redis) -> None:
    await _arrange(redis_client, QUIET)
    seconds, _ = await redis_client.time()
    await redis_client.xadd(QUEUE, {"payload": "{}"}, id=f"{(seconds - 70) * 1000}-0")
    assert 69 < (await read_queue(redis_url)).wait_time < 80


# -- Prometheus --------------------------------------------------------------------------------------------------------

LABEL = "orbiter_distributed_queue_name"
# Ten minutes of samples, one a minute. A series of each, so that no rule but the one in question can fire.
SERIES = {
    "orbiter_distributed_queue_depth": "{queue_depth}+0x10",
    "orbiter_distributed_tasks_failed_total": "0+{failed}x10",
    "orbiter_distributed_tasks_completed_total": "0+{completed}x10",
    "orbiter_distributed_task_wait_time_seconds_sum": "0+{waited}x10",
    "orbiter_distributed_task_wait_time_seconds_count": "0+2x10",
    "orbiter_distributed_queue_oldest_wait_seconds": "{oldest}+0x10",
    "orbiter_distributed_redis_evicting": "{redis_evicting}+0x10",
    "orbiter_distributed_redis_unsaved": "{redis_unsaved}+0x10",
    "orbiter_distributed_redis_unsaved_replicas": "{redis_unsaved_replicas}+0x10",
    "orbiter_distributed_redis_memory_share": "{redis_memory_share}+0x10",
    "orbiter_distributed_worker_degraded": "{degraded}+0x10",
}


def _promtool_test(values: dict[str, float], fires: set[str], *, oldest: float = 0) -> dict[str, object]:
    failed = round(values["failure_rate"] * 1000)
    values = SAFE | values
    numbers = {name: values[name] for name in SAFE}
    numbers |= {"queue_depth": values["queue_depth"], "failed": failed, "completed": 1000 - failed, "oldest": oldest}
    numbers["waited"] = values["wait_time"] * 2
    numbers["degraded"] = values["degraded"]
    series = [
        {"series": f'{name}{{{LABEL}="q",instance="w1"}}', "values": row.format(**numbers)}
        for name, row in SERIES.items()
    ]
    if values["worker_count"]:
        series.append({"series": f'orbiter_distributed_tasks_running{{{LABEL}="q",instance="w1"}}', "values": "0+0x10"})
    shown = {
        DEPTH: values["queue_depth"],
        CRITICAL: values["queue_depth"],
        FAILURES: values["failure_rate"],
        NOBODY: values["worker_count"],
        WAIT: max(values["wait_time"], oldest),
        EVICTION: values["redis_evicting"],
        UNSAVED: values["redis_unsaved"],
        UNSAVED_REPLICA: values["redis_unsaved_replicas"],
        MEMORY: values["redis_memory_share"],
        DEGRADED: values["degraded"],
    }
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {
                "eval_time": "8m",
                "alertname": rule.name,
                "exp_alerts": [_expected(rule.name, shown[rule.name])] if rule.name in fires else [],
            }
            for rule in RULES
        ],
    }


def _expected(name: str, value: float) -> dict[str, object]:
    rule = next(rule for rule in RULES if rule.name == name)
    unit = f" {rule.unit}" if rule.unit else ""
    labels = {"severity": rule.severity.value}
    if name != NOBODY:
        labels[LABEL] = "q"
    place = "" if name == NOBODY else " on q"
    text = f"{rule.title}: {value:g}{unit}{place} (fires at {rule.comparison} {rule.threshold:g})"
    annotations = {"summary": rule.title, "description": text, "runbook_url": rule.runbook_url}
    return {"exp_labels": labels, "exp_annotations": annotations}


def _promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is not installed: apt-get install prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.guide("Built-in alert rules", "…and in Prometheus (ours)")
def test_prometheus_evaluates_the_same_rules(tmp_path: Path) -> None:
    exported = orbiter("alerts", "export", "--format", "prometheus")
    assert (exported.returncode, exported.stderr) == (0, "")
    (tmp_path / "rules.yml").write_text(exported.stdout)
    cases = [_promtool_test(QUIET | values, fires) for values, fires in CASES]
    cases.append(_promtool_test(QUIET, set(), oldest=60))
    cases.append(_promtool_test(QUIET, {WAIT}, oldest=61))
    # JSON is YAML.
    suite = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "test.yml").write_text(json.dumps(suite))
    checked = _promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = _promtool("test", "rules", str(tmp_path / "test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_an_export_for_one_queue_fires_when_that_queue_has_no_worker(tmp_path: Path) -> None:
    exported = orbiter("alerts", "export", "--queue", "q")
    (tmp_path / "rules.yml").write_text(exported.stdout)
    series = [{"series": f'orbiter_distributed_tasks_running{{{LABEL}="other"}}', "values": "0+0x10"}]
    expected = _expected(NOBODY, 0)
    expected["exp_labels"] = {"severity": "critical", LABEL: "q"}
    rule = next(rule for rule in RULES if rule.name == NOBODY)
    expected["exp_annotations"] = {
        "summary": rule.title,
        "description": f"{rule.title}: 0 workers (fires at == 0)",
        "runbook_url": rule.runbook_url,
    }
    case = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": "8m", "alertname": NOBODY, "exp_alerts": [expected]}],
    }
    (tmp_path / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [case]}))
    tested = _promtool("test", "rules", str(tmp_path / "test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr
