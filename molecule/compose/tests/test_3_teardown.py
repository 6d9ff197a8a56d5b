"""A host that leaves the fleet keeps nothing of it. What comes after this deploys to it as to a new one."""

from __future__ import annotations


def test_teardown_leaves_nothing_on_a_host_and_the_others_at_work(play, fleet, workers):
    assert play("playbooks/teardown.yml", "--limit=worker2", orbiter_teardown=True).returncode == 0
    assert {host for _, host in fleet.instances()} == {"worker1"}
    host = workers["worker2"]
    assert host.run("ls -d /etc/orbiter /usr/local/bin/orbiter").stdout == ""
    left = "docker ps --all; docker image ls; docker network ls --filter name=orbiter"
    assert [line for line in host.check_output(left).splitlines() if "ID  " not in line] == []
