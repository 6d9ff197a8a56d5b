"""Passwords stand nowhere but in the files that are for them, and where Docker keeps a container's environment.

The last of all: what the plays and the stacks before have left on the hosts is searched too.
"""

from __future__ import annotations

import json

import pytest
from password_search import files_with, lines_with, watched_processes, words

from fleet import counted

# Where a password may stand.
PLACES = {
    "/etc/redis/admin.password",
    "/etc/redis/.admin.password",
    "/etc/orbiter/worker.env",
    "/etc/orbiter/good/worker.env",
}
# Where Docker keeps a container's environment, which is what tasks find their keys in.
ENVIRONMENT = (
    "/var/lib/docker/containers/",
    "/var/lib/containerd/io.containerd.metadata.v1.bolt/",
    "/run/containerd/io.containerd.runtime.v2.task/",
)


@pytest.fixture(scope="module")
def wanted(runner):
    """Return what is searched for: everything secret in the inventory."""
    return words(runner.get_variables("worker1"))


@pytest.fixture(scope="module")
def deployed(play, workers, wanted):
    """Deploy with -vvv: log in, build, push; new settings for one host, and everything for the other."""
    assert workers["worker2"].check_output("docker image ls --quiet") == "", "it is not torn down"
    variables = {"image_extra_tags": ["latest", "another"], "worker_log_level": "debug"}
    with watched_processes(wanted) as seen:
        done = [play("site.yml", "-vvv", "--diff", **variables), play("playbooks/status.yml", "-vvv")]
    return {"done": done, "seen": seen}


def test_no_password_is_in_what_ansible_says_nor_on_a_command_line(deployed, fleet, wanted):
    assert counted(host for _, host in fleet.instances()) == {"worker1": 2, "worker2": 2}
    for done in deployed["done"]:
        assert done.returncode == 0
        said = done.stdout + done.stderr
        assert len(said) > 10_000  # -vvv it was
        assert [word for word in wanted if word in said] == []
    assert deployed["seen"] == []


@pytest.mark.parametrize("name", ["redis1", "worker1", "worker2"])
def test_no_password_is_on_a_host_but_in_the_files_for_it(deployed, on, wanted, name):
    host = on(name)
    files = files_with(host, wanted)
    # Docker writes what it runs in a container into a file of root's for as long as that takes to start.
    own = [file for file in files if not file.startswith((*ENVIRONMENT, "/tmp/runc-process"))]
    assert set(own) <= PLACES
    assert len(own) > 0  # the search finds what there is
    for file in own:
        assert host.file(file).mode & 0o137 == 0, file
    for file in files:
        assert host.run(f"runuser --user nobody -- cat {file}").rc != 0, file
    assert lines_with(host, wanted) == ""
    # What a login leaves behind.
    assert not host.file("/root/.docker/config.json").exists
    assert host.check_output("find /tmp -maxdepth 1 -name 'orbiter-*'") == ""


@pytest.mark.parametrize("name", ["worker1", "worker2"])
def test_docker_tells_no_password_but_in_the_environment_of_containers(deployed, on, wanted, name):
    host = on(name)
    # All that a search of files goes through: the layers of images too.
    assert host.check_output("docker info --format '{{ .DockerRootDir }}'") == "/var/lib/docker"
    each = "for it in $(docker {} ls --all --quiet); do docker {} $it; done"
    images = each.format("image", "image inspect"), each.format("image", "history --no-trunc")
    assert lines_with(host, wanted, *images, each.format("container", "logs")) == ""
    for row in json.loads(host.check_output("docker inspect $(docker ps --all --quiet)")):
        environment = row["Config"].pop("Env")
        assert any(word in line for line in environment for word in wanted)
        told = json.dumps(row) + json.dumps(row, ensure_ascii=False)
        assert [word for word in wanted if word in told] == [], row["Name"]
