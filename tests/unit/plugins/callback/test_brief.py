"""A run that changes nothing says little; what changes, speaks or fails is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[4]
HERE = f"a ansible_connection=local ansible_python_interpreter={json.dumps(sys.executable)}"
TASKS = """
    - name: Nothing
      assert: {that: true, quiet: true}
    - name: Each
      assert: {that: item > 0, quiet: true}
      loop: [1, 2]
    - name: Not here
      fail:
      when: false
    - name: Says
      debug: {msg: hello}
    - name: Changes
      file: {path: "{{ playbook_dir }}/made", state: directory}
    - name: Fails
      assert: {that: false, quiet: true}
      ignore_errors: true
"""
# A play of its own.
NOBODY = """
- name: Nobody's
  hosts: all:!all
"""


@pytest.fixture
def brief(ansible, monkeypatch):
    """Return a function that plays the tasks; it gives what it shows."""
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "orbiter.fleet.brief")
    monkeypatch.setenv("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "false")
    return lambda *options: ansible([HERE], TASKS + NOBODY, *options).stdout


def test_what_is_as_it_should_be_is_not_shown(brief):
    shown = brief()
    assert all(f"TASK [{name}]" in shown for name in ("Says", "Changes", "Fails")), shown
    assert all(f"TASK [{name}]" not in shown for name in ("Nothing", "Each", "Not here"))
    assert '"msg": "hello"' in shown
    assert "no hosts matched" not in shown
    assert shown.count("PLAY [all]") == 1
    assert "PLAY [Nobody's]" not in shown


def test_all_results_are_shown_to_whoever_asks(brief):
    shown = brief("-v")
    assert all(f"TASK [{name}]" in shown for name in ("Nothing", "Each", "Says"))
    assert "no hosts matched" in shown
    assert "PLAY [Nobody's]" in shown


def test_settings_of_the_checkout_name_it():
    settings = (CHECKOUT / "ansible.cfg").read_text()
    assert "stdout_callback = brief\n" in settings
    assert "display_skipped_hosts = false\n" in settings


def test_host_that_went_away_is_named_with_the_way_to_go_on_without_it(ansible, monkeypatch):
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "orbiter.fleet.brief")
    away = "b ansible_host=127.0.0.1 ansible_port=9 ansible_user=nobody"
    done = ansible([HERE, away], "    - ping:\n", "--limit=a:b")
    assert done.returncode == 4
    assert "--limit 'a:b:!b'" in " ".join(done.stdout.split())
