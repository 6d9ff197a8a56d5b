"""The users of Redis that the role orbiter.fleet.redis writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROLE = Path(__file__).parents[3] / "roles/redis"
HOST = f"host ansible_connection=local ansible_python_interpreter={sys.executable}"
PASSWORD = "the operator's own"


def written(ansible, path, **variables):
    """Write the users of an inventory; return each with its rules."""
    given = {"redis_password": PASSWORD, "role_path": str(ROLE), "__redis_version": "7.0.15", **variables}
    tasks = f"""
    - include_role: {{name: orbiter.fleet.redis, tasks_from: preflight_values, public: true}}
    - keep: {{dest: {path}, content: "{{{{ lookup('template', '{ROLE}/templates/users.acl.j2') }}}}"}}
"""
    done = ansible([HOST], tasks, f"--extra-vars={json.dumps(given)}")
    assert done.returncode == 0, done.stdout
    nobody, *users = [line.split(" ", 5) for line in path.read_text().splitlines() if line]
    assert nobody[1:5] == ["default", "off", "sanitize-payload", "resetpass"]
    assert all(words[0] == "user" and words[2:4] == ["on", "sanitize-payload"] for words in users)
    return {words[1]: words[5] for words in users}


def refused(ansible, **variables):
    """Check an inventory as playbooks do before they contact a host; return what they say against it."""
    tasks = """
    - include_role: {name: orbiter.fleet.redis, tasks_from: preflight_inventory}
"""
    given = {"redis_password": PASSWORD, "redis_bind": "127.0.0.1", **variables}
    done = ansible([HOST], tasks, f"--extra-vars={json.dumps(given)}")
    return " ".join(done.stdout.split()) if done.returncode else ""
