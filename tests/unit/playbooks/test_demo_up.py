"""The hosts of demo and tests: as many as the machine can start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")


@pytest.mark.skipif(not LIMIT.exists(), reason="a kernel without this limit")
def test_more_hosts_than_can_start_are_refused_before_one_is_made(tmp_path):
    limit = int(LIMIT.read_text())
    number = limit // 6 + 1
    every = {"testhost_label": "many", "testhost_network": "many", "testhost_directory": str(tmp_path / "key")}
    every |= {"testhost_subnet": "172.31.255.0/24", "testhost_suite": "bookworm"}
    hosts = {f"h{one}": {"ansible_host": "172.31.255.1"} for one in range(number)}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"children": {"testhosts": {"hosts": hosts, "vars": every}}}}))
    # A check, so that nothing is made where this fails.
    program = Path(sys.executable).parent / "ansible-playbook"
    command = [program, f"--inventory={inventory}", "playbooks/demo_up.yml", "--check"]
    done = subprocess.run(command, cwd=CHECKOUT, text=True, capture_output=True, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert f"fs.inotify.max_user_instances={6 * number}" in said
    assert f"this machine allows {limit}" in said
    assert "Make the images" not in said
