"""What ``import orbiter.distributed`` gives, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import orbiter.distributed


def test_every_public_name_exists() -> None:
    for name in orbiter.distributed.__all__:
        assert getattr(orbiter.distributed, name) is not None


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import json, sys
import orbiter.distributed
import orbiter.distributed.client
print(json.dumps([m for m in ("temporalio", "pydantic_ai", "opentelemetry.sdk", "rich") if m in sys.modules]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []
