"""The ACL rules that the role orbiter.fleet.redis gives its users, as lines of redis.conf."""

from __future__ import annotations

from pathlib import Path

import yaml

_RIGHTS = yaml.safe_load((Path(__file__).parents[2] / "roles/redis/vars/main.yml").read_text())["__redis_rights"]

# One line a user, for the default queue. The password is the user's name in capitals, and -PASSWORD.
RULES = [
    f"user {name} on >{name.upper()}-PASSWORD {rights.replace('QUEUE', 'orbiter:tasks')}"
    for name, rights in _RIGHTS.items()
]
