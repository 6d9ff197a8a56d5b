"""A part of site that --skip-tags leaves out takes nothing along that another part needs."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]


@pytest.mark.parametrize("skipped", ["redis_install", "redis_service"])
def test_what_redis_holds_is_kept_wherever_its_settings_are_written(ansible, skipped):
    fleet = ["[redis]", "r1", "[workers]", "w1"]
    done = ansible(fleet, CHECKOUT / "playbooks/site.yml", "--list-tasks", f"--skip-tags={skipped}")
    assert done.returncode == 0, done.stderr
    before, written, _after = done.stdout.partition("orbiter.fleet.redis : See which files differ")
    assert written
    assert "orbiter.fleet.redis : Keep what is there" in before
