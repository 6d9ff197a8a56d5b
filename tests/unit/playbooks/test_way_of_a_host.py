"""A host whose `worker_deploy` is no known way is refused, and not skipped as if it had been deployed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
HERE = f"ansible_connection=local ansible_python_interpreter={sys.executable} ansible_become=false"


@pytest.mark.parametrize(("playbook", "options"), [("scale", ["-einstances=2"]), ("drain", ["--limit=w1"])])
def test_a_way_to_deploy_that_is_none_is_refused_by_name(ansible, playbook, options):
    fleet = ["[workers]", f"w1 {HERE} worker_deploy=composed", f"w2 {HERE}"]
    done = ansible(
        [*fleet, "[all:vars]", "orbiter_redis_url=redis://192.0.2.1"], CHECKOUT / f"playbooks/{playbook}.yml", *options
    )
    assert done.returncode == 2, done.stdout
    assert "worker_deploy" in done.stdout
    assert "composed" in done.stdout
