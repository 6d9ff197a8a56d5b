"""The machine that deploys may be cut off at any moment: the next run takes over, repairs, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from itertools import count
from pathlib import Path

import pytest

from fleet import Load, releases

CHECKOUT = Path(__file__).parents[3]
MOMENTS = 10


@pytest.fixture(scope="module")
def sources(source):
    """Return two releases, of which each deploy takes the one that is not there."""
    return [source("99.0.1"), source("99.0.4")]


def cut_off(inventory, playbook, variables, after):
    """Start a playbook, and kill it with all its processes after so many seconds; tell whether it had ended before."""
    command = ["ansible-playbook", "--inventory", inventory, "--extra-vars", json.dumps(variables), playbook]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        return False
    return True


@pytest.mark.nightly  # test_deploy_lock kills one every day, and looks at the lock
def test_a_controller_killed_at_any_moment_is_repaired_by_the_next_run(inventory, play, fleet, workers, sources):
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    moments = random.Random(seed)
    began = time.monotonic()
    assert play("site.yml", release_source=sources[1]).returncode == 0
    whole = time.monotonic() - began
    killed = 0
    with Load(fleet) as load:
        for number in count():
            playbook = ("site.yml", "playbooks/rolling_update.yml")[number % 2]
            variables = {"release_source": sources[number // 2 % 2]}
            # Each release is cut off on its way in by one playbook, and by the other where a part of it is there.
            after = moments.uniform(0.05, 0.95) * whole
            ended = cut_off(inventory, playbook, variables, after)
            killed += not ended
            print(f"{playbook} {'ended before' if ended else 'killed after'} {after:.1f} of {whole:.0f} s")
            began = time.monotonic()
            done = play(playbook, **variables)
            # What was kept or built before makes the next ones faster.
            whole = min(whole, time.monotonic() - began)
            assert done.returncode == 0, number
            assert len(set(releases(workers).values())) == 1
            assert len(fleet.instances()) == 4
            assert not fleet.redis.exists("orbiter:deploy")
            if killed == MOMENTS:
                break
    fleet.assert_nothing_lost(load.ids, within=120)
