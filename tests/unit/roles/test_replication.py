"""A member of a group is asked for what it says, and not waited for where it will say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

SCRIPT = Path(__file__).parents[3] / "roles/redis/files/replication.py"


@pytest.fixture
def replication(server, tmp_path):
    """Return a function that runs the script as on a host of a group with TLS, whose Redis has none yet."""
    authority, fleet = tmp_path / "ca.pem", tmp_path / "fleet.json"
    trustme.CA().cert_pem.write_to_path(authority)
    about = {"me": "127.0.0.1", "members": ["127.0.0.1"], "port": server.port, "password": server.password}
    about |= {"service": "orbiter", "patience": 60, "tls_ca": str(authority)}
    # Sentinel's package starts it without encryption, too.
    about |= {"sentinel_port": server.port, "sentinel_password": server.password}
    fleet.write_text(json.dumps(about))

    def run(*words):
        environment = os.environ | {"ORBITER_REDIS_FLEET": str(fleet)}
        done = subprocess.run([sys.executable, SCRIPT, *words], env=environment, capture_output=True, check=True)
        return json.loads(done.stdout)

    return run


def test_a_server_without_encryption_is_no_member_yet_and_costs_no_timeouts(replication):
    began = time.monotonic()
    assert replication("left", "127.0.0.1") == {"changed": False, "master": "127.0.0.1", "there": []}
    assert time.monotonic() - began < 20  # five questions, of which each would take 5 s
