"""A host's clock is told between two moments of the controller's."""

from __future__ import annotations

import json
import sys
import time

INVENTORY = [f"host ansible_connection=local ansible_python_interpreter={sys.executable}"]


def test_the_hosts_clock_is_between_question_and_answer(ansible, tmp_path):
    tasks = f"""
    - orbiter.fleet.host_info:
        users: [root]
      register: seen
    - keep: {{dest: "{tmp_path}/seen.json", content: "{{{{ seen | to_json }}}}"}}
      when: not ansible_check_mode
"""
    before = time.time()
    done = ansible(INVENTORY, tasks, "--check")
    assert done.returncode == 0, done.stdout
    done = ansible(INVENTORY, tasks)
    assert done.returncode == 0, done.stdout
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert before < seen["asked"] < seen["now"] < seen["answered"] < time.time()
    assert seen["users"]["root"]["home"] == "/root"
    assert seen["changed"] is False


def test_what_is_wrong_with_the_question_is_said(ansible):
    done = ansible(INVENTORY, "    - orbiter.fleet.host_info: {ports: [{port: none}]}\n")
    assert done.returncode == 2, done.stdout
    assert "ports" in done.stdout
