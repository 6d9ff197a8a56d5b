"""Every command of Redis, by every user, on every kind of key: what the server answers is what its principal may do.

What is expected here says what each user is for, and which commands that takes; it is not made from the role's rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orbiter.distributed.broker.scripts import CLIENTS, client_scripts
from tests.rights import RULES
from tests.servers import Server, plain_server

USERS = ("worker", "client", "legacy_client", "monitor", "dashboard", "operator")
OUR_SCRIPT, NO_SCRIPT_OF_OURS = min(client_scripts()), "0" * 40
Q = "{orbiter:tasks}"
# Keys by the type that is there: one of each kind, and those that look like others.
STREAMS = {"queue": "orbiter:tasks", "dead letters": f"{Q}:dead", "events": "orbiter:stream:t1"}
SETS = {"index": "orbiter:task:index"}
SORTED_SETS = {"by_time": "orbiter:task:by_time", "delayed": f"{Q}:delayed", "fleet": "orbiter:fleet"}
SORTED_SETS |= {"tasks": f"{Q}:tasks", "ended": "orbiter:task:ended"}
_IDS = ("t1", "b", "by_", "by_tim", "by_time2", "e", "ende", "ended2", "i", "inde", "index2", "*")
RECORDS = [f"orbiter:task:{task_id}" for task_id in _IDS]
HASHES = {
    "parked": f"{Q}:parked",
    "worker": "orbiter:workers:w1",
    "progress": f"{Q}:reconcile",
    "missing": f"{Q}:missing",
    "minutes": f"{Q}:minutes",
    "usage": f"{Q}:usage:20788",
    **{f"record {name}": name for name in RECORDS},
}
HASHES["notes"] = f"{Q}:broken"
STREAMS["moving"] = f"{Q}:moving"
STREAMS["audit"] = "orbiter:audit"
STREAMS["deploys"] = "orbiter:deploys"
STRINGS = {"sweep": f"{Q}:sweep", "reconciling": f"{Q}:reconciling", "id": f"{Q}:id"}
NOBODYS = {
    "other queue": "other:tasks",
    "its delayed": "{other:tasks}:delayed",
    "other": "somebody:else",
    "other prefix": "orbiter:taskforce",
    "no tag": "orbiter:tasks:dead",
}
TYPES = {"stream": STREAMS, "set": SETS, "sortedset": SORTED_SETS, "hash": HASHES, "string": STRINGS}
KEYS = {name: key for kinds in (*TYPES.values(), NOBODYS) for name, key in kinds.items()}

LOGIN = {"hello", "select", "ping", "time", "role", "client|setname", "scan"}
# Anybody, whatever the rules.
ALWAYS = {"auth", "quit", "reset"}
CHANNELS = {"events": "orbiter:events:t1", "cancel": "orbiter:cancel:t1", "control": "orbiter:control:w1"}
KEYLESS = {
    "worker": LOGIN | {"client|id", "info", "script|load", "script|exists"},
    "client": LOGIN | {"script|exists"},
    "legacy_client": LOGIN,
    "monitor": LOGIN | {"info"},
    "dashboard": LOGIN | {"info"},
    "operator": LOGIN | {"info", "script|exists"},
}

READS = {
    "hash": {"exists", "hget", "hgetall", "hmget"},
    "sortedset": {"exists", "zcard", "zrange", "zrevrange"},
    "stream": {"exists", "xrange", "xrevrange"},
}
# To submit is to write a record, an entry or a delayed task, and three lists. To cancel is to write a record, its
# last event, a list, and to take a delayed task away. Both keep a record for some time, and events. All else a client
# only reads.
CLIENT = {
    **{f"record {name}": {"hset", "hsetnx", "hdel", "expire", "pexpire", *READS["hash"]} for name in RECORDS},
    "queue": {"xadd"},
    "delayed": {"zadd", "zrem"},
    "parked": {"hset", "hsetnx", "hdel"},
    "index": {"sadd"},
    "by_time": {"zadd", *READS["sortedset"]},
    "tasks": {"zadd", *READS["sortedset"]},
    "ended": {"zadd", *READS["sortedset"]},
    "events": {"xadd", "expire", "pexpire", *READS["stream"]},
    "worker": READS["hash"],
    "fleet": READS["sortedset"],
}
LEGACY = {
    **{f"record {name}": {"hset", "hgetall"} for name in RECORDS},
    "queue": {"xadd", "xgroup|create"},
    "index": {"smembers"},
    "events": {"xrange"},
    "worker": {"hgetall"},
}
# What makes a key vanish, now or later, or another one of it.
REMOVES = {
    *("del", "unlink", "expire", "pexpire", "expireat", "pexpireat", "persist", "rename", "renamenx", "move", "copy"),
    *("restore", "restore-asking", "migrate", "getdel", "getex", "sort", "touch", "dump", "object|freq"),
}
# Where a worker does: what it settles itself, and, as it puts away what cannot be used, its own queue's keys and lists.
WORKER_REMOVES = {
    **{f"record {name}": {"expire", "pexpire", "del"} for name in RECORDS},
    "events": {"expire", "del"},
    "worker": {"expire", "del"},
    "fleet": {"expire"},
    "index": {"del"},
    **{kind: {"del"} for kind in ("by_time", "ended")},
    "tasks": {"del", "rename"},
    **{kind: {"rename"} for kind in ("queue", "dead letters", "delayed", "parked", "id")},
    "sweep": {"del", "pexpire", "rename"},
    "reconciling": {"del", "pexpire", "rename"},
    "progress": {"expire", "rename"},
    "missing": {"expire", "rename"},
    "minutes": {"expire", "del", "rename"},
    "usage": {"expire", "del", "rename"},
    "notes": {"expire", "del", "rename"},
    "moving": {"del", "rename"},
}
# Commands whose keys do not simply come first, with one key.
WORDS = {
    **dict.fromkeys(("eval", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"), ("x", "1", "KEY")),
    **dict.fromkeys(("zdiff", "zinter", "zunion", "sintercard", "zintercard"), ("1", "KEY")),
    **dict.fromkeys(("zdiffstore", "zinterstore", "zunionstore"), ("KEY", "1", "KEY")),
    **dict.fromkeys(("lmpop", "zmpop"), ("1", "KEY", "MIN")),
    **dict.fromkeys(("blmpop", "bzmpop"), ("0", "1", "KEY", "MIN")),
    "bitop": ("NOT", "KEY", "KEY"),
    "evalsha": (OUR_SCRIPT, "1", "KEY"),
    "migrate": ("127.0.0.1", "1", "KEY", "0", "1"),
    "xread": ("STREAMS", "KEY", "0"),
    "xreadgroup": ("GROUP", "g", "c", "STREAMS", "KEY", ">"),
    "publish": ("CHANNEL", "x"),
    **dict.fromkeys(("subscribe", "psubscribe", "ssubscribe"), ("CHANNEL",)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with plain_server(tmp_path_factory.mktemp("rights"), *RULES, refuses=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True, protocol=2) as client:
        yield client


@pytest.fixture(scope="module")
def commands(server: Server) -> dict[str, tuple[int, bool]]:
    """Of every command, subcommands too: its least number of words, and whether it takes keys."""
    found: dict[str, tuple[int, bool]] = {}

    def note(rows: Any) -> None:
        for row in rows:
            subcommands = row[9]
            if subcommands:
                note(subcommands)
            if not subcommands or abs(row[1]) == 1:
                found[row[0]] = abs(row[1]), bool(row[8])

    note(_ask(server, "COMMAND"))
    return found


def _ask(server: Server, *words: str) -> Any:
    """As redis-py would not leave it: with subcommands."""
    with redis.Redis(port=server.port, decode_responses=True, protocol=2) as client:
        connection = client.connection_pool.get_connection()
        connection.send_command(*words)
        return connection.read_response()


def words_of(command: str, least: int, key: str, channel: str = "orbiter:events:t1") -> list[str]:
    """Return a call of a command, with this key at each place of a key."""
    name, *subcommand = command.split("|")
    rest = WORDS.get(command) or ["KEY"] * max(0, least - 1 - len(subcommand))
    return [name, *subcommand, *({"KEY": key, "CHANNEL": channel}.get(word, word) for word in rest)]


def allowed(client: redis.Redis, user: str, calls: dict[str, list[str]]) -> set[str]:
    """Return the names of those calls that a user may make."""
    with client.pipeline(transaction=False) as pipeline:
        for words in calls.values():
            pipeline.execute_command("ACL DRYRUN", user, *words)
        replies = pipeline.execute(raise_on_error=False)
    for name, reply in zip(calls, replies, strict=True):
        assert not isinstance(reply, Exception), (name, calls[name], reply)
    return {name for name, reply in zip(calls, replies, strict=True) if reply in ("OK", True)}


def on(client: redis.Redis, commands: dict[str, tuple[int, bool]], user: str, key: str) -> set[str]:
    """Return the commands that a user may give on a key."""
    calls = {name: words_of(name, least, key) for name, (least, takes_keys) in commands.items() if takes_keys}
    return allowed(client, user, calls)


def category(client: redis.Redis, name: str) -> set[str]:
    return set(client.execute_command("ACL CAT", name))


@pytest.mark.parametrize("kind", KEYS)
def test_a_client_gives_each_key_what_submitting_following_and_cancelling_take(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], kind: str
) -> None:
    found = on(client, commands, "client", KEYS[kind])
    # It reads what is below these: one list of commands for all types, whose reads of another type fail.
    reads = {name for names in READS.values() for name in names}
    readable = kind == "tasks" or KEYS[kind].startswith(
        ("orbiter:task:", "orbiter:stream:", "orbiter:workers:", "orbiter:fleet")
    )
    scripted = KEYS[kind].startswith(("orbiter:task:", "orbiter:stream:")) or kind in {
        "queue",
        "delayed",
        "parked",
        "tasks",
    }
    assert found - (reads if readable else set()) == (CLIENT.get(kind, set()) - reads) | (
        {"evalsha"} if scripted else set()
    )
    assert CLIENT.get(kind, set()) <= found


@pytest.mark.parametrize("kind", KEYS)
def test_a_client_of_01_adds_entries_writes_records_and_reads(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], kind: str
) -> None:
    found = on(client, commands, "legacy_client", KEYS[kind])
    readable = KEYS[kind].startswith(("orbiter:task:", "orbiter:stream:", "orbiter:workers:"))
    reads = {"hgetall", "smembers", "xrange"} if readable else set()
    assert found - reads == LEGACY.get(kind, set()) - reads
    assert LEGACY.get(kind, set()) <= found


@pytest.mark.parametrize("user", USERS)
def test_a_user_touches_no_key_but_the_fleets(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], user: str
) -> None:
    assert {kind: found for kind, key in NOBODYS.items() if (found := on(client, commands, user, key))} == {}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", [kind for kinds in TYPES.values() for kind in kinds])
def test_a_user_writes_only_what_belongs_to_the_type_of_a_key(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], user: str, kind: str
) -> None:
    """So a key of a wrong type, on which every worker would fail, cannot come to be where one is missing."""
    [kept] = [name for name, kinds in TYPES.items() if kind in kinds]
    writes = on(client, commands, user, KEYS[kind]) & category(client, "write")
    assert writes - category(client, kept) - REMOVES == set()


@pytest.mark.parametrize("kind", KEYS)
def test_a_worker_removes_what_it_settles_and_nothing_else(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], kind: str
) -> None:
    found = on(client, commands, "worker", KEYS[kind])
    assert found & REMOVES == WORKER_REMOVES.get(kind, set())
    # Delayed tasks, the queue and the lists lose what is named, by number or age at most; none is trimmed by a client.
    assert "xtrim" not in found or kind in {"queue", "dead letters"}


@pytest.mark.parametrize("kind", KEYS)
def test_an_operator_removes_events_and_dead_letters_alone(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], kind: str
) -> None:
    found = on(client, commands, "operator", KEYS[kind])
    removes = {"expire", "pexpire"} if kind.startswith("record ") else {"expire", "del"} if kind == "events" else set()
    assert found & REMOVES == removes
    assert "xdel" not in found or kind == "dead letters"
    assert not found & {"xtrim", "xreadgroup", "xclaim", "xack", "eval"}


@pytest.mark.parametrize("user", ["monitor", "dashboard"])
@pytest.mark.parametrize("kind", KEYS)
def test_who_looks_writes_nothing(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], kind: str, user: str
) -> None:
    found = on(client, commands, user, KEYS[kind])
    assert found & (category(client, "write") | category(client, "scripting")) == set()


@pytest.mark.parametrize("user", USERS)
def test_a_user_gives_those_commands_without_keys_that_its_purpose_needs(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], user: str
) -> None:
    pubsub = {
        "publish",
        "subscribe",
        "psubscribe",
        "unsubscribe",
        "punsubscribe",
        "ssubscribe",
        "sunsubscribe",
        "spublish",
    }
    calls = {
        name: words_of(name, least, "x")
        for name, (least, takes_keys) in commands.items()
        if not takes_keys and name not in pubsub
    }
    # Of commands with subcommands, Redis asks for the right to each of these.
    calls = {
        name: words for name, words in calls.items() if not any(other.startswith(f"{name}|") for other in commands)
    }
    assert allowed(client, user, calls) - ALWAYS == KEYLESS[user]


@pytest.mark.parametrize("user", USERS)
def test_a_user_gives_no_command_that_configures_or_endangers_the_server(
    client: redis.Redis, commands: dict[str, tuple[int, bool]], user: str
) -> None:
    harmful = (category(client, "admin") | category(client, "dangerous")) - {"role", "info"}
    calls = {name: words_of(name, commands[name][0], "orbiter:tasks") for name in harmful if name in commands}
    assert allowed(client, user, calls) == set()


@pytest.mark.parametrize(
    ("user", "says", "hears"),
    [
        ("worker", set(CHANNELS), set(CHANNELS)),
        ("client", {"events", "cancel"}, {"events", "cancel"}),
        ("legacy_client", {"events", "cancel"}, {"events", "cancel"}),
        ("monitor", set(), set()),
        ("dashboard", set(), {"events"}),
        ("operator", set(CHANNELS), set(CHANNELS)),
    ],
)
def test_a_user_is_kept_to_its_channels(client: redis.Redis, user: str, says: set[str], hears: set[str]) -> None:
    names = {**CHANNELS, "other": "somebody:else"}
    for command, expected in (("publish", says), ("subscribe", hears)):
        calls = {name: words_of(command, 0, "", channel) for name, channel in names.items()}
        assert allowed(client, user, calls) == expected


def test_a_client_runs_our_scripts_for_clients_and_no_others(client: redis.Redis) -> None:
    calls = {sha: ["EVALSHA", sha, "1", "orbiter:tasks"] for sha in (*client_scripts(), NO_SCRIPT_OF_OURS)}
    assert len(client_scripts()) == len(CLIENTS)
    assert allowed(client, "client", calls) == set(client_scripts())
    assert allowed(client, "legacy_client", calls) == set()
    assert allowed(client, "monitor", calls) == set()
    assert allowed(client, "dashboard", calls) == set()
