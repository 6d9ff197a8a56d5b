"""Commands import redis-py without what it takes along for metrics of its own."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from orbiter.cli import plain_redis, options
from redis.observability import providers
print(providers.OTEL_AVAILABLE, "opentelemetry.sdk" in sys.modules)
import opentelemetry.sdk.metrics
plain_redis.complete()
print(providers.OTEL_AVAILABLE)
"""


def test_commands_import_redis_without_opentelemetry_which_can_still_be_had() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False", "True"]
