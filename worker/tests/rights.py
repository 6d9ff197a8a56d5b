"""The ACL rules that the role orbiter.fleet.redis gives its users."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import yaml

from orbiter.distributed.broker.scripts import client_scripts

ROOT = Path(__file__).parents[2]
RIGHTS: dict[str, Any] = yaml.safe_load((ROOT / "roles/redis/files/rights.yml").read_text())["rights"]

_spec = importlib.util.spec_from_file_location("redis_rules", ROOT / "plugins/filter/redis_rules.py")
assert _spec is not None
assert _spec.loader is not None
_plugin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_plugin)


def rules(user: str, *, cluster: bool = False, namespace: str = "orbiter") -> str:
    """Return the rules of one user for the default queue of a namespace."""
    scripts = sorted(client_scripts())
    return str(_plugin.redis_rules(RIGHTS[user], scripts=scripts, cluster=cluster, namespace=namespace))


def lines(*, cluster: bool = False) -> list[str]:
    """Return a line of redis.conf for each user. The password is the user's name in capitals, and -PASSWORD."""
    return [f"user {user} on >{user.upper()}-PASSWORD {rules(user, cluster=cluster)}" for user in RIGHTS]


def refusals(rows: list[Any]) -> list[str]:
    """Return what ``ACL LOG`` says was refused to the role's users: the user, for lack of what, and of which command.

    Not the driver's name, which it tells to Redis 7.2 and later only, and goes on without; nor what a client tries
    once, as it cannot know whether it may: to load scripts where Redis has lost them.
    Users that a test makes itself are refused what that test is about.
    """
    expected = {("client", "script|load"), *((user, "client|setinfo") for user in RIGHTS)}
    found = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
    return [
        f"{row['username']} has no right to the {row['reason']} {row['object']} ({row['client-info']})"
        for row in found
        if row["username"] in RIGHTS and (row["username"], row["object"]) not in expected
    ]


RULES = lines()
# Beside them an operator, and a client that may do more to a queue's keys than the role allows: as rules of one's own
# may, and those of earlier releases did.
WITH_CARELESS_CLIENT = [
    *RULES,
    "user admin on >ADMIN-PASSWORD ~* &* +@all",
    "user careless on >CARELESS-PASSWORD resetchannels &orbiter:events:* &orbiter:cancel:* ~orbiter:tasks"
    " ~{orbiter:tasks}:* ~orbiter:task:* ~orbiter:stream:* %R~orbiter:workers:* %R~orbiter:fleet"
    " -@all +hello +select +ping +time +role +client|setname +evalsha +script|load +script|exists +publish +subscribe"
    " +unsubscribe +scan +exists +expire +pexpire +hget +hgetall +hmget +hset +hsetnx +hdel +sadd +zadd +zrem +zrange"
    " +zrevrange +xadd +xrange +xrevrange +xgroup|create",
]
