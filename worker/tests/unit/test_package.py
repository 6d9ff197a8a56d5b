"""What ``import orbiter.distributed`` gives, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, metadata

import pytest

import orbiter.distributed


def test_every_public_name_exists() -> None:
    for name in orbiter.distributed.__all__:
        assert getattr(orbiter.distributed, name) is not None


HEAVY = ("temporalio", "pydantic_ai", "opentelemetry.sdk", "rich")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("orbiter.distributed", HEAVY),
        # redis-py imports the SDK of OpenTelemetry itself, where it is installed.
        ("orbiter.distributed.client.client", [name for name in HEAVY if name != "opentelemetry.sdk"]),
        (
            "orbiter.distributed.worker.worker",
            ["http.server", *(name for name in HEAVY if name != "opentelemetry.sdk")],
        ),
    ],
)
def test_importing_the_package_loads_nothing_heavy(module: str, heavy: Sequence[str]) -> None:
    code = f"import json, sys, {module}\nprint(json.dumps([m for m in {tuple(heavy)!r} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []


@pytest.mark.guide("Prerequisites", "Python 3.11+; the command `orbiter`, which comes with the package")
def test_it_runs_on_python_3_11_and_brings_the_command() -> None:
    found = metadata("orbiter-distributed")
    assert found["Requires-Python"] == ">=3.11"
    assert [point.name for point in entry_points(group="console_scripts", value="orbiter.cli:main")] == ["orbiter"]
