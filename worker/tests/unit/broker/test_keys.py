"""Names of keys: byte for byte those of 0.1 by default, and all within their namespace otherwise."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from orbiter.distributed.broker.keys import Keys, QueueKeys, tagged


def names(keys: QueueKeys) -> dict[str, str]:
    """Return every key and channel that there is."""
    return {
        "queue": keys.stream,
        **{
            what: keys.beside(what)
            for what in ("delayed", "parked", "dead", "id", "sweep", "minutes", "usage:20788", "new:t1")
        },
        **{what: getattr(keys, what) for what in ("index", "by_time", "fleet", "deploys")},
        **{
            what: getattr(keys, what)("x") for what in ("task", "event_stream", "events", "cancel", "worker", "control")
        },
    }


def test_by_default_keys_are_those_of_0_1() -> None:
    assert names(Keys().of_queue("orbiter:tasks")) == {
        "queue": "orbiter:tasks",
        "delayed": "{orbiter:tasks}:delayed",
        "parked": "{orbiter:tasks}:parked",
        "dead": "{orbiter:tasks}:dead",
        "id": "{orbiter:tasks}:id",
        "sweep": "{orbiter:tasks}:sweep",
        "minutes": "{orbiter:tasks}:minutes",
        "usage:20788": "{orbiter:tasks}:usage:20788",
        "new:t1": "{orbiter:tasks}:new:t1",
        "index": "orbiter:task:index",
        "by_time": "orbiter:task:by_time",
        "fleet": "orbiter:fleet",
        "deploys": "orbiter:deploys",
        "task": "orbiter:task:x",
        "event_stream": "orbiter:stream:x",
        "events": "orbiter:events:x",
        "cancel": "orbiter:cancel:x",
        "worker": "orbiter:workers:x",
        "control": "orbiter:control:x",
    }
    keys = Keys().of_queue("any@name")
    assert (keys.stream, keys.group, keys.dead) == ("any@name", "any@name:group", "{any@name}:dead")


@pytest.mark.parametrize("queue", ["mail", "acme:mail", "orbiter:tasks", "other:mail"])
def test_every_key_of_a_namespace_begins_with_it(queue: str) -> None:
    found = names(Keys("acme").of_queue(queue))
    assert [name for name in found.values() if not name.startswith(("acme:", "{acme:"))] == []


def test_a_queue_gets_its_namespace_once() -> None:
    assert Keys("acme").of_queue("mail").stream == Keys("acme").of_queue("acme:mail").stream == "acme:mail"
    assert Keys("acme").of_queue("orbiter:tasks").stream == "acme:tasks"
    assert Keys("{acme}").of_queue("mail").stream == "{acme}:mail"


@pytest.mark.parametrize("queue", ["mail", "a:b", "a.b@c", "tasks"])
def test_a_namespace_in_braces_puts_all_its_keys_into_one_slot(queue: str) -> None:
    found = names(Keys("{acme}").of_queue(queue))
    assert {key_slot(name.encode()) for name in found.values()} == {key_slot(b"acme")}
    assert [name for name in found.values() if not name.startswith("{acme}:")] == []


@pytest.mark.parametrize("namespace", ["orbiter", "acme", "{acme}"])
def test_a_queue_s_own_keys_share_its_slot_and_are_no_queue_s_name(namespace: str) -> None:
    keys = Keys(namespace).of_queue("mail")
    beside = [keys.beside(what) for what in ("delayed", "parked", "dead", "id")]
    assert {key_slot(name.encode()) for name in beside} == {key_slot(keys.stream.encode())}
    others = {Keys(namespace).of_queue(f"mail:{what}").stream for what in ("delayed", "parked", "dead", "id")}
    assert others.isdisjoint(beside)


def test_keys_that_are_used_a_thousand_times_a_second_are_there_already() -> None:
    keys = Keys("acme").of_queue("mail")
    assert keys.delayed is keys.delayed
    assert keys.delayed == tagged("acme:mail", "delayed")
    assert keys.task_prefix is keys.task_prefix
