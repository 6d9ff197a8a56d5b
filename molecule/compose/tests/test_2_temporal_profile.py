"""`docker compose --profile temporal up -d`, as in the guide: its file, its names of images, and a worker that dies.

No registry of the world can be reached in tests. So images of ours bear the names of the file: for Redis the base image
with Debian's, and for Temporal the server that Temporal's own command carries.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fleet import counted, wait_until

pytestmark = pytest.mark.nightly  # in the scenario `temporal`, workers of systemd use it

CHECKOUT = Path(__file__).parents[3]
STACK = CHECKOUT / "images/compose/docker-compose.yml"
# Half a minute of silence would count as a crash; tests have less time.
OVERRIDE = {"services": {"temporal-worker": {"environment": {"ORBITER_HEARTBEAT_TTL": "6"}}}}
IMAGE = "temporalio/auto-setup:latest"
SLOTS = 12  # two workers and a temporal-worker, with four each


@pytest.fixture(scope="module")
def named_images(on, runner):
    """Give a host the images that the file names."""
    host = on("worker1")
    services = json.loads(
        host.check_output("docker compose --file /etc/orbiter/docker-compose.yml config --format json")
    )
    host.check_output("docker tag %s orbiter-worker:latest", services["services"]["worker"]["image"])
    host.check_output("docker tag orbiter-testbase:trixie redis:7-alpine")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(sys.executable).parent / "temporal", arcname="temporal")
    command = json.dumps(["/temporal", "server", "start-dev", "--headless", "--ip", "0.0.0.0"])
    # Nothing else in the image tells who runs it.
    options = ["--change", f"ENTRYPOINT {command}", "--change", "ENV USER=root"]
    container = f"{runner.get_variables('worker1')['testhost_network']}-worker1"
    importing = ["docker", "exec", "--interactive", container, "docker", "import", *options, "-", IMAGE]
    subprocess.run(importing, input=archive.getvalue(), check=True)


@pytest.fixture(scope="module")
def compose(on, named_images):
    """Return how to call Docker Compose where the guide's file is; what it has started is taken down afterwards."""
    host = on("worker1")
    files = {
        "docker-compose.yml": STACK.read_text(),
        "docker-compose.override.yml": json.dumps(OVERRIDE),
        # The host has a stack of the usual name, the role's.
        ".env": "COMPOSE_PROJECT_NAME=guide\nORBITER_ALLOW_IMPORT=demo_agent\n",
    }
    host.check_output("mkdir -p /root/guide")
    for name, text in files.items():
        host.check_output("printf %%s %s > /root/guide/%s", text, name)
    yield lambda words: host.check_output(f"cd /root/guide && docker compose {words}")
    host.check_output("cd /root/guide && docker compose --profile temporal down --volumes")


@pytest.fixture(scope="module")
def submit(compose):
    """Return a function that gives the stack tasks which sleep, and tells their ids."""
    agent = json.dumps({"runtime": "callable", "name": "sleepy", "target": "demo_agent.steps:sleepy"})

    def give(number, seconds):
        words = f"orbiter task submit go --agent - --count {number} --metadata seconds={seconds} --json"
        told = json.loads(compose(f"exec -T worker {words} <<'END'\n{agent}\nEND"))
        return told["task_ids"]

    return give


@pytest.fixture(scope="module")
def tasks(compose):
    """Return a function that reads the records of tasks."""
    names = ("status", "executor", "workflow_id", "fence", "worker_id", "attempt", "crashes", "retries")

    def read(ids):
        lines = "\n".join(f"HMGET orbiter:task:{task_id} {' '.join(names)}" for task_id in ids)
        values = compose(f"exec -T redis redis-cli <<'END'\n{lines}\nEND").split("\n")
        values += [""] * (len(ids) * len(names) - len(values))  # the last lines, where they are empty
        rows = [values[at : at + len(names)] for at in range(0, len(ids) * len(names), len(names))]
        return [dict(zip(names, row, strict=True)) for row in rows]

    return read


@pytest.fixture(scope="module")
def container(on, compose):
    """Return a function that inspects the container of the temporal-worker."""

    def inspect():
        shown = on("worker1").check_output(f"docker inspect {compose('ps --all --quiet temporal-worker')}")
        return json.loads(shown)[0]

    return inspect


@pytest.mark.guide("Usage", "`docker compose --profile temporal up -d`")
def test_profile_brings_a_temporal_and_a_worker_that_uses_it(compose):
    compose("--profile temporal up -d")

    def listed():
        rows = json.loads(compose("exec -T worker orbiter worker list --json"))
        return counted((row["executor"], row["state"]) for row in rows if row["alive"])

    wanted = {("local", "running"): 2, ("temporal", "running"): 1}
    wait_until(lambda: listed() == wanted, within=60, what=lambda: f"{listed()}\n{compose('logs --tail=20')}")


@pytest.mark.guide("Usage", "…and its tasks survive a crash of `temporal-worker`")
def test_kill_9_of_the_temporal_worker_loses_none_of_its_tasks(compose, submit, tasks, on, container):
    ids = submit(SLOTS, 8)  # so many that the temporal-worker has its share

    def durable():
        return [task for task in tasks(ids) if task["fence"].startswith("temporal ")]

    wait_until(lambda: len(durable()) == 4, within=60, what=lambda: str(tasks(ids)))
    before = container()
    on("worker1").check_output(f"kill -9 {before['State']['Pid']}")
    wait_until(lambda: container()["RestartCount"] == 1, within=30, what=lambda: str(container()["State"]))
    wait_until(
        lambda: counted(task["status"] for task in tasks(ids)) == {"completed": SLOTS},
        within=90,
        what=lambda: f"{tasks(ids)}\n{compose('logs --tail=20 temporal-worker')}",
    )
    ended = durable()
    assert [task["executor"] for task in ended] == ["temporal"] * 4
    assert {(task["attempt"], task["crashes"], task["retries"] or "0") for task in ended} == {("2", "1", "0")}
    # It was that container that ran them, before and after.
    assert {task["worker_id"].rsplit("-", 2)[0] for task in ended} == {before["Config"]["Hostname"]}
    for task in ended:
        name = shlex.quote(task["workflow_id"])
        shown = json.loads(compose(f"exec -T temporal /temporal workflow describe --output json --workflow-id {name}"))
        assert shown["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
