"""A compose stack: what is done to which replica, and what is remembered."""

from __future__ import annotations

import json

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _docker as docker
from ansible_collections.orbiter.fleet.plugins.module_utils._compose import Goal, Stack, described, split
from ansible_collections.orbiter.fleet.plugins.module_utils._docker import DockerError, Replica
from ansible_collections.orbiter.fleet.plugins.module_utils._health import complaint

IMAGE = "registry:5000/fleet/orbiter-worker:1.0-aa@sha256:00"


def replica(number, settings="new", *, status="running", service="worker"):
    """Return a replica, of what `docker inspect` says of one."""
    labels = {docker.SERVICE: service, docker.LABEL: settings, "org.opencontainers.image.version": "1.0"}
    return Replica(
        {
            "Id": f"id{number}",
            "Name": f"/orbiter-{service}-{number}",
            "RestartCount": 3,
            "Config": {
                "Labels": labels | {"com.docker.compose.container-number": str(number)},
                "Hostname": f"c{number}",
                "Image": IMAGE,
            },
            "State": {"Status": status, "ExitCode": 0, "StartedAt": "2026-05-02T10:00:00.123456789Z"},
        }
    )


def names(rows):
    """Return the numbers of replicas."""
    return [row.number for row in rows]


def test_those_that_run_what_is_wanted_stay_and_the_others_go_first():
    rows = [replica(1, "old"), replica(2), replica(3, status="exited"), replica(4)]
    plan = split("worker", rows, "new", 2)
    assert (names(plan.extra), names(plan.stale), names(plan.kept), plan.started) == ([1, 3], [], [2, 4], 0)


def test_those_with_other_settings_are_replaced_and_what_is_missing_starts():
    plan = split("worker", [replica(1, "old"), replica(2, status="exited")], "new", 4)
    assert (names(plan.extra), names(plan.stale), names(plan.kept), plan.started) == ([], [1], [2], 3)


def test_diff_of_what_is_as_wanted_is_empty():
    rows = [replica(1), replica(2)]
    assert described(rows) == "".join(Goal(IMAGE, "new", 2).lines("worker", 2))
    assert described([replica(1, status="exited")]) == "worker 1.0-aa, settings new: exited\n"


@pytest.mark.parametrize(
    ("image", "release", "digest"),
    [
        (IMAGE, "1.0-aa", "registry:5000/fleet/orbiter-worker@sha256:00"),
        ("orbiter-worker:latest", "latest", "orbiter-worker"),
        ("registry:5000/orbiter-worker", "latest", "registry:5000/orbiter-worker"),
    ],
)
def test_image_names_its_release(image, release, digest):
    assert docker.release_of(image) == release
    assert docker.digest_of(image) == digest


def test_replica_is_well_by_a_heartbeat_of_its_own_since_it_started():
    one = replica(1).expected
    beat = {"hostname": "c1", "alive": True, "state": "running", "version": "1.0", "pid": 7}
    beat |= {"started_at": one.since + 1}
    assert complaint(one, [beat]) == ""
    for wrong in ({"hostname": "c2"}, {"started_at": one.since - 1}, {"alive": False}):
        assert "has no heartbeat" in complaint(one, [beat | wrong])
    assert "runs version 0.9" in complaint(one, [beat | {"version": "0.9"}])
    assert "exited after 3 restarts" in complaint(replica(1, status="exited").expected, [beat])


def test_a_check_is_told_what_the_file_would_say(tmp_path):
    stack = Stack(str(tmp_path), check=True)
    told = {"image": IMAGE, "settings": "new", "replicas": 3}
    assert stack.foreseen(told) == Goal(**told)
    with pytest.raises(DockerError, match="Nothing is deployed here"):
        stack.foreseen({"replicas": 3})


def test_scale_changes_the_number_and_nothing_else(tmp_path):
    file = tmp_path / "docker-compose.yml"
    text = "services:\n  worker:\n    deploy:\n      replicas: 2\n    # replicas\n"
    file.write_text(text)
    Stack(str(tmp_path)).scale(5)
    assert file.read_text() == text.replace("replicas: 2", "replicas: 5")


def test_what_was_good_comes_back(tmp_path):
    stack = Stack(str(tmp_path))
    for file in stack.files:
        file.write_text("1")
    assert stack.last_good() is None
    stack.keep(Goal("no-such-image:1", "new", 2), 5)
    assert stack.last_good() == Goal("no-such-image:1", "new", 2)
    assert json.loads((stack.good / "state.json").read_text())["replicas"] == 2
    assert stack.history.read_text().split()[-1] == "no-such-image:1"


def test_host_is_drained_as_it_notes_or_as_is_told(tmp_path):
    assert not Stack(str(tmp_path)).is_drained
    (tmp_path / "drained").write_text("since noon\n")
    assert Stack(str(tmp_path)).is_drained
    assert Stack(str(tmp_path)).drained == "since noon"
    assert not Stack(str(tmp_path), drained=False).is_drained
