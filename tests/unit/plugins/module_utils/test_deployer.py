"""Whoever deploys can be named, and told from others and from what has ended."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils import _deployer


def test_run_keeps_its_token_and_another_run_has_another():
    assert _deployer.describe(os.getpid(), [])["token"] == _deployer.describe(os.getpid(), ["site.yml"])["token"]
    assert _deployer.describe(os.getpid(), [])["token"] != _deployer.describe(os.getppid(), [])["token"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["playbooks/site.yml"], "site"),
        (["orbiter.fleet.rolling_update"], "orbiter.fleet.rolling_update"),
        (["a.yml", "b.yml"], "a, b"),
        ([], "ansible"),
    ],
)
def test_playbooks_are_named_as_they_were_called(given, named):
    assert _deployer.describe(os.getpid(), given)["playbook"] == named


def test_workers_of_ansible_name_the_process_that_started_them():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_deployer.main_pid) == os.getpid() == _deployer.main_pid()


def test_run_has_ended_when_its_process_has():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        record = _deployer.describe(process.pid, [])
        assert not _deployer.has_ended(record)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie has ended, too
        assert _deployer.has_ended(record)
    assert _deployer.has_ended(record)


def test_process_id_that_is_in_use_again_is_another_run():
    assert _deployer.has_ended(_deployer.describe(os.getpid(), []) | {"born": "1"})


def test_of_a_run_on_another_machine_nothing_is_known():
    assert not _deployer.has_ended(_deployer.describe(2**22 + 1, []) | {"machine": "another"})
    assert not _deployer.has_ended({})
